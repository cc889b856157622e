"""Arithmetic that all meters share: differences of wrapping counters, and the integral of a sampled power.

In: raw counter readings, or times and watts. Out: increments and joules. No devices, no clocks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise


def wrapped_delta(previous: int, current: int, counter_range: int) -> int:
    """Increase of a counter that restarts at 0 after ``counter_range``, repaired for at most one wrap.

    All three in the counter's own unit. The increase must be smaller than the range, so readings have to be more
    frequent than wraps. Powercap states its range as the highest reading, one counter step below the modulus: a
    repaired wrap is exact to that one step. Raises ValueError when the range isn't positive or a reading lies outside.
    """
    if counter_range <= 0:
        raise ValueError(f"counter range is {counter_range}, must be positive")
    for reading in (previous, current):
        if not 0 <= reading <= counter_range:
            raise ValueError(f"counter reading {reading} lies outside 0..{counter_range}")
    return current - previous if current >= previous else current - previous + counter_range


def hold_integral(times_s: Sequence[float], powers_w: Sequence[float], begin_s: float, end_s: float) -> float | None:
    """Energy in joules over ``[begin_s, end_s]`` of a power known at ``times_s`` (ascending), each value held on.

    Sample-and-hold, because a sensor that updates in steps keeps its last value: a trapezoid over such data invents
    ramps. Before the first sample its value is taken. None when there is no sample; ValueError when the lengths differ,
    the times descend or the window does.
    """
    if len(times_s) != len(powers_w):
        raise ValueError(f"{len(times_s)} times but {len(powers_w)} powers")
    if any(later < earlier for earlier, later in pairwise(times_s)):
        raise ValueError("times of the samples descend")
    if end_s < begin_s:
        raise ValueError(f"window ends {begin_s - end_s} s before it begins")
    if not times_s:
        return None
    first_inside = bisect_right(times_s, begin_s)
    power_w = powers_w[max(first_inside - 1, 0)]
    energy_j, since_s = 0.0, begin_s
    for time_s, next_w in zip(times_s[first_inside:], powers_w[first_inside:], strict=True):
        if time_s >= end_s:
            break
        energy_j += power_w * (time_s - since_s)
        power_w, since_s = next_w, time_s
    return energy_j + power_w * (end_s - since_s)
