"""Power over time as a log has it, and its integral.

Rows of a log are turned into pieces of time in which power is known (a straight line from ``begin_w`` to ``end_w``);
between pieces there are gaps, in which it is not. How depends on what a row means
(:data:`ipa_energy.external.settings.Value`):

- ``instant``: a straight line from row to row (trapezoidal rule);
- ``mean_before``: the row's power, constant from the last row to it;
- ``mean_after``: the row's power, constant until the next row; also right for logs that hold changes only.

A piece longer than ``gap_s`` is a gap; there a mean stands for one period beside its time stamp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ipa_energy.external.settings import Value

Floats = NDArray[np.float64]

PERIODS_BRIDGED = 3.0
"""Rows further apart than this many periods leave a gap between them."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of the files, and what became of those that are no reading of their own."""

    rows: int = 0
    missing: int = 0
    negative: int = 0
    duplicates: int = 0
    out_of_order: int = 0


@dataclass(frozen=True)
class Series:
    """Readings of one clock: times (s since the epoch, strictly increasing) and powers (W)."""

    name: str
    time_s: Floats
    power_w: Floats
    value: Value
    period_s: float
    gap_s: float
    counts: Counts = Counts()

    @cached_property
    def pieces(self) -> Pieces:
        """Where power is known, and what it is there."""
        return _pieces(self)

    @cached_property
    def change_period_s(self) -> float | None:
        """Median time between changes of the reading (s); longer than the period where a meter is read too often."""
        changes_s = self.time_s[1:][np.diff(self.power_w) != 0]
        return typical_period_s(changes_s) if len(changes_s) > 1 else None

    def moved(self, time_s: Floats) -> Series:
        """The same readings at other times, as by another clock."""
        return replace(self, time_s=time_s)


@dataclass(frozen=True)
class Pieces:
    """Disjoint pieces of time, sorted: begin and end (s), power at both (W), and what lies before each (J, s)."""

    begin_s: Floats
    end_s: Floats
    begin_w: Floats
    end_w: Floats

    @cached_property
    def energy_before_j(self) -> Floats:
        """Energy of all pieces before each, and at last of all."""
        return _before((self.end_s - self.begin_s) * (self.begin_w + self.end_w) / 2)

    @cached_property
    def covered_before_s(self) -> Floats:
        """Length of all pieces before each, and at last of all."""
        return _before(self.end_s - self.begin_s)

    def until(self, time_s: Floats | float) -> tuple[Floats, Floats]:
        """Energy (J) and covered time (s) from the first piece to each of ``time_s``."""
        at = np.asarray(time_s, dtype=np.float64)
        if not len(self.begin_s):
            return np.zeros_like(at), np.zeros_like(at)
        index = np.searchsorted(self.begin_s, at, side="right") - 1
        piece = np.maximum(index, 0)
        length_s = self.end_s[piece] - self.begin_s[piece]
        part_s = np.clip(at - self.begin_s[piece], 0.0, length_s)
        slope = np.divide(
            self.end_w[piece] - self.begin_w[piece], length_s, out=np.zeros_like(part_s), where=length_s > 0
        )
        energy_j = self.energy_before_j[piece] + part_s * (self.begin_w[piece] + slope * part_s / 2)
        none = index < 0
        return np.where(none, 0.0, energy_j), np.where(none, 0.0, self.covered_before_s[piece] + part_s)

    def integral(self, begin_s: Floats | float, end_s: Floats | float) -> tuple[Floats, Floats]:
        """Energy (J) and covered time (s) between begin and end; pieces that lie across an edge count in part."""
        first, last = self.until(begin_s), self.until(end_s)
        return last[0] - first[0], last[1] - first[1]

    def inside(self, begin_s: float, end_s: float) -> slice:
        """The pieces that lie wholly between begin and end."""
        first = int(np.searchsorted(self.begin_s, begin_s, side="left"))
        return slice(first, max(first, int(np.searchsorted(self.end_s, end_s, side="right"))))


def _before(parts: Floats) -> Floats:
    return np.concatenate(([0.0], np.cumsum(parts)))


def typical_period_s(time_s: Floats) -> float:
    """Median distance of neighbouring rows (s)."""
    return float(np.median(np.diff(time_s)))


def _pieces(series: Series) -> Pieces:
    time_s, power_w = series.time_s, series.power_w
    distance_s = np.diff(time_s)
    near = distance_s <= series.gap_s
    if series.value == "instant":
        return Pieces(time_s[:-1][near], time_s[1:][near], power_w[:-1][near], power_w[1:][near])
    # Beside a gap, and at the end of the log, a mean is taken to be one over the usual period.
    length_s = np.where(near, distance_s, np.minimum(distance_s, series.period_s))
    if series.value == "mean_before":
        begin_s = time_s - np.concatenate(([series.period_s], length_s))
        return Pieces(begin_s, time_s, power_w, power_w)
    return Pieces(time_s, time_s + np.concatenate((length_s, [series.period_s])), power_w, power_w)
