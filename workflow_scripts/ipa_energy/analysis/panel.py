"""A panel: the repetitions of one cell and one kind of energy as an array, with drift and block effects taken out.

The measurements table goes in; out comes, for every cell (:mod:`.cells`) and for gross and net energy, a
:class:`Panel`, on which all evidence beyond pairs is built (:mod:`.joint`, :mod:`.tradeoff`, :mod:`.decision`). Metrics
are on the log scale, where equal distances are equal ratios, but for accuracy, which may be negative.

A study measures in randomised complete blocks. What a whole block has in common (another day, another temperature) and
a trend within the blocks are no property of configurations: both are fitted beside one constant per configuration and
subtracted. Where every block ran in the same order, a trend can't be told from configurations; the panel says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ipa_energy.analysis.aggregate import evidence_of
from ipa_energy.analysis.cells import CELL, in_cells
from ipa_energy.analysis.coupling import ENERGIES, METRICS
from ipa_energy.analysis.merging import mergings
from ipa_energy.analysis.tables import varying_knobs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ENERGY = "energy"
RAW = ("accuracy",)
"""Metrics that stay as they are; all others are natural logarithms."""

_ROUNDING = 1e-12
"""Deviations within configurations that are this small beside the metric are rounding: the metric is fixed."""

_LEAST_ORDER_VARIANCE = 1e-3
"""Variance of a configuration's place in the block, in units of the block's length, below which orders are the same."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A linear trend of a metric from begin to end of a block, in units of the panel, and its standard error."""

    metric: str
    slope: float
    standard_error: float
    degrees: int

    @property
    def p(self) -> float:
        """Of no trend, by Student's t."""
        return float(2 * stats.t.sf(abs(self.slope) / self.standard_error, self.degrees))


@dataclass(frozen=True, slots=True)
class Panel:
    """Repetitions of the configurations of one cell, for one kind of energy.

    ``names`` are the metrics: those of :data:`ipa_energy.analysis.coupling.METRICS` that have figures, then ``energy``
    (joules per request). ``values`` has the shape (n, r, k): configuration, repetition, metric; the repetitions of a
    configuration come first, the rest of its row is NaN. ``means``, shape (n, k), are over repetitions; ``within``,
    shape (k, k), is the covariance of a single repetition about the mean of its configuration, pooled over
    configurations, with ``degrees`` degrees of freedom (NaN and 0 without repetitions). ``left_out`` counts records
    that lack a figure that others have, or have one without a logarithm, as a net energy below zero. ``groups`` are
    groups of blocks without a configuration in common, whose levels can't be compared: 1 in a study of its own.
    """

    cell: tuple[str, ...]
    energy: str
    evidence: str | None
    configurations: tuple[str, ...]
    knobs: pd.DataFrame
    names: tuple[str, ...]
    values: Floats
    repetitions: Ints
    means: Floats
    within: Floats
    degrees: int
    trends: tuple[Trend, ...]
    same_order: bool
    left_out: int
    why_left_out: str | None = None
    groups: int = 1

    @property
    def key(self) -> dict[str, str]:
        """Cell and kind of energy, by the names of their columns."""
        return dict(zip([*CELL, "energy"], [*self.cell, self.energy], strict=True))

    def column(self, name: str) -> int:
        """Place of a metric on the last axis. Raises ValueError for one that the panel lacks."""
        return self.names.index(name)

    def mean_of(self, name: str) -> Floats:
        """Means of one metric over repetitions, shape (n,)."""
        return np.asarray(self.means[:, self.column(name)], dtype=float)


def panels(measurements: pd.DataFrame, drop_flags: list[str]) -> Iterator[Panel]:
    """The panels of all cells that have a usable record with energy, gross before net, in the order of the cells."""
    celled = in_cells(measurements, drop_flags)
    usable = celled[celled["usable"]]
    for cell, group in usable.groupby(CELL, sort=True):
        for energy, column in ENERGIES.items():
            if group[column].notna().any():
                yield panel_of(group, tuple(map(str, cell)), energy)


def merged_panels(measurements: pd.DataFrame, drop_flags: list[str]) -> Iterator[Panel]:
    """The panels of hosts that are merged as blocks (:mod:`.merging`), gross before net."""
    for merging in mergings(in_cells(measurements, drop_flags)):
        for energy in merging.energies:
            yield panel_of(merging.rows, merging.cell, energy)


def panel_of(rows: pd.DataFrame, cell: tuple[str, ...], energy: str) -> Panel:
    """The panel of the usable records of a cell, without records that lack one of the metrics that the cell has."""
    wanted = {m.name: m.column for m in METRICS} | {ENERGY: ENERGIES[energy]}
    figures = {name: rows[column].to_numpy(dtype=float, na_value=np.nan) for name, column in wanted.items()}
    usable = {
        name: np.isfinite(values) & ((values > 0) | (name in RAW))  # NaN compares as not above 0
        for name, values in figures.items()
    }
    names = tuple(name for name in wanted if usable[name].any() or name == ENERGY)
    good = np.all([usable[name] for name in names], axis=0)
    table = np.column_stack([figures[name][good] for name in names])
    logged = np.array([name not in RAW for name in names])
    table[:, logged] = np.log(table[:, logged])
    kept = pd.DataFrame(rows.loc[good.tolist()]).reset_index(drop=True)
    ids, index = np.unique(kept["configuration"].to_numpy(dtype=str), return_inverse=True)
    adjusted, blocks = _without_blocks(table, index, kept, names)
    values, repetitions = _stacked(adjusted, index, len(ids))
    means = _means(values)
    within, degrees = _within(values, means, repetitions, blocks.spent)
    first = kept.groupby(index, sort=True).head(1)
    knobs = first.set_index("configuration").loc[ids] if len(ids) else first.set_index("configuration")
    return Panel(
        cell=cell,
        energy=energy,
        evidence=evidence_of(kept["evidence"]),
        configurations=tuple(map(str, ids)),
        knobs=knobs[varying_knobs(knobs)].reset_index(drop=True),
        names=names,
        values=values,
        repetitions=repetitions,
        means=means,
        within=within,
        degrees=degrees,
        trends=blocks.trends,
        same_order=blocks.same_order,
        left_out=int((~good).sum()),
        why_left_out=_why({name: figures[name][~good] for name in names}, energy),
        groups=blocks.groups,
    )


def _why(lost: dict[str, Floats], energy: str) -> str | None:
    """What the records that are left out lack, in words; None without any."""
    told = []
    for name, values in lost.items():
        what = f"{energy} energy" if name == ENERGY else name
        absent = int((~np.isfinite(values)).sum())
        below = 0 if name in RAW else int((values <= 0).sum())
        told += [f"{absent} without a figure for {what}"] * bool(absent)
        told += [f"{below} with a {what} at or below zero, which has no ratio"] * bool(below)
    return ", ".join(told) or None


@dataclass(frozen=True, slots=True)
class _Blocks:
    """What was found of blocks: trends, equal orders, degrees of freedom spent, groups of blocks without a link."""

    trends: tuple[Trend, ...] = ()
    same_order: bool = False
    spent: int = 0
    groups: int = 1


def _without_blocks(table: Floats, index: Ints, rows: pd.DataFrame, names: tuple[str, ...]) -> tuple[Floats, _Blocks]:
    """``table`` without block effects and trend, and what was found of them."""
    block = pd.factorize(pd.MultiIndex.from_frame(rows[["experiment", "block"]]))[0]
    blocks = int(block.max()) + 1 if len(block) else 0
    if blocks < 2:
        return table, _Blocks()
    place = rows.groupby(block)["order"].rank().to_numpy(dtype=float)
    size = np.bincount(block)[block]
    place = (place - 0.5) / size - 0.5
    dummies = np.asarray(block[:, None] == np.arange(1, blocks), dtype=float)
    inside = _demeaned(np.column_stack([dummies, place]), index)
    same_order = bool(np.mean(inside[:, -1] ** 2) < _LEAST_ORDER_VARIANCE)
    design = inside[:, :-1] if same_order else inside
    response = _demeaned(table, index)
    beta, _, rank, _ = np.linalg.lstsq(design, response, rcond=None)
    effects = np.column_stack([dummies, place])[:, : design.shape[1]] @ beta
    # Only blocks that share configurations can be compared: levels of groups without a link stay as they are.
    group = _linked(index, block, blocks)
    adjusted = table - _demeaned(effects, group)
    fixed = np.max(np.abs(response), axis=0) <= _ROUNDING * np.max(np.abs(table), axis=0)
    adjusted[:, fixed] = table[:, fixed]
    response[:, fixed] = 0.0
    beta[:, fixed] = 0.0
    left = len(table) - int(index.max()) - 1 - int(rank)
    trends = _trends(design, response - design @ beta, beta, left, names) if left > 0 and not same_order else ()
    return adjusted, _Blocks(trends, same_order, int(rank), int(group.max()) + 1)


def _linked(index: Ints, block: Ints, blocks: int) -> Ints:
    """The group of each record: blocks belong together when configurations link them, directly or over others."""
    n = int(index.max()) + 1
    links = coo_array((np.ones(len(index)), (index, n + block)), shape=(n + blocks, n + blocks))
    _, label = connected_components(links, directed=False)
    return np.asarray(np.unique(label[index], return_inverse=True)[1], dtype=np.int64)


def _trends(
    design: Floats, residual: NDArray[Any], beta: NDArray[Any], degrees: int, names: tuple[str, ...]
) -> tuple[Trend, ...]:
    leverage = np.linalg.pinv(design.T @ design)[-1, -1]
    error = np.sqrt(np.sum(residual**2, axis=0) / degrees * leverage)
    return tuple(
        Trend(name, float(slope), float(se), degrees)
        for name, slope, se in zip(names, beta[-1], error, strict=True)
        if se > 0
    )


def _demeaned(table: Floats, index: Ints) -> Floats:
    counts = np.bincount(index)[:, None]
    sums = np.column_stack([np.bincount(index, weights=column) for column in table.T])
    return np.asarray(table - (sums / counts)[index], dtype=float)


def _stacked(table: Floats, index: Ints, n: int) -> tuple[Floats, Ints]:
    repetitions = np.bincount(index, minlength=n).astype(np.int64)
    values = np.full((n, int(repetitions.max()) if n else 0, table.shape[1]), np.nan)
    order = np.argsort(index, kind="stable")
    starts = np.cumsum(repetitions) - repetitions
    values[index[order], np.arange(len(order)) - starts[index[order]]] = table[order]
    return values, repetitions


def _means(values: Floats) -> Floats:
    if values.shape[1] == 0:
        return np.empty((values.shape[0], values.shape[2]))
    return np.asarray(np.nanmean(values, axis=1), dtype=float)


def _within(values: Floats, means: Floats, repetitions: Ints, spent: int) -> tuple[Floats, int]:
    k = values.shape[2]
    degrees = int(repetitions.sum()) - len(repetitions) - spent
    if degrees <= 0:
        return np.full((k, k), np.nan), 0
    deviation = np.nan_to_num(values - means[:, None, :]).reshape(-1, k)
    deviation[:, np.max(np.abs(deviation), axis=0) <= _ROUNDING * np.max(np.abs(means), axis=0)] = 0.0
    return np.asarray(deviation.T @ deviation / degrees, dtype=float), degrees


def halves(panel: Panel, rng: np.random.Generator) -> tuple[Floats, Floats, Ints, Ints, NDArray[np.bool_]]:
    """A random split of every configuration's repetitions into two halves that share no measurement.

    Returns the means of both halves, each of shape (m, k), the repetitions behind them, each of shape (m,), and which
    of the n configurations they belong to, shape (n,): those with at least two repetitions. The errors of the two
    halves are independent, so that what both agree on is no replicate noise.
    """
    split = panel.repetitions >= 2
    values, repetitions = panel.values[split], panel.repetitions[split]
    present = np.arange(values.shape[1]) < repetitions[:, None]
    rank = np.argsort(np.argsort(np.where(present, rng.random(present.shape), 2.0), axis=1), axis=1)
    smaller = (repetitions + rng.integers(2, size=len(repetitions))) // 2
    first = rank < smaller[:, None]
    second = present & ~first
    filled = np.nan_to_num(values)
    counts = first.sum(axis=1), second.sum(axis=1)
    a, b = (
        np.einsum("nr,nrk->nk", part.astype(float), filled) / count[:, None]
        for part, count in zip((first, second), counts, strict=True)
    )
    return a, b, counts[0], counts[1], split


def describe_balance(knobs: pd.DataFrame) -> dict[str, Any]:
    """How full the grid is: configurations present, of all combinations of the levels that occur (``possible``)."""
    possible = int(np.prod([knobs[name].nunique() for name in knobs.columns])) if len(knobs.columns) else 1
    return {"present": len(knobs), "possible": possible}
