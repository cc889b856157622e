"""Exact multiple-choice knapsack: one item of each class, the most value, weights within a budget; and all ties.

maximise sum_k v_k(i_k)  subject to  sum_k w_k(i_k) <= budget

Dynamic programming over the classes keeps the Pareto-optimal pairs (weight, value) of partial choices, and drops those
that can't lead to the best any more: beyond the budget, or below a known solution even with the linear relaxation of
the classes to come (Sinha and Zoltners 1979; Pisinger 1995). Weights are whole numbers held in float64, so their sums
are exact; values are compared with a tolerance. The best choices are then read off by walking the classes forward
against the exact completions, which yields every tie and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ipa_energy.ipa.ticks import Floats, Ints

RELATIVE_TOLERANCE = 1e-11
"""Values closer than this share of the largest are equal: above the rounding of some tens of sums, below any figure."""

_LARGEST_FRONT = 4_000_000
"""Partial choices kept at once; more than this doesn't fit a laptop's memory comfortably."""

_BLOCK = 2_000_000


@dataclass(frozen=True, slots=True)
class Items:
    """Items of one class: whole-number weights and values, both of shape (items,)."""

    weight: Floats
    value: Floats


@dataclass(frozen=True, slots=True)
class _Front:
    """Undominated (weight, value) pairs of partial choices, ascending in both."""

    weight: Floats
    value: Floats

    def best(self, budget: Floats) -> Floats:
        """Most value within each budget, -inf where nothing fits."""
        place = np.searchsorted(self.weight, budget, side="right")
        return np.asarray(np.concatenate([[-np.inf], self.value])[place], dtype=float)


class FrontTooLargeError(RuntimeError):
    """Too many partial choices are undominated to go on."""


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Linear relaxation of a set of classes: most value by budget, concave and piecewise linear from ``weight[0]``."""

    weight: Floats
    value: Floats

    def best(self, budget: Floats) -> Floats:
        """Upper bound of the value within each budget, -inf where not even the lightest items fit."""
        bound = np.interp(budget, self.weight, self.value)
        return np.asarray(np.where(budget < self.weight[0], -np.inf, bound), dtype=float)


@dataclass(frozen=True, slots=True)
class Best:
    """The largest value, its tolerance, and the choices that reach it: shape (ties, classes), indices into the items.

    ``truncated`` says that there are more ties than were asked for.
    """

    value: float
    tolerance: float
    choices: Ints
    truncated: bool


def solve(classes: Sequence[Items], budget: float, max_ties: int = 1, at_least: float = -np.inf) -> Best | None:
    """The best choices within the budget, up to ``max_ties`` of them; None when nothing fits.

    ``at_least`` is the value of a known choice, which speeds the search. Raises FrontTooLargeError when undominated
    partial choices outgrow memory, which takes weights and values that are nearly proportional over many classes.
    """
    if any(len(items.weight) == 0 for items in classes):
        return None
    fronts = [_undominated(items.weight, items.value) for items in classes]
    if sum(float(front.weight[0]) for front in fronts) > budget:
        return None
    tolerance = RELATIVE_TOLERANCE * max(sum(float(np.abs(items.value).max()) for items in classes), 1e-300)
    relaxed = _prefix_relaxations(fronts)
    floor = max(at_least, _rounded_down(fronts, budget)) - tolerance
    completions = _completions(fronts, relaxed, budget, floor)
    value = float(completions[0].value[-1])
    choices, truncated = _walk(classes, completions, budget, value - tolerance, max_ties)
    return Best(value, tolerance, choices, truncated)


def _undominated(weight: Floats, value: Floats) -> _Front:
    order = np.lexsort((-value, weight))
    weight, value = weight[order], value[order]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(value)[:-1]])
    keep = value > before
    return _Front(weight[keep], value[keep])


def _hull(front: _Front) -> tuple[Floats, Floats]:
    """Steps of weight and of value along the upper concave hull of a front."""
    weight, value = front.weight.tolist(), front.value.tolist()
    hull: list[int] = []
    for i in range(len(weight)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (value[b] - value[a]) * (weight[i] - weight[b]) > (value[i] - value[b]) * (weight[b] - weight[a]):
                break
            hull.pop()
        hull.append(i)
    return np.diff(front.weight[hull]), np.diff(front.value[hull])


def _steps(fronts: Sequence[_Front]) -> tuple[Floats, Floats, Ints]:
    """Hull steps of all classes by falling slope: weight, value, and the class of each."""
    steps = [_hull(front) for front in fronts]
    weight = np.concatenate([w for w, _ in steps])
    value = np.concatenate([v for _, v in steps])
    owner = np.repeat(np.arange(len(steps)), [len(w) for w, _ in steps])
    order = np.argsort(-value / weight, kind="stable")
    return weight[order], value[order], owner[order]


def _prefix_relaxations(fronts: Sequence[_Front]) -> list[Relaxation]:
    """Entry k: the relaxation of classes 0 .. k-1."""
    weight, value, owner = _steps(fronts)
    relaxed = [Relaxation(np.zeros(1), np.zeros(1))]
    base_weight, base_value = 0.0, 0.0
    for k, front in enumerate(fronts):
        base_weight, base_value = base_weight + float(front.weight[0]), base_value + float(front.value[0])
        mine = owner <= k
        relaxed.append(
            Relaxation(
                base_weight + np.concatenate([[0.0], np.cumsum(weight[mine])]),
                base_value + np.concatenate([[0.0], np.cumsum(value[mine])]),
            )
        )
    return relaxed


def _rounded_down(fronts: Sequence[_Front], budget: float) -> float:
    """Value of a choice that fits: hull steps by falling slope while they fit, then the best change of one class."""
    weight, value, owner = _steps(fronts)
    used = sum(float(front.weight[0]) for front in fronts)
    have = [(float(front.weight[0]), float(front.value[0])) for front in fronts]
    fits = used + np.cumsum(weight) <= budget
    for w, v, k in zip(weight[fits].tolist(), value[fits].tolist(), owner[fits].tolist(), strict=True):
        have[k] = (have[k][0] + w, have[k][1] + v)
    used += float(weight[fits].sum())
    total = sum(v for _, v in have)
    for k, front in enumerate(fronts):
        best = float(front.best(np.array([budget - used + have[k][0]]))[0])
        if best > have[k][1]:
            used += float(front.weight[np.searchsorted(front.value, best)]) - have[k][0]
            total += best - have[k][1]
    return total


def _completions(fronts: Sequence[_Front], relaxed: Sequence[Relaxation], budget: float, floor: float) -> list[_Front]:
    """Entry k: undominated choices from the classes k .. end that can be part of one worth ``floor``.

    ``relaxed[k]`` bounds what the classes before k add. The last entry is the choice from no class.
    """
    found = [_Front(np.zeros(1), np.zeros(1))]
    for k in range(len(fronts) - 1, -1, -1):
        after, front = found[-1], fronts[k]
        merged = _Front(np.zeros(0), np.zeros(0))
        step = max(1, _BLOCK // len(front.weight))
        for start in range(0, len(after.weight), step):
            weight = (after.weight[start : start + step, None] + front.weight).ravel()
            value = (after.value[start : start + step, None] + front.value).ravel()
            keep = value + relaxed[k].best(budget - weight) >= floor
            merged = _undominated(
                np.concatenate([merged.weight, weight[keep]]), np.concatenate([merged.value, value[keep]])
            )
            if len(merged.weight) > _LARGEST_FRONT:
                raise FrontTooLargeError(
                    f"more than {_LARGEST_FRONT} partial choices are undominated after {len(fronts) - k} of "
                    f"{len(fronts)} stages, as when latencies and values are nearly proportional: use fewer options"
                )
        found.append(merged)
    return found[::-1]


def _walk(
    classes: Sequence[Items], completions: Sequence[_Front], budget: float, floor: float, most: int
) -> tuple[Ints, bool]:
    """Choices worth at least ``floor``, up to ``most``: only what an exact completion still saves is extended."""
    chosen = np.zeros((1, 0), dtype=np.int64)
    weight, value, truncated = np.zeros(1), np.zeros(1), False
    for k, items in enumerate(classes):
        new_weight = weight[:, None] + items.weight
        new_value = value[:, None] + items.value
        row, item = np.nonzero(new_value + completions[k + 1].best(budget - new_weight) >= floor)
        truncated |= len(row) > most
        row, item = row[:most], item[:most]
        weight, value = new_weight[row, item], new_value[row, item]
        chosen = np.column_stack([chosen[row], item])
    return chosen, truncated
