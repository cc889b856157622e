"""Energy at equal accuracy, latency and cost: what each configuration needs over what its other metrics predict.

The tables ``matched``, ``residual_knobs`` and ``joint`` go in (:mod:`ipa_energy.analysis.evidence`), and the
configurations for their knobs. On the left the ratios in order, with the intervals of replicate noise and the band
within which energy counts as the same; on the right the same ratios by the levels of the knob that carries most of
what is left over.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ipa_energy.analysis.aggregate import evidence_of
from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.effects import levels
from ipa_energy.analysis.wording import modelled
from ipa_energy.figures.names import Cell, cell_names, rows_of
from ipa_energy.figures.scales import fit_factors
from ipa_energy.figures.style import (
    BLACK,
    BLUE,
    GREY,
    METERS_LINE_IN,
    TEXT_WIDTH_IN,
    VERMILLION,
    blank,
    list_meters,
    name_meters,
    print_style,
)

Floats = NDArray[np.float64]
Key = tuple[Cell, str]
"""A cell, and gross or net."""

ROWS = 8
"""Rows (a cell and a kind of energy) that are drawn at most; a figure of more could not be printed."""

MANY = 150
"""More configurations than this have a band for their intervals, and boxes in the place of points by level."""

LEVELS = 12
"""Levels of the knob that are drawn at most."""

_LOOKS = {"less": (BLUE, "v"), "more": (VERMILLION, "^"), "open": (GREY, "o")}
_ROW_IN, _AXIS_IN, _TOP_IN, _LEGEND_IN, _HEAD_IN, _LINE_IN = 1.6, 0.42, 0.24, 0.38, 0.24, 0.12
_LEFT_IN, _NARROW_IN, _RIGHT_IN, _LETTER_IN, _MOST_LETTERS = 0.62, 2.0, 0.1, 0.045, 34


def draw(
    matched: pd.DataFrame,
    residual_knobs: pd.DataFrame,
    configurations: pd.DataFrame,
    title: str,
    *,
    threshold: float,
    notes: Mapping[Key, str] | None = None,
) -> Figure:
    """The figure of one workload, a row for each cell and kind of energy.

    ``threshold`` is the half-width of the band, a fraction; ``notes`` are sentences for the heads of rows
    (:func:`notes_of`), and say why where there is nothing to draw.
    """
    known = matched.dropna(subset=["ratio"])
    notes = notes or {}
    if known.empty:
        why = next(iter(notes.values()), "no cell has energy, accuracy, latency and cost")
        return blank(f"{title}: {why}")
    names = cell_names(known)
    rows = [
        (key, group)
        for key in ((cell, energy) for cell in names for energy in ("gross", "net"))
        if not (group := _rows(known, key)).empty
    ]
    more, rows = max(0, len(rows) - ROWS), rows[:ROWS]
    heads = [_head(names[key[0]], key, group, threshold, notes) for key, group in rows]
    knobs = [_most(_rows(residual_knobs, key), _of_pipeline(configurations, key[0]), group) for key, group in rows]
    gutter_in = 0.35 + _LETTER_IN * max((len(name) for knob in knobs if knob for name in knob.names), default=0)
    wide_in = TEXT_WIDTH_IN - _LEFT_IN - gutter_in - _NARROW_IN - _RIGHT_IN
    meters = name_meters(known["meters"])
    top_in = _TOP_IN + METERS_LINE_IN * len(meters)
    bottom_in = _LEGEND_IN + 0.14 * bool(more)
    each_in = [_HEAD_IN + _LINE_IN * len(lines) + _ROW_IN + _AXIS_IN for lines in heads]
    height = top_in + bottom_in + sum(each_in)
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, height))
        low_in = top_in
        for (key, group), lines, knob, row_in in zip(rows, heads, knobs, each_in, strict=True):
            low_in += row_in
            low, high = 1 - (low_in - _AXIS_IN) / height, _ROW_IN / height
            above = low + high + 0.18 / height
            figure.text(0.01, above, "\n".join(lines), va="bottom", fontsize=6.5, linespacing=1.15)
            left = figure.add_axes((_LEFT_IN / TEXT_WIDTH_IN, low, wide_in / TEXT_WIDTH_IN, high))
            _sorted(left, group, threshold)
            left.set_ylabel(f"{modelled(evidence_of(group['evidence']))}{key[1]} energy\nover predicted", labelpad=2)
            from_in = _LEFT_IN + wide_in + gutter_in
            right = figure.add_axes((from_in / TEXT_WIDTH_IN, low, _NARROW_IN / TEXT_WIDTH_IN, high))
            _by_level(right, group, knob, threshold)
        figure.text(0.01, 1 - 0.08 / height, title, ha="left", va="top", fontsize=8, fontweight="bold")
        list_meters(figure, meters)
        if more:
            text = f"{more} more in coupling/matched.csv"
            figure.text(0.5, (_LEGEND_IN + 0.02) / height, text, ha="center", va="bottom", fontsize=6.5)
        figure.legend(
            handles=_handles(known, threshold),
            loc="lower center",
            bbox_to_anchor=(0.5, 0.02 / height),
            ncols=3,
            frameon=False,
            labelspacing=0.3,
        )
    return figure


def notes_of(joint: pd.DataFrame) -> dict[Key, str]:
    """A sentence for every row of the table ``joint``: the spread of energy and the decision, or why there is none."""
    notes = {}
    for row in joint.to_dict("records"):
        key = (tuple(str(row[name]) for name in CELL), str(row["energy"]))
        if pd.isna(row["spread"]):
            notes[key] = f"{row['decision']}: {row['decision_reason']}."
            continue
        text = f"Energy differs by {100 * row['spread']:.1f} %"
        if pd.notna(row["spread_lo"]) and pd.notna(row["spread_hi"]):
            text += f" [{100 * row['spread_lo']:.1f}, {100 * row['spread_hi']:.1f}]"
        notes[key] = f"{text} at equal accuracy, latency and cost, noise taken out (jointly {row['decision']})."
    return notes


def kinds(group: pd.DataFrame, threshold: float) -> NDArray[np.str_]:
    """``less``, ``more`` or ``open`` for each row: whether its interval lies outside the band, and on which side.

    Without an interval it is ``open``. The band reaches from 1 / (1 + threshold) to 1 + threshold.
    """
    less = (group["ratio_hi"] < 1 / (1 + threshold)).to_numpy()
    more = (group["ratio_lo"] > 1 + threshold).to_numpy()
    return np.where(less, "less", np.where(more, "more", "open"))


def _rows(frame: pd.DataFrame, key: Key) -> pd.DataFrame:
    rows = rows_of(frame, key[0])
    return rows[rows["energy"] == key[1]]


def _head(name: str, key: Key, group: pd.DataFrame, threshold: float, notes: Mapping[Key, str]) -> list[str]:
    kind = kinds(group, threshold)
    count = {which: int((kind == which).sum()) for which in ("less", "more")}
    text = f"{name}: " * bool(name) + f"{modelled(evidence_of(group['evidence']))}{key[1]} energy: of {len(group):,} "
    text += f"configurations {count['less']:,} need less and {count['more']:,} more than predicted "
    text += f"by over {100 * threshold:g} %, beyond noise."
    return textwrap.wrap(f"{text} {notes.get(key, '')}".strip(), 142)


def _band(axes: Axes, side: str, threshold: float) -> None:
    span = axes.axhspan if side == "y" else axes.axvspan
    line = axes.axhline if side == "y" else axes.axvline
    span(1 / (1 + threshold), 1 + threshold, color=GREY, alpha=0.2, linewidth=0, zorder=0)
    line(1, color=BLACK, linewidth=0.6, zorder=1)


def _sorted(axes: Axes, group: pd.DataFrame, threshold: float) -> None:
    """Ratios in order, each with its interval."""
    ordered = group.sort_values(["ratio", "configuration"], kind="stable")
    rank = np.arange(1, len(ordered) + 1)
    ratio, low, high = (ordered[name].to_numpy(dtype=float) for name in ("ratio", "ratio_lo", "ratio_hi"))
    kind = kinds(ordered, threshold)
    many = len(ordered) > MANY
    if many and np.isfinite(low).any():
        axes.fill_between(rank, low, high, color=GREY, alpha=0.35, linewidth=0, zorder=2, label="intervals")
    for which, (colour, marker) in _LOOKS.items():
        chosen = kind == which
        if not many:
            axes.vlines(rank[chosen], low[chosen], high[chosen], color=colour, linewidth=0.6, alpha=0.6, zorder=2)
        axes.plot(
            rank[chosen],
            ratio[chosen],
            linestyle="",
            marker=marker,
            color=colour,
            markersize=1.6 if many else 3.2,
            markeredgewidth=0,
            label=which,
            zorder=3,
            rasterized=len(ordered) > 10 * MANY,
        )
    _band(axes, "y", threshold)
    ends = np.concatenate([low, high, ratio])
    fit_factors(axes, "y", ends[np.isfinite(ends)])
    axes.set_xlim(0.3, len(ordered) + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlabel("configurations, in order", labelpad=2)


@dataclass(frozen=True, slots=True)
class _Knob:
    """The knob that carries most: its share of the variance of the ratios, and the ratios of each of its levels."""

    name: str
    share: float
    names: tuple[str, ...]
    ratios: tuple[Floats, ...]


def _of_pipeline(configurations: pd.DataFrame, cell: tuple[str, ...]) -> pd.DataFrame:
    """The rows that tell a configuration's knobs: of any cell, as the table has none of merged hosts."""
    return configurations[configurations["pipeline"] == cell[CELL.index("pipeline")]]


def _most(residual_knobs: pd.DataFrame, configurations: pd.DataFrame, group: pd.DataFrame) -> _Knob | None:
    """The knob with the largest share of what is left over; None where no knob has any."""
    known = residual_knobs[residual_knobs["omega2"] > 0]
    if known.empty:
        return None
    best = known.sort_values("omega2", kind="stable").iloc[-1]
    knob = str(best["knob"])
    level_of = configurations.drop_duplicates("configuration").set_index("configuration")[knob]
    level = group["configuration"].map(level_of)
    order = [one for one in levels(configurations, knob) if (level == one).any()][:LEVELS]
    ratios = tuple(group.loc[level == one, "ratio"].to_numpy(dtype=float) for one in order)
    return _Knob(knob, float(best["omega2"]), tuple(_shortened(str(one)) for one in order), ratios)


def _by_level(axes: Axes, group: pd.DataFrame, knob: _Knob | None, threshold: float) -> None:
    """Ratios by the levels of one knob."""
    if knob is None:
        axes.set_axis_off()
        axes.text(0.0, 0.5, "no knob carries a part\nof these ratios", va="center", transform=axes.transAxes)
        return
    for place, ratio in enumerate(knob.ratios):
        _level(axes, place, ratio, many=len(group) > MANY)
    _band(axes, "x", threshold)
    fit_factors(axes, "x", np.concatenate(knob.ratios))
    axes.set_yticks(range(len(knob.names)), knob.names, fontsize=6)
    axes.set_ylim(len(knob.names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"{knob.name}, which carries {100 * knob.share:.0f} %", loc="right", fontsize=6.5, pad=3)
    axes.set_xlabel("energy over predicted", labelpad=2)


def _level(axes: Axes, place: int, ratio: Floats, *, many: bool) -> None:
    middle = float(np.median(ratio))
    if many:
        ends = np.quantile(ratio, [0.05, 0.25, 0.75, 0.95])
        axes.plot(ends[[0, 3]], [place, place], color=GREY, linewidth=0.8, zorder=2)
        axes.barh(place, ends[2] - ends[1], left=ends[1], height=0.5, color="#BDBDBD", zorder=2)
    else:
        # The same order up and down each time: the place within the row means nothing.
        shift = 0.22 * np.sin(2.4 * np.arange(len(ratio)))
        axes.plot(np.sort(ratio), place + shift, "o", color=GREY, markersize=2.4, markeredgewidth=0, zorder=2)
    axes.plot([middle, middle], [place - 0.34, place + 0.34], color=BLACK, linewidth=1.4, zorder=3, label="median")


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"


def _handles(matched: pd.DataFrame, threshold: float) -> list[Line2D | Patch]:
    def point(which: str, label: str) -> Line2D:
        colour, marker = _LOOKS[which]
        return Line2D([], [], linestyle="", marker=marker, color=colour, markersize=3.6, label=label)

    style: dict[str, Any] = {"color": GREY, "alpha": 0.2, "linewidth": 0}
    handles: list[Line2D | Patch] = [
        point("less", "needs less, beyond noise"),
        point("more", "needs more, beyond noise"),
        point("open", "within the band or its noise"),
        Patch(**style, label=f"a factor of {1 + threshold:g} at most"),
        Line2D([], [], color=BLACK, linewidth=1.4, label="median of a level"),
    ]
    if matched["ratio_lo"].isna().all():
        handles[2].set_label("no interval: one repetition each")
    return handles
