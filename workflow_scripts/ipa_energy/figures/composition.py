"""Predicted against measured: what IPA composes from stage profiles, over what each configuration really did.

The tables of :mod:`ipa_energy.ipa.composition` and :mod:`ipa_energy.ipa.composition_errors` go in. A panel per metric,
a point per configuration, with the line on which predictions are right and a band of ten per cent around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ipa_energy.analysis.aggregate import evidence_of
from ipa_energy.analysis.cells import CELL
from ipa_energy.figures.style import (
    BLACK,
    GREY,
    MARKERS,
    METERS_LINE_IN,
    SERIES,
    TEXT_WIDTH_IN,
    blank,
    list_meters,
    modelled,
    name_meters,
    print_style,
)
from ipa_energy.ipa.prediction import ENERGIES, METRICS

PANELS = {
    "throughput_rps": "requests/s",
    "latency_mean_s": "s",
    "net_j_per_request": "J / request",
    "gross_j_per_request": "J / request",
}
"""The metrics of the panels and their units."""

BAND = 0.1
"""Half the width of the band around the line, as a share of what was measured."""

_PANEL_IN, _TOP_IN, _LEFT_IN, _BETWEEN_IN = 2.62, 0.52, 0.62, 0.98
_LEGEND_IN = 0.125


def draw(configurations: pd.DataFrame, errors: pd.DataFrame, title: str) -> Figure:
    """The figure of all workloads, hosts, weights and sets of meters; a panel without points says why."""
    cells = sorted(set(configurations[CELL].itertuples(index=False, name=None)))
    if not cells:
        return blank(f"{title}: no configuration has a usable record; measurements.csv has the reasons.")
    meters = name_meters(configurations["meters"])
    styles = _styles(cells)
    rows = -(-(len(cells) + 2) // 3)
    top_in, bottom_in = _TOP_IN + METERS_LINE_IN * len(meters), 0.5 + _LEGEND_IN * rows
    height = top_in + bottom_in + 2 * _PANEL_IN + 0.62
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, height))
        for number, metric in enumerate(PANELS):
            down, across = divmod(number, 2)
            left_in = _LEFT_IN + across * (_PANEL_IN + _BETWEEN_IN)
            bottom = (bottom_in + (1 - down) * (_PANEL_IN + 0.62)) / height
            axes = figure.add_axes(
                (left_in / TEXT_WIDTH_IN, bottom, _PANEL_IN / TEXT_WIDTH_IN, _PANEL_IN / height),
            )
            _panel(axes, configurations, errors, metric, styles)
        figure.text(0.01, 1 - 0.08 / height, title, ha="left", va="top", fontsize=8, fontweight="bold")
        list_meters(figure, meters)
        figure.legend(
            handles=_handles(styles, meters),
            loc="lower center",
            bbox_to_anchor=(0.5, 0.02 / height),
            ncols=3,
            frameon=False,
            labelspacing=0.25,
        )
    return figure


def _styles(cells: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[str, str]]:
    """Colour by workload; marker by host, weights and meters."""
    workloads = list(dict.fromkeys(cell[0] for cell in cells))
    places = list(dict.fromkeys(cell[1:] for cell in cells))
    return {
        cell: (SERIES[workloads.index(cell[0]) % len(SERIES)], MARKERS[places.index(cell[1:]) % len(MARKERS)])
        for cell in cells
    }


def _handles(styles: dict[tuple[str, ...], tuple[str, str]], meters: dict[str, str]) -> list[Line2D | Patch]:
    several = len({cell[1:3] for cell in styles}) > 1
    handles: list[Line2D | Patch] = []
    for cell, (colour, marker) in styles.items():
        label = cell[0] + (f", {cell[1]}, {cell[2]} weights" if several else "")
        label += f", {meters[cell[3]]}" if cell[3] in meters else ""
        handles.append(Line2D([], [], marker=marker, linestyle="", markersize=4, color=colour, label=label))
    handles.append(Line2D([], [], color=BLACK, linewidth=0.8, label="predicted = measured"))
    handles.append(Patch(color=GREY, alpha=0.2, linewidth=0, label=f"within {BAND:.0%}"))
    return handles


def _panel(
    axes: Axes,
    configurations: pd.DataFrame,
    errors: pd.DataFrame,
    metric: str,
    styles: dict[tuple[str, ...], tuple[str, str]],
) -> None:
    names = [f"{metric}_predicted", f"{metric}_measured"]
    known = configurations.dropna(subset=names)
    drawn = known[(known[names] > 0).all(axis=1)]
    word = modelled(evidence_of(known["evidence"])) if metric in ENERGIES else ""
    label = f"{word}{METRICS[metric].removesuffix(' per request')} ({PANELS[metric]})"
    axes.set_title(label[0].upper() + label[1:], loc="left", fontweight="bold", pad=4)
    axes.set_xlabel("measured" if not word else f"as {word.strip()} in the run", labelpad=2)
    axes.set_ylabel("composed from stage profiles", labelpad=2)
    if drawn.empty:
        axes.text(0.5, 0.5, f"no {METRICS[metric]}\nwith both sides", transform=axes.transAxes, ha="center")
        axes.set_xticks([])
        axes.set_yticks([])
        return
    both = drawn[names].to_numpy(dtype=float)
    margin = max(1.15, float(both.max() / both.min()) ** 0.07)
    limits = (float(both.min()) / margin, float(both.max()) * margin)
    line = np.array(limits)
    axes.fill_between(line, line * (1 - BAND), line * (1 + BAND), color=GREY, alpha=0.2, linewidth=0, zorder=0)
    axes.plot(line, line, color=BLACK, linewidth=0.8, zorder=1)
    told = []
    for cell, (colour, marker) in styles.items():
        group = drawn[(drawn[CELL] == cell).all(axis=1)]
        if group.empty:
            continue
        measured = group[f"{metric}_measured"].to_numpy(dtype=float)
        ends = [group[f"{metric}_measured_{end}"].to_numpy(dtype=float) for end in ("lo", "hi")]
        reach = np.nan_to_num(np.abs(np.stack(ends) - measured), nan=0.0)
        # A bar that reaches 0 has no end on a log scale: it ends outside the panel.
        reach[0] = np.minimum(reach[0], measured * 0.999)
        predicted = group[f"{metric}_predicted"].to_numpy(dtype=float)
        axes.errorbar(measured, predicted, xerr=reach, fmt="none", ecolor=colour, elinewidth=0.6, alpha=0.45, zorder=2)
        axes.plot(
            measured,
            predicted,
            marker,
            color=colour,
            markersize=4.2,
            markeredgewidth=0.4,
            markeredgecolor="white",
            zorder=3,
        )
        told.append((colour, _caption(errors, cell, metric)))
    for scale, limit in ((axes.set_xscale, axes.set_xlim), (axes.set_yscale, axes.set_ylim)):
        scale("log")
        limit(*limits)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(base=10, subs=_ticks(limits[1] / limits[0])))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
        axis.set_minor_locator(LogLocator(base=10, subs=()))
    for number, (colour, text) in enumerate(told[:_MOST_CAPTIONS]):
        axes.text(0.03, 0.975 - 0.062 * number, text, transform=axes.transAxes, va="top", color=colour, fontsize=6)
    if len(drawn) < len(known):
        text = f"{len(known) - len(drawn)} not above 0, not drawn"
        axes.text(0.97, 0.03, text, transform=axes.transAxes, ha="right", fontsize=6, color=GREY)


_MOST_CAPTIONS = 6
"""More would reach the points; errors.csv has all."""


def _ticks(span: float) -> tuple[float, ...]:
    """Where between powers of ten ticks are, for limits that differ by a factor of ``span``."""
    if span < 3:
        return (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
    return (1.0, 2.0, 5.0) if span < 300 else (1.0,)


def _caption(errors: pd.DataFrame, cell: tuple[Any, ...], metric: str) -> str:
    mask = errors["metric"] == metric
    for name, value in zip(CELL, cell, strict=True):
        mask &= errors[name] == value
    found = errors[mask].to_dict("records")
    if not found or pd.isna(found[0]["mean_absolute_error"]):
        return "too few for statistics"
    row = found[0]
    text = f"off by {100 * row['mean_absolute_error']:.1f} %"
    text += f" [{100 * row['mean_absolute_error_lo']:.1f}, {100 * row['mean_absolute_error_hi']:.1f}]"
    text += f", bias {100 * row['bias']:+.1f} %".replace("-", "−")
    return text + (f", τ = {row['tau']:.2f}" if pd.notna(row["tau"]) else "")
