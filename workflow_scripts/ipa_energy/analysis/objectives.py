"""Which of accuracy, latency, cost and energy are needed: the error of leaving objectives out, for each set of them.

A panel goes in; out comes one row per set of objectives kept. Its delta is the error of Brockhoff and Zitzler ("Are all
objectives necessary?", PPSN 2006; "Objective reduction in evolutionary multiobjective optimization", Evolutionary
Computation 17(2), 2009): of all pairs of configurations of which one is at least as good as the other in all objectives
kept, the largest amount by which it is worse in one left out, in units of that objective's range. A delta of 0 says
that the objectives left out never contradict those kept. So energy meets the same test as the other three.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.membership import Flags, Floats, Space, on_front, space_of
from ipa_energy.analysis.panel import RAW, Panel
from ipa_energy.analysis.tradeoff import NO_REPETITIONS

_NUMBERS = ("delta", "delta_lo", "delta_ratio", "delta_ratio_lo")
COLUMNS = (*CELL, "energy", "evidence", "n_configurations", "kept", "left_out", *_NUMBERS, "reason")
SUFFICIENT_COLUMNS = (*CELL, "energy", "evidence", "basis", "size", "kept", "left_out", "reason")
_WHOLE = ("n_configurations", "size")

BASES = {"means": "delta", "lower_bound": "delta_lo"}
"""By which delta a set is called sufficient, and its column."""

_PAIRS = 1 << 18


def objective_table(panel: Panel, *, confidence: float) -> pd.DataFrame:
    """The errors of leaving out objectives: the columns of :data:`COLUMNS`, one row per set kept, all four included.

    ``kept`` and ``left_out`` join names by '+'. ``delta`` is that of the means, on the panel's scale (logarithms but
    for accuracy), as a fraction of the range over the cell; ``delta_lo`` its lower bound, from pairs in which both the
    dominance and the amount are certain. With a single objective left out, ``delta_ratio`` says by what ratio it is
    worse (1.5: half as much again), for accuracy by what amount. All sets have their bounds together with
    ``confidence``, for the range as it is seen; without repetitions these are null. An objective without figures is
    left aside, and ``reason`` says so.
    """
    space = space_of(panel)
    n, d = space.points.shape
    head = panel.key | {"evidence": panel.evidence, "n_configurations": n}
    reasons = _reasons(panel, space)
    if n == 0:
        return _typed([head | {"reason": "; ".join(reasons)}], COLUMNS)
    span = space.points.max(axis=0) - space.points.min(axis=0)
    critical = _critical(space, confidence)
    rows = []
    for size in range(1, d + 1):
        for kept in combinations(range(d), size):
            out = [k for k in range(d) if k not in kept]
            row: dict[str, Any] = {"kept": _joined(space, kept), "left_out": _joined(space, out) or None}
            for suffix, bound in (("", 0.0), ("_lo", critical)):
                if bound is None:
                    continue
                worst = {k: _worst(space, kept, k, bound) for k in out}
                row[f"delta{suffix}"] = max((w / span[k] for k, w in worst.items() if span[k] > 0), default=0.0)
                if len(out) == 1:
                    amount = worst[out[0]]
                    raw = space.names[out[0]] in RAW
                    row[f"delta_ratio{suffix}"] = amount if raw else float(np.exp(amount))
            rows.append(head | row | {"reason": "; ".join(reasons) or None})
    return _typed(rows, COLUMNS)


def _reasons(panel: Panel, space: Space) -> list[str]:
    if len(space.points) == 0:
        return [f"no usable record has both a {panel.energy} energy above 0 and figures for all metrics"]
    missing = [name for name in ("accuracy", "latency", "cost", "energy") if name not in space.names]
    found = [f"no figures for {' and '.join(missing)}"] if missing else []
    if len(space.points) == 1:
        return [*found, "1 configuration, so nothing can be contradicted"]
    return [*found, NO_REPETITIONS] if space.degrees == 0 else found


def _joined(space: Space, which: Iterable[int]) -> str:
    return "+".join(space.names[k] for k in which)


def _critical(space: Space, confidence: float) -> float | None:
    """How many standard errors no difference of two means is off, in any noisy objective, with ``confidence``."""
    n, noisy = len(space.points), int((space.deviation > 0).sum())
    if space.degrees == 0:
        return None
    return float(stats.t.isf((1 - confidence) / max(1, n * (n - 1) * noisy), space.degrees))


def _worst(space: Space, kept: tuple[int, ...], out: int, critical: float) -> float:
    """By how much a configuration that is certainly as good as another in all ``kept`` is certainly worse in ``out``.

    Certain is what differs by ``critical`` standard errors, by Bonferroni for all pairs and objectives at once; what
    has no noise counts as it is. 0 where no pair is certain, and with ``critical`` = 0 the figure of the means. Of the
    first of a pair, only what is small in ``kept`` and large in ``out`` can give the largest difference, and of the
    second the reverse: two fronts, whose pairs are compared in order of the largest difference still possible.
    """
    best = 0.0
    columns = [*kept, out]
    turn = np.array([1.0] * len(kept) + [-1.0])
    for first, second, error in _pairs_of_repetitions(space):
        margin = critical * error
        a = space.points[first][:, columns]
        b = space.points[second][:, columns]
        a, b = a[on_front(a * turn)], b[on_front(-b * turn)]
        best = max(best, _largest(a[:, :-1] + margin[list(kept)], a[:, -1] - margin[out], b, best))
    return best


def _pairs_of_repetitions(space: Space) -> Iterator[tuple[Flags, Flags, Floats]]:
    """Pairs of groups with equal numbers of repetitions, and the standard errors of differences between them."""
    if space.degrees == 0:
        everyone = np.ones(len(space.points), dtype=bool)
        yield everyone, everyone, np.zeros(len(space.names))
        return
    for r in np.unique(space.repetitions):
        for s in np.unique(space.repetitions):
            error = space.deviation * np.sqrt(1 / r + 1 / s)
            yield space.repetitions == r, space.repetitions == s, error


def _largest(a_kept: Floats, a_out: Floats, b: Floats, least: float) -> float:
    """The largest ``a_out`` - ``b[:, -1]`` of pairs with no ``a_kept`` above ``b[:, :-1]``, if above ``least``."""
    down, up = np.argsort(-a_out, kind="stable"), np.argsort(b[:, -1], kind="stable")
    a_kept, a_out, b = a_kept[down], a_out[down], b[up]
    # Few of the most promising rows at a time: they raise ``least``, which cuts off the rest.
    step = max(1, min(64, _PAIRS // max(1, len(b))))
    for start in range(0, len(a_out), step):
        mine = a_out[start : start + step]
        some = b[: np.searchsorted(b[:, -1], mine[0] - least, side="left")]
        if len(some) == 0:
            break
        good = np.ones((len(mine), len(some)), dtype=bool)
        for k in range(a_kept.shape[1]):
            good &= a_kept[start : start + step, k][:, None] <= some[:, k]
        difference = mine[:, None] - some[:, -1]
        least = max(least, float(difference.max(where=good, initial=least)))
    return least


def smallest_sufficient(table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The smallest sets of objectives whose delta is at most ``threshold``: the columns of :data:`SUFFICIENT_COLUMNS`.

    ``table`` is that of one or more panels (:func:`objective_table`). A row is a set of the least ``size``; all of that
    size are there, once for each ``basis``: ``means`` are sets that the means call sufficient; ``lower_bound`` those
    that noise does not allow to rule out. Without repetitions, that row has no set, but a reason. Raises ValueError for
    a threshold outside 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"the threshold of delta is {threshold}: give a fraction of the range, from 0 to 1")
    rows: list[dict[str, Any]] = []
    by = [*CELL, "energy"]
    for key, group in table.groupby(by, sort=False, dropna=False):
        head = dict(zip(by, key, strict=True)) | {"evidence": group["evidence"].iloc[0]}
        for basis, column in BASES.items():
            enough = group[group[column] <= threshold]
            if enough.empty:
                rows.append(head | {"basis": basis, "reason": group["reason"].iloc[0]})
                continue
            size = enough["kept"].str.count(r"\+") + 1
            rows += [
                head | {"basis": basis, "size": int(size.min()), "kept": row.kept, "left_out": row.left_out}
                for row in enough[size == size.min()].itertuples()
            ]
    return _typed(rows, SUFFICIENT_COLUMNS)


def _typed(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    kinds = dict.fromkeys(_NUMBERS, "float64") | dict.fromkeys(_WHOLE, "Int64")
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.astype({name: kinds.get(name, "str") for name in columns})
