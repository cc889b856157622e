"""Choices among measured configurations: by those who ignore energy, by those who know it, and by those who guess it.

Figures of configurations go in as arrays, places of configurations come out. Nothing here knows about noise: whoever
asks must evaluate a choice on other repetitions than it was made with (:mod:`.decision`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray

from ipa_energy.analysis.reference_inputs import ReferenceInput
from ipa_energy.ipa.objective import Objective, Scales, Weights

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DEFAULT_WEIGHTS: Mapping[str, Any] = {
    "alpha": 1.0,
    "beta": 1.0,
    "gamma": 0.001,
    "scales": "normalised",
    "cost": "cores",
}
"""What the config's section ``ipa`` defaults to: weights, scales of the objective, and what cost is."""

_DIGITS = 10
"""Accuracies and logarithms that agree to this many decimals are equal: means round differently."""

_BLOCK = 256
_CELLS = 4_000_000
"""Comparisons held in memory at once."""

_PENALTIES = np.logspace(-6, 1, 8)


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of n configurations, each of shape (n,): accuracy as it is, all else as natural logarithms.

    ``cost`` is US$ per 1000 requests, ``price`` what the objective counts: cores, or US$ per hour. ``batch`` is the
    sum of batch sizes, not a logarithm.
    """

    accuracy: Floats
    latency: Floats
    cost: Floats
    price: Floats
    throughput: Floats
    energy: Floats
    batch: Floats


@dataclass(frozen=True, slots=True)
class Tolerances:
    """By what fraction a choice may be worse: of the size of the accuracy, of latency, of cost."""

    accuracy: float = 0.01
    latency: float = 0.05
    cost: float = 0.05

    def __post_init__(self) -> None:
        for name in ("accuracy", "latency", "cost"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"tolerance of {name} is {getattr(self, name)}: give a fraction, 0 or more")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the alternatives of some choices may not go beyond, each of shape (choices,)."""

    accuracy: Floats
    latency: Floats
    cost: Floats


def limits(base: Ints, accuracy: Floats, latency: Floats, cost: Floats, tolerances: Tolerances) -> Limits:
    """The limits around the configurations at ``base``; metrics of shape (n,), latency and cost logarithms."""
    least = accuracy[base] - tolerances.accuracy * np.abs(accuracy[base])
    return Limits(
        least - 10.0**-_DIGITS,
        latency[base] + math.log1p(tolerances.latency) + 10.0**-_DIGITS,
        cost[base] + math.log1p(tolerances.cost) + 10.0**-_DIGITS,
    )


def optimal_without_energy(accuracy: Floats, latency: Floats, cost: Floats) -> Ints:
    """Places of the configurations that are Pareto-optimal in the three, equal ones included, ascending."""
    if len(accuracy) == 0:
        return np.zeros(0, dtype=np.int64)
    points = np.round(np.column_stack([-accuracy, latency, cost]), _DIGITS)
    return np.flatnonzero(moocore.is_nondominated(points, keep_weakly=True)).astype(np.int64)


def feasible(figures: Figures, given: ReferenceInput) -> Ints:
    """Places of the configurations that sustain the rate with a p99 latency within the SLA, ascending."""
    serves = figures.latency <= math.log(given.sla_s) + 10.0**-_DIGITS
    if given.rate_rps > 0:
        serves &= figures.throughput >= math.log(given.rate_rps) - 10.0**-_DIGITS
    return np.flatnonzero(serves).astype(np.int64)


def without_energy(figures: Figures, given: ReferenceInput, among: Ints, weights: Mapping[str, Any]) -> int:
    """The place of IPA's choice among the feasible ones: the best objective, then least latency, cost and place.

    ``weights`` are :data:`DEFAULT_WEIGHTS` or others; accuracy is PAS. Scales are 1 or, normalised, the ranges of the
    terms over the configurations that sustain the rate, as :func:`ipa_energy.ipa.objective.normalising_scales` takes
    them. Raises ValueError where nothing is feasible.
    """
    if len(among) == 0:
        raise ValueError(f"input {given.name}: nothing is feasible, so that nothing can be chosen")
    price = np.exp(figures.price)
    scales = Scales()
    if weights["scales"] == "normalised":
        rate = math.log(given.rate_rps) if given.rate_rps > 0 else -math.inf
        sustain = figures.throughput >= rate - 10.0**-_DIGITS
        scales = Scales(
            accuracy=_range(figures.accuracy[sustain]),
            cost=_range(price[sustain]),
            batch=_range(figures.batch[sustain]),
        )
    objective = Objective(Weights(weights["alpha"], weights["beta"], weights["gamma"]), "pas", scales)
    unused = np.zeros(len(among))
    values = objective.values(figures.accuracy[among], price[among], figures.batch[among], unused)
    keys = (figures.cost[among], figures.latency[among], -np.round(values, _DIGITS))
    return int(among[np.lexsort(keys)[0]])


def _range(values: Floats) -> float:
    spread = float(np.ptp(values)) if len(values) else 0.0
    return spread if spread > 10.0**-_DIGITS else 1.0


def least_within(wanted: Floats, accuracy: Floats, latency: Floats, cost: Floats, within: Limits) -> Ints:
    """For each of the limits the place of the least ``wanted`` within them, shape (choices,); -1 where nothing is.

    The other arrays have the shape (n,). Configurations are tried from the least up, so that few are compared.
    """
    found = np.full(len(within.accuracy), -1, dtype=np.int64)
    open_ = np.arange(len(found))
    order = np.argsort(wanted, kind="stable")
    for start in range(0, len(order), _BLOCK):
        if len(open_) == 0:
            break
        block = order[start : start + _BLOCK]
        fits = _fits(accuracy[block], latency[block], cost[block], within, open_)
        hit = fits.any(axis=1)
        found[open_[hit]] = block[np.argmax(fits[hit], axis=1)]
        open_ = open_[~hit]
    return found


def count_within(accuracy: Floats, latency: Floats, cost: Floats, within: Limits) -> Ints:
    """How many configurations lie within each of the limits, shape (choices,)."""
    step = max(1, _CELLS // max(1, len(accuracy)))
    choices = np.arange(len(within.accuracy))
    counts = [
        _fits(accuracy, latency, cost, within, choices[start : start + step]).sum(axis=1)
        for start in range(0, len(choices), step)
    ]
    return np.concatenate([np.zeros(0, dtype=np.int64), *counts]).astype(np.int64)


def _fits(accuracy: Floats, latency: Floats, cost: Floats, within: Limits, which: Ints) -> NDArray[np.bool_]:
    fits = accuracy >= within.accuracy[which, None]
    fits &= latency <= within.latency[which, None]
    fits &= cost <= within.cost[which, None]
    return fits


def foretold(metrics: Floats, energy: Floats) -> Floats:
    """The log energy, shape (n,), that ``metrics``, shape (n, d), foretell for each configuration without its own.

    A quadratic in the metrics, by ridge regression whose penalty minimises the squared error of leaving one out (Allen
    1974, PRESS). Any power law of latency and cost is a straight line here.
    """
    spread = metrics.std(axis=0)
    z = (metrics - metrics.mean(axis=0)) / np.where(spread > 10.0**-_DIGITS, spread, np.inf)
    rows, columns = np.triu_indices(z.shape[1])
    terms = np.column_stack([z, 0.1 * z[:, rows] * z[:, columns]])
    left, singular, _ = np.linalg.svd(terms - terms.mean(axis=0), full_matrices=False)
    centred = energy - energy.mean()
    projected = left.T @ centred
    best, least = energy, math.inf
    for penalty in _PENALTIES * len(energy):
        kept = singular**2 / (singular**2 + penalty)
        leverage = np.minimum((left**2 * kept).sum(axis=1) + 1 / len(energy), 1 - 1e-6)
        error = (centred - left @ (kept * projected)) / (1 - leverage)
        press = float(error @ error)
        if press < least:
            best, least = energy - error, press
    return np.asarray(best, dtype=float)
