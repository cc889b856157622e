"""Loads: generated patterns against what is published of IPA's, arrivals against the theory of Poisson processes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from ipa_energy.ipa.arrival_times import arrivals_in_counts, poisson_arrivals, thinned_arrivals
from ipa_energy.ipa.trace_files import read_counts, write_counts
from ipa_energy.ipa.workload import (
    PATTERNS,
    damped_counts,
    history_counts,
    history_rates,
    pattern_counts,
    pattern_rates,
    statistics,
)
from ipa_energy.serving.arrivals import read_trace

SEEDS = range(40)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_has_the_published_statistics_whatever_the_seed(name):
    published = PATTERNS[name].published
    found = [statistics(pattern_counts(name, seed)) for seed in SEEDS]
    for made in found:
        assert made.seconds == published.seconds
        assert made.requests == pytest.approx(published.requests, rel=0.015)
        assert made.mean == pytest.approx(published.mean, rel=0.02)
        assert abs(made.median - published.median) <= 1
        assert abs(made.p95 - published.p95) <= 1
        assert abs(made.minimum - published.minimum) <= 2
        assert -2 <= made.maximum - published.maximum <= 4
        assert made.std == pytest.approx(published.std, rel=0.08)
    # What is left to chance in one seed averages out.
    assert np.mean([made.requests for made in found]) == pytest.approx(published.requests, rel=0.003)
    assert abs(np.mean([made.maximum for made in found]) - published.maximum) < 1.6


@pytest.mark.parametrize("name", ["bursty", "fluctuating"])
def test_the_minutes_of_a_pattern_have_the_published_means(name):
    means = np.array([pattern_counts(name, seed).reshape(20, 60).mean(axis=1) for seed in SEEDS])
    assert np.floor(means.mean(axis=0)).astype(int).tolist() == list(PATTERNS[name].minute_means)
    assert np.abs(means - (np.array(PATTERNS[name].minute_means) + 0.5)).max() < 1.5


@pytest.mark.parametrize("name", PATTERNS)
def test_the_rate_of_a_pattern_makes_the_published_number_of_requests(name):
    rates = pattern_rates(name)
    assert rates.sum() == pytest.approx(PATTERNS[name].published.requests)
    assert rates.min() > 0
    assert np.abs(np.diff(rates)).max() < 1.0  # smooth: no minute begins with a step


def test_a_pattern_repeats_scales_and_depends_on_its_seed_alone():
    long = pattern_rates("bursty", 3000, scale=0.5)
    assert long[1200:2400] == pytest.approx(pattern_rates("bursty") / 2)
    assert len(pattern_counts("bursty", 1, seconds=90)) == 90
    assert pattern_counts("steady_low", 3).tolist() == pattern_counts("steady_low", 3).tolist()
    assert pattern_counts("steady_low", 3).tolist() != pattern_counts("steady_low", 4).tolist()
    assert pattern_counts("steady_high", 1, scale=0.1).mean() == pytest.approx(2.88, rel=0.03)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("spiky",), "'spiky' is not known; there are steady_low"),
        (("bursty", 0), "seconds of a load is 0"),
        (("bursty", None, 0.0), "scale of a load is 0.0"),
        (("bursty", None, float("nan")), "scale of a load is nan"),
    ],
)
def test_a_load_that_cannot_be_made_is_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        pattern_rates(*arguments)


@pytest.mark.parametrize("rate", [0.02, 0.3, 1.0, 5.0, 19.9, 20.1, 60.0])
def test_damped_counts_have_the_wanted_mean_and_the_scatter_of_damping(rate):
    counts = damped_counts(np.full(400_000, rate), seed=5)
    assert counts.mean() == pytest.approx(rate, rel=0.03 if rate < 0.1 else 0.005)
    if rate >= 5:  # Var floor(X / 8) = Var X / 64 + 1 / 12, nearly, and Var X = mean X = 8 rate + 3.5
        assert counts.var() == pytest.approx((8 * rate + 3.5) / 64 + (1 - 1 / 64) / 12, rel=0.02)


def test_statistics_of_a_hand_made_trace():
    made = statistics(np.array([0, 1, 1, 2, 6]))
    assert (made.seconds, made.requests, made.minimum, made.mean, made.median, made.maximum) == (5, 10, 0, 2, 1, 6)
    assert made.std == pytest.approx(np.sqrt(22 / 5))
    with pytest.raises(ValueError, match="no seconds"):
        statistics(np.array([], dtype=int))


def test_a_history_resembles_the_trace_that_it_stands_for():
    counts = history_counts(21, seed=11)
    assert len(counts) == 21 * 86_400
    made = statistics(counts)
    assert made.mean == pytest.approx(63.6 / 8, rel=0.05)
    assert 388 / 8 * 0.8 < made.maximum < 388 / 8 * 1.5
    hours = counts.reshape(21, 24, 3600).mean(axis=(0, 2))
    assert 1.6 < hours.max() / hours.min() < 3  # day and night
    minutes = counts.reshape(-1, 60).mean(axis=1)
    jumps = minutes[3:] / minutes[:-3]
    assert (jumps > 2).sum() > 21  # a burst doubles the load within minutes, more than once a day


def test_a_history_depends_on_its_seed_alone_and_scales():
    assert history_counts(0.05, 1).tolist() == history_counts(0.05, 1).tolist()
    assert history_counts(0.05, 1).tolist() != history_counts(0.05, 2).tolist()
    assert history_rates(0.05, 1, scale=3.0) == pytest.approx(3 * history_rates(0.05, 1))
    with pytest.raises(ValueError, match="holds no second"):
        history_rates(0.0, 1)


@given(arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 40)), st.integers(0, 2**32))
def test_arrivals_keep_the_counts_of_their_trace(counts, seed):
    times = arrivals_in_counts(counts, seed)
    assert np.all(np.diff(times) >= 0)
    assert np.bincount(times.astype(int), minlength=len(counts)).tolist() == counts.tolist()


def test_arrivals_within_a_second_are_uniform_order_statistics():
    times = arrivals_in_counts(np.full(20_000, 3), seed=1).reshape(-1, 3) % 1
    for k in range(3):  # the k-th of three uniform draws has a beta distribution
        assert stats.kstest(times[:, k], stats.beta(k + 1, 3 - k).cdf).pvalue > 0.01


@pytest.mark.parametrize("bad", [[1.5], [-1], [[1]]])
def test_counts_that_are_not_counts_are_refused(bad):
    with pytest.raises(ValueError, match="whole number of requests"):
        arrivals_in_counts(np.array(bad), 0)


def _is_poisson(times, cumulative):
    """Whether a process is Poisson with this cumulative rate: mapped through it, gaps are exponential with mean 1."""
    unit = np.diff(np.concatenate([[0.0], cumulative(times)]))
    independent = abs(np.corrcoef(unit[:-1], unit[1:])[0, 1]) < 4 / np.sqrt(len(unit))
    return stats.kstest(unit, "expon").pvalue > 0.01 and independent


def test_a_rate_by_the_second_gives_a_poisson_process():
    rates = np.tile([0.0, 2.0, 9.0, 0.5, 30.0], 400)
    times = poisson_arrivals(rates, seed=2)
    edges = np.concatenate([[0.0], np.cumsum(rates)])
    assert _is_poisson(times, lambda t: np.interp(t, np.arange(len(edges)), edges))
    counts = np.bincount(times.astype(int), minlength=len(rates)).reshape(400, 5)
    assert counts[:, 0].sum() == 0
    for column, rate in ((1, 2.0), (2, 9.0), (4, 30.0)):  # counts scatter as Poisson's do
        assert counts[:, column].mean() == pytest.approx(rate, abs=4 * np.sqrt(rate / 400))
        assert counts[:, column].var() / rate == pytest.approx(1, abs=0.3)


def test_thinning_gives_a_poisson_process_of_a_rate_in_time():
    times = thinned_arrivals(lambda t: 10 + 8 * np.sin(t / 50), 18.0, 2000.0, seed=3)
    assert _is_poisson(times, lambda t: 10 * t + 400 * (1 - np.cos(t / 50)))
    assert times[0] >= 0 and times[-1] < 2000


def test_thinning_refuses_a_rate_beyond_its_bound_and_no_rates_are_below_0():
    with pytest.raises(ValueError, match="between 0 and the bound, 5"):
        thinned_arrivals(lambda t: t, 5.0, 10.0, seed=0)
    with pytest.raises(ValueError, match="0 or more, for each second"):
        poisson_arrivals(np.array([1.0, -0.1]), 0)
    assert len(poisson_arrivals(np.zeros(5), 0)) == 0


def test_a_written_trace_is_read_back_here_and_by_the_serving_engine(tmp_path):
    counts = pattern_counts("bursty", 1, seconds=100)
    write_counts(tmp_path / "trace.txt", counts)
    assert read_counts(tmp_path / "trace.txt").tolist() == counts.tolist() == read_trace(tmp_path / "trace.txt")


def test_a_trace_on_one_line_is_damped_and_cut_as_ipa_does(tmp_path):
    (tmp_path / "workload.txt").write_text("# twitter\n7 8 15 16 400\n\n24 0\n")
    assert read_counts(tmp_path / "workload.txt", damping=8, first=1, last=6).tolist() == [1, 1, 2, 50, 3]


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("3\n4\nmany\n", {}, "line 3: 'many' is not a number of requests"),
        ("3 -4", {}, "line 1: '-4'"),
        ("3\n4.5", {}, "line 2: '4.5'"),
        ("3\n²", {}, "line 2: '²'"),
        ("9" * 30, {}, "line 1: '9999"),
        ("1 2 3", {"first": 1, "last": 9}, "holds 3 seconds: seconds 1 to 9"),
        ("", {}, "holds 0 seconds"),
        ("0 0 7", {"damping": 8}, "no request in seconds 0 to 3"),
        ("1", {"damping": 0}, "damping of .* is 0"),
    ],
)
def test_a_bad_trace_file_is_refused_with_its_line(tmp_path, text, arguments, words):
    (tmp_path / "trace.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        read_counts(tmp_path / "trace.txt", **arguments)
