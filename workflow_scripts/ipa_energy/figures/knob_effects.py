"""The deck's figure: what each knob does to accuracy, latency, cost and energy, with signs and sizes.

The effects table (:mod:`ipa_energy.analysis.effects`) goes in. One line per level of a knob, one panel per metric; the
point is the ratio to the reference level, the bar its confidence interval over matched pairs, the text the size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator
from matplotlib.transforms import blended_transform_factory

from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.effects import METRICS
from ipa_energy.analysis.wording import modelled
from ipa_energy.figures.style import (
    BLUE,
    GREY,
    MARKERS,
    METERS_LINE_IN,
    TEXT_WIDTH_IN,
    VERMILLION,
    blank,
    list_meters,
    name_meters,
    print_style,
)

UNCHANGED = 0.005
"""A relative change below this is drawn as none: it would print as a factor of 1.00 or 1.01."""

_TITLES = {
    "accuracy": "accuracy\n(PAS)",
    "latency_p99": "p99\nlatency",
    "cost": "cost per\n1000 requests",
    "gross_energy": "gross energy\nper request",
    "net_energy": "net energy\nper request",
}
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_LINE_IN, _TOP_IN, _BOTTOM_IN, _LEFT_IN, _RIGHT_IN = 0.2, 0.58, 0.45, 2.25, 0.1

Line = tuple[str, str | None]
"""A line of the figure: (knob, level), or (knob, None) for the line that names the knob and its reference."""


def draw(effects: pd.DataFrame, evidence: str | None, title: str) -> Figure:
    """The figure of one workload.

    ``effects`` holds the rows of that workload, ``evidence`` says what stands behind the energies. Several hosts,
    kinds of weights or sets of meters get a marker each. Without any effect the figure says why.
    """
    if effects.empty:
        return blank(f"{title}: no knob has two levels among the configurations that were recorded.")
    if effects["ratio"].isna().all():
        return blank(f"{title}: no two configurations have figures to compare; measurements.csv has the reasons.")
    cells = list(dict.fromkeys(_cell(row) for row in effects.to_dict("records")))
    lines = _lines(effects)
    line_in = _LINE_IN * max(1.0, 0.6 * len(cells))
    word = modelled(evidence).strip()
    meters = name_meters(effects["meters"])
    top_in = _TOP_IN + 0.12 * bool(word) + METERS_LINE_IN * len(meters)
    bottom_in = _BOTTOM_IN + 0.15 * _legend_rows(cells)
    height = top_in + bottom_in + line_in * len(lines)
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, height))
        panels = figure.subplots(1, len(METRICS), sharey=True, squeeze=False)[0]
        figure.subplots_adjust(
            left=_LEFT_IN / TEXT_WIDTH_IN,
            right=1 - _RIGHT_IN / TEXT_WIDTH_IN,
            bottom=bottom_in / height,
            top=1 - top_in / height,
            wspace=0.12,
        )
        for axes, metric in zip(panels, METRICS, strict=True):
            _panel(axes, effects[effects["metric"] == metric], lines, cells, _reach(effects))
            axes.set_title(f"{word}\n{_TITLES[metric]}" if word and "energy" in metric else _TITLES[metric], pad=4)
        _name_lines(panels[0], lines, effects)
        middle = (_LEFT_IN + TEXT_WIDTH_IN - _RIGHT_IN) / 2 / TEXT_WIDTH_IN
        figure.text(
            middle, (bottom_in - 0.32) / height, "ratio to the reference level (log scale)", ha="center", fontsize=7
        )
        figure.text(0.01, 1 - 0.08 / height, title, ha="left", va="top", fontsize=8, fontweight="bold")
        list_meters(figure, meters)
        _legend(figure, cells, meters, 0.02 / height)
    return figure


def _cell(row: dict[Any, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in CELL)


def _lines(effects: pd.DataFrame) -> list[Line]:
    """From top to bottom: each knob, then its levels but the reference."""
    lines: list[Line] = []
    for knob, group in effects.groupby("knob", sort=False):
        lines.append((str(knob), None))
        lines += [(str(knob), str(level)) for level in dict.fromkeys(group["level"])]
    return lines


def _reach(effects: pd.DataFrame) -> float:
    """The largest ratio, up or down, that the axes must show; at least 2, so that small effects look small."""
    ratios = effects[["ratio", "ratio_lo", "ratio_hi"]].to_numpy(dtype=float)
    largest = float(np.nanmax(np.abs(np.log(ratios))))
    return math.exp(min(max(largest, math.log(2.0)), math.log(1000.0)))


def _panel(axes: Axes, effects: pd.DataFrame, lines: list[Line], cells: list[tuple[str, ...]], reach: float) -> None:
    place = {line: -float(i) for i, line in enumerate(lines)}
    for (_, level), y in place.items():
        if level is not None:
            axes.plot([1.0, 1.0], [y - 0.5, y + 0.5], color="black", linewidth=0.6, zorder=1)
    for row in effects.to_dict("records"):
        which = cells.index(_cell(row))
        y = place[row["knob"], row["level"]] + (0.5 - (which + 0.5) / len(cells)) * 0.8
        _point(axes, row, y, MARKERS[which % len(MARKERS)], reach)
    axes.set_xscale("log")
    # Room for the text on whichever side of its point it stands.
    axes.set_xlim(reach**-1.15, reach**1.15)
    axes.set_ylim(-len(lines) + 0.5, 0.5)
    ticks = [tick for tick in _TICKS if 1 / reach <= tick <= reach]
    if len(ticks) > 3:
        ticks = [tick for tick in ticks if tick == 1 or tick in (min(ticks), max(ticks))]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"×{tick:g}" for tick in ticks])
    axes.tick_params(axis="y", length=0)
    # The bands behind the names of knobs lie across all panels.
    axes.patch.set_visible(False)
    axes.spines["left"].set_visible(False)


def _point(axes: Axes, row: dict[Any, Any], y: float, marker: str, reach: float) -> None:
    ratio = row["ratio"]
    if pd.isna(ratio):
        axes.text(1.0, y, " no figure", fontsize=6, color=GREY, va="center", ha="left", fontstyle="italic")
        return
    change = math.log(ratio)
    unclear = pd.notna(row["ratio_lo"]) and row["ratio_lo"] <= 1 <= row["ratio_hi"]
    colour = GREY if unclear or abs(ratio - 1) < UNCHANGED else VERMILLION if change > 0 else BLUE
    left, right = ratio, ratio
    if pd.notna(row["ratio_lo"]):
        left, right = row["ratio_lo"], row["ratio_hi"]
        axes.plot([left, right], [y, y], color=colour, linewidth=1.2, zorder=2, solid_capstyle="butt")
    axes.plot([ratio], [y], marker, color=colour, markersize=3.5, zorder=3)
    # The text stands on the side of 1 where the point does not, unless the interval crosses over.
    text = "≈1" if abs(ratio - 1) < UNCHANGED else _factor(ratio)
    gap = reach**0.06
    if change < 0:
        axes.text(max(1.0, right) * gap, y, text, fontsize=6.5, color=colour, va="center", ha="left")
    else:
        axes.text(min(1.0, left) / gap, y, text, fontsize=6.5, color=colour, va="center", ha="right")


def _factor(ratio: float) -> str:
    """``×1.80``, ``×12.3``, ``×140``, ``×0.052``: three digits at most."""
    if ratio < 0.1:
        return f"×{ratio:.2g}"
    return f"×{ratio:.2f}" if ratio < 10 else f"×{ratio:.1f}" if ratio < 100 else f"×{ratio:.0f}"


def _name_lines(axes: Axes, lines: list[Line], effects: pd.DataFrame) -> None:
    references = dict(zip(effects["knob"], effects["reference"], strict=True))
    axes.set_yticks([])
    across = blended_transform_factory(axes.figure.transFigure, axes.transData)
    for i, (knob, level) in enumerate(lines):
        if level is not None:
            axes.annotate(
                level,
                (0.0, -i),
                xycoords=("axes fraction", "data"),
                xytext=(-4, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=6.5,
                annotation_clip=False,
            )
            continue
        band = Rectangle((0, -i - 0.45), 1, 0.9, transform=across, color="0.93", linewidth=0, clip_on=False, zorder=-1)
        axes.add_patch(band)
        axes.text(
            0.008,
            -i,
            f"{knob}, compared with {references[knob]}",
            transform=across,
            ha="left",
            va="center",
            fontsize=6.5,
            fontweight="bold",
        )


def _legend_rows(cells: list[tuple[str, ...]]) -> int:
    return 1 if len(cells) == 1 else 1 + -(-len(cells) // 3)


def _legend(figure: Figure, cells: list[tuple[str, ...]], meters: Mapping[str, str], y: float) -> None:
    """Colours in the first row; below them, where there are several, the hosts, kinds of weights and sets of meters."""
    colours = {"increase": VERMILLION, "decrease": BLUE, "no clear change (the interval holds 1)": GREY}
    rows = [[Line2D([], [], color=colour, marker="o", markersize=3.5, label=text) for text, colour in colours.items()]]
    if len(cells) > 1:
        rows.append(
            [
                Line2D(
                    [],
                    [],
                    color=GREY,
                    marker=mark,
                    markersize=3.5,
                    linestyle="",
                    label=f"{host}, {weights} weights" + (f", {meters[which]}" if meters else ""),
                )
                for (_, _, host, weights, which), mark in zip(cells, itertools.cycle(MARKERS), strict=False)
            ]
        )
    above_in = 0.15 * _legend_rows(cells) / figure.get_figheight()
    for handles, place in zip(rows, (y + above_in - 0.15 / figure.get_figheight(), y), strict=False):
        figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, place), ncols=3, frameon=False)
