"""The load as it really was, level over time, and what a sensor that averages it would have seen.

All is exact for a load that is constant between its edges: no grid in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LoadLog:
    """Each of ``levels`` holds from its instant in ``times_s`` (ascending) on; before the first the level is 0."""

    times_s: Floats
    levels: Floats

    def __post_init__(self) -> None:
        if self.times_s.shape != self.levels.shape or self.times_s.ndim != 1 or self.times_s.size == 0:
            raise ValueError(f"a load log of {self.times_s.shape} times and {self.levels.shape} levels")
        if np.any(np.diff(self.times_s) < 0):
            raise ValueError("the times of a load log descend")

    @cached_property
    def _integral(self) -> tuple[Floats, Floats]:
        # A far last point, so that interpolation goes on at the last level.
        times_s = np.append(self.times_s, self.times_s[-1] + 1e6)
        return times_s, np.concatenate([[0.0], np.cumsum(self.levels * np.diff(times_s))])

    def integral(self, at_s: Floats) -> Floats:
        """Seconds of full load up to each instant."""
        return np.interp(at_s, *self._integral)

    def share(self, begin_s: Floats, end_s: Floats) -> Floats:
        """Mean level between each pair of instants; they must differ."""
        return (self.integral(end_s) - self.integral(begin_s)) / (end_s - begin_s)

    def overlap(self, at_s: Floats, lags_s: Floats) -> Floats:
        """Mean level in each lag bin before each instant: shape (instants, bins) for ``lags_s`` of bins + 1 edges."""
        seen = self.integral(at_s[:, None] - lags_s[None, :])
        return (seen[:, :-1] - seen[:, 1:]) / np.diff(lags_s)

    def ramped(self, ramp_s: float) -> RampedLoad:
        """The load after a first-order lag."""
        return RampedLoad(self, ramp_s)


class RampedLoad:
    """A load log passed through a first-order lag with time constant ``ramp_s`` (0: none)."""

    def __init__(self, log: LoadLog, ramp_s: float) -> None:
        self.log, self.ramp_s = log, ramp_s
        if ramp_s > 0:
            keep = np.exp(-np.diff(log.times_s) / ramp_s)
            states = np.empty(log.times_s.size)
            state = 0.0
            states[0] = state
            for i, (level, kept) in enumerate(zip(log.levels.tolist(), keep.tolist(), strict=False)):
                state = level + (state - level) * kept
                states[i + 1] = state
            self._states = states

    def level(self, at_s: Floats) -> Floats:
        """The lagged level at each instant."""
        log = self.log
        before = np.searchsorted(log.times_s, at_s, side="right") - 1
        known = np.maximum(before, 0)
        target = np.where(before < 0, 0.0, log.levels[known])
        if self.ramp_s == 0:
            return target
        since_s = np.maximum(at_s - log.times_s[known], 0.0)
        state = np.where(before < 0, 0.0, self._states[known])
        lagged: Floats = target + (state - target) * np.exp(-since_s / self.ramp_s)
        return lagged

    def mean(self, begin_s: Floats, end_s: Floats) -> Floats:
        """Mean lagged level between each pair of instants; they must differ."""
        straight = self.log.share(begin_s, end_s)
        if self.ramp_s == 0:
            return straight
        # From ramp·dy/dt = level − y: the integral of y is that of the level less ramp times the change of y.
        return straight - self.ramp_s * (self.level(end_s) - self.level(begin_s)) / (end_s - begin_s)
