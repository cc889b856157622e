"""The configuration space of one input: accuracy, latency and energy over cost, the Pareto front, and the choices.

The feasible configurations (or a sample of them), the front, the optima of the methods and the summary go in. Rings
mark the front: blue what is optimal already without energy, red what only energy makes optimal. Larger shapes are the
choices of the methods. A space without a feasible configuration gives a figure that says why.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ipa_energy.analysis.wording import modelled
from ipa_energy.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    TEXT_WIDTH_IN,
    VERMILLION,
    blank,
    print_style,
)
from ipa_energy.ipa.settings import METHOD_NAMES
from ipa_energy.ipa.ticks import Floats

ENERGY = "energy_j_per_request"
COLOURS = {"ipa": BLACK, "ipa_energy": GREEN, "fa2_low": SKY, "fa2_high": ORANGE, "rim": PURPLE}
"""Colour of each method, in all figures."""

_FILLED: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.6}
SHAPES: dict[str, dict[str, Any]] = {
    # Open, so that another method with the same choice shows inside.
    "ipa": {"marker": "s", "fillstyle": "none", "markersize": 8.0, "markeredgewidth": 1.3},
    "ipa_energy": {"marker": "D", "markersize": 5.5} | _FILLED,
    "fa2_low": {"marker": "v", "markersize": 6.5} | _FILLED,
    "fa2_high": {"marker": "^", "markersize": 6.5} | _FILLED,
    "rim": {"marker": "*", "markersize": 8.0} | _FILLED,
}
"""Marker of each method."""

LOG_SPAN = 10.0
"""An axis whose largest value is more than this times its smallest is drawn on a log scale."""

_HEIGHT_IN, _TOP_IN, _BOTTOM_IN = 3.15, 0.5, 0.92


def draw(points: pd.DataFrame, front: pd.DataFrame, optima: pd.DataFrame, summary: Mapping[str, Any]) -> Figure:
    """The figure of one input; the tables have the columns of the space, ``summary`` is its JSON."""
    title = f"Input {summary['input']}: {summary['rate_rps']:g} requests/s within {summary['sla_s']:.3g} s"
    if not summary["feasible"]:
        return blank(f"{title}. No configuration is feasible: {summary['empty_because']}.")
    accuracy = "accuracy_pas" if summary["objective"]["accuracy"] == "pas" else "accuracy_rank_sum"
    labels = {
        accuracy: "accuracy (PAS)" if accuracy == "accuracy_pas" else "accuracy (rank sum)",
        "latency_s": f"{summary['latency']} latency + queueing (s)",
        ENERGY: energy_label(summary["energy"]["evidence"], "net energy (J / request)"),
    }
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, _HEIGHT_IN))
        panels = figure.subplots(1, 3)
        figure.subplots_adjust(
            left=0.075, right=0.985, bottom=_BOTTOM_IN / _HEIGHT_IN, top=1 - _TOP_IN / _HEIGHT_IN, wspace=0.32
        )
        for axes, metric in zip(panels, (accuracy, "latency_s", ENERGY), strict=True):
            axes.set_xlabel(f"cost ({summary['cost_unit']})", labelpad=2)
            axes.set_ylabel(labels[metric])
            if metric == ENERGY and not summary["energy"]["known"]:
                _say_why(axes, summary["energy"]["reason"])
                continue
            _panel(axes, points, front, optima, metric)
        bound = panels[1].axhline(summary["sla_s"], color=GREY, linewidth=0.8, linestyle="--")
        bound.set_label(f"SLA, {summary['sla_s']:.3g} s")
        figure.text(0.01, 1 - 0.08 / _HEIGHT_IN, title, ha="left", va="top", fontsize=8, fontweight="bold")
        figure.text(0.01, 1 - 0.24 / _HEIGHT_IN, _subtitle(points, front, summary), ha="left", va="top", fontsize=6.5)
        figure.legend(
            handles=_legend(points, optima, summary, bound),
            loc="lower center",
            bbox_to_anchor=(0.5, 0.02 / _HEIGHT_IN),
            ncols=4,
            frameon=False,
            labelspacing=0.3,
            columnspacing=1.4,
        )
    return figure


def energy_label(evidence: str, label: str) -> str:
    """The label of an energy with what must stand with it where it is not measured, or not known to be."""
    return f"{label}, evidence unknown" if evidence == "unknown" else f"{modelled(evidence)}{label}"


def _subtitle(points: pd.DataFrame, front: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    drawn = "all drawn" if len(points) >= summary["feasible"] else f"{len(points):,} drawn, a random sample"
    text = f"{summary['feasible']:,} of {summary['configurations']:,} configurations are feasible ({drawn}). "
    if not summary["energy"]["known"]:
        return text + f"Pareto front without energy: {len(front):,}."
    only = summary["front"]["optimal_only_with_energy"]
    word = energy_label(summary["energy"]["evidence"], "energy")
    return text + f"Pareto front with {word}: {len(front):,}, of which {only:,} only through energy."


def _panel(axes: Axes, points: pd.DataFrame, front: pd.DataFrame, optima: pd.DataFrame, metric: str) -> None:
    axes.plot(points["cost"], points[metric], ".", color="#BDBDBD", markersize=2.2, markeredgewidth=0, rasterized=True)
    without = front["optimal_without_energy"].to_numpy(dtype=bool)
    _rings(axes, front[~without], metric, VERMILLION)
    _rings(axes, front[without], metric, BLUE)
    measured = points[points["measured"]]
    axes.plot(measured["cost"], measured[metric], "o", color=BLACK, fillstyle="none", markersize=5, markeredgewidth=0.5)
    for row in optima[optima["chosen"]].to_dict("records"):
        name = row["method"]
        axes.plot(row["cost"], row[metric], linestyle="", color=COLOURS[name], zorder=5, **SHAPES[name])
    _scale(axes, "x", points["cost"].to_numpy(dtype=float))
    _scale(axes, "y", points[metric].to_numpy(dtype=float))


def _rings(axes: Axes, rows: pd.DataFrame, metric: str, colour: str) -> None:
    axes.plot(
        rows["cost"], rows[metric], "o", color=colour, fillstyle="none", markersize=2.8, markeredgewidth=0.7, zorder=3
    )


def _scale(axes: Axes, side: str, values: Floats) -> None:
    """Log scale for a wide positive range, else linear, with few plain ticks."""
    axis = axes.xaxis if side == "x" else axes.yaxis
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > LOG_SPAN:
        (axes.set_xscale if side == "x" else axes.set_yscale)("log")
        axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if high / low < 200 else (1.0,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(5))


def _say_why(axes: Axes, reason: str) -> None:
    axes.text(0.5, 0.5, textwrap.fill(reason, 32), transform=axes.transAxes, ha="center", va="center")
    axes.set_xticks([])
    axes.set_yticks([])


def _legend(points: pd.DataFrame, optima: pd.DataFrame, summary: Mapping[str, Any], bound: Line2D) -> list[Line2D]:
    def point(label: str, marker: str, colour: str, **more: Any) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, color=colour, label=label, **more)

    ring = {"fillstyle": "none", "markersize": 3.5, "markeredgewidth": 0.8}
    entries = [point("feasible", ".", "#BDBDBD", markersize=4), point("Pareto front without energy", "o", BLUE, **ring)]
    if summary["energy"]["known"]:
        entries.append(point("on the front only through energy", "o", VERMILLION, **ring))
    if points["measured"].any():
        entries.append(point("measured", "o", BLACK, fillstyle="none", markersize=5, markeredgewidth=0.5))
    entries.append(bound)
    for row in optima.to_dict("records"):
        name = METHOD_NAMES[row["method"]]
        if row["chosen"]:
            shape = SHAPES[row["method"]]
            entries.append(point(f"chosen by {name}", colour=COLOURS[row["method"]], **shape))
        else:
            entries.append(point(f"{name}: no choice", "", BLACK))
    return entries
