"""The exact optimum of IPA's objective, with all its ties, without enumerating the space.

Every term of the objective but a product of accuracies is a sum over stages, and the stages meet only in the latency
sum: with rank-normalised accuracy that is a multiple-choice knapsack (:mod:`.knapsack`), with latency as weight and
the SLA as budget. The product becomes a sum too. With x the sum of log accuracies and P the penalty, the objective is
f(x, P) = a exp(x) - P. It is convex, so it lies above its tangent at an optimum y and nowhere above f(y): y maximises
the linear function m x - P with m = a exp(x_y) over all feasible configurations. The optimum is therefore among the
solutions of knapsacks with some slope m between a times the least and a times the largest product. Two solved slopes
bound all solutions between them by a triangle, over which the convex f is largest at a corner; the search divides only
those triangles whose free corner could still beat, or tie with, the best so far. What is left out is proven worse.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ipa_energy.configuration import StageKnobs
from ipa_energy.ipa import knapsack
from ipa_energy.ipa.explain import Binding, binding_constraint
from ipa_energy.ipa.objective import Objective, first_of_each, require_energy
from ipa_energy.ipa.options import Input, Options, StageOptions, sufficient
from ipa_energy.ipa.ticks import Floats, Ints, from_ticks
from ipa_energy.ipa.totals import knobs, sla_ticks, totals

MAX_TIES = 1000


@dataclass(frozen=True, slots=True)
class Choice:
    """A configuration and its figures. ``energy_j_per_request`` is None where the profile has none.

    ``latency_s`` is ``service_s`` + ``queue_s``, which the SLA bounds; ``option`` is its option of each stage.
    """

    option: tuple[int, ...]
    stages: tuple[StageKnobs, ...]
    objective: float
    accuracy_pas: float
    accuracy_rank_sum: float
    cost: float
    batch_sum: int
    service_s: float
    queue_s: float
    latency_s: float
    throughput_rps: float
    energy_j_per_request: float | None


@dataclass(frozen=True, slots=True)
class Solution:
    """The optimum for an input: ``best`` and all configurations of the same objective, ``best`` first.

    Equal objectives are ordered by less latency, then less energy, then the order of the options, so that the answer
    is the same in every run. ``truncated`` says that there are more ties than listed; the order then holds among those
    listed. Without any feasible configuration ``best`` is None, ``ties`` is empty and ``binding`` says why.
    """

    given: Input
    best: Choice | None
    ties: tuple[Choice, ...]
    truncated: bool
    binding: Binding | None


def solve(options: Options, objective: Objective, max_ties: int = MAX_TIES) -> Solution:
    """The best feasible configuration of ``options`` for their input, and its ties.

    Raises ValueError when the objective weighs energy that some option doesn't have, and
    :class:`.knapsack.FrontTooLargeError`.
    """
    require_energy(options, objective)
    binding = binding_constraint(options)
    if binding is not None:
        return Solution(options.given, None, (), False, binding)
    kept = [np.flatnonzero(stage.sufficient) for stage in options.stages]
    stages = sufficient(options).stages
    penalty = [_penalty(stage, objective) for stage in stages]
    search = _Search(stages, penalty, sla_ticks(options.given))
    if objective.accuracy == "rank_sum":
        found = search.knapsack([stage.rank for stage in stages], objective.per_accuracy, max_ties)
        choices, truncated = found.choices, found.truncated
    else:
        choices, truncated = _best_products(search, stages, objective.per_accuracy, max_ties)
    chosen = [kept[k][choices[:, k]] for k in range(len(stages))]
    return Solution(options.given, *_ordered(options, chosen, objective), truncated, None)


def _penalty(stage: StageOptions, objective: Objective) -> Floats:
    return objective.penalty(from_ticks(stage.cost), stage.batch.astype(float), from_ticks(stage.energy))


@dataclass(frozen=True, slots=True)
class _Search:
    """Knapsacks over the same options: latency within the SLA, value slope times an accuracy less the penalty."""

    stages: Sequence[StageOptions]
    penalty: Sequence[Floats]
    budget: float

    def knapsack(
        self, accuracy: Sequence[Floats], slope: float, max_ties: int, at_least: float = -np.inf
    ) -> knapsack.Best:
        classes = [
            knapsack.Items(stage.latency, slope * a - p)
            for stage, a, p in zip(self.stages, accuracy, self.penalty, strict=True)
        ]
        found = knapsack.solve(classes, self.budget, max_ties, at_least)
        assert found is not None  # the caller has seen that something fits
        return found


@dataclass(frozen=True, slots=True)
class _Corner:
    """Solution of the knapsack with ``slope``: its log accuracy and penalty, and the value that none exceeds."""

    slope: float
    value: float
    log_accuracy: float
    penalty: float


def _best_products(
    search: _Search, stages: Sequence[StageOptions], per_accuracy: float, max_ties: int
) -> tuple[Ints, bool]:
    """All choices that maximise per_accuracy x product - penalty, as indices into the stages' options."""
    logs = [np.log(stage.accuracy) for stage in stages]
    # Corners need one number of replicas of each kind, the cheapest; ties need them all.
    lean = [first_of_each(stage, p) for stage, p in zip(stages, search.penalty, strict=True)]
    lean_logs = [log[mask] for log, mask in zip(logs, lean, strict=True)]
    lean_search = _Search(
        [stage.where(mask) for stage, mask in zip(stages, lean, strict=True)],
        [p[mask] for p, mask in zip(search.penalty, lean, strict=True)],
        search.budget,
    )

    def value_of(log_accuracy: float, penalty: float) -> float:
        return per_accuracy * math.exp(log_accuracy) - penalty

    def corner(slope: float, known: Sequence[_Corner]) -> _Corner:
        at_least = max((slope * c.log_accuracy - c.penalty for c in known), default=-math.inf)
        (choice,) = lean_search.knapsack(lean_logs, slope, 1, at_least).choices
        x = sum(float(log[i]) for log, i in zip(lean_logs, choice, strict=True))
        p = sum(float(penalty[i]) for penalty, i in zip(lean_search.penalty, choice, strict=True))
        return _Corner(slope, slope * x - p, x, p)

    def could_win(low: _Corner, high: _Corner) -> bool:
        """Whether a point between two corners, in the triangle of their bounds, may be worth ``best``."""
        # At an optimum the tangent's slope, per_accuracy exp(x), lies between theirs.
        left = max(low.log_accuracy, math.log(low.slope / per_accuracy))
        right = min(high.log_accuracy, math.log(high.slope / per_accuracy))
        if left > right:
            return False
        # f is convex along both bounds, so it is largest at a known corner or where they meet, or next to that.
        x = min(max((high.value - low.value) / (high.slope - low.slope), left), right)
        return value_of(x, max(low.slope * x - low.value, high.slope * x - high.value)) >= best - tolerance

    ends = sorted({per_accuracy * math.exp(sum(float(extreme(log)) for log in logs)) for extreme in (np.min, np.max)})
    corners: list[_Corner] = []
    for slope in ends:
        corners.append(corner(slope, corners))
    best = max(value_of(c.log_accuracy, c.penalty) for c in corners)
    size = per_accuracy * (1 + sum(float(np.abs(log).max()) for log in logs))
    tolerance = knapsack.RELATIVE_TOLERANCE * (size + sum(float(np.abs(p).max()) for p in search.penalty))
    open_pairs = list(itertools.pairwise(corners))
    while open_pairs:
        low, high = open_pairs.pop()
        if high.log_accuracy - low.log_accuracy <= 1e-13 or high.slope <= low.slope or not could_win(low, high):
            continue
        between = (high.penalty - low.penalty) / (high.log_accuracy - low.log_accuracy)
        new = corner(between, corners)
        if new.value <= between * low.log_accuracy - low.penalty + tolerance:
            continue  # nothing lies beyond the line through both, and on it f is largest at its ends
        corners.append(new)
        best = max(best, value_of(new.log_accuracy, new.penalty))
        open_pairs += [(low, new), (new, high)]
    return _ties(search, logs, corners, best, tolerance, per_accuracy, max_ties)


def _ties(
    search: _Search,
    logs: Sequence[Floats],
    corners: Sequence[_Corner],
    best: float,
    tolerance: float,
    per_accuracy: float,
    max_ties: int,
) -> tuple[Ints, bool]:
    """Choices worth ``best``: those of the knapsack at each optimal corner's tangent."""
    found, truncated = [], False
    slopes = {
        per_accuracy * math.exp(c.log_accuracy): None
        for c in corners
        if per_accuracy * math.exp(c.log_accuracy) - c.penalty >= best - tolerance
    }
    for slope in slopes:
        at_tangent = search.knapsack(logs, slope, max_ties)
        truncated |= at_tangent.truncated
        found.append(at_tangent.choices)
    choices = np.unique(np.concatenate(found), axis=0)
    x = sum(log[choices[:, k]] for k, log in enumerate(logs))
    p = sum(penalty[choices[:, k]] for k, penalty in enumerate(search.penalty))
    choices = choices[per_accuracy * np.exp(x) - p >= best - 2 * tolerance]
    return choices[:max_ties], truncated or len(choices) > max_ties


def _ordered(options: Options, chosen: Sequence[Ints], objective: Objective) -> tuple[Choice, tuple[Choice, ...]]:
    """Choices with their figures, least latency first, then least energy, then the options' order; and the first."""
    figures = totals(options, chosen)
    values = figures.objective(objective)
    order = np.lexsort((*chosen[::-1], figures.energy_j, figures.latency))
    ties = tuple(
        Choice(
            option=tuple(int(i[row]) for i in chosen),
            stages=knobs(options, [int(i[row]) for i in chosen]),
            objective=float(values[row]),
            accuracy_pas=float(figures.accuracy_pas[row]),
            accuracy_rank_sum=float(figures.accuracy_rank_sum[row]),
            cost=float(figures.cost[row]),
            batch_sum=int(figures.batch_sum[row]),
            service_s=float(figures.service_s[row]),
            queue_s=float(figures.queue_s[row]),
            latency_s=float(from_ticks(figures.latency[row])),
            throughput_rps=float(from_ticks(figures.throughput[row])),
            energy_j_per_request=None if math.isnan(figures.energy_j[row]) else float(figures.energy_j[row]),
        )
        for row in order
    )
    return ties[0], ties
