"""The response of a channel: how much each moment before an update weighs in its reading, without assuming a shape.

Readings are regressed on the load in lag bins before the update, with weights that can't be negative (C. L. Lawson and
R. J. Hanson, Solving Least Squares Problems, 1974, chapter 23, as in scipy.optimize.nnls); level and slow drift are
projected out first. Because weights can't be negative, noise leaves a little weight in bins that truly have none: the
figures here are a check of the fitted window's shape, and stand in for it where it has another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ipa_energy.characterise.bootstrap import LEVEL, Interval, block_counts, interval
from ipa_energy.characterise.load_log import LoadLog
from ipa_energy.characterise.window import DRIFT_DEGREE, LONGEST_S, Observations, Shape, drift_columns

Floats = NDArray[np.float64]

MOST_BINS = 60
NARROWEST_BIN_S = 0.002
"""Narrower bins would be finer than what polls every 1-2 ms tell of an update's instant."""
UPDATES_PER_BIN = 4
DRAWS = 200
SHIFTS = 19
"""A response that beats 19 wrong loads is one in twenty by chance."""
SHARE = 0.9
"""The width of a response is that which holds this share of its weight."""


@dataclass(frozen=True)
class Response:
    """Weights of lag bins. ``lags_s`` are the bins' edges (s before the update), shape (n + 1,); weights have (n,).

    Weights are shares of the rise at full load and sum to 1; ``low`` and ``high`` bound 95 % of their bootstrap.
    ``chance_r2`` is what a wrong load explains, :func:`_chance_r2`; ``early_share`` is the weight of load *after* the
    update, 0 for a sound clock. ``covered_share`` is the part of the
    update period that the readings weigh, :func:`covered`.
    """

    lags_s: Floats
    weights: Floats
    low: Floats
    high: Floats
    mean_lag_s: Interval
    width_s: Interval
    rise_s: Interval
    covered_share: Interval
    early_share: Interval
    r2: float
    chance_r2: float
    residual_w: float


def lag_bins(shape: Shape, period_s: float, updates: int) -> Floats:
    """Edges of the lag bins (s) for a window like this: one bin ahead of the update, then over three periods or more.

    Bins of 5 ms for a period of 100 ms, of 25 ms where the window is 1 s; wider where there are few updates.
    """
    span_s = min(max(3 * period_s, 1.5 * shape.memory_s), LONGEST_S)
    count = int(np.clip(updates // UPDATES_PER_BIN, 6, MOST_BINS))
    bin_s = max(span_s / count, NARROWEST_BIN_S)
    edges: Floats = np.arange(-1, round(span_s / bin_s) + 1, dtype=float) * bin_s
    return edges


def covered(lags_s: Floats, weights: Floats, period_s: float) -> float:
    """The part of the update period that the readings together weigh, from 0 to 1.

    Updates come one period after another, so load at some phase of the period is weighed by the response at all lags
    of that phase together. The part is 1/mean(c²) of that sum c over the phases, scaled to mean 1: exactly w/T for a
    window of width w ≤ T, and 1 where all phases weigh the same.
    """
    density = weights / np.diff(lags_s)
    phases_s = (np.arange(1000) + 0.5) / 1000 * period_s
    turns = np.arange(np.floor(lags_s[0] / period_s), np.ceil(lags_s[-1] / period_s) + 1)
    at_s = phases_s[:, None] + turns[None, :] * period_s
    inside = np.searchsorted(lags_s, at_s, side="right") - 1
    known = (inside >= 0) & (inside < weights.size)
    folded = np.where(known, density[np.clip(inside, 0, weights.size - 1)], 0.0).sum(axis=1)
    mean = float(folded.mean())
    return float(mean**2 / np.mean(folded**2)) if mean > 0 else 0.0


def _quantile_lag(lags_s: Floats, weights: Floats, share: float) -> float:
    cumulative = np.concatenate([[0.0], np.cumsum(weights)])
    return float(np.interp(share * cumulative[-1], cumulative, lags_s))


def _width(lags_s: Floats, weights: Floats) -> float:
    return _quantile_lag(lags_s, weights, (1 + SHARE) / 2) - _quantile_lag(lags_s, weights, (1 - SHARE) / 2)


def _rise(lags_s: Floats, weights: Floats) -> float:
    # The step response is the cumulated weight over the time since the step.
    return _quantile_lag(lags_s, weights, 0.9) - _quantile_lag(lags_s, weights, 0.1)


def _mean_lag(lags_s: Floats, weights: Floats) -> float:
    return float((lags_s[:-1] + lags_s[1:]) / 2 @ weights)


def estimate_response(
    log: LoadLog, seen: Observations, shape: Shape, random: np.random.Generator, *, draws: int = DRAWS
) -> Response:
    """The response of a channel, in bins that suit the window ``shape`` fitted before.

    Raises ValueError when no bin gets any weight.
    """
    lags_s = lag_bins(shape, seen.period_s, seen.times_s.size)
    overlap = log.overlap(seen.times_s, lags_s)
    nuisance = drift_columns(seen.times_s)
    table = np.column_stack([nuisance, overlap, seen.powers_w])
    weights_w, left = _solve(table, nuisance.shape[1])
    if weights_w.sum() <= 0:
        raise ValueError("power does not rise with the load in any lag")
    block = int(np.ceil(1.5 * shape.memory_s / seen.period_s)) + 1
    counts = block_counts(seen.times_s.size, min(block, seen.times_s.size // 8), draws, random)
    drawn = np.array([_solve(table * np.sqrt(count)[:, None], nuisance.shape[1])[0] for count in counts])
    drawn = drawn[drawn.sum(axis=1) > 0]
    drawn /= drawn.sum(axis=1, keepdims=True)
    weights = weights_w / weights_w.sum()

    def figure(of: Callable[[Floats, Floats], float]) -> Interval:
        return interval(of(lags_s, weights), np.array([of(lags_s, draw) for draw in drawn]))

    basis, _ = np.linalg.qr(nuisance)
    target = seen.powers_w - basis @ (basis.T @ seen.powers_w)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    freedom = max(seen.times_s.size - int((weights > 0).sum()) - DRIFT_DEGREE - 1, 1)
    return Response(
        lags_s=lags_s,
        weights=weights,
        low=low,
        high=high,
        mean_lag_s=figure(_mean_lag),
        width_s=figure(_width),
        rise_s=figure(_rise),
        covered_share=figure(lambda lags, values: covered(lags, values, seen.period_s)),
        early_share=figure(lambda _, values: float(values[0])),
        r2=1 - left / float(target @ target),
        chance_r2=_chance_r2(log, seen, lags_s, float(target @ target)),
        residual_w=float(np.sqrt(left / freedom)),
    )


def _chance_r2(log: LoadLog, seen: Observations, lags_s: Floats, total: float) -> float:
    """The most that the same load explains when it is shifted in time (around the record), where it can't be the cause.

    Power that wanders slowly for reasons of its own goes along with almost any load for a while; shifts keep the load's
    own pattern, which a formula for independent updates would ignore.
    """
    begin_s, length_s = float(seen.times_s[0]), float(seen.times_s[-1] - seen.times_s[0])
    nuisance = drift_columns(seen.times_s)
    best = 0.0
    for shift_s in np.linspace(0.1, 0.9, SHIFTS) * length_s:
        overlap = log.overlap(begin_s + (seen.times_s - begin_s + shift_s) % length_s, lags_s)
        _, left = _solve(np.column_stack([nuisance, overlap, seen.powers_w]), nuisance.shape[1])
        best = max(best, 1 - left / total)
    return best


def _solve(table: Floats, nuisance: int) -> tuple[Floats, float]:
    """Weights (W) of the bins, and the sum of squares left. ``table``: nuisance columns, bins, readings."""
    # The triangle of a QR decomposition holds the whole problem; below the nuisance's rows, these are projected out.
    triangle: Floats = np.asarray(np.linalg.qr(table, mode="r"))[nuisance:, nuisance:]
    weights_w, left = optimize.nnls(triangle[:, :-1], triangle[:, -1])
    return weights_w, float(left) ** 2
