"""Adaptation over time under one load: what arrives, and accuracy, cost, power and broken SLAs by each method.

The table of intervals of one run of each method goes in (:func:`ipa_energy.ipa.adaptation_study.simulate_all`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ipa_energy.figures.space import COLOURS, LOG_SPAN, energy_label
from ipa_energy.figures.style import BLACK, GREY, TEXT_WIDTH_IN, VERMILLION, blank, print_style
from ipa_energy.ipa.settings import METHOD_NAMES
from ipa_energy.ipa.ticks import Floats

_ROW_IN, _TOP_IN, _BOTTOM_IN = 0.95, 0.62, 0.38
_DASHES: dict[str, Any] = {
    "ipa": "-",
    "ipa_energy": "-",
    "fa2_low": (0, (4, 1.5)),
    "fa2_high": (0, (1.5, 1)),
    "rim": (0, (5, 1, 1, 1)),
}
_WIDTHS = {"ipa": 1.9, "ipa_energy": 1.1}
"""IPA's line is the wider one, so that it shows on both sides where IPA with energy decides alike."""


def draw(table: pd.DataFrame, load: str, evidence: str, cost_unit: str) -> Figure:
    """The figure of one load; lines are steps of one interval each."""
    title = f"Load {load}: adaptation over time, simulated"
    if table.empty:
        return blank(f"{title}: no method could run; adaptation/{load}.csv has the reasons.")
    runs = {str(name): rows for name, rows in table.groupby("method", sort=False)}
    power = {name: _power_w(rows) for name, rows in runs.items()}
    first = next(iter(runs.values()))
    panels = 5
    height = _TOP_IN + _BOTTOM_IN + _ROW_IN * panels
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, height))
        axes = figure.subplots(panels, 1, sharex=True)
        figure.subplots_adjust(left=0.1, right=0.985, bottom=_BOTTOM_IN / height, top=1 - _TOP_IN / height, hspace=0.22)
        _load(axes[0], first)
        for name, rows in runs.items():
            _steps(axes[1], rows, rows["accuracy_pas"].to_numpy(dtype=float), name)
            _steps(axes[2], rows, rows["cost"].to_numpy(dtype=float), name)
            _steps(axes[3], rows, power[name], name)
            _steps(axes[4], rows, _violations_percent(rows), name)
        if all(np.isnan(watts).all() for watts in power.values()):
            axes[3].text(0.5, 0.5, "not known: see energy_reason", transform=axes[3].transAxes, ha="center")
            axes[3].set_yticks([])
        labels = (
            "requests / s",
            "accuracy (PAS)",
            f"cost ({cost_unit})",
            energy_label(evidence, "net\npower (W)"),
            "SLA violations\n(% of arrivals)",
        )
        for panel, label in zip(axes, labels, strict=True):
            panel.set_ylabel(label)
            panel.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes[0].set_ylim(bottom=0)
        _scale(axes[2], [rows["cost"].to_numpy(dtype=float) for rows in runs.values()])
        _scale(axes[3], list(power.values()))
        axes[4].set_ylim(-4, 104)
        axes[4].set_yticks([0, 50, 100])
        figure.align_ylabels(axes)
        axes[-1].set_xlim(0, float(first["end_s"].iloc[-1]) / 60)
        axes[-1].xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
        axes[-1].set_xlabel("time (min)", labelpad=2)
        figure.text(0.01, 1 - 0.08 / height, title, ha="left", va="top", fontsize=8, fontweight="bold")
        handles = [_line(name, label=METHOD_NAMES[name]) for name in runs]
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0.09, 1 - 0.2 / height),
            ncols=len(handles),
            frameon=False,
        )
    return figure


def _load(axes: Axes, rows: pd.DataFrame) -> None:
    minutes = _edges(rows)
    axes.stairs(rows["peak_rps"].to_numpy(dtype=float), minutes, color="#D9D9D9", fill=True, label="largest second")
    axes.stairs(
        rows["rate_rps"].to_numpy(dtype=float), minutes, color=GREY, baseline=None, label="mean of the interval"
    )
    predicted = rows["predicted_rps"].to_numpy(dtype=float)
    axes.stairs(
        predicted,
        minutes,
        color=VERMILLION,
        baseline=None,
        linewidth=0.9,
        label=f"prepared for ({rows['predictor'].iloc[0]})",
    )
    axes.set_ylim(top=1.3 * float(np.nanmax([rows["peak_rps"].max(), np.nanmax(predicted, initial=0.0)])))
    axes.legend(loc="upper right", ncols=3, frameon=False, fontsize=6, borderaxespad=0.0)


def _steps(axes: Axes, rows: pd.DataFrame, values: Floats, name: str) -> None:
    axes.stairs(
        values, _edges(rows), baseline=None, color=COLOURS.get(name, BLACK), linewidth=_WIDTHS.get(name, 1.0)
    ).set_linestyle(_DASHES[name])


def _scale(axes: Axes, lines: Sequence[Floats]) -> None:
    """Log scale where methods differ much, so that one does not flatten the others; else linear, from 0."""
    values = np.concatenate(lines)
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() / values.min() > LOG_SPAN:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(
            LogLocator(base=10, subs=(1.0, 2.0, 5.0) if values.max() < 40 * values.min() else (1.0,))
        )
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))


def _line(name: str, label: str) -> Line2D:
    line = Line2D([], [], color=COLOURS[name], linewidth=_WIDTHS.get(name, 1.0), label=label)
    line.set_linestyle(_DASHES[name])
    return line


def _edges(rows: pd.DataFrame) -> Floats:
    return np.append(rows["begin_s"].to_numpy(dtype=float), float(rows["end_s"].iloc[-1])) / 60


def _power_w(rows: pd.DataFrame) -> Floats:
    """Mean net power in each interval, in W: batches that ended in it, and the replicas that waited."""
    joules = rows["busy_j"].to_numpy(dtype=float) + rows["waiting_j"].to_numpy(dtype=float)
    return np.asarray(joules / (rows["end_s"] - rows["begin_s"]).to_numpy(dtype=float), dtype=float)


def _violations_percent(rows: pd.DataFrame) -> Floats:
    arrived = rows["arrived"].to_numpy(dtype=float)
    bad = (rows["late"] + rows["dropped"]).to_numpy(dtype=float)
    return np.asarray(np.divide(100 * bad, arrived, out=np.full(len(rows), np.nan), where=arrived > 0), dtype=float)
