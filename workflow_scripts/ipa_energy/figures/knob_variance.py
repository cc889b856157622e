"""How much of each metric's variance each knob stands for: the deck's figure of knobs and metrics, in numbers.

The table of knobs (:mod:`ipa_energy.analysis.knob_variance`) goes in. One block of rows per cell, one row per knob and
for the strongest interactions, one column per metric; each field holds the share and its confidence interval, and is
the darker the greater the share.
"""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.knob_variance import METRICS, RESIDUAL
from ipa_energy.analysis.wording import modelled
from ipa_energy.figures.style import BLUE, GREY, TEXT_WIDTH_IN, blank, print_style

INTERACTIONS = 5
"""Interactions that have a row: those with the greatest share of any metric; the others are in the table."""

CELLS = 4
"""Cells that are drawn at most; a figure of more could not be printed."""

WORTH_A_ROW = 0.01
"""An interaction with a smaller share of every metric has no row."""

_TITLES = {
    "accuracy": "accuracy\n(PAS)",
    "latency_p99": "p99\nlatency",
    "cost": "cost per\n1000 requests",
    "throughput": "throughput",
    "gross_energy": "gross energy\nper request",
    "net_energy": "net energy\nper request",
}
_SHADES = LinearSegmentedColormap.from_list("shares", ["#FFFFFF", BLUE])
_LINE_IN, _TITLE_IN, _HEAD_IN, _FOOT_IN, _GAP_IN, _LEFT_IN, _RIGHT_IN = 0.27, 0.24, 0.32, 0.4, 0.12, 2.1, 0.05
_WORD_IN = 0.11
_NAME_CHARACTERS = 38
_SMALLEST = 0.0005


def draw(table: pd.DataFrame, title: str) -> Figure:
    """The figure of the cells in ``table``, one below the other. Without any share the figure says why."""
    shown = table[table["share"].notna()]
    if shown.empty:
        reasons = list(dict.fromkeys(table["reason"].dropna()))
        return blank(f"{title}: no variance to share out; {reasons[0] if reasons else 'no cell has a usable record'}.")
    cells = [group for _, group in shown.groupby(CELL, sort=True)]
    more = max(0, len(cells) - CELLS)
    cells = cells[:CELLS]
    terms = [_terms(cell) for cell in cells]
    named = [_name(cell, cells) for cell in cells]
    word_in = _WORD_IN * bool(any(_words(cell) for cell in cells))
    blocks_in = [
        _GAP_IN + _HEAD_IN + word_in + 0.13 * len(name) + _LINE_IN * len(rows)
        for rows, name in zip(terms, named, strict=True)
    ]
    height = _TITLE_IN + sum(blocks_in) + _FOOT_IN
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, height))
        figure.text(0.01, 1 - 0.08 / height, title, ha="left", va="top", fontsize=8, fontweight="bold")
        below_in = _TITLE_IN
        for cell, rows, name, block_in in zip(cells, terms, named, blocks_in, strict=True):
            below_in += block_in
            top_in = below_in - _LINE_IN * len(rows)
            axes = figure.add_axes(
                (
                    _LEFT_IN / TEXT_WIDTH_IN,
                    1 - below_in / height,
                    1 - (_LEFT_IN + _RIGHT_IN) / TEXT_WIDTH_IN,
                    _LINE_IN * len(rows) / height,
                )
            )
            _block(axes, cell, rows)
            if name:
                y = 1 - (top_in - _HEAD_IN - word_in) / height
                figure.text(0.01, y, "\n".join(name), ha="left", va="bottom", fontsize=6.5, fontweight="bold")
        figure.text(0.01, 0.06 / height, _foot(terms, cells, more), ha="left", va="bottom", fontsize=6, color="0.25")
    return figure


def _name(cell: pd.DataFrame, cells: list[pd.DataFrame]) -> list[str]:
    """What tells this cell from the others of the figure, in lines of print; nothing where there is one cell."""
    differing = [name for name in CELL if len({str(other[name].iloc[0]) for other in cells}) > 1]
    text = ", ".join(f"{name} {cell[name].iloc[0]}" for name in differing)
    return textwrap.wrap(text, 130)


def _words(cell: pd.DataFrame) -> str:
    return "".join(modelled(kind) for kind in cell["evidence"].dropna().unique())


def _terms(cell: pd.DataFrame) -> list[str]:
    """Rows from top to bottom: knobs in the order of the table, interactions from the strongest, what is left."""
    order = cell.drop_duplicates("term").set_index("term")["order"]
    knobs = [str(term) for term in order.index[(order == 1).fillna(False)]]
    strongest = cell[(cell["order"] == 2).fillna(False)].groupby("term")["share"].max()
    strongest = strongest[strongest >= WORTH_A_ROW].sort_values(ascending=False, kind="stable")
    left = [RESIDUAL] * int((cell.loc[cell["term"] == RESIDUAL, "share"] > 0).any())
    return [*knobs, *map(str, strongest.index[:INTERACTIONS]), *left]


def _block(axes: Axes, cell: pd.DataFrame, terms: list[str]) -> None:
    metrics = list(METRICS)
    by_field = {(row["term"], row["metric"]): row for row in cell.to_dict("records")}
    axes.set_xlim(0, len(metrics))
    axes.set_ylim(len(terms), 0)
    for y, term in enumerate(terms):
        for x, metric in enumerate(metrics):
            _field(axes, x, y, by_field.get((term, metric)))
    evidence = dict(zip(cell["metric"], cell["evidence"], strict=True))
    for x, metric in enumerate(metrics):
        kind = evidence.get(metric)
        word = modelled(kind if isinstance(kind, str) else None).strip()
        axes.text(
            x + 0.5,
            -0.18,
            f"{word}\n{_TITLES[metric]}" if word else _TITLES[metric],
            ha="center",
            va="bottom",
            fontsize=7,
            linespacing=1.05,
        )
    for y, term in enumerate(terms):
        interaction = " x " in term
        label = "interactions of more knobs, noise" if term == RESIDUAL else term.replace(" x ", " × ")
        axes.text(
            -0.06,
            y + 0.5,
            textwrap.fill(label, _NAME_CHARACTERS),
            ha="right",
            va="center",
            fontsize=6 if interaction or term == RESIDUAL else 6.5,
            color="0.25" if interaction or term == RESIDUAL else "black",
            linespacing=0.95,
        )
    axes.set_axis_off()


def _field(axes: Axes, x: int, y: int, row: dict[Any, Any] | None) -> None:
    share = None if row is None else float(row["share"])
    colour = (0.96, 0.96, 0.96) if share is None else _SHADES(min(1.0, share))[:3]
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white", linewidth=1.2))
    if row is None or share is None:
        axes.text(x + 0.5, y + 0.5, "no figure", ha="center", va="center", fontsize=6, color=GREY, fontstyle="italic")
        return
    ink = "white" if share > 0.8 else "black"
    interval = pd.notna(row["share_lo"]) and row["share_hi"] > row["share_lo"]
    axes.text(
        x + 0.5, y + (0.34 if interval else 0.5), _percent(share), ha="center", va="center", fontsize=7, color=ink
    )
    if interval:
        text = _interval(row["share_lo"], row["share_hi"])
        axes.text(x + 0.5, y + 0.74, text, ha="center", va="center", fontsize=6, color=ink)


def _percent(share: float) -> str:
    if share == 0:
        return "0 %"
    return "<0.1 %" if share < _SMALLEST else f"{_number(share)} %"


def _number(share: float) -> str:
    """Two digits, and one decimal below 10 %: 3.4, 34, 100."""
    percent = 100 * share
    if share < _SMALLEST:
        return "0"
    return f"{percent:.1f}" if percent < 9.95 else f"{percent:.0f}"


def _interval(lo: float, hi: float) -> str:
    return f"[{_number(lo)}, {_number(hi)}]" if hi >= _SMALLEST else "[0, <0.1]"


def _foot(terms: list[list[str]], cells: list[pd.DataFrame], more: int) -> str:
    text = (
        "Share of the variance of configuration means (logs; type II sums of squares), with its confidence interval; "
        "none where nothing but the knobs decides, or no error is known."
    )
    pairs = max(int((cell.drop_duplicates("term")["order"] == 2).sum()) for cell in cells)
    kept = max(sum(" x " in term for term in rows) for rows in terms)
    if pairs > kept:
        text += f" {pairs - kept} weaker interactions are in knobs.csv."
    if more:
        text += f" {more} more cells are in knobs.csv."
    return textwrap.fill(text, 150)
