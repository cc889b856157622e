"""How often the rule decides and how often it is wrong, in simulated studies.

Above, what the verdict says as the component grows that energy has of its own: a panel for each noise and number of
configurations, a group of bars for each component and in it a bar for each number of repetitions. Below, the rate of
wrong verdicts for each truth with its interval, beside the promised 5 %.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ipa_energy.error_rates.summary import LIMIT, SETTING, TRUTH, VERDICT
from ipa_energy.error_rates.truths import TRUTHS
from ipa_energy.figures.style import BLUE, GREY, ORANGE, TEXT_WIDTH_IN, VERMILLION, blank, print_style

DECISIONS = {"coupled": BLUE, "inconclusive": "#DDDDDD", "decoupled": ORANGE}
_ROW_IN, _LINE_IN, _HEAD_IN, _FOOT_IN, _GAP_IN = 1.05, 0.135, 0.56, 0.45, 0.75
_LEFT, _RIGHT = 0.09, 0.99
_LEFT_OF_RATES = 0.42


def draw(summary: pd.DataFrame) -> Figure:
    """The figure of a table of :func:`ipa_energy.error_rates.summary.summary_table`."""
    verdicts = summary[summary["level"] == VERDICT]
    if verdicts.empty:
        return blank("No study was simulated.")
    grown = _grown(verdicts[verdicts["scope"] == SETTING])
    rated = verdicts[(verdicts["scope"] == TRUTH) & verdicts["wrong"].notna()]
    rated = rated.sort_values("truth", key=lambda names: names.map(list(TRUTHS).index))
    noises, sizes = sorted(grown["noise"].unique()), sorted(grown["n_configurations"].unique())
    above_in = _ROW_IN * len(sizes)
    below_in = _LINE_IN * max(1, len(rated))
    height = _HEAD_IN + above_in + _GAP_IN + below_in + _FOOT_IN
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, height))
        title = "Verdicts on simulated studies by the component of energy that nothing else tells"
        figure.text(0.01, 1 - 0.08 / height, title, ha="left", va="top", fontsize=8, fontweight="bold")
        handles = [Patch(facecolor=colour, label=name) for name, colour in DECISIONS.items()]
        figure.legend(handles=handles, loc="upper right", bbox_to_anchor=(1, 1 - 0.14 / height), ncols=3, frameon=False)
        if len(grown):
            axes = figure.subplots(
                len(sizes),
                len(noises),
                squeeze=False,
                sharex=True,
                sharey=True,
                gridspec_kw={
                    "left": _LEFT,
                    "right": _RIGHT,
                    "top": 1 - _HEAD_IN / height,
                    "bottom": (_FOOT_IN + below_in + _GAP_IN) / height,
                    "hspace": 0.16,
                    "wspace": 0.06,
                },
            )
            for i, size in enumerate(sizes):
                for j, noise in enumerate(noises):
                    _bars(axes[i, j], grown[(grown["noise"] == noise) & (grown["n_configurations"] == size)])
                    if i == 0:
                        axes[i, j].set_title(f"noise {noise:.0%}")
                axes[i, 0].set_ylabel(f"{size} configurations\nshare of studies")
            repetitions = ", ".join(str(r) for r in sorted(grown["n_repetitions"].unique()))
            text = f"component (standard deviation of log energy); bars from left to right: {repetitions} repetitions"
            y = (_FOOT_IN + below_in + _GAP_IN - 0.34) / height
            figure.text((_LEFT + _RIGHT) / 2, y, text, ha="center", va="center")
        _rates(figure, rated, (_LEFT_OF_RATES, _FOOT_IN / height, _RIGHT - _LEFT_OF_RATES, below_in / height))
    return figure


def _grown(settings: pd.DataFrame) -> pd.DataFrame:
    """Runs of truths that are a monotone law and a white component, pooled over the laws; 0 where it has none."""
    plain = [
        name
        for name, truth in TRUTHS.items()
        if truth.kind in ("coupled", "borderline", "decoupled")
        and truth.carrier == "white"
        and truth.law != "constant"
        and not (truth.narrow or truth.drift or truth.warming or truth.same_order or truth.uneven)
        and truth.tails == "normal"
    ]
    by = ["noise", "n_configurations", "n_repetitions", "component"]
    counts = ["n_runs", *(f"n_{name}" for name in DECISIONS)]
    return settings[settings["truth"].isin(plain)].groupby(by, as_index=False)[counts].sum()


def _bars(axes: Axes, rows: pd.DataFrame) -> None:
    components, repetitions = sorted(rows["component"].unique()), sorted(rows["n_repetitions"].unique())
    width = 0.84 / max(1, len(repetitions))
    for row in rows.to_dict("records"):
        place = components.index(row["component"]) - 0.42 + width * repetitions.index(row["n_repetitions"])
        bottom = 0.0
        for name, colour in DECISIONS.items():
            share = float(row[f"n_{name}"] / row["n_runs"])
            axes.bar(place, share, 0.88 * width, bottom=bottom, align="edge", color=colour, linewidth=0)
            bottom += share
    axes.set_xticks(range(len(components)), [f"{c:.0%}" for c in components])
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.tick_params(length=2)


def _rates(figure: Figure, rated: pd.DataFrame, box: tuple[float, float, float, float]) -> None:
    """Rates of wrong verdicts, one line for each truth."""
    axes = figure.add_axes(box)
    for y, row in enumerate(rated.to_dict("records")):
        rate, lo, hi = (100 * float(row[f"wrong_rate{end}"]) for end in ("", "_lo", "_hi"))
        colour = ORANGE if row["wrong"] == "decoupled" else BLUE
        axes.plot([lo, hi], [y, y], color=colour, linewidth=1.2, solid_capstyle="butt")
        axes.plot([rate], [y], marker="o", markersize=3, color=colour)
    axes.axvline(100 * LIMIT, color=VERMILLION, linewidth=0.8, linestyle="--")
    labels = [f"{TRUTHS[row['truth']].text} ({row['n_wrong']}/{row['n_runs']})" for row in rated.to_dict("records")]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.4)
    axes.set_xlabel("wrong verdicts (%): decoupled (orange), coupled (blue)")
