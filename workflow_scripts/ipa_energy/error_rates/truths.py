"""What energy has to do with the other metrics in a simulated study, and which decisions would be wrong about it.

A :class:`Truth` names a law that gives energy from the true metrics, a component that the metrics do not tell, and what
else goes on while it is measured (drift, equal orders, odd noise). Energy is on the log scale here: its level does not
matter, and a component of 0.1 is one of about 10 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ipa_energy.analysis.outcomes import COUPLED, DECOUPLED
from ipa_energy.error_rates.service import Grid

Floats = NDArray[np.float64]
Law = Callable[[Grid, np.random.Generator], Floats]
Kind = Literal["coupled", "noise", "opposed", "borderline", "decoupled"]

WRONG: Mapping[str, str | None] = {
    "coupled": DECOUPLED,
    "noise": DECOUPLED,
    "opposed": DECOUPLED,
    "borderline": None,
    "decoupled": COUPLED,
}
"""The decision that is an error, by kind of truth. ``inconclusive`` never is."""


def _power(metric: Floats, rng: np.random.Generator) -> Floats:
    return np.asarray(rng.uniform(0.3, 1.2) * np.log(metric), dtype=float)


def _saturating(metric: Floats, rng: np.random.Generator) -> Floats:
    half = np.median(metric) * rng.uniform(0.3, 3.0)
    return np.asarray(np.log(metric / (metric + half)), dtype=float)


def _steps(metric: Floats, rng: np.random.Generator) -> Floats:
    """Three steps of 20 to 60 %, each within some 10 to 60 % of the metric."""
    log = np.log(metric)
    middle = np.quantile(log, rng.uniform(0.1, 0.9, 3))
    height, width = rng.uniform(0.2, 0.5, 3), rng.uniform(0.02, 0.1, 3)
    return np.asarray(np.sum(height / (1 + np.exp(-(log[:, None] - middle) / width)), axis=1), dtype=float)


def _sum(latency: Floats, cost: Floats, rng: np.random.Generator) -> Floats:
    share = rng.uniform(0.2, 0.8)
    return np.asarray(np.log(share * latency / np.median(latency) + (1 - share) * cost / np.median(cost)), dtype=float)


def _larger(latency: Floats, cost: Floats, rng: np.random.Generator) -> Floats:
    """A surface with a kink: whichever of latency and cost is the larger, beside their medians."""
    steep = rng.uniform(0.3, 1.0)
    both = np.maximum(np.log(latency / np.median(latency)), np.log(cost / np.median(cost)))
    return np.asarray(steep * both, dtype=float)


def _of_accuracy(grid: Grid, rng: np.random.Generator) -> Floats:
    accuracy = grid.accuracy
    scale = float(accuracy.std())
    return np.asarray(rng.uniform(0.05, 0.3) * (accuracy - accuracy.mean()) / (scale or 1.0), dtype=float)


def _latency_and_cost(grid: Grid, rng: np.random.Generator) -> Floats:
    return np.asarray(_power(grid.latency_p99_s, rng) + _power(grid.usd_per_1000_requests, rng), dtype=float)


MONOTONE: Mapping[str, Law] = {
    "latency_power": lambda grid, rng: _power(grid.latency_p99_s, rng),
    "latency_saturating": lambda grid, rng: _saturating(grid.latency_p99_s, rng),
    "latency_steps": lambda grid, rng: _steps(grid.latency_p99_s, rng),
    "mean_latency": lambda grid, rng: _power(grid.latency_mean_s, rng),
    "cost_power": lambda grid, rng: _power(grid.usd_per_1000_requests, rng),
    "cost_saturating": lambda grid, rng: _saturating(grid.usd_per_1000_requests, rng),
    "latency_times_cost": _latency_and_cost,
    "latency_plus_cost": lambda grid, rng: _sum(grid.latency_p99_s, grid.usd_per_1000_requests, rng),
    "latency_or_cost": lambda grid, rng: _larger(grid.latency_p99_s, grid.usd_per_1000_requests, rng),
    "all_metrics": lambda grid, rng: _latency_and_cost(grid, rng) - _of_accuracy(grid, rng),
}
"""Laws by which a configuration that is better in accuracy, latency and cost never uses more energy."""


def _any(grid: Grid, rng: np.random.Generator) -> Floats:
    return MONOTONE[str(rng.choice(list(MONOTONE)))](grid, rng)


LAWS: Mapping[str, Law] = dict(MONOTONE) | {
    "any": _any,
    "constant": lambda grid, _: np.zeros(len(grid.configurations)),
    "less_with_latency": lambda grid, rng: -_power(grid.latency_p99_s, rng),
    "more_with_accuracy": lambda grid, rng: _latency_and_cost(grid, rng) + _of_accuracy(grid, rng),
}
"""All laws by name; ``any`` draws one of :data:`MONOTONE`."""


@dataclass(frozen=True, slots=True)
class Truth:
    """One truth. ``component`` is the standard deviation of log energy that accuracy, latency and cost leave over.

    ``carrier`` says what the component hangs on: nothing (white over configurations), or a knob that changes no metric.
    ``drift`` is what power gains through the study, ``warming`` through each block, as fractions; ``same_order``:
    every block has the order of the first. ``tails`` and ``uneven`` are of the replicate noise.
    """

    kind: Kind
    law: str
    text: str
    component: float = 0.0
    carrier: Literal["white", "knob"] = "white"
    narrow: bool = False
    drift: float = 0.0
    warming: float = 0.0
    same_order: bool = False
    tails: Literal["normal", "heavy"] = "normal"
    uneven: bool = False

    @property
    def wrong(self) -> str | None:
        """The decision that would be an error; None where every one is allowed."""
        return WRONG[self.kind]


TRUTHS: Mapping[str, Truth] = {
    "latency_power": Truth("coupled", "latency_power", "a power of p99 latency"),
    "latency_saturating": Truth("coupled", "latency_saturating", "saturates with p99 latency"),
    "latency_steps": Truth("coupled", "latency_steps", "three steep steps over p99 latency"),
    "mean_latency": Truth("coupled", "mean_latency", "a power of mean latency"),
    "cost_power": Truth("coupled", "cost_power", "a power of cost"),
    "cost_saturating": Truth("coupled", "cost_saturating", "saturates with cost"),
    "latency_times_cost": Truth("coupled", "latency_times_cost", "powers of latency and of cost"),
    "latency_plus_cost": Truth("coupled", "latency_plus_cost", "a sum of latency and cost"),
    "latency_or_cost": Truth("coupled", "latency_or_cost", "the larger of latency and cost"),
    "all_metrics": Truth("coupled", "all_metrics", "latency, cost and, falling, accuracy"),
    "heavy_tails": Truth("coupled", "any", "monotone; noise with heavy tails", tails="heavy"),
    "uneven_noise": Truth("coupled", "any", "monotone; noise differs between configurations", uneven=True),
    "drift": Truth("coupled", "any", "monotone; power drifts by 10 % through the study", drift=0.1),
    "drift_same_order": Truth(
        "coupled", "any", "monotone; drift of 10 %, blocks in one order", drift=0.1, same_order=True
    ),
    "warming": Truth("coupled", "any", "monotone; power rises by 40 % in each block", warming=0.4),
    "warming_same_order": Truth(
        "coupled", "any", "monotone; 40 % in each block, blocks in one order", warming=0.4, same_order=True
    ),
    "narrow_coupled": Truth("coupled", "any", "monotone; latency and cost span 1.2", narrow=True),
    "component_02": Truth("coupled", "any", "monotone, and 2 % of its own", component=0.02),
    "noise": Truth("noise", "constant", "equal everywhere"),
    "noise_heavy_tails": Truth("noise", "constant", "equal everywhere; noise with heavy tails", tails="heavy"),
    "less_with_latency": Truth("opposed", "less_with_latency", "falls with p99 latency"),
    "more_with_accuracy": Truth("opposed", "more_with_accuracy", "latency, cost and, rising, accuracy"),
    "component_05": Truth("borderline", "any", "monotone, and 5 % of its own", component=0.05),
    "component_10": Truth("decoupled", "any", "monotone, and 10 % of its own", component=0.1),
    "component_20": Truth("decoupled", "any", "monotone, and 20 % of its own", component=0.2),
    "knob_10": Truth(
        "decoupled", "any", "monotone, and 10 % by a knob of no effect else", component=0.1, carrier="knob"
    ),
    "knob_20": Truth(
        "decoupled", "any", "monotone, and 20 % by a knob of no effect else", component=0.2, carrier="knob"
    ),
    "narrow_10": Truth(
        "decoupled", "any", "monotone, and 10 % of its own; latency and cost span 1.2", component=0.1, narrow=True
    ),
    "unrelated": Truth("decoupled", "constant", "drawn for each configuration (60 %)", component=0.6),
}
"""The truths that are simulated, by name. ``text`` completes "energy is ..." or "energy ..."."""


def true_log_energy(truth: Truth, grid: Grid, rng: np.random.Generator) -> Floats:
    """Natural logarithm of the true energy per request of every configuration (J), shape (n,)."""
    told = LAWS[truth.law](grid, rng)
    level = np.log(rng.uniform(0.5, 20.0))
    if truth.component == 0:
        return np.asarray(level + told, dtype=float)
    if truth.carrier == "white":
        own = rng.normal(size=len(told))
    else:
        own = np.array([1.0 if c.platform.precision == "fp16" else -1.0 for c in grid.configurations])
    return np.asarray(level + told + truth.component * own, dtype=float)
