"""Power over time from a log: pieces, gaps, and integrals that are exact."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_energy.external.series import Series

VALUES = ("instant", "mean_before", "mean_after")

times = st.lists(st.integers(1, 40), min_size=2, max_size=30).map(lambda steps: np.cumsum(steps) / 8)
powers = st.integers(0, 500).map(float)


def series(time_s, power_w, value, period_s=1.0, gap_s=3.0):
    return Series("log", np.array(time_s, dtype=float), np.array(power_w, dtype=float), value, period_s, gap_s)


@st.composite
def any_series(draw):
    time_s = draw(times)
    power_w = draw(st.lists(powers, min_size=len(time_s), max_size=len(time_s)))
    return series(time_s, power_w, draw(st.sampled_from(VALUES)))


def brute_force(one, begin_s, end_s):
    """Energy and covered time by the definition of each kind of row, piece by piece."""
    energy_j = covered_s = 0.0
    rows = list(zip(one.time_s, one.power_w, strict=True))
    pieces = []
    if one.value == "instant":
        for (t, p), (u, q) in itertools.pairwise(rows):
            if u - t <= one.gap_s:
                pieces.append((t, u, p, q))
    for number, (t, p) in enumerate(rows):
        before = t - rows[number - 1][0] if number else one.period_s
        after = rows[number + 1][0] - t if number + 1 < len(rows) else one.period_s
        if one.value == "mean_before":
            pieces.append((t - (before if before <= one.gap_s else min(before, one.period_s)), t, p, p))
        elif one.value == "mean_after":
            pieces.append((t, t + (after if after <= one.gap_s else min(after, one.period_s)), p, p))
    for t, u, p, q in pieces:
        a, b = max(t, begin_s), min(u, end_s)
        if b > a:
            at = [p + (q - p) * (x - t) / (u - t) for x in (a, b)]
            energy_j += (b - a) * sum(at) / 2
            covered_s += b - a
    return energy_j, covered_s


@given(any_series(), st.floats(-2, 200), st.floats(0, 200))
def test_the_integral_is_exact_between_any_two_instants(one, begin_s, length_s):
    energy_j, covered_s = one.pieces.integral(begin_s, begin_s + length_s)
    expected_j, expected_s = brute_force(one, begin_s, begin_s + length_s)
    assert float(energy_j) == pytest.approx(expected_j, rel=1e-9, abs=1e-6)
    assert float(covered_s) == pytest.approx(expected_s, rel=1e-9, abs=1e-6)


@given(any_series(), st.lists(st.floats(0, 150), min_size=3, max_size=3).map(sorted))
def test_integrals_add_up(one, edges_s):
    a, b, c = edges_s
    whole, first, second = (np.array(one.pieces.integral(*pair)) for pair in ((a, c), (a, b), (b, c)))
    assert first + second == pytest.approx(whole, rel=1e-9, abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 2), st.floats(5, 50), st.floats(1, 30))
def test_means_over_intervals_give_the_exact_energy_at_their_edges(seed, period_s, begin_s, rows):
    """Whatever the power does within the intervals: a mean holds all of it."""
    random = np.random.default_rng(seed)
    fine_s = np.sort(random.uniform(0, 100, 500))
    steps_w = random.uniform(0, 300, 501)

    def energy_j(until_s):
        edges = np.concatenate(([0.0], fine_s[fine_s < until_s], [until_s]))
        return float(np.diff(edges) @ steps_w[: len(edges) - 1])

    count = int(100 / period_s)
    edges_s = np.arange(count + 1) * period_s
    means_w = np.diff([energy_j(edge) for edge in edges_s]) / period_s
    first = int(begin_s / period_s)
    last = min(first + int(rows), count)
    for value, stamps in (("mean_before", edges_s[1:]), ("mean_after", edges_s[:-1])):
        log = series(stamps, means_w, value, period_s, 1.5 * period_s)
        found_j, covered_s = log.pieces.integral(edges_s[first], edges_s[last])
        assert float(found_j) == pytest.approx(energy_j(edges_s[last]) - energy_j(edges_s[first]), rel=1e-6, abs=1e-3)
        assert float(covered_s) == pytest.approx(edges_s[last] - edges_s[first], abs=1e-6)


def test_instantaneous_power_is_a_straight_line_between_rows():
    log = series([0, 1, 2], [100, 200, 0], "instant")
    assert [float(x) for x in log.pieces.integral(0.5, 1.5)] == [(150 + 200) / 2 * 0.5 + (200 + 100) / 2 * 0.5, 1.0]


def test_a_log_of_changes_only_holds_each_power_until_the_next():
    # 100 W for 8 s, 400 W for 2 s: 1600 J. Straight lines between the changes would make it 2000 J.
    log = series([0, 8, 10], [100, 400, 400], "mean_after", gap_s=20)
    assert float(log.pieces.integral(0, 10)[0]) == 1600


def test_there_is_no_energy_in_a_gap_and_none_outside():
    for value, covered_s in (("instant", 4.0), ("mean_before", 5.0), ("mean_after", 5.0)):
        log = series([0, 1, 2, 10, 11, 12], [100] * 6, value)
        energy_j, found_s = log.pieces.integral(0, 12)
        assert (float(energy_j), float(found_s)) == (100 * covered_s, covered_s)
        assert [float(x) for x in log.pieces.integral(20, 30)] == [0, 0]
        assert [float(x) for x in log.pieces.integral(-30, -20)] == [0, 0]


def test_rows_that_repeat_a_reading_show_the_period_of_the_meter():
    log = series(np.arange(40), np.repeat(np.arange(8.0), 5), "instant")
    assert log.change_period_s == 5
    assert series([0, 1, 2], [5, 5, 5], "instant").change_period_s is None
