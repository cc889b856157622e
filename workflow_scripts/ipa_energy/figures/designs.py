"""What a design of a study saves, and what that costs: measurements beside wrong and right verdicts.

A line for each design; at the left the measurements as a share of those of the design that the others are held
against, by size of the noise; then the wrong verdicts with their interval beside the promised 5 %, and the truths that
were found, coupled and decoupled ones.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ipa_energy.error_rates.design_summary import EVERYTHING, KIND, LIMIT, NOISE
from ipa_energy.figures.style import BLUE, GREY, ORANGE, TEXT_WIDTH_IN, VERMILLION, blank, print_style

_LINE_IN, _HEAD_IN, _FOOT_IN = 0.3, 0.5, 0.62
_MARKERS = ("o", "s", "^", "D", "v")


def draw(summary: pd.DataFrame) -> Figure:
    """The figure of a table of :func:`ipa_energy.error_rates.design_summary.summary_table`."""
    if summary.empty:
        return blank("No study was simulated.")
    designs = list(dict.fromkeys(summary["design"]))
    height = _HEAD_IN + _LINE_IN * len(designs) + _FOOT_IN
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, height))
        title = "Measurements that designs need, and the verdicts that they reach, in simulated studies"
        figure.text(0.01, 1 - 0.08 / height, title, ha="left", va="top", fontsize=8, fontweight="bold")
        left, middle, right = figure.subplots(
            1,
            3,
            sharey=True,
            gridspec_kw={
                "left": 0.15,
                "right": 0.98,
                "top": 1 - _HEAD_IN / height,
                "bottom": _FOOT_IN / height,
                "wspace": 0.12,
                "width_ratios": [1.3, 1, 1.3],
            },
        )
        _measurements(left, summary, designs)
        _wrong(middle, summary, designs)
        _right(right, summary, designs)
        left.set_yticks(range(len(designs)), [name.replace("_", " ") for name in designs])
        left.set_ylim(len(designs) - 0.4, -0.6)
        for axes in (left, middle, right):
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.4)
    return figure


def _rows(summary: pd.DataFrame, design: str, **where: object) -> pd.DataFrame:
    chosen = summary[summary["design"] == design]
    for name, value in where.items():
        chosen = chosen[chosen[name] == value]
    return chosen


def _measurements(axes: Axes, summary: pd.DataFrame, designs: list[str]) -> None:
    noises = sorted(summary.loc[summary["scope"] == NOISE, "noise"].unique())
    for y, design in enumerate(designs):
        share = 100 * (1 - float(_rows(summary, design, scope=EVERYTHING)["saved"].iloc[0]))
        axes.barh(y, share, 0.55, color="#DDDDDD", linewidth=0)
        for marker, noise in zip(_MARKERS, noises, strict=False):
            for kind, colour in (("coupled", BLUE), ("decoupled", ORANGE)):
                found = _rows(summary, design, scope=NOISE, noise=noise, kind=kind)
                if len(found):
                    one = 100 * (1 - float(found["saved"].iloc[0]))
                    axes.plot([one], [y], marker=marker, markersize=3, color=colour, linestyle="none")
    for marker, noise in zip(_MARKERS, noises, strict=False):
        axes.plot([], [], marker=marker, markersize=3, color=GREY, linestyle="none", label=f"noise {noise:.0%}")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=len(noises), frameon=False, handletextpad=0.1)
    axes.set_xlim(0, 104)
    axes.set_title(f"measurements (% of {str(summary['against'].iloc[0]).replace('_', ' ')})")


def _wrong(axes: Axes, summary: pd.DataFrame, designs: list[str]) -> None:
    for y, design in enumerate(designs):
        row = _rows(summary, design, scope=EVERYTHING).iloc[0]
        if pd.notna(row["wrong_rate"]):
            rate, lo, hi = (100 * float(row[f"wrong_rate{end}"]) for end in ("", "_lo", "_hi"))
            axes.plot([lo, hi], [y, y], color="black", linewidth=1.2, solid_capstyle="butt")
            axes.plot([rate], [y], marker="o", markersize=3, color="black")
    axes.axvline(100 * LIMIT, color=VERMILLION, linewidth=0.8, linestyle="--")
    axes.set_xlim(left=0)
    axes.set_title("wrong verdicts (%)")


def _right(axes: Axes, summary: pd.DataFrame, designs: list[str]) -> None:
    for y, design in enumerate(designs):
        for kind, colour, shift in (("coupled", BLUE, -0.14), ("decoupled", ORANGE, 0.14)):
            found = _rows(summary, design, scope=KIND, kind=kind)
            if len(found):
                rate, lo, hi = (100 * float(found[f"right_rate{end}"].iloc[0]) for end in ("", "_lo", "_hi"))
                axes.plot([lo, hi], [y + shift] * 2, color=colour, linewidth=1.2, solid_capstyle="butt")
                axes.plot([rate], [y + shift], marker="o", markersize=3, color=colour)
    axes.set_xlim(0, 100)
    axes.set_title("coupled (blue), decoupled (orange) found (%)")
