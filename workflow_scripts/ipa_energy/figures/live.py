"""Live runs over time, real and simulated: load, accuracy, cores, and power. One column for each method's first run."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ipa_energy.analysis.wording import modelled
from ipa_energy.figures.style import BLUE, GREY, TEXT_WIDTH_IN, VERMILLION, blank, print_style
from ipa_energy.ipa.live_report import REAL, SIMULATED
from ipa_energy.ipa.settings import METHOD_NAMES

_LOOK = {REAL: (BLUE, "-"), SIMULATED: (VERMILLION, "--")}
_HEIGHT_IN = 5.2


def draw(
    intervals: pd.DataFrame, power: pd.DataFrame | None, table: pd.DataFrame, host_idle_w: float | None, title: str
) -> Figure:
    """The figure.

    ``intervals`` as of :func:`.ipa.live_report.intervals_of`; ``power`` the traces of the runs (``time_s``, ``domain``,
    ``power_w``) with ``method`` and ``run``; ``table`` the figures of the runs. ``host_idle_w`` is added to simulated
    power, which is that of serving alone.
    """
    if intervals.empty:
        reasons = "; ".join(f"{row['method']}: {row['reason']}" for _, row in table.iterrows())
        return blank(f"{title}: no run has figures ({reasons})")
    methods = list(dict.fromkeys(intervals["method"]))
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, _HEIGHT_IN))
        panels = figure.subplots(4, len(methods), squeeze=False, sharex=True, sharey="row")
        figure.subplots_adjust(left=0.09, right=0.985, bottom=0.08, top=0.86, hspace=0.25, wspace=0.1)
        figure.suptitle(title, x=0.01, y=0.985, ha="left", va="top", fontsize=8)
        for column, method in zip(panels.T, methods, strict=True):
            mine = intervals[intervals["method"] == method]
            run = mine["run"].iloc[0]
            mine = mine[mine["run"] == run]
            column[0].set_title(METHOD_NAMES[str(method)], loc="left", fontweight="bold")
            real = mine[mine["how"] == REAL]
            seconds = real["end_s"] - real["begin_s"]
            column[0].stairs(real["arrived"] / seconds, _edges(real), color=GREY, fill=True, alpha=0.4)
            for how, part in mine.groupby("how", sort=False):
                _steps(column[1], part, "accuracy_pas", str(how))
                _steps(column[2], part, "cores", str(how))
            _power(column[3], mine, power, str(method), str(run), host_idle_w)
            column[3].set_xlabel("time (s)")
        evidence = table.loc[table["how"] == REAL, "evidence"].dropna()
        word = modelled(evidence.iloc[0] if evidence.nunique() == 1 else "mixed")
        for axes, label in zip(
            panels[:, 0],
            ("requests/s", "PAS of what\narrived", "cores of all\nreplicas", f"{word}power (W)"),
            strict=True,
        ):
            axes.set_ylabel(label)
            axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
        figure.legend(
            *panels[3][0].get_legend_handles_labels(),
            loc="upper left",
            bbox_to_anchor=(0.08, 0.955),
            ncols=3,
            frameon=False,
        )
    return figure


def _edges(part: pd.DataFrame) -> list[float]:
    return [*part["begin_s"], part["end_s"].iloc[-1]]


def _steps(axes: Axes, part: pd.DataFrame, column: str, how: str) -> None:
    colour, dash = _LOOK[how]
    axes.stairs(part[column].astype(float), _edges(part), color=colour, linestyle=dash, baseline=None)


def _power(
    axes: Axes, mine: pd.DataFrame, power: pd.DataFrame | None, method: str, run: str, host_idle_w: float | None
) -> None:
    if power is not None:
        chosen = power[(power["method"] == method) & (power["run"] == run)]
        total = chosen.groupby("time_s")["power_w"].sum()
        axes.plot(total.index, total, color=GREY, linewidth=0.4, alpha=0.6, label="samples of the run")
        real = mine[mine["how"] == REAL]
        if len(total):
            place = np.searchsorted(real["end_s"].to_numpy(), total.index.to_numpy())
            means = total.groupby(np.minimum(place, len(real) - 1)).mean().reindex(range(len(real)))
            axes.stairs(means, _edges(real), color=BLUE, baseline=None, label=REAL)
    part = mine[mine["how"] == SIMULATED]
    simulated_w = (part["busy_j"] + part["waiting_j"]) / (part["end_s"] - part["begin_s"]) + (host_idle_w or 0.0)
    if simulated_w.notna().any():
        axes.stairs(simulated_w, _edges(part), color=VERMILLION, linestyle="--", baseline=None, label=SIMULATED)
