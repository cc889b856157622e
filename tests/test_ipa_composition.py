"""Composed against measured, on records whose truth is known: exact composition, known interactions, and bad input."""

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text

from ipa_energy.analysis import tables
from ipa_energy.analysis.aggregate import configurations_table
from ipa_energy.configuration import Configuration, Platform, StageKnobs
from ipa_energy.figures import composition as composition_figure
from ipa_energy.figures import style
from ipa_energy.ipa import relative_errors
from ipa_energy.ipa.composition import compose, together
from ipa_energy.ipa.composition_answer import Rule, answer
from ipa_energy.ipa.composition_errors import errors_table
from ipa_energy.ipa.options import Input, make_options
from ipa_energy.ipa.prediction import METRICS, predict, profile_platform
from ipa_energy.ipa.profile import make_profile
from ipa_energy.ipa.relative_errors import Resampling
from ipa_energy.record import Reading
from synthetic_records import CLASSIFIERS, DETECTORS, IDLE_W, PRICES, make_record, video_grid

WAITING_W = 1.5
HOW = Resampling(confidence=0.95, resamples=400, seed=1)
GRID = video_grid(replicas=(1, 2))
SMALL = video_grid(classifiers=("resnet18", "resnet50"), batches=(1, 4))


def batch_s(variant, batch):
    return (DETECTORS | CLASSIFIERS)[variant][1] * (0.3 + 0.7 * batch)


def own_j(variant, batch):
    """Energy of a batch above the waiting replica: per request, not the same for all batch sizes and variants."""
    return 4.0 * batch_s(variant, batch) * (1.2 if variant.startswith("ssd") else 1.0)


def profile_table(**changes):
    rows = []
    for stage, variants in (("detect", DETECTORS), ("classify", CLASSIFIERS)):
        for (variant, (accuracy, _)), batch in itertools.product(variants.items(), (1, 4)):
            latency_s = batch_s(variant, batch)
            rows.append(
                {
                    "stage": stage,
                    "variant": variant,
                    "accuracy": accuracy,
                    "cores": 1,
                    "batch": batch,
                    "latency_mean_s": latency_s,
                    "latency_p99_s": 1.2 * latency_s,
                    "throughput_rps": batch / latency_s,
                    "energy_j": own_j(variant, batch),
                    "energy_kind": "net",
                    "idle_w": WAITING_W,
                    "host_idle_w": IDLE_W,
                    "evidence": "measured",
                }
            )
    return pd.DataFrame(rows).assign(**changes)


PROFILE = make_profile(profile_table())


def truth(configuration, rate_rps=None):
    """Throughput, mean latency, p99 latency and net energy per request when composition is exact."""
    stages = configuration.stages
    throughput = min(s.replicas * s.batch / batch_s(s.variant, s.batch) for s in stages)
    in_flight = 2 * sum(s.batch * s.replicas for s in stages)
    mean_s, p99_s = in_flight / throughput, math.nan
    if rate_rps is not None:
        throughput = min(rate_rps, throughput)
        queue_s = sum((s.batch - 1) / rate_rps for s in stages)
        mean_s = sum(batch_s(s.variant, s.batch) for s in stages) + queue_s
        p99_s = 1.2 * sum(batch_s(s.variant, s.batch) for s in stages) + queue_s
    net_j = sum(own_j(s.variant, s.batch) / s.batch + s.replicas * WAITING_W / throughput for s in stages)
    return throughput, mean_s, p99_s, net_j


def record_of(configuration, rate_rps=None, *, block=1, times=None, **settings):
    """A record of a configuration that does what its stages promise, each figure ``times`` a factor."""
    factor = dict.fromkeys(METRICS, 1.0) | (times or {})
    throughput, mean_s, p99_s, net_j = truth(configuration, rate_rps)
    throughput *= factor["throughput_rps"]
    net_j *= factor["net_j_per_request"]
    gross_j = factor["gross_j_per_request"] * (net_j + IDLE_W / throughput)
    workload = "saturated" if rate_rps is None else f"rate-{rate_rps:g}"
    record = make_record(
        configuration,
        latency_s=1.0,
        net_j_per_request=net_j,
        throughput_rps=throughput,
        workload=workload,
        block=block,
        **settings,
    )
    if rate_rps is not None:
        record["identity"]["workload_settings"] = {"kind": "rate", "rate_rps": rate_rps, "drop_after_s": None}
    if record["status"]["state"] == "ok":
        record["service"]["offered_rps"] = rate_rps
        record["service"]["latency"] |= {
            "mean_s": mean_s * factor["latency_mean_s"],
            "p99_s": (1.0 if rate_rps is None else p99_s) * factor["latency_p99_s"],
        }
        for figures in record["service"]["stages"].values():
            figures["service_mean_s"] *= factor["service_s"]
        if record["energy"]["domains"]:
            record["energy"]["gross_j_per_request"] = gross_j
    return record


def table_of(records):
    reading = Reading(tuple((Path(f"{i:05}"), record) for i, record in enumerate(records)), ())
    return tables.measurements_table(reading, PRICES)


def composed(records, profile=PROFILE, **settings):
    configurations = compose(profile, table_of(records), drop_flags=["foreign_cpu"], confidence=0.95, **settings)
    return configurations, errors_table(configurations, HOW)


def of(errors, metric, workload="saturated"):
    rows = errors[(errors["metric"] == metric) & (errors["workload"] == workload)]
    assert len(rows) == 1
    return rows.iloc[0]


# --- known truth ---


@pytest.mark.parametrize("rate_rps", [None, 0.3])
def test_where_stages_do_what_they_do_alone_every_prediction_is_right(rate_rps):
    configurations, errors = composed([record_of(c, rate_rps, block=b) for c in GRID for b in (1, 2)])
    assert len(configurations) == len(GRID)
    assert set(configurations["n"]) == {2}
    workload = configurations["workload"].iloc[0]
    for metric in METRICS:
        row = of(errors, metric, workload)
        if metric == "latency_p99_s" and rate_rps is None:
            assert row["n_configurations"] == 0
            assert configurations[f"{metric}_predicted"].isna().all()
            continue
        assert row["n_configurations"] == len(GRID)
        assert [row["bias"], row["mean_absolute_error_hi"]] == pytest.approx([0, 0], abs=1e-9)
        if metric != "throughput_rps" or rate_rps is None:  # an offered rate is served by all alike
            assert row["tau"] == pytest.approx(1)
            assert row["log_r2"] == pytest.approx(1)
    assert of(errors, "net_j_per_request", workload)["regret"] == pytest.approx(0, abs=1e-9)
    assert configurations["evidence"].eq("measured").all()


def test_predictions_are_those_of_the_options_that_ipa_chooses_from():
    """The same formulas twice: here over records, and in the module that the solver works with."""
    records = table_of([record_of(c, 0.3) for c in GRID])
    for kind in ("net", "gross"):
        profile = make_profile(profile_table(energy_kind=kind))
        figures = predict(profile, records).figures.set_axis(records["configuration"])
        for latency, metric in (("p99", "latency_p99_s"), ("mean", "latency_mean_s")):
            options = make_options(profile, Input(0.3, 1e5), 2, latency=latency)
            for configuration in GRID:
                latency_s = energy_j = 0.0
                for stage, knobs in zip(options.stages, configuration.stages, strict=True):
                    names = np.asarray(stage.variants)[stage.variant]
                    mask = (names == knobs.variant) & (stage.batch == knobs.batch) & (stage.replicas == knobs.replicas)
                    (at,) = np.flatnonzero(mask)
                    latency_s += stage.latency[at] / 1e9
                    energy_j += stage.energy[at] / 1e9
                assert figures.loc[configuration.id, metric] == pytest.approx(latency_s, abs=1e-8)
                assert figures.loc[configuration.id, "net_j_per_request"] == pytest.approx(energy_j, abs=1e-8)


def test_measured_means_and_intervals_are_those_of_the_configurations_table():
    generator = np.random.default_rng(2)
    records = [
        record_of(c, 0.3, block=b, times={"net_j_per_request": generator.lognormal(0, 0.1)})
        for c in SMALL
        for b in (1, 2, 3)
    ]
    records[4]["energy"]["net_j_per_request"] = None
    configurations, _ = composed(records)
    known = configurations_table(table_of(records), 0.95, ["foreign_cpu"]).set_index("configuration")
    for metric in ("throughput_rps", "latency_mean_s", "latency_p99_s", "net_j_per_request", "gross_j_per_request"):
        for mine, theirs in (("measured", metric), ("measured_lo", f"{metric}_lo"), ("measured_hi", f"{metric}_hi")):
            found = configurations.set_index("configuration")[f"{metric}_{mine}"]
            pd.testing.assert_series_equal(found, known[theirs], check_names=False, check_index_type=False)


@pytest.mark.parametrize(
    ("metric", "factor"),
    [
        ("net_j_per_request", 1.2),
        ("gross_j_per_request", 1.25),
        ("service_s", 0.8),
        ("latency_mean_s", 2.0),
        ("latency_p99_s", 0.5),
    ],
)
def test_what_stages_do_to_each_other_is_found_as_the_bias_that_it_is(metric, factor):
    """20 % more energy together than apart: predictions are 1 / 1.2 - 1 = -1/6 off."""
    _, errors = composed([record_of(c, 0.3, times={metric: factor}) for c in SMALL])
    row = of(errors, metric, "rate-0.3")
    assert row["bias"] == pytest.approx(1 / factor - 1)
    assert row["mean_absolute_error"] == pytest.approx(abs(1 / factor - 1))
    assert row["p90_absolute_error"] == pytest.approx(abs(1 / factor - 1))
    assert row["tau"] == pytest.approx(1)


def test_throughput_that_is_lost_together_is_found_in_all_that_follows_from_it():
    _, errors = composed([record_of(c, times={"throughput_rps": 0.8}) for c in SMALL])
    assert of(errors, "throughput_rps")["bias"] == pytest.approx(0.25)
    assert of(errors, "latency_mean_s")["bias"] == pytest.approx(0, abs=1e-9)  # this truth kept its latency


def test_latency_of_a_stage_that_cannot_keep_up_is_not_predicted():
    slow = [c for c in SMALL if truth(c)[0] < 5]
    assert slow
    configurations, _ = composed([record_of(c, 5.0) for c in SMALL])
    chosen = configurations.set_index("configuration")
    for configuration in slow:
        row = chosen.loc[configuration.id]
        assert np.isnan(row["latency_mean_s_predicted"])
        assert "keep up" in row["reason"]
        assert row["throughput_rps_error"] == pytest.approx(0)
        assert row["net_j_per_request_error"] == pytest.approx(0)
    assert chosen["latency_mean_s_predicted"].notna().sum() == len(SMALL) - len(slow)


def test_noise_is_an_error_and_no_bias_and_its_size_is_found():
    generator = np.random.default_rng(4)
    records = [
        record_of(c, times={"net_j_per_request": 1 / (1 + generator.normal(0, 0.1))})
        for c in video_grid(replicas=(1, 2, 3))
    ]
    _, errors = composed(records)
    row = of(errors, "net_j_per_request")
    assert row["bias_lo"] < 0 < row["bias_hi"]
    assert row["mean_absolute_error"] == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.2)
    assert 0.5 < row["tau"] < 1
    assert 0.9 < row["log_r2"] < 1


def test_regret_is_the_energy_lost_by_trusting_the_prediction():
    best = min(SMALL, key=lambda c: truth(c)[3])
    second = sorted(SMALL, key=lambda c: truth(c)[3])[1]
    records = [record_of(c, times={"net_j_per_request": 3.0 if c == best else 1.0}) for c in SMALL]
    _, errors = composed(records)
    lost = 3 * truth(best)[3] / truth(second)[3] - 1
    assert of(errors, "net_j_per_request")["regret"] == pytest.approx(lost)
    assert 0 < of(errors, "net_j_per_request")["regret_same_accuracy"] <= lost
    assert math.isnan(of(errors, "service_s")["regret"])


# --- intervals ---


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator, hits, taus = np.random.default_rng(0), 0, 0
    true_tau = 2 / math.pi * math.asin(0.8)  # of normal samples with correlation 0.8 (Greiner 1909)
    runs = 150
    for run in range(runs):
        errors = generator.normal(0.02, 0.08, 40)
        found = relative_errors.mean_errors(errors, Resampling(0.95, 300, run), "x")
        hits += found["bias_lo"] <= 0.02 <= found["bias_hi"]
        x = generator.normal(size=40)
        y = 0.8 * x + 0.6 * generator.normal(size=40)
        found = relative_errors.rank_correlation(x, y, Resampling(0.95, 300, run), "x")
        taus += found["tau_lo"] <= true_tau <= found["tau_hi"]
    assert 0.88 <= hits / runs <= 1
    assert 0.85 <= taus / runs <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-900, 9000).map(lambda n: n / 1000), min_size=3, max_size=30), st.integers(0, 5))
def test_an_interval_holds_its_estimate_and_is_the_same_every_time(values, seed):
    errors = np.array(values)
    how = Resampling(0.9, 50, seed)
    found = relative_errors.mean_errors(errors, how, "x")
    assert found == relative_errors.mean_errors(errors, how, "x")
    for name in ("bias", "mean_absolute_error"):
        assert found[f"{name}_lo"] <= found[name] <= found[f"{name}_hi"]
    assert abs(found["bias"]) <= found["mean_absolute_error"] + 1e-12
    tau = relative_errors.rank_correlation(errors, errors[::-1].copy(), how, "x")
    if "tau_lo" in tau:
        assert -1 - 1e-9 <= tau["tau_lo"] <= tau["tau"] <= tau["tau_hi"] <= 1 + 1e-9


def test_statistics_of_other_rows_do_not_depend_on_what_is_added():
    records = [record_of(c) for c in SMALL]
    _, alone = composed(records)
    _, both = composed([*records, *(record_of(c, 0.3) for c in SMALL)])
    for metric in ("net_j_per_request", "throughput_rps"):
        pd.testing.assert_series_equal(of(alone, metric), of(both, metric), check_names=False)


# --- what can't be composed ---


def test_configurations_that_the_profile_lacks_are_kept_with_the_reason():
    resnet = StageKnobs("classify", "resnet18", 1, 1, 1)
    strange = Configuration("video", (StageKnobs("detect", "yolo", 1, 1, 1), resnet))
    wide = Configuration("video", (StageKnobs("detect", "ssd300_vgg16", 1, 1, 2), resnet))
    gpu = Configuration("video", (StageKnobs("detect", "ssd300_vgg16", 1, 1, 1), resnet), Platform("cuda"))
    good = [record_of(c) for c in SMALL]
    others = []
    for configuration in (strange, wide, gpu):
        record = record_of(SMALL[0])
        record["identity"] |= {"configuration": configuration.as_dict(), "configuration_id": configuration.id}
        others.append(record)
    configurations, errors = composed([*good, *others])
    assert len(configurations) == len(SMALL) + 3
    told = configurations.set_index("configuration")["reason"]
    assert told[strange.id] == "detect/yolo on cpu, threads 1, batch 1 is not in the profile"
    assert "threads 2" in told[wide.id]
    assert "on cuda" in told[gpu.id]
    assert of(errors, "net_j_per_request")["n_configurations"] == len(SMALL)
    text = answer(configurations, errors, Rule(), 0.95)
    assert "1 x detect/yolo on cpu, threads 1, batch 1 is not in the profile" in text
    assert "by net energy it can; by gross energy it can" in text


def test_another_platform_than_that_of_the_profile_is_not_composed():
    configurations, _ = composed([record_of(SMALL[0])], platform=Platform("cpu", "int8"))
    assert configurations["reason"].tolist() == ["measured on cpu in fp32, profiled on cpu in int8"]
    defaults = {"profile": None, "device": None, "precision": "fp16"}
    assert profile_platform(defaults, {"device": ["cuda", "cpu"], "precision": ["fp32"]}) == Platform("cuda", "fp16")
    assert profile_platform(defaults | {"profile": "mine.csv"}, {}) is None


def test_a_profile_of_other_stages_composes_nothing():
    rows = profile_table()
    more = pd.concat([rows, rows[rows["stage"] == "classify"].assign(stage="track")])
    configurations, errors = composed([record_of(c) for c in SMALL], make_profile(more))
    assert set(configurations["reason"]) == {"there is no stage track in it"}
    assert errors["reason"].str.contains("no configuration has both sides").all()
    fewer = make_profile(rows[rows["stage"] == "detect"])
    configurations, _ = composed([record_of(c) for c in SMALL], fewer)
    assert set(configurations["reason"]) == {"stage classify is not in the profile"}


@pytest.mark.parametrize(
    ("column", "lost", "words"),
    [
        ("energy_j", {"net_j_per_request", "gross_j_per_request"}, "has no energy"),
        ("idle_w", {"net_j_per_request", "gross_j_per_request"}, "power of waiting replicas"),
        ("host_idle_w", {"gross_j_per_request"}, "power of the bare host"),
        ("latency_p99_s", {"latency_p99_s"}, "no p99 latency"),
        ("latency_mean_s", {"latency_mean_s", "service_s"}, "no mean latency"),
    ],
)
def test_what_the_profile_does_not_tell_is_null_and_the_rest_is_composed(column, lost, words):
    profile = make_profile(profile_table().drop(columns=column))
    configurations, _ = composed([record_of(c, 0.3) for c in SMALL], profile)
    for metric in METRICS:
        assert configurations[f"{metric}_predicted"].isna().all() == (metric in lost)
        assert configurations[f"{metric}_measured"].notna().all()
    assert configurations["reason"].str.contains(words).all()


def test_failed_dropped_and_anchor_records_do_not_count_and_lost_energy_is_told():
    records = [record_of(c) for c in SMALL[:4]]
    records += [record_of(SMALL[4], state="failed"), record_of(SMALL[5], flags=["foreign_cpu"])]
    records += [record_of(SMALL[6], role="anchor-first"), record_of(SMALL[7])]
    records[-1]["energy"] |= {"net_j_per_request": None}
    configurations, errors = composed(records)
    assert sorted(configurations["configuration"]) == sorted(c.id for c in [*SMALL[:4], SMALL[7]])
    row = configurations.set_index("configuration").loc[SMALL[7].id]
    assert "net_j_per_request: not measured" in row["reason"]
    assert row["net_j_per_request_predicted"] == pytest.approx(truth(SMALL[7])[3])
    assert of(errors, "net_j_per_request")["n_configurations"] == 4
    assert of(errors, "throughput_rps")["n_configurations"] == 5


def test_net_energy_that_is_not_above_0_has_no_relative_error():
    records = [record_of(c) for c in SMALL]
    records[0]["energy"] |= {"net_j_per_request": -0.1}
    _, errors = composed(records)
    row = of(errors, "net_j_per_request")
    assert row["reason"] == "measured figures not above 0, which have no relative error: 1"
    assert row["n_configurations"] == len(SMALL)
    assert row["bias"] == pytest.approx(0, abs=1e-9)
    assert math.isnan(row["regret"]) and math.isnan(row["spread"]) and math.isnan(row["log_r2"])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_configurations_give_tables_and_figure_without_statistics(count, tmp_path):
    configurations, errors = composed([record_of(c) for c in SMALL[:count]])
    assert len(configurations) == count
    assert errors["tau"].isna().all()
    if count:
        assert of(errors, "throughput_rps")["reason"].endswith("statistics need at least 3")
    text = answer(configurations, errors, Rule(), 0.95)
    assert ("No answer" in text) == (count == 0)
    assert "IPA can choose by the" not in text.replace("can't be told whether IPA can", "")
    figure = composition_figure.draw(configurations, errors, "Few")
    style.save(figure, [tmp_path / "a.svg", tmp_path / "a.png"])


# --- the answer ---


def texts(times=None, evidence="measured", grid=GRID, blocks=2, **rule):
    records = [
        record_of(c, times=None if times is None else times(i), evidence=evidence, block=b)
        for i, c in enumerate(grid)
        for b in range(1, blocks + 1)
    ]
    profile = make_profile(profile_table(evidence=evidence))
    configurations, errors = composed(records, profile)
    return answer(configurations, errors, Rule(**rule), 0.95), configurations, errors


def paragraph(text, name):
    lines = text.replace("\n    ", " ").splitlines()
    (line,) = [line for line in lines if name in line and "choose by" in line and "Rule" not in line]
    return line


def test_exact_composition_is_answered_with_can():
    line = paragraph(texts()[0], "net energy per request")
    assert "So IPA can choose by the net energy per request that it predicts" in line
    assert "off by 0.0 % on average (95 % CI 0.0 to 0.0 %)" in line
    assert "tau 1.00" in line
    assert "estimated" not in line


def test_large_errors_are_answered_with_cannot_and_the_ground():
    line = paragraph(texts(lambda i: {"net_j_per_request": 1.5})[0], "net energy")
    assert "So IPA cannot choose" in line
    assert "the error is above 10 %" in line
    assert "tau is" not in line


def test_a_wrong_order_is_answered_with_cannot():
    generator = np.random.default_rng(0)
    factors = generator.lognormal(0, 1.5, len(GRID))
    text, _, errors = texts(lambda i: {"net_j_per_request": factors[i]})
    assert of(errors, "net_j_per_request")["tau_hi"] < 0.8
    assert "tau is below 0.8" in paragraph(text, "net energy")


def test_errors_about_the_limit_and_few_configurations_decide_nothing():
    line = paragraph(texts(lambda i: {"net_j_per_request": 1.0 if i % 2 else 1.25})[0], "net energy")
    assert "it can't be told whether IPA can choose" in line
    assert "the error may be above 10 %" in line
    line = paragraph(texts(grid=SMALL[:5])[0], "net energy")
    assert "can't be told" in line
    assert "5 configurations, and at least 8 count" in line


def test_estimated_energy_is_called_so_and_is_no_evidence():
    text, configurations, errors = texts(evidence="estimated")
    for name in ("net energy", "gross energy"):
        line = paragraph(text, name)
        assert f"estimated {name}" in line
        assert "no evidence on real energy" in line
        assert line.count(name) == line.count(f"estimated {name}")
    assert "by estimated net energy it can - no evidence" in text
    assert set(errors["evidence"].dropna()) == {"estimated"}
    figure = composition_figure.draw(configurations, errors, "Estimated")
    words = "\n".join(t.get_text() for t in figure.findobj(Text))
    assert "Estimated net energy" in words and "Estimated gross energy" in words


@pytest.mark.parametrize(
    ("profiled", "measured", "both"),
    [
        ("measured", ["measured", "measured"], "measured"),
        ("estimated", ["measured"], "mixed"),
        ("measured", ["estimated"], "mixed"),
        ("unknown", ["estimated"], "estimated"),
        ("none", ["measured"], "measured"),
        ("mixed", ["mixed"], "mixed"),
    ],
)
def test_evidence_is_that_of_both_sides(profiled, measured, both):
    assert together(profiled, measured) == both


def test_without_repetitions_a_wrong_order_and_large_errors_may_be_scatter():
    generator = np.random.default_rng(0)
    factors = generator.lognormal(0, 1.5, len(GRID))
    line = paragraph(texts(lambda i: {"net_j_per_request": factors[i]}, blocks=1)[0], "net energy")
    assert "it can't be told whether IPA can choose" in line
    assert "without repetitions scatter can't be told from error" in line


def test_scatter_between_repetitions_alone_never_says_cannot():
    """Composition is exact, and every measurement is off by 60 %: tau and error look bad, and IPA is not to blame."""
    generator, decisions = np.random.default_rng(6), []
    for _ in range(12):
        records = [
            record_of(c, block=b, times={"net_j_per_request": max(0.05, 1 + generator.normal(0, 0.6))})
            for c in SMALL
            for b in (1, 2, 3)
        ]
        _, errors = composed(records)
        row = of(errors, "net_j_per_request")
        decisions.append(Rule().decide(row)[0])
        assert row["noise_error"] == pytest.approx(0.6 / math.sqrt(3) * math.sqrt(2 / math.pi), rel=0.3)
        assert row["tau_ceiling"] < 0.9
        assert row["mean_absolute_error"] > 0.1
    assert set(decisions) == {"undecided"}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=6, max_size=6), st.integers(1, 40), st.booleans())
def test_the_three_decisions_follow_from_the_bounds(numbers, count, repeated):
    tau_lo, tau_hi = sorted(numbers[:2])
    error_lo, error_hi = sorted(numbers[2:4])
    ceiling, noise = numbers[4:] if repeated else (math.nan, math.nan)
    row = {"n_configurations": count, "tau_lo": tau_lo, "tau_hi": tau_hi, "reason": None}
    row |= {"mean_absolute_error_lo": error_lo, "mean_absolute_error_hi": error_hi}
    decision, grounds = Rule().decide(row | {"tau_ceiling": ceiling, "noise_error": noise})
    assert grounds
    if count < 8:
        assert decision == "undecided"
    elif tau_lo >= 0.8 and error_hi <= 0.1:
        assert decision == "can"
    elif repeated and (tau_hi < 0.8 * ceiling or error_lo > 0.1 + noise):
        assert decision == "cannot"
    else:
        assert decision == "undecided"


# --- the script ---


def test_the_script_writes_tables_answer_and_figure(tmp_path):
    from ipa_energy.ipa.profile import write_profile
    from ipa_energy.study import load_study
    from test_analysis_scripts import main_of

    records = [record_of(c, rate) for c in SMALL for rate in (None, 0.3)]
    inputs = {"profile": str(tmp_path / "profile.csv"), "measurements": str(tmp_path / "measurements.csv")}
    write_profile(PROFILE, inputs["profile"])
    tables.write_csv(inputs["measurements"], table_of(records))
    names = ("configurations.csv", "errors.csv", "answer.txt", "figure.svg", "figure.png")
    keys = ("configurations", "errors", "answer", "svg", "png")
    outputs = {key: str(tmp_path / name) for key, name in zip(keys, names, strict=True)}
    stages = {"detect": {"variant": ["ssd300_vgg16"]}, "classify": {"variant": ["resnet18"]}}
    study = load_study({"experiment": "x", "grid": {"stages": stages}}).settings
    main_of("compose")(
        inputs,
        outputs,
        experiment="x",
        ipa=study["ipa"],
        platforms=study["grid"]["platform"],
        analysis=study["analysis"] | {"bootstrap": 50},
        seed=0,
    )
    assert all(Path(path).stat().st_size > 0 for path in outputs.values())
    back = tables.read_csv(outputs["errors"])
    assert len(back) == 2 * len(METRICS)
    assert back["mean_absolute_error"].max() == pytest.approx(0, abs=1e-9)
    assert len(tables.read_csv(outputs["configurations"])) == 2 * len(SMALL)
