"""Profiles: what is read is what was published, what was changed is told, what can't be used is refused in words."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_energy.ipa.accuracy import as_fractions, rank_normalised
from ipa_energy.ipa.allocation import allocation_table, base_allocation, stage_sla_s, with_base_allocation
from ipa_energy.ipa.fit import fill_batches, fit_quadratic, latency_fits
from ipa_energy.ipa.options import Prices
from ipa_energy.ipa.profile import make_profile, read_profile, write_profile
from ipa_energy.ipa.profile_table import ProfileError

HEADER = "stage,variant,accuracy,cores,batch,latency_s,throughput_rps\n"


def table(**changes):
    """Two stages, two variants each, batches 1 and 2; ``changes`` replace or add columns."""
    base = {
        "stage": ["detect"] * 4 + ["classify"] * 4,
        "variant": ["n", "n", "s", "s", "r18", "r18", "r34", "r34"],
        "accuracy": [0.457, 0.457, 0.568, 0.568, 0.6975, 0.6975, 0.7331, 0.7331],
        "cores": [1, 1, 2, 2, 1, 1, 1, 1],
        "batch": [1, 2, 1, 2, 1, 2, 1, 2],
        "latency_s": [0.08, 0.14, 0.15, 0.27, 0.07, 0.12, 0.1, 0.18],
        "throughput_rps": [13.0, 15.0, 7.0, 8.0, 15.0, 17.0, 10.0, 11.0],
    }
    return pd.DataFrame(base | changes)


def test_a_file_with_comments_is_read_and_stages_keep_its_order(tmp_path):
    path = tmp_path / "profile.csv"
    path.write_text(
        f"# source: made up\n{HEADER}detect, n, 0.457, 1, 1, 0.08, 13\nclassify, r18, 0.6975, 1, 1, 0.07, 15\n"
    )
    profile = read_profile(path)
    assert [s.stage for s in profile.stages] == ["detect", "classify"]
    assert profile.stage("classify").variants == ("r18",)
    assert profile.remarks == ()
    assert profile.energy_kind is None and "no energy" in profile.energy_boundary


def test_what_was_written_reads_the_same(tmp_path):
    wer = table(accuracy=[41.28] * 2 + [35.12] * 2 + [69.75] * 2 + [73.31] * 2, metric=["WER"] * 4 + ["acc@1"] * 4)
    first = make_profile(wer)
    write_profile(first, tmp_path / "profile.csv")
    again = read_profile(tmp_path / "profile.csv")
    for one, other in zip(first.stages, again.stages, strict=True):
        np.testing.assert_array_equal(one.accuracy, other.accuracy)
        np.testing.assert_array_equal(one.throughput_rps, other.throughput_rps)
    assert first.stages[0].accuracy.tolist() == [0.5872, 0.6488]
    assert again.remarks == ()  # nothing left to turn around


@pytest.mark.parametrize(
    ("published", "metric", "fractions", "words"),
    [
        ({"n": 45.7, "x": 68.9}, "", {"n": 0.457, "x": 0.689}, "were taken as per cent, divided by 100"),
        ({"n": 0.457, "x": 1.0}, "map", {"n": 0.457, "x": 1.0}, None),
        ({"s2t": -41.28, "w2v": -27.65}, "", {"s2t": 0.5872, "w2v": 0.7235}, "word error rates, negative as in IPA"),
        ({"s2t": -0.4128}, "", {"s2t": 0.5872}, "turned into 1 - WER"),
        ({"s2t": 33.26}, "wer", {"s2t": 0.6674}, "turned into 1 - WER and taken as per cent"),
    ],
)
def test_published_accuracies_become_fractions_and_it_is_said(published, metric, fractions, words):
    found, remark = as_fractions("audio", published, metric)
    assert found == fractions
    assert remark is None if words is None else words in remark and "stage audio" in remark


def test_error_rates_as_accuracies_keep_the_better_model_ahead():
    # With IPA's negative rates a product picks the worst model of the next stage.
    better, worse = (as_fractions("audio", {"a": wer})[0]["a"] for wer in (-27.65, -41.28))
    assert better * 0.83 > worse * 0.83 > worse * 0.77


@pytest.mark.parametrize(
    ("published", "words"),
    [
        ({"a": -30.0, "b": 60.0}, r"both signs \(a: -30\): use one metric"),
        ({"a": float("nan")}, "a is nan: give the published figure"),
        ({"a": 0.0, "b": 0.5}, r"a is 0, which makes 0 as a fraction: it must lie in \(0, 1\]"),
        ({"a": -120.0}, "a is -120, which makes -0.2 as a fraction"),
        ({"a": 130.0, "b": 50.0}, "a is 130, which makes 1.3"),
    ],
)
def test_accuracies_that_make_no_sense_are_refused(published, words):
    with pytest.raises(ValueError, match=words):
        as_fractions("audio", published)


def test_ranks_run_from_zero_to_one_and_equal_accuracies_share_theirs():
    assert rank_normalised([0.4, 0.9, 0.5]).tolist() == [0.0, 1.0, 0.5]
    assert rank_normalised([0.5, 0.5, 0.9]).tolist() == [0.25, 0.25, 1.0]
    assert rank_normalised([0.3]).tolist() == [1.0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latency_s": [0.0] + [0.1] * 7}, "latency_s of detect/n, batch 1 is 0.0: it must be above 0; leave the row"),
        ({"latency_s": [math.nan] + [0.1] * 7}, "latency_s of detect/n, batch 1 is missing: it must be above 0"),
        ({"throughput_rps": [9] * 7 + ["fast"]}, "throughput_rps of classify/r34, batch 2 is fast: it must be above 0"),
        ({"throughput_rps": [9] * 7 + [-1]}, "throughput_rps of classify/r34, batch 2 is -1"),
        ({"batch": [1.5, 2] * 4}, r"batch of detect/n, batch 1.5 is 1.5: it must be a whole number, 1 or more"),
        ({"batch": [0, 2] * 4}, "batch of detect/n, batch 0 is 0"),
        ({"cores": [0] * 8}, "cores of detect/n, batch 1 is 0"),
        ({"gpu_share": [1.5] * 8}, "gpu_share of detect/n, batch 1 is 1.5: it must be between 0 and 1"),
        ({"batch": [1, 1] + [1, 2] * 3}, "detect/n, batch 1 on 1 cores comes twice: keep one row of each"),
        ({"accuracy": [0.4, 0.5] + [0.6] * 6}, "detect/n has the accuracies 0.4 and 0.5: a variant has one"),
        ({"accuracy": [None] * 8}, "accuracy of detect/n, batch 1 is missing: it must be a number"),
        ({"variant": [""] + ["x"] * 7}, "a row of the profile has no variant"),
        ({"metric": ["wer", "map"] + ["map"] * 6}, "stage detect has the metrics map, wer: use one"),
        ({"energy_j": [1.0] * 8}, "must say which in the column energy_kind; it says nothing"),
        ({"energy_j": [1.0] * 8, "energy_kind": ["net"] * 7 + ["gross"]}, "it says gross, net"),
        ({"energy_j": [1.0] * 7 + [-1.0], "energy_kind": ["gross"] * 8}, "batch 2 is -1: gross can't be below 0"),
        (
            {"energy_j": [1.0] * 8, "energy_kind": ["net"] * 8, "idle_w": [1.0] * 7 + [None]},
            "idle_w of classify/r34, batch 2 is missing and others have it",
        ),
    ],
)
def test_a_profile_that_cannot_be_used_is_refused_with_row_value_and_remedy(changes, words):
    with pytest.raises(ProfileError, match=words):
        make_profile(table(**changes))


def test_missing_columns_are_named_and_a_file_is_too(tmp_path):
    with pytest.raises(ProfileError, match="needs the columns throughput_rps, latency_s; this one has stage, variant"):
        make_profile(table().drop(columns=["throughput_rps", "latency_s"]))
    path = tmp_path / "bad.csv"
    path.write_text(HEADER)
    with pytest.raises(ProfileError, match=r"bad\.csv: the profile has no rows"):
        read_profile(path)
    path.write_text(f"{HEADER}a,b\n1,2,3,4,5,6,7,8,9\n")
    with pytest.raises(ProfileError, match=r"bad\.csv"):
        read_profile(path)
    with pytest.raises(FileNotFoundError):
        read_profile(tmp_path / "none.csv")


def test_odd_figures_are_kept_and_told():
    falling = table(
        throughput_rps=[13.0, 11.0, 7.0, 8.0, 15.0, 17.0, 10.0, 11.0],
        latency_s=[0.08, 0.14, 0.15, 0.27, 0.07, 0.06, 0.1, 0.18],
        energy_j=[-0.1] + [1.0] * 7,
        energy_kind="net",
        idle_w=0.5,
        colour="red",
    )
    profile = make_profile(falling.drop(index=7))
    assert "columns not used: colour" in profile.remarks
    told = "\n".join(profile.remarks)
    assert "throughput_rps of detect/n on 1 cores falls from 13 at batch 1 to 11 at batch 2: kept as given" in told
    assert "latency_s of classify/r18 on 1 cores falls from 0.07 at batch 1 to 0.06 at batch 2" in told
    assert "energy_j of detect/n on 1 cores is -0.1 at batch 1, below 0" in told
    assert "classify/r34 on 1 cores has no batch 2: left out of the space" in told
    assert "waiting power of all replicas all the time" in profile.energy_boundary


def test_a_latency_is_taken_by_its_kind_or_as_the_only_one_there_is():
    both = make_profile(table(latency_mean_s=[0.05] * 8).rename(columns={"latency_s": "latency_p99_s"})).stages[0]
    assert both.latency_s("mean")[0] == 0.05 and both.latency_s("p99")[0] == 0.08
    with pytest.raises(
        ProfileError, match="stage detect has no p50 latency, only latency_mean_s, latency_p99_s: choose"
    ):
        both.latency_s("p50")
    assert make_profile(table()).stages[0].latency_s("p99")[0] == 0.08
    with pytest.raises(ProfileError, match="no stage 'track'; it has detect, classify"):
        make_profile(table()).stage("track")


# The quadratic.


@given(st.floats(0.001, 10), st.floats(0, 1), st.floats(0, 0.01), st.lists(st.integers(1, 64), min_size=3, unique=True))
def test_a_quadratic_is_found_again_without_error(constant, linear, quadratic, batches):
    batch = np.array(batches, dtype=float)
    fit = fit_quadratic(batch, constant + linear * batch + quadratic * batch**2)
    inside = np.linspace(min(batches), max(batches), 7)
    np.testing.assert_allclose(fit(inside), constant + linear * inside + quadratic * inside**2, rtol=1e-6)
    assert fit.rmse <= 1e-8 * fit(max(batches)) and fit.max_relative_error < 1e-6
    assert fit.prediction_error is None or fit.prediction_error < 1e-4


def test_the_errors_of_a_fit_are_those_worked_out_by_hand():
    fit = fit_quadratic([1, 2, 3, 4], [1.0, 2.0, 3.0, 8.0])
    k = np.arange(1, 5)
    design = np.stack([np.ones(4), k, k**2], axis=1)
    expected = np.linalg.solve(design.T @ design, design.T @ np.array([1.0, 2.0, 3.0, 8.0]))
    np.testing.assert_allclose([fit.constant, fit.linear, fit.quadratic], expected, rtol=1e-9)
    residual = design @ expected - [1, 2, 3, 8]
    assert fit.rmse == pytest.approx(math.sqrt(np.mean(residual**2)))
    assert fit.max_relative_error == pytest.approx(np.max(np.abs(residual) / [1, 2, 3, 8]))
    # The parabola through (1, 1), (3, 3), (4, 8) is 2/3 at 2; that through (1, 1), (2, 2), (4, 8) is 13/3 at 3.
    assert fit.prediction_error == pytest.approx(max(abs(2 / 3 - 2) / 2, abs(13 / 3 - 3) / 3))


def test_few_points_make_a_line_or_a_constant_and_say_so():
    line, constant = fit_quadratic([1, 4], [0.1, 0.4]), fit_quadratic([8], [0.7])
    assert (line.degree, line.points, line.prediction_error) == (1, 2, None)
    assert line(2) == pytest.approx(0.2)
    assert (constant.degree, constant.rmse) == (0, 0.0) and constant(64) == pytest.approx(0.7)
    with pytest.raises(ValueError, match="one finite figure at each of one or more batch sizes"):
        fit_quadratic([1, 1], [0.1, 0.2])


def quadratic_profile(drop=(), **changes):
    batches = [b for b in (1, 2, 4, 8, 16) if b not in drop]
    rows = [
        {
            "stage": "detect",
            "variant": "n",
            "accuracy": 0.457,
            "cores": 1,
            "batch": b,
            "latency_mean_s": 0.03 + 0.05 * b + 0.001 * b**2,
            "latency_p99_s": 2 * (0.03 + 0.05 * b + 0.001 * b**2),
            "throughput_rps": b / (0.03 + 0.05 * b + 0.001 * b**2),
            "energy_j": 0.5 + 2 * b,
            "energy_kind": "net",
            "idle_w": 1.5,
        }
        | changes
        for b in batches
    ]
    return make_profile(pd.DataFrame(rows))


def test_a_missing_batch_is_filled_with_the_fit_and_marked():
    whole, filled = quadratic_profile(), fill_batches(quadratic_profile(drop=(4,)), [1, 2, 4, 8, 16])
    new = filled.table[filled.table["source"] == "fitted"].iloc[0]
    old = whole.table[whole.table["batch"] == 4].iloc[0]
    for column in ("latency_mean_s", "latency_p99_s", "throughput_rps", "energy_j", "idle_w", "accuracy"):
        assert new[column] == pytest.approx(old[column]), column
    assert (filled.table["source"] == "measured").sum() == 4
    assert filled.energy_kind == "net"


@pytest.mark.parametrize(
    ("drop", "batch", "words"),
    [
        ((16,), 16, "detect/n on 1 cores was profiled from batch 1 to 8: measure 16"),
        ((2, 4, 8), 4, "detect/n on 1 cores has 2 batch sizes: a quadratic needs 3 to fill batch 4"),
    ],
)
def test_what_a_fit_cannot_know_is_not_filled(drop, batch, words):
    with pytest.raises(ProfileError, match=words):
        fill_batches(quadratic_profile(drop=drop), [batch])


def test_a_fit_below_zero_is_told_and_not_used():
    rows = table().iloc[[0] * 4].assign(batch=[1, 2, 32, 64], latency_s=[0.5, 0.01, 0.4, 6.0])
    profile = make_profile(rows)
    (fit,) = latency_fits(profile).to_dict("records")
    assert "8" in fit["negative_at"].split() and fit["points"] == 4 and fit["prediction_error"] > 1
    with pytest.raises(
        ProfileError, match=r"the fit of latency_s of detect/n on 1 cores is -.* at batch 8: measure it"
    ):
        fill_batches(profile, [8])


# Equation 1.


def allocations_profile():
    """One stage: "n" speeds up with cores, "x" never sustains 10 requests/s within its SLA."""
    rows = []
    for variant, work_s, cores in (("n", 0.2, (1, 2, 4)), ("x", 2.0, (1, 2, 4, 8))):
        for c in cores:
            for b in (1, 4):
                latency_s = work_s * b / c
                rows.append(("detect", variant, {"n": 0.4, "x": 0.7}[variant], c, b, latency_s, b / latency_s))
    columns = ["stage", "variant", "accuracy", "cores", "batch", "latency_s", "throughput_rps"]
    return make_profile(pd.DataFrame(rows, columns=columns))


@pytest.mark.parametrize(
    ("threshold", "sla", "max_batch", "cores"),
    [
        (5, 1.0, None, 1),  # one core does 5 requests/s, batch 4 takes 0.8 s
        (5, 0.7, None, 2),  # the same rate, but batch 4 must be faster
        (5, 0.7, 1, 1),  # with batches of 1 only it is fast enough
        (6, 1.0, None, 2),
        (11, 9.0, None, 4),
        (21, 9.0, None, None),
    ],
)
def test_the_base_allocation_is_the_fewest_cores_for_rate_and_sla(threshold, sla, max_batch, cores):
    found = base_allocation(allocations_profile().stages[0], threshold, sla, max_batch=max_batch)
    assert found[0].cores == cores
    if cores is None:
        assert "none of its 3 allocations sustains 21 requests/s" in found[0].reason
        assert "the most is 20 requests/s, the fastest 0.2 s" in found[0].reason


def test_a_profile_keeps_base_allocations_only_and_says_what_it_lost():
    made = with_base_allocation(allocations_profile(), {"detect": 10}, {"detect": 1.0})
    assert made.table[["variant", "cores"]].drop_duplicates().values.tolist() == [["n", 2]]
    assert made.remarks[-1].startswith("detect/x is left out: none of its 4 allocations sustains 10 requests/s")
    with pytest.raises(ProfileError, match="no variant of stage detect has a base allocation"):
        with_base_allocation(allocations_profile(), {"detect": 1000}, {"detect": 1.0})
    found = allocation_table(base_allocation(allocations_profile().stages[0], 10, 1.0))
    assert found["cores"].isna().tolist() == [False, True]


def test_shares_of_a_gpu_are_allocated_by_price():
    rows = table(gpu_share=[0.25, 0.25, 0.5, 0.5] + [0.0] * 4, variant=["n"] * 4 + ["r18"] * 2 + ["r34"] * 2).assign(
        accuracy=[0.457] * 4 + [0.7] * 2 + [0.8] * 2, cores=1
    )
    stage = make_profile(rows.assign(throughput_rps=[50, 60, 90, 120, 1, 1, 1, 1])).stages[0]
    with pytest.raises(ProfileError, match="stage detect uses shares of a GPU: give a GPU a price"):
        base_allocation(stage, 55, 1.0)
    prices = Prices(core=0.04, gpu=2.5)
    assert [base_allocation(stage, rate, 1.0, prices=prices)[0].gpu_share for rate in (55, 70)] == [0.25, 0.5]


@pytest.mark.parametrize(
    ("threshold", "sla", "max_batch", "words"),
    [(0, 1, None, "threshold_rps of stage detect is 0"), (1, -1, None, "sla_s"), (1, 1, 0, "starts at batch 1")],
)
def test_a_threshold_that_makes_no_sense_is_refused(threshold, sla, max_batch, words):
    with pytest.raises(ValueError, match=words):
        base_allocation(allocations_profile().stages[0], threshold, sla, max_batch=max_batch)


def test_the_sla_of_a_stage_is_five_times_the_mean_latency_of_batch_one():
    # On their fewest cores "n" takes 0.2 s and "x" 2 s.
    assert stage_sla_s(allocations_profile().stages[0]) == pytest.approx(5 * (0.2 + 2.0) / 2)
