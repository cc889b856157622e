"""The Pareto fronts with and without energy: which configurations are optimal already, and which only through energy.

The table of memberships goes in (:func:`ipa_energy.analysis.tradeoff.membership_table`). Circles are optimal in
accuracy, p99 latency and cost alone; diamonds only once energy counts. The face is the more solid the more probable
that is under the noise between repetitions; a black edge marks the diamonds that are certain.
"""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ipa_energy.analysis.aggregate import evidence_of
from ipa_energy.analysis.wording import modelled
from ipa_energy.figures.names import cell_names, rows_of
from ipa_energy.figures.scales import fit
from ipa_energy.figures.style import (
    BLACK,
    BLUE,
    GREY,
    LABELS,
    METERS_LINE_IN,
    TEXT_WIDTH_IN,
    VERMILLION,
    blank,
    list_meters,
    name_meters,
    print_style,
)

Floats = NDArray[np.float64]

ENERGY, ACCURACY, LATENCY, COST = "energy_j_per_request", "accuracy", "latency_p99_s", "usd_per_1000_requests"
PANELS = ((COST, ENERGY), (LATENCY, ENERGY), (COST, ACCURACY))
"""The panels of a row: columns of x and y."""

ROWS = 8
"""Rows (a cell and a kind of energy) that are drawn at most; a figure of more could not be printed."""

MANY = 400
"""With more configurations on the front, its markers are small."""

_LABELS = {ACCURACY: LABELS["accuracy"], LATENCY: LABELS["latency_p99"], COST: LABELS["cost"]}
_ROW_IN, _HEAD_IN, _AXIS_IN, _TOP_IN, _LEGEND_IN = 1.75, 0.22, 0.42, 0.3, 0.42
_LINE_IN = 0.12
_LEFT_IN, _WIDTH_IN, _ACROSS_IN = 0.65, 1.7, 0.69
_DOMINATED = "#A8A8A8"
_FAINTEST = 0.08


def draw(membership: pd.DataFrame, title: str) -> Figure:
    """The figure of one workload, a row for each cell and kind of energy. Without any configuration it says why."""
    known = membership.dropna(subset=[ENERGY, ACCURACY, LATENCY, COST])
    if known.empty:
        reasons = list(dict.fromkeys(membership["reason"].dropna()))
        why = reasons[0] if reasons else "no configuration has accuracy, latency, cost and energy"
        return blank(f"{title}: {why}; coupling/tradeoff.csv has the reasons.")
    names = cell_names(known)
    rows = [
        (cell, energy, rows_of(known, cell)[rows_of(known, cell)["energy"] == energy])
        for cell in names
        for energy in ("gross", "net")
    ]
    rows = [row for row in rows if not row[2].empty]
    more, rows = max(0, len(rows) - ROWS), rows[:ROWS]
    meters = name_meters(known["meters"])
    top_in = _TOP_IN + METERS_LINE_IN * len(meters)
    bottom_in = _LEGEND_IN + 0.14 * bool(more)
    heads = [textwrap.wrap(_head(names[cell], energy, group), 142) for cell, energy, group in rows]
    head_in = _HEAD_IN + _LINE_IN * max(len(lines) - 1 for lines in heads)
    each_in = head_in + _ROW_IN + _AXIS_IN
    height = top_in + bottom_in + each_in * len(rows)
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, height))
        for number, (_, energy, group) in enumerate(rows):
            low_in = top_in + each_in * number + head_in + _ROW_IN
            word = modelled(evidence_of(group["evidence"]))
            above = 1 - (low_in - _ROW_IN - 0.05) / height
            figure.text(0.01, above, "\n".join(heads[number]), va="bottom", fontsize=6.5)
            for across, (x, y) in enumerate(PANELS):
                left_in = _LEFT_IN + across * (_WIDTH_IN + _ACROSS_IN)
                box = (left_in / TEXT_WIDTH_IN, 1 - low_in / height, _WIDTH_IN / TEXT_WIDTH_IN, _ROW_IN / height)
                axes = figure.add_axes(box)
                _panel(axes, group, x, y)
                axes.set_xlabel(_LABELS[x], labelpad=2)
                axes.set_ylabel(_LABELS.get(y, f"{word}\n{LABELS[energy]}".lstrip()), labelpad=2)
        figure.text(0.01, 1 - 0.08 / height, title, ha="left", va="top", fontsize=8, fontweight="bold")
        list_meters(figure, meters)
        if more:
            text = f"{more} more in coupling/membership.csv"
            figure.text(0.5, (_LEGEND_IN + 0.02) / height, text, ha="center", va="bottom", fontsize=6.5)
        figure.legend(
            handles=_handles(known),
            loc="lower center",
            bbox_to_anchor=(0.5, 0.02 / height),
            ncols=3,
            frameon=False,
            labelspacing=0.3,
        )
    return figure


def _head(name: str, energy: str, group: pd.DataFrame) -> str:
    word = modelled(evidence_of(group["evidence"]))
    return f"{name}: " * bool(name) + f"{word}{energy} energy: {counts(group)}"


def counts(group: pd.DataFrame) -> str:
    """What stands above a row: the sizes of both fronts, and what energy adds, by the means and beyond noise."""
    without, with_energy = group["front_without"] == 1, group["front_with"] == 1
    certain = int((group["only_with"] == "yes").sum())
    known = group["p_only_with"].notna().any()
    noise = f"at least {certain} beyond noise" if known else "noise not known"
    return (
        f"of {len(group):,} configurations {without.sum():,} are optimal without energy, {with_energy.sum():,} with, "
        f"{(with_energy & ~without).sum():,} only because of it ({noise})"
    )


def _panel(axes: Axes, group: pd.DataFrame, x: str, y: str) -> None:
    without = (group["front_without"] == 1).to_numpy()
    only = (group["front_with"] == 1).to_numpy() & ~without
    certain = only & (group["only_with"] == "yes").to_numpy()
    size = 2.2 if (without | only).sum() > MANY else 4.0
    xs, ys = group[x].to_numpy(dtype=float), group[y].to_numpy(dtype=float)
    rest = ~(without | only)
    axes.plot(
        xs[rest],
        ys[rest],
        ".",
        color=_DOMINATED,
        markersize=3.4 if len(group) <= MANY else 2.0,
        markeredgewidth=0,
        rasterized=bool(rest.sum() > MANY),
        label="dominated",
    )
    many = bool((without | only).sum() > MANY)
    for label, chosen, marker, colour, edge, share in (
        ("without", without, "o", BLUE, BLUE, "p_front_without"),
        ("only with, open", only & ~certain, "D", VERMILLION, VERMILLION, "p_only_with"),
        ("only with, beyond noise", certain, "D", VERMILLION, BLACK, "p_only_with"),
    ):
        axes.scatter(
            xs[chosen],
            ys[chosen],
            s=(size * (0.85 if marker == "D" else 1.0)) ** 2,
            marker=marker,
            facecolors=_faces(colour, group[share].to_numpy(dtype=float)[chosen]),
            edgecolors=edge,
            linewidths=0.4 if many else 0.7,
            label=label,
            zorder=3,
            rasterized=many,
        )
    fit(axes, "x", xs)
    fit(axes, "y", ys)


def _faces(colour: str, probability: Floats) -> Floats:
    """RGBA of each face; without a probability the face is empty."""
    faces = np.tile(to_rgba(colour), (len(probability), 1))
    faces[:, 3] = np.nan_to_num(_FAINTEST + (1 - _FAINTEST) * probability, nan=0.0)
    return faces


def _handles(membership: pd.DataFrame) -> list[Line2D]:
    def handle(label: str, marker: str, colour: str, alpha: float, edge: str) -> Line2D:
        face = to_rgba(colour, alpha)
        style: dict[str, Any] = {"markerfacecolor": face, "markeredgecolor": edge, "markeredgewidth": 0.7}
        return Line2D([], [], linestyle="", marker=marker, markersize=4, label=label, **style)

    noise = bool(membership["p_only_with"].notna().any())
    face = 0.7 if noise else 0.0
    handles = [
        handle("optimal without energy", "o", BLUE, face, BLUE),
        handle("optimal only because of energy", "D", VERMILLION, face, VERMILLION),
        Line2D([], [], linestyle="", marker=".", color=_DOMINATED, label="dominated, by the means"),
    ]
    if not noise:
        return handles
    if (membership["only_with"] == "yes").any():
        handles.insert(2, handle("the same, beyond noise", "D", VERMILLION, 0.7, BLACK))
    grey = [
        handle(f"face: in {100 * p:.0f} % of draws", "s", GREY, _FAINTEST + (1 - _FAINTEST) * p, GREY)
        for p in (0.1, 0.9)
    ]
    return [*handles, *grey]
