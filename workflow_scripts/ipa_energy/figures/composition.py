"""Predicted against measured: what IPA composes from stage profiles, over what each configuration really did.

The tables of :mod:`ipa_energy.ipa.composition` and :mod:`ipa_energy.ipa.composition_errors` go in. A panel per metric,
a point per configuration, with the line on which predictions are right and a band of ten per cent around it; below, the
relative error of the same points.
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
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ipa_energy.analysis.aggregate import evidence_of
from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.wording import modelled
from ipa_energy.figures.style import (
    BLACK,
    GREY,
    MARKERS,
    METERS_LINE_IN,
    SERIES,
    TEXT_WIDTH_IN,
    blank,
    list_meters,
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

_WIDTH_IN, _SCATTER_IN, _STRIP_IN = 2.88, 2.3, 0.72
_TOP_IN, _LEFT_IN, _ACROSS_IN, _DOWN_IN, _GAP_IN = 0.52, 0.62, 0.74, 0.68, 0.1
_LEGEND_IN, _CAPTION_IN = 0.125, 0.115

_MOST_CAPTIONS = 6
"""More cells than this have their figures in errors.csv only."""

_FARTHEST = 100.0
"""Relative errors above this, in per cent, are drawn as triangles at the edge, so that the others can be told apart."""


def draw(configurations: pd.DataFrame, errors: pd.DataFrame, title: str) -> Figure:
    """The figure of all workloads, hosts, weights and sets of meters; a panel without points says so."""
    known = configurations[
        np.logical_or.reduce([configurations[_columns(metric)].notna().all(axis=1) for metric in PANELS])
    ]
    cells = sorted(set(known[CELL].itertuples(index=False, name=None)))
    if not cells:
        return blank(f"{title}: no configuration has both sides; composition/configurations.csv has the reasons.")
    meters = name_meters(known["meters"])
    far = bool((100 * known[[f"{metric}_error" for metric in PANELS]] > _FARTHEST).any(axis=None))
    styles = _styles(cells)
    top_in, bottom_in = _TOP_IN + METERS_LINE_IN * len(meters), 0.48 + _LEGEND_IN * -(-(len(cells) + 3) // 3)
    captions_in = _CAPTION_IN * min(len(cells), _MOST_CAPTIONS)
    row_in = captions_in + _SCATTER_IN + _GAP_IN + _STRIP_IN
    height = top_in + bottom_in + 2 * row_in + _DOWN_IN
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, height))
        for number, metric in enumerate(PANELS):
            down, across = divmod(number, 2)
            left_in = _LEFT_IN + across * (_WIDTH_IN + _ACROSS_IN)
            low_in = bottom_in + (1 - down) * (row_in + _DOWN_IN)
            boxes_in = ((low_in + _STRIP_IN + _GAP_IN, _SCATTER_IN), (low_in, _STRIP_IN))
            scatter, strip = (
                figure.add_axes(
                    (left_in / TEXT_WIDTH_IN, from_in / height, _WIDTH_IN / TEXT_WIDTH_IN, high_in / height)
                )
                for from_in, high_in in boxes_in
            )
            _panel(scatter, strip, known, errors, metric, styles)
        figure.text(0.01, 1 - 0.08 / height, title, ha="left", va="top", fontsize=8, fontweight="bold")
        list_meters(figure, meters)
        figure.legend(
            handles=_handles(styles, meters, far),
            loc="lower center",
            bbox_to_anchor=(0.5, 0.02 / height),
            ncols=3,
            frameon=False,
            labelspacing=0.25,
        )
    return figure


def _columns(metric: str) -> list[str]:
    return [f"{metric}_predicted", f"{metric}_measured"]


def _styles(cells: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[str, str]]:
    """Colour by workload; marker by host, weights and meters."""
    workloads = list(dict.fromkeys(cell[1] for cell in cells))
    places = list(dict.fromkeys(cell[2:] for cell in cells))
    return {
        cell: (SERIES[workloads.index(cell[1]) % len(SERIES)], MARKERS[places.index(cell[2:]) % len(MARKERS)])
        for cell in cells
    }


def _handles(styles: dict[tuple[str, ...], tuple[str, str]], meters: dict[str, str], far: bool) -> list[Line2D | Patch]:
    several = len({cell[2:4] for cell in styles}) > 1
    handles: list[Line2D | Patch] = []
    for cell, (colour, marker) in styles.items():
        label = cell[1] + (f", {cell[2]}, {cell[3]} weights" if several else "")
        label += f", {meters[cell[4]]}" if cell[4] in meters else ""
        handles.append(Line2D([], [], marker=marker, linestyle="", markersize=4, color=colour, label=label))
    handles.append(Line2D([], [], color=BLACK, linewidth=0.8, label="predicted = measured"))
    handles.append(Patch(color=GREY, alpha=0.2, linewidth=0, label=f"within {100 * BAND:g} %"))
    if far:
        label = f"an error above {_FARTHEST:g} %"
        handles.append(Line2D([], [], marker="^", linestyle="", markersize=3.5, color=GREY, label=label))
    return handles


def _panel(
    scatter: Axes,
    strip: Axes,
    configurations: pd.DataFrame,
    errors: pd.DataFrame,
    metric: str,
    styles: dict[tuple[str, ...], tuple[str, str]],
) -> None:
    """Predicted over measured on log scales, and below it the relative error over the same axis."""
    known = configurations.dropna(subset=_columns(metric))
    drawn = known[(known[_columns(metric)] > 0).all(axis=1)]
    word = modelled(evidence_of(known["evidence"])) if metric in ENERGIES else ""
    label = f"{word}{METRICS[metric].removesuffix(' per request')} ({PANELS[metric]})"
    strip.set_xlabel(f"as {word.strip()} in the run" if word else "measured", labelpad=2)
    scatter.set_ylabel("composed from stage profiles", labelpad=2)
    strip.set_ylabel("error (%)", labelpad=2)
    scatter.tick_params(labelbottom=False)
    if drawn.empty:
        for axes in (scatter, strip):
            axes.set_xticks([])
            axes.set_yticks([])
        scatter.set_title(label[0].upper() + label[1:], loc="left", fontweight="bold", pad=4)
        scatter.text(0.5, 0.5, f"no {METRICS[metric]}\nwith both sides", transform=scatter.transAxes, ha="center")
        return
    both = drawn[_columns(metric)].to_numpy(dtype=float)
    margin = max(1.15, float(both.max() / both.min()) ** 0.07)
    limits = (float(both.min()) / margin, float(both.max()) * margin)
    line = np.array(limits)
    scatter.fill_between(line, line * (1 - BAND), line * (1 + BAND), color=GREY, alpha=0.2, linewidth=0, zorder=0)
    scatter.plot(line, line, color=BLACK, linewidth=0.8, zorder=1)
    strip.axhspan(-100 * BAND, 100 * BAND, color=GREY, alpha=0.2, linewidth=0, zorder=0)
    strip.axhline(0, color=BLACK, linewidth=0.8, zorder=1)
    told = []
    for cell, style in styles.items():
        group = drawn[[of == cell for of in drawn[CELL].itertuples(index=False, name=None)]]
        if not group.empty:
            _points(scatter, strip, group, metric, style)
            told.append((style[0], _caption(errors, cell, metric)))
    _scales(scatter, strip, limits)
    told = told[:_MOST_CAPTIONS]
    for above, (colour, text) in enumerate(reversed(told)):
        place = (0, 3 + 72 * _CAPTION_IN * above)
        scatter.annotate(text, (0, 1), place, "axes fraction", "offset points", color=colour, fontsize=6)
    scatter.set_title(label[0].upper() + label[1:], loc="left", fontweight="bold", pad=5 + 72 * _CAPTION_IN * len(told))
    if len(drawn) < len(known):
        text = f"{len(known) - len(drawn)} not above 0, not drawn"
        scatter.text(0.97, 0.03, text, transform=scatter.transAxes, ha="right", fontsize=6, color=GREY)


def _points(scatter: Axes, strip: Axes, group: pd.DataFrame, metric: str, style: tuple[str, str]) -> None:
    colour, marker = style
    predicted, measured = (group[name].to_numpy(dtype=float) for name in _columns(metric))
    ends = [group[f"{metric}_measured_{end}"].to_numpy(dtype=float) for end in ("lo", "hi")]
    reach = np.nan_to_num(np.abs(np.stack(ends) - measured), nan=0.0)
    # A bar that reaches 0 has no end on a log scale: it ends outside the panel.
    reach[0] = np.minimum(reach[0], measured * 0.999)
    shape: dict[str, Any] = {"color": colour, "markeredgewidth": 0.4, "markeredgecolor": "white", "zorder": 3}
    scatter.errorbar(measured, predicted, xerr=reach, fmt="none", ecolor=colour, elinewidth=0.6, alpha=0.45, zorder=2)
    scatter.plot(measured, predicted, marker, markersize=4.2, **shape)
    error = 100 * (predicted / measured - 1)
    # The same interval as seen from the prediction: a smaller measured figure is a larger error.
    with np.errstate(divide="ignore"):
        far = 100 * (predicted / (measured + np.array([[-1.0], [1.0]]) * reach) - 1)
    strip.vlines(measured, far[1], far[0], color=colour, linewidth=0.6, alpha=0.45, zorder=2)
    near = error <= _FARTHEST
    strip.plot(measured[near], error[near], marker, markersize=3, **shape)
    strip.plot(measured[~near], np.full(np.sum(~near), _FARTHEST), "^", markersize=3.5, **shape, clip_on=False)


def _scales(scatter: Axes, strip: Axes, limits: tuple[float, float]) -> None:
    """Log axes with few plain ticks; the error axis is set by the points and not by the bars."""
    for axes in (scatter, strip):
        axes.set_xscale("log")
        axes.set_xlim(*limits)
    scatter.set_yscale("log")
    scatter.set_ylim(*limits)
    for axis in (scatter.xaxis, scatter.yaxis, strip.xaxis):
        axis.set_major_locator(LogLocator(base=10, subs=_ticks(limits[1] / limits[0])))
        axis.set_minor_locator(LogLocator(base=10, subs=()))
        axis.set_minor_formatter(NullFormatter())
        if axis is not scatter.xaxis:
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in strip.lines])
    top = _FARTHEST if drawn.max() >= _FARTHEST else max(150 * BAND, 1.15 * drawn.max())
    strip.set_ylim(min(-150 * BAND, 1.15 * drawn.min()), top)
    strip.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def _ticks(span: float) -> tuple[float, ...]:
    """Where between powers of ten ticks are, for limits that differ by a factor of ``span``."""
    if span < 3:
        return (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
    if span < 8:
        return (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
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
    text += f", bias {100 * row['bias']:+.1f} %" + (f", τ = {row['tau']:.2f}" if pd.notna(row["tau"]) else "")
    return text.replace("-", "−")
