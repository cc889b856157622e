"""The deck's figure: what each knob does to accuracy, latency, cost and energy, with signs and sizes, measured.

The effects table (:mod:`ipa_energy.analysis.effects`) goes in. One line per level of a knob, one panel per metric; the
point is the ratio to the reference level, the bar its confidence interval over matched pairs, the text the size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from ipa_energy.analysis.aggregate import CELL
from ipa_energy.analysis.effects import METRICS
from ipa_energy.figures.style import BLUE, GREY, MARKERS, TEXT_WIDTH_IN, VERMILLION, blank, modelled, print_style

_TITLES = {
    "accuracy": "accuracy\n(PAS)",
    "latency_p99": "p99 latency",
    "cost": "cost per\n1000 requests",
    "gross_energy": "gross energy\nper request",
    "net_energy": "net energy\nper request",
}
_LINE_IN, _TOP_IN, _BOTTOM_IN, _LEFT_IN, _RIGHT_IN = 0.19, 0.62, 0.62, 2.2, 0.12
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
UNCHANGED = 0.01
"""A relative change below this is drawn as none."""


def draw(effects: pd.DataFrame, evidence: Mapping[tuple[str, str, str], str | None], title: str) -> Figure:
    """The figure of one workload.

    ``effects`` holds the rows of that workload; ``evidence`` maps a cell (workload, host, weights) to what stands
    behind its energy. Several hosts or kinds of weights get a marker each. Without any effect the figure says so.
    """
    if effects.empty:
        return blank(f"{title}: no knob has two levels among the configurations that were recorded.")
    if effects["ratio"].isna().all():
        return blank(f"{title}: no pair of configurations has figures to compare (see measurements.csv for the reasons).")
    cells = [tuple(cell) for cell in effects[list(CELL)].drop_duplicates().itertuples(index=False)]
    lines = _lines(effects)
    height = _TOP_IN + _BOTTOM_IN + _LINE_IN * len(lines)
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, height))
        panels = figure.subplots(1, len(METRICS), sharey=True, squeeze=False)[0]
        figure.subplots_adjust(
            left=_LEFT_IN / TEXT_WIDTH_IN,
            right=1 - _RIGHT_IN / TEXT_WIDTH_IN,
            bottom=_BOTTOM_IN / height,
            top=1 - _TOP_IN / height,
            wspace=0.12,
        )
        reach = _reach(effects)
        kinds = {evidence.get(cell) for cell in cells} - {None}  # type: ignore[call-overload]
        for axes, metric in zip(panels, METRICS, strict=True):
            word = modelled(kinds.pop() if len(kinds) == 1 else "mixed" if kinds else None)
            kinds = kinds or {word.strip() or None}
            _panel(axes, effects[effects["metric"] == metric], lines, cells, reach)
            axes.set_title(f"{word.strip()}\n" * bool(word) * ("energy" in metric) + _TITLES[metric], pad=4)
        _name_lines(panels[0], lines)
        figure.supxlabel("ratio to the reference level (log scale)", fontsize=7, y=0.27 / height)
        figure.text(0.01, 1 - 0.12 / height, title, ha="left", va="top", fontsize=8, fontweight="bold")
        _legend(figure, cells)
    return figure
