"""Exact Pareto fronts: of any points, and of a pipeline's space over accuracy, cost, latency and energy.

A point is on the front when no other is at least as good in every objective and better in one; equal points are all on
it. Points go through the divide and conquer of Kung, Luccio and Preparata (1975), n log^(d-2) n comparisons, in numpy.
The space is not enumerated: stage by stage, what is dominated is dropped, since all objectives grow in the same
direction with whatever is added, and only what meets rate and SLA goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ipa_energy.ipa.objective import Objective
from ipa_energy.ipa.options import Options, StageOptions, energy_is_known, sufficient
from ipa_energy.ipa.ticks import Floats, Ints
from ipa_energy.ipa.totals import sla_ticks, table

Metric: TypeAlias = Literal["accuracy_pas", "accuracy_rank_sum", "cost", "latency_s", "energy_j_per_request"]
METRICS: tuple[Metric, ...] = ("accuracy_pas", "cost", "latency_s", "energy_j_per_request")
"""Objectives of the front; accuracy is to be large, the others small."""

_PAIRS = 1 << 18
"""Pairs compared at once below this: quicker than dividing further, and a few MB."""

_BLOCK = 1 << 21
_LARGEST_FRONT = 5_000_000
_DIGITS = 11
"""Accuracies that agree to this many digits are equal: products of the same factors in another order are."""


class FrontTooLargeError(RuntimeError):
    """More configurations are undominated than memory holds."""


def pareto_mask(points: ArrayLike) -> NDArray[np.bool_]:
    """Which of the points, shape (n, d), all objectives to be small, are on the front. Raises ValueError for NaN."""
    array = np.asarray(points, dtype=float)
    if array.ndim != 2:
        raise ValueError(f"points have the shape {array.shape}: give one row per point, one column per objective")
    if np.isnan(array).any():
        raise ValueError(f"point {int(np.argmax(np.isnan(array).any(axis=1)))} has a NaN: leave such points out")
    if len(array) == 0 or array.shape[1] == 0:
        return np.ones(len(array), dtype=bool)
    order = np.lexsort(array.T[::-1])
    ascending = array[order]
    new = np.ones(len(array), dtype=bool)
    new[1:] = np.any(ascending[1:] != ascending[:-1], axis=1)
    distinct = ascending[new]
    on_front = np.zeros(len(distinct), dtype=bool)
    on_front[_front(distinct, np.arange(len(distinct)))] = True
    mask = np.zeros(len(array), dtype=bool)
    mask[order] = on_front[np.cumsum(new) - 1]
    return mask


def _front(points: Floats, rows: Ints) -> Ints:
    """Front of ``rows`` of distinct points in lexicographic order: only an earlier one can dominate a later one."""
    if len(rows) ** 2 <= _PAIRS:
        return rows[~_dominated_by_earlier(points[rows][:, 1:])]
    half = len(rows) // 2
    first = _front(points, rows[:half])
    second = rows[half:]
    # Those left of the later half are compared with the first half's front, then among themselves.
    second = second[~_covered(points[first][:, 1:], points[second][:, 1:])]
    return np.concatenate([first, _front(points, second)])


def _dominated_by_earlier(rest: Floats) -> NDArray[np.bool_]:
    below = np.ones((len(rest), len(rest)), dtype=bool)
    for column in rest.T:
        below &= column[:, None] <= column
    return np.asarray(np.triu(below, 1).any(axis=0), dtype=bool)


def _covered(a: Floats, b: Floats) -> NDArray[np.bool_]:
    """Which rows of ``b`` have a row of ``a`` that is no larger in any column."""
    width = b.shape[1]
    if len(a) == 0 or len(b) == 0:
        return np.zeros(len(b), dtype=bool)
    if width == 0:
        return np.ones(len(b), dtype=bool)
    if width == 1:
        return np.asarray(b[:, 0] >= a[:, 0].min(), dtype=bool)
    if width == 2:
        order = np.argsort(a[:, 0], kind="stable")
        least = np.concatenate([[np.inf], np.minimum.accumulate(a[order, 1])])
        return np.asarray(b[:, 1] >= least[np.searchsorted(a[order, 0], b[:, 0], side="right")], dtype=bool)
    if len(a) * len(b) <= _PAIRS:
        below = np.ones((len(a), len(b)), dtype=bool)
        for mine, other in zip(a.T, b.T, strict=True):
            below &= mine[:, None] <= other
        return np.asarray(below.any(axis=0), dtype=bool)
    middle = np.median(np.concatenate([a[:, 0], b[:, 0]]))
    a_low, b_low = a[:, 0] <= middle, b[:, 0] <= middle
    covered = np.zeros(len(b), dtype=bool)
    if a_low.all() and b_low.all():  # many equal to the largest: that value by itself, and those below it
        a_low, b_low = a[:, 0] < middle, b[:, 0] < middle
        covered[~b_low] = _covered(a[:, 1:], b[~b_low][:, 1:])
        covered[b_low] = _covered(a[a_low], b[b_low])
        return covered
    covered[b_low] = _covered(a[a_low], b[b_low])
    high = np.flatnonzero(~b_low)
    high_covered = _covered(a[a_low][:, 1:], b[high][:, 1:])
    left = high[~high_covered]
    covered[high[high_covered]] = True
    covered[left] = _covered(a[~a_low], b[left])
    return covered


def metrics_of(options: Options) -> tuple[Metric, ...]:
    """All four objectives, or three where the energy of some option isn't known."""
    return METRICS if energy_is_known(options) else METRICS[:3]


def space_front(options: Options, objective: Objective, metrics: Sequence[Metric] = METRICS) -> pd.DataFrame:
    """The front of all feasible configurations of ``options``, with the columns of :func:`.totals.table`.

    ``objective`` only fills its column. Raises ValueError for energy that isn't known (see :func:`metrics_of`) and
    FrontTooLargeError when undominated partial configurations outgrow memory.
    """
    if "energy_j_per_request" in metrics and not energy_is_known(options):
        raise ValueError("the energy of some options isn't known: leave energy_j_per_request out of the metrics")
    kept = [np.flatnonzero(stage.sufficient) for stage in options.stages]
    stages = sufficient(options).stages
    if any(len(stage) == 0 for stage in stages):
        return table(options, [np.zeros(0, dtype=np.int64)] * len(stages), objective)
    least = [float(stage.latency.min()) for stage in stages]
    chosen: list[Ints] = []
    figures, latency = _figures_of_nothing(metrics), np.zeros(1)
    for k, stage in enumerate(stages):
        budget = sla_ticks(options.given) - sum(least[k + 1 :])
        mine = _figures(stage, metrics)
        own = np.flatnonzero(_worth_keeping(mine, stage.latency, metrics))
        row, option = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        step = max(1, _BLOCK // len(own))
        for start in range(0, len(latency), step):
            more = np.repeat(np.arange(start, min(start + step, len(latency))), len(own))
            with_option = np.tile(own, len(more) // len(own))
            fits = latency[more] + stage.latency[with_option] <= budget
            row, option = np.concatenate([row, more[fits]]), np.concatenate([option, with_option[fits]])
            together = latency[row] + stage.latency[option]
            mask = _worth_keeping(_joined(figures[row], mine[option], metrics), together, metrics)
            row, option = row[mask], option[mask]
            if len(row) > _LARGEST_FRONT:
                raise FrontTooLargeError(
                    f"more than {_LARGEST_FRONT} partial configurations are undominated after stage {stage.stage}: "
                    f"use fewer metrics, batch sizes or variants"
                )
        chosen = [old[row] for old in chosen] + [kept[k][option]]
        figures, latency = _joined(figures[row], mine[option], metrics), latency[row] + stage.latency[option]
    on_front = np.flatnonzero(pareto_mask(_to_minimise(figures, metrics)))
    order = on_front[np.lexsort(tuple(i[on_front] for i in chosen[::-1]))]
    return table(options, [i[order] for i in chosen], objective)


def _worth_keeping(figures: Floats, latency: Floats, metrics: Sequence[Metric]) -> NDArray[np.bool_]:
    """Which partial configurations no other beats in the metrics with no more latency, shape (n,).

    The SLA makes latency count even where it is no metric. There, a slower one of equal metrics is a tie in the end, so
    it stays: it gets a better last column, by order of the metrics and then of falling latency, and nothing is then at
    least as good in all columns. What beats it in the metrics comes earlier in that order too.
    """
    points = _to_minimise(figures, metrics)
    if "latency_s" in metrics:
        return pareto_mask(points)
    order = np.lexsort((-latency, *points.T[::-1]))
    both = np.column_stack([points, latency])
    place = np.zeros(len(order))
    place[order[1:]] = np.cumsum(np.any(both[order[1:]] != both[order[:-1]], axis=1))
    return pareto_mask(np.column_stack([both, place]))


def _figures(stage: StageOptions, metrics: Sequence[Metric]) -> Floats:
    """What each option adds to the metrics, shape (options, metrics)."""
    named = {
        "accuracy_pas": stage.accuracy,
        "accuracy_rank_sum": stage.rank,
        "cost": stage.cost,
        "latency_s": stage.latency,
        "energy_j_per_request": stage.energy,
    }
    return np.column_stack([named[metric] for metric in metrics])


def _figures_of_nothing(metrics: Sequence[Metric]) -> Floats:
    return np.array([[1.0 if metric == "accuracy_pas" else 0.0 for metric in metrics]])


def _joined(a: Floats, b: Floats, metrics: Sequence[Metric]) -> Floats:
    together = a + b
    for i, metric in enumerate(metrics):
        if metric == "accuracy_pas":
            together[:, i] = a[:, i] * b[:, i]
    return together


def _to_minimise(figures: Floats, metrics: Sequence[Metric]) -> Floats:
    """Figures with accuracies rounded to the digits that count, and turned around."""
    out = figures.copy()
    for i, metric in enumerate(metrics):
        if metric in ("accuracy_pas", "accuracy_rank_sum"):
            out[:, i] = -significant(out[:, i])
    return out


def significant(values: Floats) -> Floats:
    """Positive values to the digits that count for accuracies."""
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log10(values))
    scale = 10.0 ** (_DIGITS - 1 - np.where(np.isfinite(exponent), exponent, 0))
    return np.asarray(np.round(values * scale) / scale, dtype=float)
