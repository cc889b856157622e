"""Energy per request against accuracy, latency and cost: one point per configuration, with intervals and monotone fit.

The configurations table and the pairwise statistics go in. Colour and marker tell two knobs apart, the first two model
variants that vary where there are two; the panel shows Kendall's tau and the isotonic R2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from ipa_energy.analysis.aggregate import evidence_of
from ipa_energy.analysis.association import monotone_fit
from ipa_energy.analysis.cells import CELL, PLACE
from ipa_energy.analysis.coupling import ENERGIES
from ipa_energy.analysis.effects import levels
from ipa_energy.analysis.tables import varying_knobs
from ipa_energy.analysis.wording import modelled
from ipa_energy.figures.style import (
    BLACK,
    GREY,
    LABELS,
    MARKERS,
    METERS_LINE_IN,
    SERIES,
    TEXT_WIDTH_IN,
    blank,
    list_meters,
    name_meters,
    print_style,
)

METRICS = {"accuracy": "pas", "latency_p99": "latency_p99_s", "cost": "usd_per_1000_requests"}
"""The metrics of the panels, and their columns."""

LOG_SPAN = 4.0
"""An axis whose largest value is more than this times its smallest is drawn on a log scale."""

_ROW_IN, _TOP_IN = 2.0, 0.45


def draw(configurations: pd.DataFrame, pairwise: pd.DataFrame, title: str) -> Figure:
    """The figure of one workload: a row of panels for each host, weights, set of meters, and gross and net energy.

    Both tables hold the rows of that workload. What can't be drawn is said in its panel, or instead of the figure.
    """
    usable = configurations[configurations["n"] > 0]
    if usable.empty:
        return blank(f"{title}: no configuration has a usable record; measurements.csv has the reasons.")
    rows = [(cell, group, energy) for cell, group in usable.groupby(CELL, sort=True) for energy in ENERGIES]
    colour, marker = _split_knobs(usable)
    handles = _legend_handles(usable, colour, marker)
    entries = -(-len(handles) // 2)
    bottom_in = 0.45 + 0.125 * entries
    meters = name_meters(usable["meters"])
    top_in = _TOP_IN + METERS_LINE_IN * len(meters)
    height = top_in + bottom_in + _ROW_IN * len(rows)
    several = usable.groupby(PLACE).ngroups > 1
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, height))
        panels = figure.subplots(len(rows), len(METRICS), squeeze=False)
        figure.subplots_adjust(
            left=0.085, right=0.985, bottom=bottom_in / height, top=1 - top_in / height, wspace=0.28, hspace=0.42
        )
        for axes_row, (cell, group, energy) in zip(panels, rows, strict=True):
            for axes, metric in zip(axes_row, METRICS, strict=True):
                chosen = _rows_of(pairwise, cell, energy, metric)
                _panel(axes, group, energy, metric, styles=_styles(usable, group, colour, marker), found=chosen)
            word = modelled(evidence_of(group["evidence"]))
            where = f"{cell[2]}, {cell[3]} weights\n" if several else ""
            where += f"{meters[str(cell[4])]}\n" if meters else ""
            axes_row[0].set_ylabel(where + word + LABELS[energy], fontsize=6.5 if where else None)
        figure.text(0.01, 1 - 0.08 / height, title, ha="left", va="top", fontsize=8, fontweight="bold")
        list_meters(figure, meters)
        if handles:
            figure.legend(
                handles=handles,
                loc="lower center",
                bbox_to_anchor=(0.5, 0.04 / height),
                ncols=2,
                frameon=False,
                labelspacing=0.25,
            )
    return figure


def _split_knobs(configurations: pd.DataFrame) -> tuple[str | None, str | None]:
    """The knobs that colour and marker stand for: varying variants first, then any other knob that varies."""
    knobs = varying_knobs(configurations)
    chosen = [k for k in knobs if k.endswith(".variant")] + [k for k in knobs if not k.endswith(".variant")]
    return (chosen[0] if chosen else None), (chosen[1] if len(chosen) > 1 else None)


def _styles(every: pd.DataFrame, group: pd.DataFrame, colour: str | None, marker: str | None) -> list[tuple[str, str]]:
    """Colour and marker of each configuration of ``group``; the same in all panels."""
    colours = _assign(every, colour, SERIES)
    markers = _assign(every, marker, MARKERS)
    return [
        (colours.get(row.get(colour), SERIES[0]), markers.get(row.get(marker), MARKERS[0]))
        for row in group.to_dict("records")
    ]


def _assign(configurations: pd.DataFrame, knob: str | None, palette: Sequence[str]) -> dict[Any, str]:
    if knob is None:
        return {}
    return {level: palette[i % len(palette)] for i, level in enumerate(levels(configurations, knob))}


def _legend_handles(configurations: pd.DataFrame, colour: str | None, marker: str | None) -> list[Line2D]:
    """Entries for two columns, colours on the left and markers on the right."""
    left = [
        Line2D([], [], marker="o", linestyle="", markersize=4, color=c, label=f"{colour}: {level}")
        for level, c in _assign(configurations, colour, SERIES).items()
    ]
    right = [
        Line2D([], [], marker=m, linestyle="", markersize=4, color=GREY, label=f"{marker}: {level}")
        for level, m in _assign(configurations, marker, MARKERS).items()
    ]
    if not left and not right:
        return []
    right.append(Line2D([], [], color=BLACK, linewidth=0.8, label="best monotone fit (isotonic)"))
    size = max(len(left), len(right))
    empty = [Line2D([], [], linestyle="", label=" ") for _ in range(2 * size - len(left) - len(right))]
    return left + empty + right if len(left) < size else left + right + empty


def _rows_of(pairwise: pd.DataFrame, cell: tuple[Any, ...], energy: str, metric: str) -> dict[Any, Any] | None:
    mask = (pairwise["energy"] == energy) & (pairwise["metric"] == metric)
    for name, value in zip(CELL, cell, strict=True):
        mask &= pairwise[name] == value
    rows = pairwise[mask].to_dict("records")
    return rows[0] if rows else None


def _panel(
    axes: Axes,
    group: pd.DataFrame,
    energy: str,
    metric: str,
    *,
    styles: list[tuple[str, str]],
    found: dict[Any, Any] | None,
) -> None:
    x_name, y_name = METRICS[metric], ENERGIES[energy]
    x, y = group[x_name].to_numpy(dtype=float), group[y_name].to_numpy(dtype=float)
    known = np.isfinite(x) & np.isfinite(y)
    axes.set_xlabel(LABELS[metric], labelpad=2)
    if not known.any():
        missing = f"no {energy} energy" if not np.isfinite(y).any() else f"no {metric}"
        axes.text(0.5, 0.5, missing, transform=axes.transAxes, ha="center")
        axes.set_xticks([])
        axes.set_yticks([])
        return
    x_error, y_error = _errors(group, x_name), _errors(group, y_name)
    for style in dict.fromkeys(styles):
        chosen = known & np.array([each == style for each in styles])
        axes.errorbar(
            x[chosen],
            y[chosen],
            xerr=None if x_error is None else x_error[:, chosen],
            yerr=None if y_error is None else y_error[:, chosen],
            fmt="none",
            ecolor=style[0],
            elinewidth=0.5,
            alpha=0.45,
            zorder=2,
        )
        axes.plot(
            x[chosen],
            y[chosen],
            style[1],
            color=style[0],
            markersize=3.4,
            markeredgewidth=0.3,
            markeredgecolor="white",
            zorder=3,
        )
    _scale(axes, "x", x[known])
    _scale(axes, "y", y[known])
    fit = monotone_fit(x[known], y[known])
    if fit is not None:
        axes.plot(fit.x, fit.y, color=BLACK, linewidth=0.8, zorder=4, drawstyle="steps-mid")
    axes.set_title(_caption(found), fontsize=6.5, loc="right", pad=3)


def _errors(group: pd.DataFrame, name: str) -> NDArray[np.float64] | None:
    """Distances from the mean to its interval, shape (2, n), 0 where there is none; None for a metric without noise."""
    if f"{name}_lo" not in group:
        return None
    value = group[name].to_numpy(dtype=float)
    below = value - group[f"{name}_lo"].to_numpy(dtype=float)
    above = group[f"{name}_hi"].to_numpy(dtype=float) - value
    distances: NDArray[np.float64] = np.maximum(np.nan_to_num(np.stack([below, above]), nan=0.0), 0.0)
    return distances


def _scale(axes: Axes, side: str, values: NDArray[np.float64]) -> None:
    """Log scale for a wide positive range, else linear; few plain ticks, and limits set by the means, not the bars."""
    axis = axes.xaxis if side == "x" else axes.yaxis
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > LOG_SPAN:
        (axes.set_xscale if side == "x" else axes.set_yscale)("log")
        margin = (high / low) ** 0.08
        limits = (low / margin, high * margin)
        axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if high / low < 200 else (1.0,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        limits = (low - margin, high + margin)
        axis.set_major_locator(MaxNLocator(4))
    (axes.set_xlim if side == "x" else axes.set_ylim)(*limits)


def _caption(found: dict[Any, Any] | None) -> str:
    if found is None or pd.isna(found["tau"]):
        return "" if found is None or pd.isna(found["reason"]) else "no statistics"
    text = f"τ = {found['tau']:.2f}"
    if pd.notna(found["tau_lo"]):
        text += f" [{found['tau_lo']:.2f}, {found['tau_hi']:.2f}]"
    return f"{text}   R² = {found['isotonic_r2']:.2f}"
