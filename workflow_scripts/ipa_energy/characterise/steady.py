"""Power in the steady phases: levels with intervals, how the channels compare, how long power takes to settle.

Every channel is first made one thing, the energy it stands for up to an instant: a counter between its changes, a power
field held from change to change.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ipa_energy.characterise.bootstrap import LEVEL, Interval
from ipa_energy.characterise.updates import Readings

Floats = NDArray[np.float64]
Span = tuple[float, float]

BATCHES = 10
DRAWS = 2000
APART = 20.0
SETTLED_SHARE = 0.05
"""Power has settled when it stays within this part of its later level."""
SETTLED_NOISE = 3.0


@dataclass(frozen=True)
class Course:
    """Power over time as a channel tells it: ``powers_w[i]`` from ``times_s[i]`` to ``times_s[i + 1]``.

    ``widths_s``, of the length of ``times_s``, is how closely a counter's changes are known; 0 for power fields.
    """

    times_s: Floats
    powers_w: Floats
    widths_s: Floats

    @property
    def energy_j(self) -> Floats:
        """Energy up to each of ``times_s``."""
        return np.concatenate([[0.0], np.cumsum(self.powers_w * np.diff(self.times_s))])

    def mean_w(self, begin_s: float, end_s: float) -> float:
        """Mean power over a span inside the course."""
        begin_j, end_j = np.interp([begin_s, end_s], self.times_s, self.energy_j)
        return float(end_j - begin_j) / (end_s - begin_s)


def course(readings: Readings, unit: str) -> Course:
    """The course of a channel. Raises ValueError when it has no readings, or a counter stands still."""
    values = readings.values
    if values.size < 2:
        raise ValueError("no readings")
    changed = np.flatnonzero(np.diff(values)) + 1
    early_s, late_s = readings.asked_s[changed - 1], readings.answered_s[changed]
    if unit == "mJ":
        kept = _well_placed((early_s + late_s) / 2, late_s - early_s)
        if len(kept) < 2:
            raise ValueError("the counter stood still")
        times_s = (early_s + late_s)[kept] / 2
        return Course(times_s, np.diff(values[changed][kept]) / 1e3 / np.diff(times_s), (late_s - early_s)[kept])
    times_s = np.concatenate([[readings.asked_s[0]], (early_s + late_s) / 2, [readings.answered_s[-1]]])
    return Course(times_s, values[np.append(0, changed)] / 1e3, np.zeros(times_s.size))


def _well_placed(times_s: Floats, widths_s: Floats) -> list[int]:
    """Which changes of a counter to use: none lies closer to the last one than :data:`APART` times its own width.

    A change is known to the width between two polls only; energy over a time that is no longer would be a power out of
    thin air. No energy is lost: what a left-out change counted is in the next one.
    """
    kept: list[int] = []
    for row, (time_s, width_s) in enumerate(zip(times_s.tolist(), widths_s.tolist(), strict=True)):
        while kept and widths_s[kept[-1]] > 2 * width_s and time_s - times_s[kept[-1]] < APART * widths_s[kept[-1]]:
            kept.pop()
        if not kept or time_s - times_s[kept[-1]] >= APART * width_s:
            kept.append(row)
    return kept


def _batches(path: Course, begin_s: float, end_s: float) -> Floats:
    return np.array([path.mean_w(a, b) for a, b in pairwise(np.linspace(begin_s, end_s, BATCHES + 1).tolist())])


def _half_width(parts: Floats) -> float:
    """Half of the t interval of the mean of some parts."""
    return float(stats.t.ppf((1 + LEVEL) / 2, parts.size - 1) * np.std(parts, ddof=1) / np.sqrt(parts.size))


def ratio(one: Course, one_span_s: Span, other: Course, other_span_s: Span) -> Interval | None:
    """Mean power of one channel over that of another, with a t interval over the ratios of :data:`BATCHES` parts.

    Parts are compared with their like, so that what the load itself did drops out. None outside a course, or where the
    other one's power is not positive throughout.
    """
    for path, (begin_s, end_s) in ((one, one_span_s), (other, other_span_s)):
        if begin_s < path.times_s[0] or end_s > path.times_s[-1]:
            return None
    below = _batches(other, *other_span_s)
    if np.any(below <= 0):
        return None
    value = one.mean_w(*one_span_s) / other.mean_w(*other_span_s)
    half = _half_width(_batches(one, *one_span_s) / below)
    return Interval(value, value - half, value + half)


def level(path: Course, begin_s: float, end_s: float) -> Interval | None:
    """Mean power of a span with its interval; None outside the course.

    Two parts in quadrature: a t interval over :data:`BATCHES` equal parts of the span, and how closely a counter's
    changes at both ends are known (each uniform between two polls).
    """
    begin_s, end_s = max(begin_s, float(path.times_s[0])), min(end_s, float(path.times_s[-1]))
    if end_s - begin_s <= 0:
        return None
    mean = path.mean_w(begin_s, end_s)
    scatter = _half_width(_batches(path, begin_s, end_s))
    first = max(int(np.searchsorted(path.times_s, begin_s, side="right")) - 1, 0)
    last = min(int(np.searchsorted(path.times_s, end_s)), path.times_s.size - 1)
    within_s = path.times_s[last] - path.times_s[first]
    ends = float(np.hypot(path.widths_s[first], path.widths_s[last]) / np.sqrt(12) / within_s)
    half = float(np.hypot(scatter, stats.norm.ppf((1 + LEVEL) / 2) * ends * mean))
    return Interval(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Comparison:
    """A channel against another one: reading = gain · other + offset, from idle and full load."""

    gain: Interval
    offset_w: Interval


def compare(
    idle: tuple[Interval, Interval], full: tuple[Interval, Interval], random: np.random.Generator
) -> Comparison | None:
    """The line through (other, reading) at idle and at full load, its intervals by drawing the four levels anew.

    None where full load is no higher than idle by the other channel.
    """
    levels = [*idle, *full]
    spread = float(stats.norm.ppf((1 + LEVEL) / 2))
    drawn = [level.value + (level.high - level.low) / 2 / spread * random.standard_normal(DRAWS) for level in levels]
    if full[0].value <= idle[0].value or np.any(drawn[2] <= drawn[0]):
        return None

    def line(other_idle: Floats, idle_w: Floats, other_full: Floats, full_w: Floats) -> tuple[Floats, Floats]:
        gain = (full_w - idle_w) / (other_full - other_idle)
        return gain, idle_w - gain * other_idle

    gain, offset_w = (float(figure) for figure in line(*(np.float64(level.value) for level in levels)))  # type: ignore[arg-type]
    gains, offsets_w = line(*drawn)
    low, high = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    return Comparison(
        Interval(gain, *(float(q) for q in np.quantile(gains, [low, high]))),
        Interval(offset_w, *(float(q) for q in np.quantile(offsets_w, [low, high]))),
    )


@dataclass(frozen=True)
class Settling:
    """Time (s) from an instant until power stays within ``band_w`` of ``level_w``, its mean in the last quarter.

    ``time_s`` is None with a ``reason`` when it did not settle in the time that was watched. The time includes what the
    sensor's own delay and averaging add.
    """

    time_s: float | None
    level_w: float
    band_w: float
    reason: str | None = None


def settling(path: Course, from_s: float, until_s: float) -> Settling | None:
    """When power settled after ``from_s``, watched until ``until_s``; None where the course has nothing there.

    A reading counts as a whole, so the time is known to one update. The band is :data:`SETTLED_SHARE` of the later
    level, or :data:`SETTLED_NOISE` standard deviations of the updates there where these scatter more.
    """
    begins_s, ends_s = path.times_s[:-1], path.times_s[1:]
    # A counter's increment is of all the time before its change, a field's value only of what was before its begin.
    inside = (ends_s > from_s) & ((ends_s if path.widths_s.any() else begins_s) < until_s)
    later_s = until_s - (until_s - from_s) / 4
    later = inside & (begins_s >= later_s) if (inside & (begins_s >= later_s)).any() else inside & (ends_s > later_s)
    if not later.any():
        return None
    level_w = path.mean_w(max(later_s, float(path.times_s[0])), min(until_s, float(path.times_s[-1])))
    # Noise from successive differences, which a power that still moves does not blow up.
    steps_w = np.diff(path.powers_w[later])
    noise = float(np.sqrt(np.mean(steps_w**2) / 2)) if steps_w.size else 0.0
    band_w = max(SETTLED_SHARE * level_w, SETTLED_NOISE * noise)
    outside = np.flatnonzero(inside & (np.abs(path.powers_w - level_w) > band_w))
    if outside.size == 0:
        return Settling(0.0, level_w, band_w)
    last = int(outside[-1])
    if ends_s[last] > later_s:
        return Settling(None, level_w, band_w, f"still changing {until_s - from_s:.1f} s after")
    return Settling(float(ends_s[last] - from_s), level_w, band_w)


def noise_w(path: Course, begin_s: float, end_s: float) -> float | None:
    """Standard deviation of the readings in a span (W); None below three of them."""
    inside = (path.times_s[:-1] >= begin_s) & (path.times_s[1:] <= end_s)
    return float(np.std(path.powers_w[inside], ddof=1)) if inside.sum() > 2 else None
