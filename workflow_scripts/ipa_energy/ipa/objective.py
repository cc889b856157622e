"""IPA's objective with energy as a fourth term, and scales that make its weights comparable.

maximise  alpha A / A0 - beta C / C0 - gamma B / B0 - delta E / E0

A is the accuracy of the pipeline (PAS, the product of fractions, or the sum of rank-normalised accuracies), C the cost
of all replicas, B the sum of batch sizes, E the energy per request in J. The scales A0, C0, B0, E0 are 1 in the paper.
With these raw weights a product that ranges over 0.22 at alpha = 2 can never pay for one core at beta = 1, as in
IPA's video pipeline; :func:`normalising_scales` divides each term by its range over the options instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ipa_energy.ipa.options import Options, StageOptions, energy_is_known, sufficient
from ipa_energy.ipa.ticks import PER_UNIT, Floats

AccuracyKind = Literal["pas", "rank_sum"]


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of accuracy, cost, batch size and energy; the paper's delta (batch) is gamma here, delta is energy's."""

    alpha: float
    beta: float
    gamma: float = 0.0
    delta: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"weight {field.name} is {value}: give a number, 0 or more")


@dataclass(frozen=True, slots=True)
class Scales:
    """What each term of the objective is divided by, in the term's unit."""

    accuracy: float = 1.0
    cost: float = 1.0
    batch: float = 1.0
    energy: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"scale of {field.name} is {value}: give a number above 0")


@dataclass(frozen=True, slots=True)
class Objective:
    """Weights, the accuracy they go with, and scales."""

    weights: Weights
    accuracy: AccuracyKind = "pas"
    scales: Scales = Scales()

    def __post_init__(self) -> None:
        if self.accuracy not in ("pas", "rank_sum"):
            raise ValueError(f"accuracy of the objective is {self.accuracy!r}: choose pas or rank_sum")

    @property
    def per_accuracy(self) -> float:
        """Value of one unit of accuracy."""
        return self.weights.alpha / self.scales.accuracy

    def penalty(self, cost: Floats, batch: Floats, energy_j: Floats) -> Floats:
        """What cost, sum of batch sizes and energy take off the objective; arrays of one shape, NaN energy if delta."""
        total = self.weights.beta / self.scales.cost * cost + self.weights.gamma / self.scales.batch * batch
        if self.weights.delta > 0:
            total = total + self.weights.delta / self.scales.energy * energy_j
        return np.asarray(total, dtype=float)

    def values(self, accuracy: Floats, cost: Floats, batch: Floats, energy_j: Floats) -> Floats:
        """The objective of configurations; ``accuracy`` is of the kind that :attr:`accuracy` names."""
        return np.asarray(self.per_accuracy * accuracy - self.penalty(cost, batch, energy_j), dtype=float)


def require_energy(options: Options, objective: Objective) -> None:
    """Raise ValueError, naming the first option without energy, when the objective weighs energy."""
    if objective.weights.delta == 0 or energy_is_known(options):
        return
    stage = next(stage for stage in options.stages if np.isnan(stage.energy).any())
    i = int(np.argmax(np.isnan(stage.energy)))
    raise ValueError(
        f"weight delta is {objective.weights.delta:g} but the energy per request of {stage.stage}/"
        f"{stage.variants[stage.variant[i]]}, batch {stage.batch[i]}, is not known (no energy_j in the profile, or a "
        f"rate of 0): set delta to 0, or give energy_j"
    )


def normalising_scales(options: Options, accuracy: AccuracyKind = "pas") -> Scales:
    """Range of each term over the options that sustain the rate, each with its fewest replicas, whatever the SLA.

    More replicas than needed are left out, since their limit would set the range of cost. A term that doesn't vary, or
    isn't known, has the scale 1.
    """
    leanest = [s.where(first_of_each(s, s.replicas.astype(float))) for s in sufficient(options).stages]
    if any(len(stage) == 0 for stage in leanest):
        return Scales()

    def total(of: Callable[[StageOptions], Floats], unit: float) -> float:
        return float(sum(np.ptp(of(stage)) for stage in leanest)) / unit

    if accuracy == "pas":
        best = math.prod(float(stage.accuracy.max()) for stage in leanest)
        spread = best - math.prod(float(stage.accuracy.min()) for stage in leanest)
    else:
        spread = total(lambda stage: stage.rank, 1.0)
    energy = total(lambda stage: stage.energy, PER_UNIT)
    return Scales(
        accuracy=_or_one(spread),
        cost=_or_one(total(lambda stage: stage.cost, PER_UNIT)),
        batch=_or_one(total(lambda stage: stage.batch.astype(float), 1.0)),
        energy=_or_one(energy),
    )


def first_of_each(stage: StageOptions, by: Floats) -> NDArray[np.bool_]:
    """Marks, of each (variant, cores, GPU share, batch), the option with the least ``by``: one number of replicas."""
    order = np.lexsort((by, stage.batch, stage.gpu_share, stage.cores, stage.variant))
    first = np.ones(len(order), dtype=bool)
    first[1:] = False
    for key in (stage.variant, stage.cores, stage.gpu_share, stage.batch):
        first[1:] |= key[order[1:]] != key[order[:-1]]
    mask = np.zeros(len(order), dtype=bool)
    mask[order[first]] = True
    return mask


def _or_one(spread: float) -> float:
    return spread if math.isfinite(spread) and spread > 0 else 1.0
