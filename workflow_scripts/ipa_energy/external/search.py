"""Which offset of a log's clock makes power and load agree: the search over all of them, and what speaks for the best.

For each record, power is modelled as constant in each stretch of constant load, at a level of its own and with noise of
its own. With U the share of the variance within a record that these levels leave (mean squares, so that few readings
do not agree with anything), J = sum of N log U over the records (N readings each) is twice the negative log-likelihood
against no steps at all: the less, the likelier. U is 1 for a record whose load does not raise power, so that an offset
by a whole record costs what it should.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipa_energy.external.readings import Readings, mean_of, middle, to_log
from ipa_energy.external.timelines import Stretches

Floats = NDArray[np.float64]

_COARSE_RECORDS = 64
_COARSE_POINTS = 4001
_DRIFTS = 20
_CANDIDATES = 8
_MIN_READINGS = 2
_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Agreement:
    """Of each shift and record: N log U; and the sums of squares (W²) that the levels leave, and in all."""

    log_u: Floats
    left: Floats
    total: Floats


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offset (s) at which J has a minimum."""

    offset_s: float
    score: float


class Search:
    """The search over the stretches of some records; times are shifted by an offset and drift about ``centre_s``."""

    def __init__(self, readings: Readings, stretches: Stretches, centre_s: float) -> None:
        self.readings = readings
        self.stretches = stretches
        self.centre_s = centre_s
        lengths_s = stretches.end_s - stretches.begin_s
        self.shortest_s = float(np.median(np.minimum.reduceat(lengths_s, stretches.first)))
        """Median over the records of the shortest stretch."""

    def step_s(self, max_offset_s: float) -> float:
        """Step of the coarse grid: a quarter of the shortest stretch, so that none is missed."""
        return max(self.shortest_s / 4, 2 * max_offset_s / (_COARSE_POINTS - 1))

    def agreement(self, shifts_s: Floats, drift: float, among: Stretches | None = None) -> Agreement:
        """How well stretches and readings agree at each of ``shifts_s``; arrays of shape (shift, record)."""
        stretches = self.stretches if among is None else among
        size = max(1, _AT_ONCE // len(stretches.begin_s))
        parts = [self._agreement(shifts_s[at : at + size], drift, stretches) for at in range(0, len(shifts_s), size)]
        return Agreement(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("log_u", "left", "total")))

    def _agreement(self, shifts_s: Floats, drift: float, stretches: Stretches) -> Agreement:
        readings = self.readings
        first, last = readings.between(*self._in_log(stretches, shifts_s, drift))
        number, total, square = readings.sums(first, last)
        left = np.maximum(square - total * mean_of(total, number), 0.0)

        def each(values: Floats) -> Floats:
            return np.asarray(np.add.reduceat(values, stretches.first, axis=1))

        busy_n, busy = each(number * stretches.busy), each(total * stretches.busy)
        n, sums, squares, rest = each(number), each(total), each(square), each(left)
        levels = each((number > 0).astype(np.float64))
        whole = np.maximum(squares - sums * mean_of(sums, n), 0.0)
        idle_n = n - busy_n
        raised = busy * idle_n > (sums - busy) * busy_n
        enough = (busy_n >= _MIN_READINGS) & (idle_n >= _MIN_READINGS) & (n > levels) & (whole > 0)
        usable = raised & enough
        rest = np.maximum(rest, n * readings.least_variance)
        ratio = np.divide(rest * (n - 1), whole * (n - levels), out=np.ones_like(rest), where=usable)
        log_u = np.where(usable, n * np.log(np.clip(ratio, 1e-12, 1.0)), 0.0)
        return Agreement(log_u, np.where(usable, rest, whole), whole)

    def _in_log(self, stretches: Stretches, shifts_s: Floats, drift: float) -> tuple[Floats, Floats]:
        begin_s, end_s = (to_log(edge_s, self.centre_s, drift) for edge_s in (stretches.begin_s, stretches.end_s))
        return begin_s - shifts_s[:, None], end_s - shifts_s[:, None]

    def score(self, shifts_s: Floats, drift: float, among: Stretches | None = None) -> Floats:
        """J of each shift."""
        return np.asarray(self.agreement(shifts_s, drift, among).log_u.sum(axis=1))

    def _few(self) -> Stretches:
        """Some of the records, first and last among them."""
        numbers = np.unique(np.linspace(0, len(self.stretches) - 1, _COARSE_RECORDS).astype(np.intp))
        return self.stretches.of(numbers)

    def coarse_drift(self, max_offset_s: float, max_drift: float) -> float:
        """The drift, if any, without which the ends of the records would be apart by more than a step of the grid."""
        step_s = self.step_s(max_offset_s)
        count = math.ceil(max_drift * float(np.ptp(self.stretches.centre_s)) / step_s)
        if count < 2:
            return 0.0
        grid_s, few = _grid_s(max_offset_s, step_s), self._few()
        drifts = np.linspace(-max_drift, max_drift, 2 * min(count, _DRIFTS) + 1)
        return float(drifts[int(np.argmin([self.score(grid_s, drift, few).min() for drift in drifts]))])

    def candidates(self, max_offset_s: float, drift: float) -> list[Candidate]:
        """The likeliest offsets within ``±max_offset_s``, the best first; they lie more than two steps apart."""
        step_s = self.step_s(max_offset_s)
        grid_s, few = _grid_s(max_offset_s, step_s), self._few()
        score = self.score(grid_s, drift, few)
        padded = np.concatenate(([np.inf], score, [np.inf]))
        minima = np.flatnonzero((score <= padded[:-2]) & (score <= padded[2:]) & (score < 0))
        found: list[Candidate] = []
        for at in minima[np.argsort(score[minima], kind="stable")]:
            near_s = float(grid_s[at])
            if len(found) < _CANDIDATES and all(abs(near_s - other.offset_s) > 2 * step_s for other in found):
                rough = self._refined(near_s, step_s, drift, few)
                found.append(self.refined(rough.offset_s, drift))
        return sorted(found, key=lambda candidate: candidate.score)

    def refined(self, offset_s: float, drift: float, reach_s: float = 0.0) -> Candidate:
        """The least J within ``reach_s`` of an offset, and at least within a period."""
        return self._refined(offset_s, max(reach_s, self.readings.period_s), drift, self.stretches)

    def explained(self, offset_s: float, drift: float) -> float:
        """Share of the variance of power within the records that the load explains at an offset."""
        agreement = self.agreement(np.array([offset_s]), drift)
        whole = float(agreement.total.sum())
        return 1 - float(agreement.left.sum()) / whole if whole > 0 else 0.0

    def halves(self) -> tuple[Search, Search]:
        """The searches over the earlier and the later half of the records, about the same centre."""
        early, late = np.array_split(np.arange(len(self.stretches)), 2)
        return self.part(early), self.part(late)

    def _refined(self, offset_s: float, reach_s: float, drift: float, among: Stretches) -> Candidate:
        """The least J within ``reach_s`` of an offset, to a twentieth of a period."""
        while True:
            shifts_s = offset_s + np.linspace(-reach_s, reach_s, 41)
            scores = self.score(shifts_s, drift, among)
            offset_s = middle(shifts_s, scores)
            if reach_s / 20 < self.readings.period_s / 20:
                return Candidate(offset_s, float(scores.min()))
            reach_s /= 5

    def within(self, best: Candidate, margin: float, drift: float, limit_s: float) -> tuple[float, float]:
        """Least and greatest offset around the best whose J is within ``margin`` of it, at most ``limit_s`` away."""
        reach_s = self.readings.period_s
        while reach_s < limit_s and (
            self.score(best.offset_s + np.array([-reach_s, reach_s]), drift).min() <= best.score + margin
        ):
            reach_s *= 2
        shifts_s = best.offset_s + np.linspace(-reach_s, reach_s, 401)
        inside = shifts_s[self.score(shifts_s, drift) <= best.score + margin]
        return float(inside.min(initial=best.offset_s)), float(inside.max(initial=best.offset_s))

    def part(self, records: Sequence[int] | NDArray[np.intp]) -> Search:
        """The search over some of the records, about the same centre."""
        return Search(self.readings, self.stretches.of(records), self.centre_s)

    def weight(self, offset_s: float, drift: float) -> float:
        """What a reading counts for: (1 - r) / (1 + r) with the lag-1 autocorrelation r of the residuals, at most 1."""
        readings = self.readings
        first, last = readings.between(*self._in_log(self.stretches, np.array([offset_s]), drift))
        product = square = 0.0
        for begin, end in zip(first[0], last[0], strict=True):
            if end - begin > _MIN_READINGS:
                residual = readings.power_w[begin:end] - readings.power_w[begin:end].mean()
                product += float(residual[1:] @ residual[:-1])
                square += float(residual @ residual)
        r = min(max(product / square, 0.0), 0.99) if square > 0 else 0.0
        return (1 - r) / (1 + r)


def _grid_s(max_offset_s: float, step_s: float) -> Floats:
    count = math.ceil(max_offset_s / step_s)
    return np.asarray(np.arange(-count, count + 1) * step_s, dtype=np.float64)
