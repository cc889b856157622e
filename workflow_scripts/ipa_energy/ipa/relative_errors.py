"""Relative errors of predictions, and intervals for what is computed of them by resampling configurations.

Pairs of predicted and measured figures go in, one per configuration; bias, mean absolute error, rank correlation and
their percentile bootstrap intervals come out. A statistic that does not exist is null, never 0. The intervals hold for
other configurations under the same profile: all predictions come from few rows of it, whose own scatter moves them
together and is not in the intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ipa_energy.analysis.association import is_constant, percentile_interval, tau_b, without_rounding
from ipa_energy.ipa.random_streams import stream
from ipa_energy.ipa.ticks import Floats, Ints

MIN_POINTS = 3
"""Fewest configurations for which anything is said of all."""

_CHUNK = 2_000_000
"""Numbers drawn at once: bounds the memory of resampling to some tens of MB."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals are made: at ``confidence``, of so many ``resamples``; ``seed`` makes them the same every time."""

    confidence: float
    resamples: int
    seed: int

    def draws(self, count: int, purpose: str) -> Iterator[Ints]:
        """Indices of the resamples of ``count`` points, in blocks of shape (some, count)."""
        generator = stream(self.seed, purpose)
        step = max(1, _CHUNK // count)
        for done in range(0, self.resamples, step):
            yield generator.integers(count, size=(min(step, self.resamples - done), count))


def mean_errors(errors: Floats, how: Resampling, purpose: str) -> dict[str, Any]:
    """Mean (``bias``) and mean absolute value (``mean_absolute_error``) with intervals, and the 90th percentile of it.

    ``errors``, shape (configurations,), are predicted / measured - 1. Nothing for fewer than :data:`MIN_POINTS`.
    """
    if len(errors) < MIN_POINTS:
        return {}
    size = np.abs(errors)
    drawn = [(errors[at].mean(axis=1), size[at].mean(axis=1)) for at in how.draws(len(errors), purpose)]
    found: dict[str, Any] = {"p90_absolute_error": float(np.quantile(size, 0.9))}
    for number, (name, value) in enumerate((("bias", errors.mean()), ("mean_absolute_error", size.mean()))):
        resampled = np.concatenate([each[number] for each in drawn])
        found |= _with_interval(name, float(value), resampled, how.confidence)
    return found


def rank_correlation(predicted: Floats, measured: Floats, how: Resampling, purpose: str) -> dict[str, Any]:
    """Kendall's tau-b with its interval (``tau``); nothing where a side is constant or there are too few points."""
    x, y = without_rounding(predicted), without_rounding(measured)
    tau = tau_b(x, y) if len(x) >= MIN_POINTS else None
    if tau is None:
        return {}
    drawn = [tau_b(x[one], y[one]) for at in how.draws(len(x), purpose) for one in at]
    known = np.array([value for value in drawn if value is not None])
    if len(known) < how.resamples / 2:
        return {"tau": tau}
    return _with_interval("tau", tau, known, how.confidence)


def noise(measured: Floats, sem: Floats, how: Resampling, purpose: str) -> dict[str, Any]:
    """What scatter between repetitions alone does to the figures above, were the prediction without error.

    ``sem`` are the standard errors of the measured means; points without one (a single repetition) are left out, and
    nothing is said of fewer than :data:`MIN_POINTS`. ``noise_error`` is the mean absolute relative error that normal
    scatter makes, sqrt(2 / pi) times the relative standard error. ``tau_ceiling`` is the tau-b between the means and
    themselves with their scatter drawn anew: the lower bound at ``confidence``, so that noise has the benefit of doubt.
    """
    known = np.isfinite(sem) & (measured > 0)
    if np.sum(known) < MIN_POINTS:
        return {}
    mean, scatter = measured[known], sem[known]
    generator = stream(how.seed, f"{purpose}/noise")
    drawn = generator.normal(mean, scatter, (how.resamples, len(mean)))
    taus = [tau_b(without_rounding(mean), without_rounding(one)) for one in drawn]
    found: dict[str, Any] = {"noise_error": float(np.mean(scatter / mean) * math.sqrt(2 / math.pi))}
    reached = [tau for tau in taus if tau is not None]
    if reached:
        found["tau_ceiling"] = percentile_interval(reached, how.confidence)[0]
    return found


def explained(predicted: Floats, measured: Floats) -> float | None:
    """Share of the variance of log measured that the prediction explains as it is.

    1 - mean squared log ratio / variance: 1 for perfect predictions, 0 for those no better than the geometric mean of
    what was measured, below 0 for worse. None for figures that are not above 0, for constant ones, and for fewer than
    :data:`MIN_POINTS`.
    """
    if len(measured) < MIN_POINTS or min(predicted.min(), measured.min()) <= 0 or is_constant(measured):
        return None
    logs = np.log(measured)
    return float(1 - np.mean((np.log(predicted) - logs) ** 2) / np.var(logs))


def regret(predicted: Floats, measured: Floats) -> float | None:
    """How much more than the best the point with the least prediction is: measured there / least measured - 1.

    Equal predictions count with their mean. The least of several noisy figures is low by chance, so this errs upwards.
    None where the least measured is not above 0.
    """
    best = float(measured.min())
    if best <= 0:
        return None
    chosen = np.isclose(predicted, predicted.min(), rtol=1e-9, atol=0)
    return float(measured[chosen].mean()) / best - 1


def _with_interval(name: str, value: float, resampled: Floats, confidence: float) -> dict[str, float]:
    lo, hi = percentile_interval(list(resampled), confidence)
    # Sums in another order differ by rounding, and the interval of a constant must still hold it.
    return {name: value, f"{name}_lo": min(lo, value), f"{name}_hi": max(hi, value)}


def mean_or_none(values: list[float]) -> float | None:
    """The mean of some numbers; None of none."""
    return math.fsum(values) / len(values) if values else None
