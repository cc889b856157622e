"""Where exactly power steps: the offset of a log's clock near a known one, and how well the steps tell it.

An edge is the instant at which one stretch of constant load follows another without a pause, as the warm-up follows
idling with the models in memory. Around each edge power is a step between two levels. With n readings about each edge,
the same ones for all offsets, twice the negative log-likelihood of an offset is the sum over the edges of
(n - 2) log(sum of squares left). A reading that is a mean over an interval across the edge is compared with that mean
of the two levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipa_energy.external.readings import Readings, mean_of, middle, to_log
from ipa_energy.external.timelines import Stretches

Floats = NDArray[np.float64]

MIN_CLEARNESS = 8.0
"""How far the levels beside an edge must be apart, in standard errors of their difference."""

_LONGEST_SIDE_S = 10.0
_LONGEST_SIDE_PERIODS = 30
_MIN_SIDE = 2
_PRIOR_READINGS = 4.0
_RESAMPLES = 200
_MIN_BOOTSTRAP_EDGES = 5
_FIRST_REACH_PERIODS = 1.5
_MOVES = 20
_POINTS = 201


@dataclass(frozen=True)
class Edges:
    """Instants (s, host) at which one stretch of load follows another, and how far the stretches reach about them."""

    left_s: Floats
    edge_s: Floats
    right_s: Floats


def edges_of(stretches: Stretches) -> Edges:
    """The edges between stretches that follow each other."""
    later = np.flatnonzero(stretches.joined)
    return Edges(stretches.begin_s[later - 1], stretches.begin_s[later], stretches.end_s[later])


@dataclass(frozen=True, slots=True)
class Offset:
    """An offset (s) with its standard uncertainty (s, k = 1)."""

    offset_s: float
    uncertainty_s: float


def offset_near(
    readings: Readings, edges: Edges, near_s: float, weight: float, centre_s: float, drift: float
) -> Offset | None:
    """The offset near ``near_s``; None where fewer than half of the edges have readings enough, or steps are not clear.

    Steps are clear when the median over the edges of step / noise * sqrt(n m / (n + m)), with n and m readings on its
    sides, is at least :data:`MIN_CLEARNESS`; else a few unlucky readings decide where a step seems to be.

    It is the middle of the offsets whose log-likelihood, readings counted with ``weight``, is within 1/2 of the best.
    The uncertainty is half their width, or the scatter over bootstrap resamples of the edges where that is greater.
    """
    if not len(edges.edge_s):
        return None
    reach_s, widest_s = _FIRST_REACH_PERIODS * readings.period_s, math.inf
    for _ in range(_MOVES):
        shifts_s = near_s + np.linspace(-reach_s, reach_s, _POINTS)
        excess, clearness = _likelihood(readings, edges, shifts_s, centre_s, drift)
        excess = excess * weight
        if 2 * len(clearness) < len(edges.edge_s):
            # A wide range of offsets leaves few readings that are on one side of an edge for all of them.
            widest_s = reach_s
            reach_s /= 2
            continue
        if np.median(clearness) < MIN_CLEARNESS:
            return None
        total = excess.sum(axis=1)
        inside = shifts_s[total <= total.min() + 1]
        low_s, high_s = float(inside[0]), float(inside[-1])
        at_low, at_high = low_s == shifts_s[0], high_s == shifts_s[-1]
        if at_low and at_high:
            if 2 * reach_s >= widest_s:
                return None
            reach_s *= 2
        elif at_low or at_high:
            near_s = middle(shifts_s, total)
        elif high_s - low_s < reach_s / 5 and reach_s > readings.period_s / 50:
            near_s, reach_s = (low_s + high_s) / 2, max(2 * (high_s - low_s), reach_s / 10)
        else:
            step_s = 2 * reach_s / (_POINTS - 1)
            offset_s, width_s = (low_s + high_s) / 2, (high_s - low_s + step_s) / 2
            return Offset(offset_s, max(width_s, _scatter_s(readings, edges, offset_s, width_s, centre_s, drift)))
    return None


def _likelihood(
    readings: Readings, edges: Edges, shifts_s: Floats, centre_s: float, drift: float
) -> tuple[Floats, Floats]:
    """Twice the negative log-likelihood of each shift by each usable edge, less its least; and how clear each step is.

    The first has the shape (shift, edge).
    """
    side_s = max(_LONGEST_SIDE_S, _LONGEST_SIDE_PERIODS * readings.period_s)
    left_s, edge_s, right_s = (
        to_log(host_s, centre_s, drift)
        for host_s in (
            np.maximum(edges.left_s, edges.edge_s - side_s),
            edges.edge_s,
            np.minimum(edges.right_s, edges.edge_s + side_s),
        )
    )
    # Readings that lie between the outer ends whatever the shift, so that all shifts speak of the same ones.
    first, last = readings.between(left_s - shifts_s.min(), right_s - shifts_s.max())
    enough = (np.searchsorted(readings.end_s, edge_s - shifts_s.max(), side="right") - first >= _MIN_SIDE) & (
        last - np.searchsorted(readings.begin_s, edge_s - shifts_s.min(), side="left") >= _MIN_SIDE
    )
    first, last, edge_s = first[enough], last[enough], edge_s[enough]
    if not first.size:
        return np.zeros((len(shifts_s), 0)), np.zeros(0)
    at_s = edge_s - shifts_s[:, None]
    ends = np.clip(np.searchsorted(readings.end_s, at_s, side="right"), first, last)
    begins = np.clip(np.searchsorted(readings.begin_s, at_s, side="left"), ends, last)
    left = np.zeros(at_s.shape)
    means, numbers = [], []
    for side in ((np.broadcast_to(first, ends.shape), ends), (begins, np.broadcast_to(last, ends.shape))):
        number, total, square = readings.sums(*side)
        means.append(mean_of(total, number))
        numbers.append(number)
        left = left + np.maximum(square - total * means[-1], 0.0)
    found, row, share = readings.across(at_s, first, last)
    expected_w = (1 - share) * means[0] + share * means[1]
    left = left + np.where(found, (readings.power_w[row] - expected_w) ** 2, 0.0)
    freedom = np.maximum(last - first - 2, 1).astype(np.float64)
    least = left.min(axis=0)
    # Few readings can lie on two levels by chance: the noise of all edges counts as some readings more.
    usual = max(float(least.sum() / freedom.sum()), readings.least_variance)
    log = (freedom + _PRIOR_READINGS) * np.log(left + _PRIOR_READINGS * usual)
    at = left.argmin(axis=0), np.arange(len(first))
    noise_w = np.sqrt(left[at] / freedom)
    n, m = numbers[0][at], numbers[1][at]
    clearness = np.abs(means[1][at] - means[0][at]) / np.hypot(noise_w, math.sqrt(usual)) * np.sqrt(n * m / (n + m))
    return np.asarray(log - log.min(axis=0)), np.asarray(clearness)


def _scatter_s(
    readings: Readings, edges: Edges, offset_s: float, width_s: float, centre_s: float, drift: float
) -> float:
    """Standard deviation of the offset over resamples of the edges; 0 for too few of them."""
    random = np.random.default_rng(0)
    scatter_s, reach_s = 0.0, max(4 * width_s, readings.period_s)
    for _ in range(_MOVES):
        shifts_s = offset_s + np.linspace(-reach_s, reach_s, _POINTS)
        excess, _ = _likelihood(readings, edges, shifts_s, centre_s, drift)
        count = excess.shape[1]
        if count < _MIN_BOOTSTRAP_EDGES:
            break
        draws = random.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
        found_s = np.array([middle(shifts_s, score) for score in draws @ excess.T])
        scatter_s = float(np.std(found_s, ddof=1))
        if float(np.quantile(np.abs(found_s - offset_s), 0.95)) < reach_s / 2:
            break
        reach_s *= 2
    return scatter_s
