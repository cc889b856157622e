"""The profile of every stage: time of a batch, throughput, and energy per request, over the batch size.

A profile goes in. A row of panels for each stage; colour and marker tell variants apart, dashes the cores of a replica.
Curves through the times and energies are the quadratic fits, drawn between the batch sizes that were profiled only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from ipa_energy.analysis.wording import modelled
from ipa_energy.figures.style import MARKERS, SERIES, TEXT_WIDTH_IN, print_style
from ipa_energy.ipa.fit import fit_quadratic
from ipa_energy.ipa.profile import Profile, StageProfile, curves
from ipa_energy.ipa.ticks import Floats

_ROW_IN, _TOP_IN, _BOTTOM_IN = 1.9, 0.6, 0.4
_Dash: TypeAlias = Literal["-", "--", ":", "-."]
_Style: TypeAlias = tuple[str, str, _Dash]
_DASHES: tuple[_Dash, ...] = ("-", "--", ":", "-.")


def draw(profile: Profile, title: str) -> Figure:
    """The figure; energy is left out where the profile has none."""
    with_energy = profile.energy_kind is not None
    columns = 3 if with_energy else 2
    entries = max(len(list(curves(stage))) for stage in profile.stages)
    height = _TOP_IN + _BOTTOM_IN + max(_ROW_IN, 0.13 * entries + 0.5) * len(profile.stages)
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, height))
        panels = figure.subplots(len(profile.stages), columns, squeeze=False)
        figure.subplots_adjust(
            left=0.06,
            right=0.755,
            bottom=_BOTTOM_IN / height,
            top=1 - _TOP_IN / height,
            wspace=0.3,
            hspace=0.5,
        )
        figure.suptitle(title, x=0.01, y=1 - 0.06 / height, ha="left", va="top", fontsize=8)
        for row, stage in zip(panels, profile.stages, strict=True):
            styles = _styles(stage)
            _times(row[0], stage, styles)
            _plain(row[1], stage, stage.throughput_rps, styles, "throughput of a replica\n(requests/s)")
            if with_energy:
                word = modelled(profile.evidence)
                _plain(row[2], stage, stage.energy_j / stage.batch, styles, f"{word}net energy\n(J / request)")
            row[-1].legend(
                [
                    Line2D([], [], color=colour, marker=marker, linestyle=dash, markersize=3)
                    for colour, marker, dash in styles.values()
                ],
                _names(stage, list(styles)),
                title=f"stage {stage.stage}",
                title_fontsize=6.5,
                alignment="left",
                loc="upper left",
                bbox_to_anchor=(1.03, 1.1),
                frameon=False,
                fontsize=5.5,
            )
        for axes in panels[-1]:
            axes.set_xlabel("batch size (requests)")
    return figure


def _names(stage: StageProfile, curve_names: list[str]) -> list[str]:
    """Variants, with the cores of a replica only where they tell curves apart."""
    names = [name.partition("/")[2] for name in curve_names]
    return names if len(set(stage.cores.tolist())) > 1 else [name.partition(" on ")[0] for name in names]


def _styles(stage: StageProfile) -> dict[str, _Style]:
    """Colour and marker by variant, dashes by cores; for each curve by its name."""
    cores = sorted(set(stage.cores.tolist()))
    return {
        name: (
            SERIES[int(stage.variant[rows[0]]) % len(SERIES)],
            MARKERS[int(stage.variant[rows[0]]) % len(MARKERS)],
            _DASHES[cores.index(int(stage.cores[rows[0]])) % len(_DASHES)],
        )
        for name, rows in curves(stage)
    }


def _times(axes: Axes, stage: StageProfile, styles: Mapping[str, _Style]) -> None:
    """Mean time of a batch with its fit, and a whisker up to the 99th percentile where both are there."""
    mean = stage.latencies.get("latency_mean_s", next(iter(stage.latencies.values())))
    p99 = stage.latencies.get("latency_p99_s")
    for name, rows in curves(stage):
        colour, marker, dash = styles[name]
        batch = stage.batch[rows]
        if p99 is not None:
            axes.vlines(batch, mean[rows], p99[rows], color=colour, linewidth=0.6)
        axes.plot(batch, mean[rows], linestyle="none", marker=marker, color=colour, markersize=3)
        inside = np.linspace(batch[0], batch[-1], 60)
        axes.plot(inside, fit_quadratic(batch, mean[rows])(inside), color=colour, linestyle=dash, linewidth=0.8)
    axes.set_title(
        "time of a batch (s),\nmean to 99th percentile" if p99 is not None else "time of a batch (s)", loc="left"
    )
    axes.set_ylim(0, 1.08 * float(np.max(mean if p99 is None else np.maximum(mean, p99))))
    _batch_axis(axes, stage)


def _plain(axes: Axes, stage: StageProfile, values: Floats, styles: Mapping[str, _Style], label: str) -> None:
    for name, rows in curves(stage):
        colour, marker, dash = styles[name]
        axes.plot(stage.batch[rows], values[rows], color=colour, marker=marker, linestyle=dash, markersize=3)
    axes.set_title(label, loc="left")
    if np.isfinite(values).any():
        axes.set_ylim(min(0.0, float(np.nanmin(values))), 1.08 * max(float(np.nanmax(values)), 1e-9))
    _batch_axis(axes, stage)


def _batch_axis(axes: Axes, stage: StageProfile) -> None:
    sizes = sorted(set(stage.batch.tolist()))
    if sizes[-1] / sizes[0] > 8:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xticks(sizes if len(sizes) <= 6 else sizes[:: -(-len(sizes) // 6)])
