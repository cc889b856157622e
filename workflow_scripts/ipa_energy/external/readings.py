"""Readings of a log for fitting: intervals, and sums of powers over any number of stretches at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ipa_energy.external.series import Series

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


class Readings:
    """Intervals (s) of the readings of a series, instants where they are instantaneous, and their powers.

    Powers are less the mean of all, so that sums of their squares keep their digits. ``least_variance`` is that of the
    meter's resolution (W²): readings without noise are still rounded.
    """

    def __init__(self, series: Series) -> None:
        self.instant = series.value == "instant"
        self.begin_s = series.time_s if self.instant else series.pieces.begin_s
        self.end_s = series.time_s if self.instant else series.pieces.end_s
        self.power_w = series.power_w - series.power_w.mean()
        self.period_s = series.period_s
        self._sum = np.concatenate(([0.0], np.cumsum(self.power_w)))
        self._square = np.concatenate(([0.0], np.cumsum(self.power_w**2)))
        steps_w = np.diff(np.unique(series.power_w))
        resolution_w = float(steps_w.min()) if steps_w.size else 0.0
        self.least_variance = max(resolution_w**2 / 12, 1e-9 * float(np.mean(self.power_w**2)), 1e-12)

    def between(self, begin_s: Floats, end_s: Floats) -> tuple[Rows, Rows]:
        """First reading, and one past the last, of those wholly between begin and end."""
        first = np.searchsorted(self.begin_s, begin_s, side="left")
        return first, np.maximum(np.searchsorted(self.end_s, end_s, side="right"), first)

    def sums(self, first: Rows, last: Rows) -> tuple[Floats, Floats, Floats]:
        """Number, sum (W) and sum of squares (W²) of the readings from ``first`` to before ``last``."""
        number = (last - first).astype(np.float64)
        return number, self._sum[last] - self._sum[first], self._square[last] - self._square[first]

    def across(self, edge_s: Floats, first: Rows, last: Rows) -> tuple[NDArray[np.bool_], Rows, Floats]:
        """Whether a reading of ``first`` to before ``last`` lies across an edge, which one, and its share after it."""
        if self.instant:
            return np.zeros(edge_s.shape, dtype=bool), np.zeros(edge_s.shape, dtype=np.intp), np.zeros(edge_s.shape)
        at = np.minimum(np.searchsorted(self.end_s, edge_s, side="right"), len(self.end_s) - 1)
        begin_s, end_s = self.begin_s[at], self.end_s[at]
        found = (begin_s < edge_s) & (end_s > edge_s) & (at >= first) & (at < last)
        share = np.divide(end_s - edge_s, end_s - begin_s, out=np.zeros(edge_s.shape), where=found)
        return found, at, share


def mean_of(total: Floats, number: Floats) -> Floats:
    """Sum over number; 0 where there is none."""
    return np.divide(total, number, out=np.zeros_like(total), where=number > 0)


def to_log(host_s: Floats, centre_s: float, drift: float) -> Floats:
    """Times of the host (s) by a clock that drifts like the log's and has no offset at ``centre_s``."""
    return np.asarray(centre_s + (host_s - centre_s) / (1 + drift))


def middle(shifts_s: Floats, scores: Floats) -> float:
    """The middle of the shifts that share the least score."""
    least = float(scores.min())
    return float(shifts_s[scores <= least + 1e-9 * abs(least)].mean())
