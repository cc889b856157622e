"""Coupling and verdict on records whose true coupling is known, and on data that can't decide anything."""

import json
import math
import random
from pathlib import Path

import pytest
from statsmodels.stats.multitest import multipletests

from ipa_energy.analysis import coupling, pairs_rule, tables, verdict
from ipa_energy.analysis.evidence import judge_all
from ipa_energy.analysis.summary import MAX_LINES, summary
from ipa_energy.record import Reading
from synthetic_records import PRICES, make_record, synthetic_study, video_grid

RULE = {
    "coupled_r2": 0.9,
    "min_configurations": 8,
    "confidence": 0.95,
    "bootstrap": 120,
    "drop_flags": ["foreign_cpu"],
    "spread_threshold": 0.05,
    "gain_threshold": 0.05,
    "expansion_threshold": 0.1,
    "saving_threshold": 0.05,
    "delta_threshold": 0.05,
    "tolerances": {"accuracy": 0.005, "latency": 0.02, "cost": 0.02},
    "draws": 20,
}
SMALL = video_grid(classifiers=("resnet18", "resnet50"))
TINY = video_grid(detectors=("ssd300_vgg16",), classifiers=("resnet18", "resnet50"), batches=(1, 4))


def measurements_of(records):
    return tables.measurements_table(Reading(tuple((Path(f"{i:05}"), r) for i, r in enumerate(records)), ()), PRICES)


def pairwise_of(records, **changes):
    rule = RULE | changes
    return coupling.pairwise_table(
        measurements_of(records),
        confidence=rule["confidence"],
        bootstrap=rule["bootstrap"],
        drop_flags=rule["drop_flags"],
        seed=1,
    )


def verdict_of(records, refused=(), **changes):
    rule = RULE | changes
    reading = Reading((), tuple(f"{path}: {reason}" for path, reason in refused))
    return verdict.make_verdict(
        measurements_of(records),
        pairwise_of(records, **changes),
        judge_all(measurements_of(records), rule, seed=1),
        tables.refused_table([path for path, _ in refused], reading),
        experiment="test",
        analysis=rule,
        seed=1,
    )


def cell_of(judged, energy):
    (found,) = [cell for cell in judged["cells"] if cell["energy"] == energy]
    return found


@pytest.fixture(scope="module")
def coupled():
    return synthetic_study("coupled", SMALL, seed=3)


@pytest.fixture(scope="module")
def independent():
    return synthetic_study("independent", SMALL, seed=5)


def test_energy_that_is_a_function_of_latency_is_coupled_with_latency(coupled):
    judged = verdict_of(coupled)
    net = cell_of(judged, "net")
    assert net["decision"] == "coupled"
    assert net["families"]["latency"]["decision"] == "coupled"
    # Accuracy does not explain what batch size does to energy.
    assert net["families"]["accuracy"]["decision"] != "coupled"
    assert judged["decision"] == "coupled"
    assert not judged["no_evidence"]


def test_energy_of_its_own_is_decoupled_from_everything(independent):
    net = cell_of(verdict_of(independent), "net")
    assert net["decision"] == "decoupled"
    assert net["binding"] == "tradeoff"
    assert net["levels"]["joint"]["spread"]["lo"] > RULE["spread_threshold"]
    assert net["levels"]["tradeoff"]["n_only_with_lo"] > 0
    assert {family["decision"] for family in net["families"].values()} == {"decoupled"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("truth", "never"), [("coupled", "decoupled"), ("independent", "coupled")])
def test_eight_configurations_may_leave_it_open_but_never_say_the_reverse(truth, never, seed):
    few = random.Random(seed).sample(SMALL, 8)
    net = cell_of(verdict_of(synthetic_study(truth, few, blocks=2, seed=seed, noise=0.05)), "net")
    assert net["decision"] != never


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("blocks", [2, 3])
def test_pure_noise_on_few_repetitions_never_looks_like_information(seed, blocks):
    judged = verdict_of(synthetic_study("noise", SMALL, blocks=blocks, seed=seed, noise=0.1))
    assert {cell["decision"] for cell in judged["cells"]} == {"inconclusive"}


def test_noise_is_named_as_the_reason_where_metrics_vary_but_energy_does_not():
    net = cell_of(verdict_of(synthetic_study("noise", SMALL, blocks=4, noise=0.05)), "net")
    assert "energy itself varies by no more than" in net["reason"]
    assert "replicate noise" in net["families"]["latency"]["reason"]


def test_a_constant_metric_has_null_statistics_with_a_reason_and_keeps_the_cell_from_decoupled():
    one_accuracy = video_grid(detectors=("ssd300_vgg16",), classifiers=("resnet18",), batches=(1, 2, 3, 4, 6, 8))
    records = synthetic_study("independent", one_accuracy)
    pairs = pairwise_of(records).set_index(["energy", "metric"])
    row = pairs.loc[("net", "accuracy")]
    assert row[["tau", "tau_lo", "spearman", "isotonic_r2", "isotonic_p", "tau_p_holm"]].isna().all()
    assert "same in all configurations" in row["reason"]
    net = cell_of(verdict_of(records), "net")
    assert net["families"]["accuracy"]["decision"] == "inconclusive"
    assert net["levels"]["pairwise"]["decision"] == "inconclusive"
    assert net["decision"] != "coupled"


@pytest.mark.parametrize("count", [1, 2, 4])
def test_too_few_configurations_decide_nothing_and_say_so(count):
    judged = verdict_of(synthetic_study("coupled", TINY[:count]))
    assert judged["decision"] == "inconclusive"
    assert all("the rule asks for 8" in cell["reason"] for cell in judged["cells"])


def test_one_repetition_decides_nothing_and_says_so(coupled):
    once = [record for record in coupled if record["identity"]["block"] == 1]
    judged = verdict_of(once)
    assert {cell["decision"] for cell in judged["cells"]} == {"inconclusive"}
    assert "one repetition" in judged["answer"]
    assert pairwise_of(once)["isotonic_r2"].notna().all()  # the statistics are there all the same


def test_estimated_energy_is_no_evidence_whatever_the_decision():
    judged = verdict_of(synthetic_study("coupled", SMALL, evidence="estimated"))
    assert judged["no_evidence"]
    assert judged["evidence"] == "estimated"
    assert "No evidence" in judged["answer"]
    assert all(cell["no_evidence"] and "by construction" in cell["note"] for cell in judged["cells"])
    text = summary(judged, "results/test")
    for line in text.splitlines():
        assert "estimated" in line.lower() or "gross" not in line, line


def test_measured_cells_alone_decide_where_others_are_estimated(independent):
    other = synthetic_study("coupled", SMALL, evidence="estimated", host="laptop")
    judged = verdict_of(independent + other)
    assert not judged["no_evidence"]
    assert judged["evidence"] == "mixed"
    measured = {cell["decision"] for cell in judged["cells"] if cell["host"] == "host-a"}
    assert judged["decision"] == (measured.pop() if len(measured) == 1 else "inconclusive")
    assert "laptop" not in judged["answer"]
    assert any("estimated" in note for note in judged["limitations"])


def test_hosts_that_disagree_give_no_common_answer(coupled):
    other = synthetic_study("independent", SMALL, host="host-b", seed=5)
    judged = verdict_of(coupled + other)
    assert judged["decision"] == "inconclusive"
    assert "depends" in judged["answer"]
    assert "host-a" in judged["answer"]
    assert "host-b" in judged["answer"]


def test_counts_tell_failed_not_run_flagged_dropped_and_refused(coupled):
    one = SMALL[0]
    extra = [
        make_record(one, latency_s=1, net_j_per_request=1, block=7, state="failed"),
        make_record(one, latency_s=1, net_j_per_request=1, block=8, state="not_run"),
        make_record(one, latency_s=1, net_j_per_request=99, block=9, flags=["foreign_cpu", "short_window"]),
        make_record(one, latency_s=0.05, net_j_per_request=0.2, block=10, flags=["short_window"]),
        make_record(one, latency_s=0.05, net_j_per_request=0.2, block=1, role="anchor-first", flags=["foreign_cpu"]),
    ]
    judged = verdict_of(coupled + extra, refused=[("bad.json", "cut off")])
    counts = judged["counts"]
    assert counts["recorded"] == len(coupled) + 5
    assert (counts["failed"], counts["not_run"], counts["refused"], counts["anchors"]) == (1, 1, 1, 1)
    assert counts["flagged"] == 3
    assert counts["flags"] == {"foreign_cpu": 2, "short_window": 2}
    assert counts["dropped"] == 1
    assert counts["dropped_by_flag"] == {"foreign_cpu": 1}
    assert counts["usable"] == len(coupled) + 1
    assert judged["refused"] == [{"path": "bad.json", "reason": "cut off"}]
    text = summary(judged, "results/test")
    for words in ("1 failed", "1 not run", "1 files refused", "bad.json", "foreign_cpu 2", "measured", "random"):
        assert words in text, words


def test_flagged_and_failed_records_do_not_touch_the_statistics(coupled):
    disturbed = [make_record(c, latency_s=9, net_j_per_request=1e6, block=9, flags=["foreign_cpu"]) for c in SMALL] + [
        make_record(c, latency_s=9, net_j_per_request=1e6, block=8, state="failed") for c in SMALL
    ]
    assert pairwise_of(coupled + disturbed).equals(pairwise_of(coupled))


def test_statistics_do_not_depend_on_the_order_of_records_or_on_other_cells(coupled):
    alone = pairwise_of(coupled)
    other = synthetic_study("independent", TINY, host="host-b")
    together = pairwise_of(other + coupled[::-1])
    assert together[together["host"] == "host-a"].reset_index(drop=True).equals(alone)


def test_net_energy_that_no_record_has_is_inconclusive_with_the_reason():
    records = [
        make_record(c, latency_s=0.1 * (i + 1), net_j_per_request=None, block=b)
        for i, c in enumerate(SMALL)
        for b in (1, 2)
    ]
    net = cell_of(verdict_of(records), "net")
    assert net["decision"] == "inconclusive"
    assert "no usable record has a net energy" in net["reason"]
    assert net["evidence"] is None


@pytest.mark.parametrize("records", [[], synthetic_study("coupled", TINY, blocks=1, state="failed")])
def test_nothing_usable_is_an_answer_too(records, tmp_path):
    judged = verdict_of(records)
    verdict.write_verdict(tmp_path / "verdict.json", judged)
    assert judged["decision"] == "inconclusive"
    assert "No answer" in judged["answer"]
    assert judged["evidence"] is None


def test_holm_adjusts_the_tau_tests_of_a_cell_as_statsmodels_does(coupled):
    for _, cell in pairwise_of(coupled).groupby("energy"):
        assert cell["tau_p_holm"].tolist() == pytest.approx(multipletests(cell["tau_p"], method="holm")[1].tolist())


def test_every_estimate_lies_in_its_interval_and_carries_its_counts(coupled, independent):
    for records in (coupled, independent):
        pairs = pairwise_of(records)
        for name in ("tau", "spearman", "isotonic_r2"):
            assert (pairs[f"{name}_lo"] <= pairs[name]).all()
            assert (pairs[name] <= pairs[f"{name}_hi"]).all()
        assert (pairs["n_configurations"] == len(SMALL)).all()
        assert (pairs["n_repetitions_min"] == 3).all()


def test_cores_have_a_row_only_where_they_vary(coupled):
    assert "cores" not in set(pairwise_of(coupled)["metric"])
    scaled = synthetic_study("coupled", video_grid(classifiers=("resnet18",), replicas=(1, 2), batches=(1,)))
    assert "cores" in set(pairwise_of(scaled)["metric"])


def pair(**changes):
    return {
        "n_configurations": 20,
        "n_repetitions_max": 3,
        "reason": None,
        "isotonic_r2": 0.95,
        "isotonic_r2_lo": 0.92,
        "isotonic_r2_hi": 0.98,
        "isotonic_p": 0.001,
        "energy_reliability_lo": 0.99,
        "metric_reliability_lo": 1.0,
    } | changes


@pytest.mark.parametrize(
    ("changes", "decision"),
    [
        ({}, "coupled"),
        ({"isotonic_r2_lo": 0.9}, "coupled"),
        ({"isotonic_r2_lo": 0.89}, "inconclusive"),
        ({"isotonic_p": 0.2}, "inconclusive"),
        ({"isotonic_r2_lo": 0.1, "isotonic_r2_hi": 0.5}, "decoupled"),
        ({"isotonic_r2_lo": 0.1, "isotonic_r2_hi": 0.9}, "inconclusive"),
        ({"isotonic_r2_lo": 0.1, "isotonic_r2_hi": 0.5, "energy_reliability_lo": 0.5}, "inconclusive"),
        ({"isotonic_r2_lo": 0.1, "isotonic_r2_hi": 0.5, "metric_reliability_lo": math.nan}, "inconclusive"),
        ({"n_configurations": 7}, "inconclusive"),
        ({"n_repetitions_max": 1}, "inconclusive"),
        ({"reason": "constant"}, "inconclusive"),
    ],
)
def test_the_rule_at_its_edges(changes, decision):
    assert pairs_rule.decide_pair(pair(**changes), RULE)[0] == decision


def test_limitations_name_what_a_reviewer_would_ask(independent):
    notes = " ".join(verdict_of(independent)["limitations"])
    assert "published figures" in notes
    assert "One host (host-a)" in notes
    assert "accuracy spans only" not in notes
    narrow = synthetic_study(
        "independent", video_grid(detectors=("ssd300_vgg16",), classifiers=("resnet18", "resnet34"))
    )
    assert "accuracy spans only" in " ".join(verdict_of(narrow)["limitations"])


def test_records_measured_in_different_ways_are_pointed_out(coupled):
    changed = json.loads(json.dumps(coupled))
    changed[0]["identity"]["workload_settings"] = {"kind": "rate", "rate_rps": 3}
    changed[1]["provenance"]["protocol_digest"] = "1" * 64
    judged = verdict_of(changed)
    assert judged["counts"]["other_settings"] == 2
    notes = " ".join(judged["limitations"])
    assert "1 with other settings" in notes
    assert "1 with other measuring code" in notes


def test_cells_that_were_measured_in_different_ways_are_pointed_out(coupled):
    elsewhere = json.loads(json.dumps(coupled))
    for record in elsewhere:
        record["provenance"] |= {"host": "host-b", "protocol_digest": "1" * 64}
        record["identity"]["workload_settings"] = {"kind": "rate", "rate_rps": 3}
    judged = verdict_of(coupled + elsewhere)
    assert judged["counts"]["other_settings"] == 0
    notes = " ".join(judged["limitations"])
    assert "2 different settings" in notes
    assert "2 versions of the measuring code" in notes


def test_a_verdict_survives_the_file_and_a_broken_one_is_refused(coupled, tmp_path):
    judged = verdict_of(coupled)
    verdict.write_verdict(tmp_path / "verdict.json", judged)
    assert verdict.read_verdict(tmp_path / "verdict.json") == judged
    with pytest.raises(ValueError, match="decision"):
        verdict.write_verdict(tmp_path / "broken.json", judged | {"decision": "maybe"})
    assert not (tmp_path / "broken.json").exists()
    estimated_without_note = json.loads(json.dumps(judged))
    estimated_without_note["cells"][0]["evidence"] = "estimated"
    with pytest.raises(ValueError, match="cells/0"):
        verdict.write_verdict(tmp_path / "broken.json", estimated_without_note)
    (tmp_path / "alien.json").write_text("{}")
    with pytest.raises(ValueError, match=r"alien\.json"):
        verdict.read_verdict(tmp_path / "alien.json")


def test_the_summary_stays_short_however_many_cells_there_are():
    records = [r for host in "abcdef" for r in synthetic_study("coupled", TINY, blocks=1, host=host)]
    text = summary(
        verdict_of(records, refused=[(f"{i}.json", "cut") for i in range(50)], bootstrap=100), "results/test"
    )
    assert len(text.splitlines()) <= MAX_LINES
    assert "50 files refused" in text
