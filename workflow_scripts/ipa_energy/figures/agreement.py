"""Do two ways to measure agree? One panel per comparison, after Bland and Altman (Lancet 1986).

The table of comparisons and their configurations (:mod:`ipa_energy.analysis.agreement_points`) go in. Each point is a
configuration: the ratio of both energies over their geometric mean. The line is the mean ratio, the dashed lines hold
the ratio of a further configuration with the confidence asked for, the grey band is what repetitions alone scatter by.
"""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from ipa_energy.analysis.wording import modelled
from ipa_energy.figures.style import BLACK, BLUE, TEXT_WIDTH_IN, VERMILLION, blank, print_style

_ACROSS = 3
_PANEL_IN, _TITLE_IN, _HEAD_IN, _BELOW_IN, _FOOT_IN = 1.55, 0.26, 0.5, 0.42, 0.32
_LEFT_IN, _RIGHT_IN, _GAP_IN = 0.5, 0.1, 0.55
_MANY = 2000
"""Above so many points they are drawn as pixels, or an SVG could not be opened."""

_TWO_SIDED_95 = 1.96
_CHOICES = {
    "meters": "meters",
    "domains": "parts and logs",
    "hosts": "hosts",
    "energy": "gross and net",
    "weights": "weights",
    "workloads": "workloads",
}


def draw(table: pd.DataFrame, points: pd.DataFrame, title: str) -> Figure:
    """The figure of the comparisons in ``points``; without any it says why, as ``table`` does."""
    if points.empty:
        reasons = "; ".join(
            f"{choice}: {reason}"
            for choice, reason in zip(table["choice"], table["reason"], strict=True)
            if pd.notna(reason)
        )
        return blank(f"{title}: nothing to compare. {reasons}" if reasons else f"{title}: nothing to compare.")
    groups = [group for _, group in points.groupby("comparison", sort=True)]
    lines = -(-len(groups) // _ACROSS)
    line_in = _HEAD_IN + _PANEL_IN + _BELOW_IN
    height = _TITLE_IN + lines * line_in + _FOOT_IN
    width_in = (TEXT_WIDTH_IN - _LEFT_IN - _RIGHT_IN - (_ACROSS - 1) * _GAP_IN) / _ACROSS
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, height))
        figure.text(0.01, 1 - 0.08 / height, title, ha="left", va="top", fontsize=8, fontweight="bold")
        for at, group in enumerate(groups):
            line, place = divmod(at, _ACROSS)
            left_in = _LEFT_IN + place * (width_in + _GAP_IN)
            bottom_in = height - _TITLE_IN - line * line_in - _HEAD_IN - _PANEL_IN
            axes = figure.add_axes(
                (left_in / TEXT_WIDTH_IN, bottom_in / height, width_in / TEXT_WIDTH_IN, _PANEL_IN / height)
            )
            _panel(axes, group)
        figure.text(
            0.01,
            0.06 / height,
            "Points: configurations. Line: mean ratio. Dashed: limits of agreement. Grey: how far noise of repetitions "
            "alone would scatter the points (95 %). τ: Kendall's tau-b.",
            ha="left",
            va="bottom",
            fontsize=6,
            color="0.25",
        )
    return figure


def _panel(axes: Axes, group: pd.DataFrame) -> None:
    row = group.iloc[0].to_dict()
    bias, lo, hi = float(row["bias"]), float(row["limit_lo"]), float(row["limit_hi"])
    ratio = group["ratio"].to_numpy(dtype=float)
    if pd.notna(row["noise"]):
        half = math.exp(_TWO_SIDED_95 * float(row["noise"]))
        axes.axhspan(bias / half, bias * half, color="0.85", linewidth=0, zorder=0)
    axes.axhline(1.0, color=BLACK, linewidth=0.5, zorder=1)
    axes.axhline(bias, color=VERMILLION, linewidth=1.0, zorder=2)
    for limit in (lo, hi):
        axes.axhline(limit, color=VERMILLION, linewidth=0.8, linestyle=(0, (4, 2)), zorder=2)
    axes.plot(
        group["energy_j_per_request"],
        ratio,
        "o",
        color=BLUE,
        markersize=2.5 if len(group) <= _MANY else 1.0,
        alpha=0.7 if len(group) <= _MANY else 0.3,
        markeredgewidth=0,
        rasterized=len(group) > _MANY,
        zorder=3,
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    _scale_ratios(axes, np.array([1.0, lo, hi, ratio.min(), ratio.max()]))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(_heading(row, len(group)), fontsize=6.5, pad=4, loc="left")
    axes.set_xlabel(f"{_energy(row)} (J / request)", labelpad=2)
    axes.set_ylabel("ratio", labelpad=2)


def _scale_ratios(axes: Axes, shown: np.ndarray[Any, Any]) -> None:
    """Ticks at round ratios, three to eight of them, whether ratios differ by a percent or a hundredfold."""
    low, high = float(shown.min()), float(shown.max())
    span = max(high / low, 1.02)
    low, high = low / span**0.08, high * span**0.08
    if high / low > 4:
        ticks = [
            mantissa * 10.0**power
            for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for mantissa in ((1, 2, 5) if high / low < 100 else (1,))
        ]
    else:
        rough = (high - low) / 3
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (5, 2, 1) if power * factor <= rough)
        ticks = [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"×{value:.4g}"))


def _energy(row: dict[Any, Any]) -> str:
    kind = row["energy"] if isinstance(row["energy"], str) else ""
    return f"{_word(row)}{kind} energy".replace("  ", " ").strip()


def _word(row: dict[Any, Any]) -> str:
    return modelled(row["evidence"] if isinstance(row["evidence"], str) else None)


def _heading(row: dict[Any, Any], count: int) -> str:
    where = " on " + str(row["host"]) if pd.notna(row["host"]) and row["choice"] != "hosts" else ""
    sides = textwrap.wrap(f"{_CHOICES[row['choice']]}: {row['one']} / {row['other']}{where}", 44)
    if len(sides) > 2:
        sides = [sides[0], sides[1][:41] + "..."]
    tau = "" if pd.isna(row["tau"]) else f", τ = {row['tau']:.2f}"
    return "\n".join([*sides, f"×{row['bias']:.3g} [{row['limit_lo']:.3g}, {row['limit_hi']:.3g}]{tau}, n = {count}"])
