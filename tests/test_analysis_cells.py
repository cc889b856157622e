"""Cells: unlike joules never share a mean or a statistic, and records measured in another way are left out and told."""

import json
from pathlib import Path

import pytest

from ipa_energy.analysis import aggregate, cells, comparable, coupling, tables, verdict
from ipa_energy.analysis.evidence import judge_all
from ipa_energy.analysis.summary import summary
from ipa_energy.record import Reading
from synthetic_records import ESTIMATE, MEASURING_SETTINGS, NVML, RAPL, make_record, synthetic_study, video_grid

PRICES = {"core_hour_usd": 0.04, "gpu_hour_usd": 2.5}
RULE = {
    "coupled_r2": 0.9,
    "min_configurations": 8,
    "confidence": 0.95,
    "bootstrap": 100,
    "drop_flags": ["foreign_cpu"],
    "spread_threshold": 0.05,
    "gain_threshold": 0.05,
    "expansion_threshold": 0.1,
    "saving_threshold": 0.05,
    "delta_threshold": 0.05,
    "tolerances": {"accuracy": 0.005, "latency": 0.02, "cost": 0.02},
    "draws": 0,
}
ONE, TWO, *_ = SMALL = video_grid(classifiers=("resnet18", "resnet50"))
DRAM = ("dram_0", "rapl", "measured")
BY_RAPL, BY_ESTIMATE = "cpu_package_0:rapl", "cpu:estimate (estimated)"


def measurements_of(records):
    return tables.measurements_table(Reading(tuple((Path(f"{i:05}"), r) for i, r in enumerate(records)), ()), PRICES)


def configurations_of(records, drop_flags=()):
    return aggregate.configurations_table(measurements_of(records), 0.95, list(drop_flags))


def verdict_of(records):
    measurements = measurements_of(records)
    pairwise = coupling.pairwise_table(
        measurements, confidence=0.95, bootstrap=RULE["bootstrap"], drop_flags=RULE["drop_flags"], seed=1
    )
    refused = tables.refused_table([], Reading((), ()))
    judged = judge_all(measurements, RULE, seed=1)
    return verdict.make_verdict(measurements, pairwise, judged, refused, experiment="test", analysis=RULE, seed=1)


def record_of(block=1, energy=1.0, configuration=ONE, **settings):
    return make_record(configuration, latency_s=0.1, net_j_per_request=energy, block=block, order=block, **settings)


def otherwise(record, **changes):
    """The same record with other measuring settings."""
    copy = json.loads(json.dumps(record))
    copy["provenance"]["settings"] |= changes
    return copy


@pytest.mark.parametrize(
    ("domains", "text"),
    [
        ([RAPL], BY_RAPL),
        ([ESTIMATE], BY_ESTIMATE),
        ([NVML, RAPL], "cpu_package_0:rapl + gpu_0:nvml"),
        ([RAPL, NVML], "cpu_package_0:rapl + gpu_0:nvml"),
        ([NVML, ESTIMATE], "cpu:estimate (estimated) + gpu_0:nvml"),
    ],
)
def test_meters_name_each_part_of_the_total_in_one_order(domains, text):
    assert measurements_of([record_of(domains=domains)])["meters"].tolist() == [text]


def test_a_record_without_energy_has_no_meters():
    records = [record_of(1, state="failed"), record_of(2, evidence="none")]
    assert measurements_of(records)["meters"].isna().all()


@pytest.mark.parametrize(
    ("one", "other"),
    [([RAPL], [ESTIMATE]), ([NVML], [NVML, RAPL]), ([RAPL, DRAM], [RAPL]), ([NVML, ESTIMATE], [NVML, RAPL])],
)
def test_joules_of_different_meters_never_share_a_mean(one, other):
    records = [record_of(b, 1.0, domains=one) for b in (1, 2)] + [record_of(b, 9.0, domains=other) for b in (3, 4)]
    table = configurations_of(records)
    assert sorted(table["net_j_per_request"]) == [1.0, 9.0]
    assert table["n"].tolist() == [2, 2]
    anchors = [record_of(b, e, role="anchor-first", domains=d) for b, e, d in ((1, 1.0, one), (2, 9.0, other))]
    assert aggregate.anchor_table(measurements_of(anchors))["net_j_per_request_deviation"].tolist() == [0.0, 0.0]


def test_records_without_energy_are_counted_where_their_configuration_has_some():
    records = [
        record_of(1, domains=[RAPL]),
        record_of(2, domains=[ESTIMATE], configuration=TWO),
        record_of(3, state="failed"),
        record_of(4, state="not_run"),
        record_of(5, evidence="none"),
    ]
    table = configurations_of(records).set_index(["configuration", "meters"])
    assert table.index.tolist() == sorted([(ONE.id, BY_RAPL), (TWO.id, BY_ESTIMATE)])
    row = table.loc[(ONE.id, BY_RAPL)]
    names = ["n", "n_gross", "n_recorded", "n_failed", "n_not_run"]
    assert row[names].tolist() == [2, 1, 4, 1, 1]


def test_a_configuration_without_any_energy_is_counted_in_every_cell_of_its_place():
    records = [
        record_of(1, domains=[RAPL]),
        record_of(2, domains=[ESTIMATE]),
        record_of(3, state="failed", configuration=TWO),
        record_of(4, state="failed", configuration=TWO, host="host-b"),
    ]
    table = configurations_of(records)
    lost = table[table["configuration"] == TWO.id]
    assert lost[["host", "meters", "n", "n_failed"]].values.tolist() == [
        ["host-a", BY_ESTIMATE, 0, 1],
        ["host-a", BY_RAPL, 0, 1],
        ["host-b", cells.NO_METERS, 0, 1],
    ]
    # Each record is counted once all the same.
    assert verdict_of(records)["counts"]["failed"] == 2


def test_an_estimated_cell_stays_without_evidence_though_a_measured_record_lies_beside_it():
    records = synthetic_study("coupled", SMALL, evidence="estimated")
    alone = verdict_of(records)
    judged = verdict_of([*records, record_of(9, domains=[RAPL])])
    by_meters = {(cell["meters"], cell["energy"]): cell for cell in judged["cells"]}
    for energy in ("gross", "net"):
        cell = by_meters[BY_ESTIMATE, energy]
        assert cell["evidence"] == "estimated"
        assert cell["no_evidence"]
        assert cell in alone["cells"]  # to the last digit
        assert not by_meters[BY_RAPL, energy]["no_evidence"]
    # The single measured record decides nothing, and the estimates do not decide in its place.
    assert alone["decision"] == "coupled"
    assert judged["decision"] == "inconclusive"
    assert "asks for 8" in judged["answer"]
    assert any("2 sets of meters" in note for note in judged["limitations"])


def test_a_stray_set_of_meters_does_not_undo_a_decision():
    records = synthetic_study("coupled", SMALL, domains=[RAPL, DRAM])
    judged = verdict_of([*records, record_of(9, domains=[RAPL])])
    assert judged["decision"] == verdict_of(records)["decision"] == "coupled"
    assert len(judged["cells"]) == 4
    text = summary(judged, "results/test")
    assert "meters cpu_package_0:rapl + dram_0:rapl" in text


def test_one_set_of_meters_is_not_named_in_the_summary():
    judged = verdict_of(synthetic_study("coupled", SMALL))
    assert judged["meters"] == [BY_RAPL]
    assert BY_RAPL not in summary(judged, "results/test")


def test_a_decision_on_partly_estimated_energy_says_so():
    judged = verdict_of(synthetic_study("coupled", SMALL, evidence="mixed"))
    assert judged["decision"] == "coupled"
    assert "Part of the energy behind this is estimated" in judged["answer"]
    assert all(cell["evidence"] == "mixed" and "Part of this energy" in cell["note"] for cell in judged["cells"])


def test_the_settings_digest_follows_what_changes_joules():
    def digest(record):
        return comparable.settings_digest(record)

    base = record_of()
    assert len(digest(base)) == 12
    assert digest(otherwise(base, gates={"foreign_cores": 9})) == digest(base)
    assert digest(record_of(2, energy=5.0)) == digest(base)
    workload = json.loads(json.dumps(base))
    workload["identity"]["workload_settings"] = {"kind": "rate", "rate_rps": 3}
    others = [otherwise(base, crops_per_frame=9), otherwise(base, seed=2), record_of(frames_sha256="0" * 64), workload]
    assert len({digest(record) for record in [base, *others]}) == 5
    del base["provenance"]["settings"]
    assert digest(base) is None


def test_records_with_other_settings_are_not_pooled_and_are_counted():
    most = [record_of(block, 1.0) for block in (1, 2, 3)]
    few = [otherwise(record_of(block, 9.0), crops_per_frame=9) for block in (4, 5)]
    few[1]["provenance"]["protocol_digest"] = "1" * 64
    other_code = record_of(6, 9.0)
    other_code["provenance"]["protocol_digest"] = "1" * 64
    table = configurations_of([*few, other_code, *most])
    (row,) = table.to_dict("records")
    assert row["net_j_per_request"] == 1.0
    assert (row["n"], row["n_recorded"], row["n_other_settings"]) == (3, 6, 3)
    judged = verdict_of([*few, other_code, *most])
    assert judged["counts"]["other_settings"] == 3
    assert judged["counts"]["usable"] == 3
    (note,) = [note for note in judged["limitations"] if "left out" in note]
    assert note.startswith("3 usable records")
    for words in ("1 with other settings", "1 with other measuring code", "1 with other settings and measuring code"):
        assert words in note
    assert "3 for other settings or measuring code" in summary(judged, "results/test")


def test_other_settings_leave_the_statistics_of_a_study_as_they_were():
    records = synthetic_study("coupled", SMALL)
    added = [otherwise(record_of(9, 1e6, configuration=c), max_wait_s=1.0) for c in SMALL]
    assert verdict_of(records + added)["cells"] == verdict_of(records)["cells"]


def test_of_equally_frequent_settings_the_last_used_stay():
    old, new = otherwise(record_of(1, 9.0), seed=7), record_of(2, 1.0)
    for records in ([old, new], [new, old]):
        assert configurations_of(records)["net_j_per_request"].tolist() == [1.0]


def test_flagged_records_have_no_vote_on_the_settings():
    flagged = [otherwise(record_of(b, 9.0, flags=["foreign_cpu"]), seed=7) for b in (3, 4, 5)]
    assert configurations_of([record_of(1), record_of(2), *flagged], ["foreign_cpu"])["n"].tolist() == [2]


def test_records_without_settings_are_told_apart_by_workload_and_code():
    old = [record_of(b, 1.0 if b < 3 else 9.0) for b in (1, 2, 3)]
    for record in old:
        del record["provenance"]["settings"]
    old[2]["identity"]["workload_settings"] = {"kind": "rate", "rate_rps": 3}
    assert configurations_of(old)["net_j_per_request"].tolist() == [1.0]


def test_anchors_measured_in_another_way_are_no_drift():
    anchors = [record_of(1, 1.0, role="anchor-first"), otherwise(record_of(2, 2.0, role="anchor-first"), seed=5)]
    assert aggregate.anchor_table(measurements_of(anchors))["net_j_per_request_deviation"].tolist() == [0.0, 0.0]
    assert MEASURING_SETTINGS["seed"] != 5


def test_energy_that_is_mostly_estimated_is_no_evidence_and_says_how_much():
    records = synthetic_study("coupled", SMALL, evidence="mixed")
    for record in records:
        record["energy"]["estimated_fraction"] = 0.9
    judged = verdict_of(records)
    assert judged["no_evidence"]
    assert "No evidence" in judged["answer"]
    assert all(cell["no_evidence"] and "(90%)" in cell["note"] for cell in judged["cells"])
