from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_energy.meters.counters import hold_integral, wrapped_delta


@given(st.integers(2, 2**40), st.data())
def test_a_counter_that_wraps_at_most_once_a_hop_gives_the_true_sum(counter_range, data):
    # A counter of modulus `counter_range`, as the repair assumes, followed by brute force.
    true = data.draw(st.integers(0, counter_range - 1))
    readings = [true]
    steps = data.draw(st.lists(st.integers(0, counter_range - 1), min_size=1, max_size=20))
    for step in steps:
        true += step
        readings.append(true % counter_range)
    repaired = sum(wrapped_delta(a, b, counter_range) for a, b in pairwise(readings))
    assert repaired == sum(steps)


@pytest.mark.parametrize(("previous", "current", "counter_range"), [(-1, 0, 10), (0, 11, 10), (11, 0, 10), (0, 0, 0)])
def test_a_reading_outside_the_range_is_refused(previous, current, counter_range):
    with pytest.raises(ValueError, match=r"range|outside"):
        wrapped_delta(previous, current, counter_range)


# Times on a grid of 1/8 s are exact in binary: the brute-force sum over the grid is then exact too.
grid = st.integers(0, 80)


@given(st.dictionaries(grid, st.integers(0, 500), min_size=1, max_size=20), grid, grid)
def test_hold_integral_equals_a_sum_over_fine_steps(samples, one, other):
    begin, end = sorted((one, other))
    times = sorted(samples)

    def held(step: int) -> int:
        return samples[max((t for t in times if t <= step), default=times[0])]

    brute_force = sum(held(step) for step in range(begin, end)) / 8
    integral = hold_integral([t / 8 for t in times], [samples[t] for t in times], begin / 8, end / 8)
    assert integral == pytest.approx(brute_force, abs=1e-9)


def test_hold_integral_of_repeated_readings_is_not_a_trapezoid():
    # Readings kept only when they changed: 100 W for 8 s, then 400 W for 2 s. A trapezoid would give 2000 J.
    assert hold_integral([0.0, 8.0], [100.0, 400.0], 0.0, 10.0) == 1600.0


def test_hold_integral_without_samples_is_none_and_not_zero():
    assert hold_integral([], [], 0.0, 1.0) is None


@pytest.mark.parametrize(
    ("times", "powers", "begin", "end"), [([0.0], [], 0, 1), ([1.0, 0.0], [1, 1], 0, 1), ([0.0], [1], 1, 0)]
)
def test_hold_integral_refuses_nonsense(times, powers, begin, end):
    with pytest.raises(ValueError, match=r"times|window"):
        hold_integral(times, powers, begin, end)
