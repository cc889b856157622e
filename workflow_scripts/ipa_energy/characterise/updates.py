"""When a polled channel was updated: the instants at which its reading changed, their period and their jitter.

An update lies between two polls. Where the updates prove to be evenly spaced (their scatter about a line is no more
than that of the polls), the line gives their instants, much more closely than single polls do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_GAP_S = 0.02
"""Updates closer than this are thinned out: no sensor is known to see less of the load than in this time (10 of 20 ms
on V100 is the shortest, Yang, Adámek and Armour, SC'24), and a channel that runs on at every poll has no period."""
WIDEST_SHARE = 0.5
"""An update that lies between two polls farther apart than this part of the period is left out: it may be two."""
LINE_SLACK_S = 1e-4


@dataclass(frozen=True)
class Readings:
    """A polled channel: instants of question and answer (s), and the integer that NVML answered (mW or mJ)."""

    asked_s: Floats
    answered_s: Floats
    values: NDArray[np.int64]

    def between(self, begin_s: float, end_s: float) -> Readings:
        """The readings asked for in a span of time."""
        kept = (self.asked_s >= begin_s) & (self.asked_s < end_s)
        return Readings(self.asked_s[kept], self.answered_s[kept], self.values[kept])


@dataclass(frozen=True)
class Updates:
    """Updates of a channel, one row each: instant (s) and reading after it (mW or mJ).

    ``numbers`` count the updates, also those between that were missed. ``period_s`` is the median distance,
    ``spacing_low_s`` and ``spacing_high_s`` its 5 % and 95 % quantiles; ``jitter_s`` is the standard deviation of the
    instants about an even spacing, beyond what the polls explain (0: none seen). ``poll_s`` is the median distance of
    polls, ``resolved`` False where updates are no slower than polls. ``even`` says that instants are those of a line.
    """

    times_s: Floats
    values: NDArray[np.int64]
    numbers: NDArray[np.int64]
    period_s: float
    spacing_low_s: float
    spacing_high_s: float
    jitter_s: float
    poll_s: float
    resolved: bool
    even: bool

    def increments(self) -> tuple[Floats, Floats, Floats]:
        """For a counter in mJ: instant of each update, time since the one before (s), mean power between them (W).

        Only neighbours count, because what a missed update saw is unknown.
        """
        neighbours = np.diff(self.numbers) == 1
        gaps_s = np.diff(self.times_s)[neighbours]
        powers_w = np.diff(self.values)[neighbours] / 1e3 / gaps_s
        return self.times_s[1:][neighbours], gaps_s, powers_w


def find_updates(readings: Readings) -> Updates:
    """Find the updates of a channel. Raises ValueError when it has fewer than three."""
    values = readings.values
    changed = np.flatnonzero(np.diff(values)) + 1
    if changed.size < 3:
        raise ValueError(f"the reading changed {changed.size} times")
    # It changed after the poll before was asked, and before this one was answered.
    early_s, late_s = readings.asked_s[changed - 1], readings.answered_s[changed]
    times_s, widths_s = (early_s + late_s) / 2, late_s - early_s
    gaps_s = np.diff(times_s)
    period_s = float(np.median(gaps_s))
    poll_s = float(np.median(np.diff(readings.asked_s)))
    low_s, high_s = (float(q) for q in np.quantile(gaps_s, [0.05, 0.95]))
    resolved = period_s > 2.5 * poll_s
    if not resolved:
        return _thinned(times_s, values[changed], period_s, (low_s, high_s), poll_s)
    kept = widths_s <= WIDEST_SHARE * period_s
    times_s, widths_s, found = times_s[kept], widths_s[kept], values[changed][kept]
    if found.size < 3:
        raise ValueError(f"only {found.size} updates lie between polls that are close enough")
    numbers = np.concatenate([[0], np.cumsum(np.maximum(np.rint(np.diff(times_s) / period_s), 1))]).astype(np.int64)
    close = widths_s <= max(2.5 * poll_s, 0.003)
    line = np.polynomial.Polynomial.fit(numbers[close], times_s[close], 1) if close.sum() >= 3 else None
    polls_s = float(np.sqrt(np.mean(widths_s[close] ** 2) / 12)) if close.any() else 0.0
    even, jitter_s = False, 0.0
    if line is not None:
        scatter_s = float(np.std(times_s[close] - line(numbers[close])))
        jitter_s = float(np.sqrt(max(scatter_s**2 - polls_s**2, 0.0)))
        even = scatter_s <= 1.3 * polls_s + LINE_SLACK_S
    if even and line is not None:
        times_s, jitter_s, period_s = line(numbers.astype(float)), 0.0, float(line.convert().coef[1])
    else:
        times_s, found, numbers = times_s[close], found[close], numbers[close]
    return Updates(times_s, found, numbers, period_s, low_s, high_s, jitter_s, poll_s, True, even)


def _thinned(
    times_s: Floats, values: NDArray[np.int64], period_s: float, spacing_s: tuple[float, float], poll_s: float
) -> Updates:
    kept, next_s = [], -np.inf
    for row, time_s in enumerate(times_s.tolist()):
        if time_s >= next_s:
            kept.append(row)
            next_s = time_s + LEAST_GAP_S
    if len(kept) < 3:
        raise ValueError(f"only {len(kept)} updates, {LEAST_GAP_S} s apart")
    return Updates(
        times_s[kept], values[kept], np.arange(len(kept)), period_s, *spacing_s, 0.0, poll_s, False, False
    )  # fmt: skip
