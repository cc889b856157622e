"""Power over time in the window of one record, a panel for each domain, with idle levels, mean, and all phases below.

The record and its trace go in (:mod:`ipa_energy.trace`). A long trace is drawn as range and mean of short spans, so
that no peak is lost. A record without figures, or without a trace, gives a figure that says why.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ipa_energy.analysis.wording import modelled
from ipa_energy.figures.style import BLACK, GREY, ORANGE, SERIES, SKY, TEXT_WIDTH_IN, blank, print_style
from ipa_energy.record import Record

Floats = NDArray[np.float64]

MOST_SAMPLES = 2000
"""A domain with more samples is drawn as the range and mean of :data:`SPANS` spans of equal length."""

SPANS = 500

LEVELS: dict[str, tuple[str, dict[str, Any]]] = {
    "idle_bare_w": ("idle before, no model", {"linestyle": ":", "color": BLACK}),
    "idle_bare_after_w": ("idle after, no model", {"linestyle": (0, (1, 3)), "color": BLACK}),
    "idle_resident_w": ("idle before, models in memory", {"linestyle": "--", "color": GREY}),
    "idle_after_w": ("idle after, models in memory", {"linestyle": (0, (6, 3)), "color": GREY}),
}
"""Idle powers of a domain in a record, what they are called, and how their lines look."""

_HELD = ("nvml",)
"""Meters whose sample is a reading at its time; that of the others is the mean since the sample before."""

_PHASES = {
    "idle_bare": "idle",
    "idle_resident": "idle, models in memory",
    "warm_up": "warm-up",
    "window": "window",
    "idle_after": "idle, models in memory",
    "idle_bare_after": "idle",
}
_PHASE_LOOKS: dict[str, dict[str, Any]] = {
    "idle": {"facecolor": "white", "hatch": "....."},
    "idle, models in memory": {"facecolor": "white", "hatch": "/////"},
    "warm-up": {"facecolor": ORANGE},
    "window": {"facecolor": SKY},
    "other": {"facecolor": "#D9D9D9"},
}
_PANEL_IN, _GAP_IN, _STRIP_IN, _LINE_IN = 1.35, 0.3, 0.16, 0.12
_LEFT_IN, _RIGHT_IN, _AXIS_IN, _LEGEND_IN = 0.62, 0.12, 0.4, 0.14


def draw(record: Record, trace: pd.DataFrame | None) -> Figure:
    """The figure of one record; ``trace`` is None where there is none, else has ``time_s``, ``domain``, ``power_w``."""
    identity = record["identity"]
    title = f"Power of {identity['configuration_id']}"
    where = f"Workload {identity['workload']}, {identity['repetition']}, host {record['provenance']['host']}"
    if record["status"]["state"] != "ok":
        return blank(f"{title}. {where}: {record['status']['state']}, {record['status']['reason']}")
    if trace is None or trace.empty:
        return blank(f"{title}. {where}: the trace of this record is {'missing' if trace is None else 'empty'}.")
    domains = {domain["domain"]: domain for domain in record["energy"]["domains"]}
    drawn = list(dict.fromkeys([*(name for name in domains if name in set(trace["domain"])), *trace["domain"]]))
    title_lines = textwrap.wrap(title, 98, break_on_hyphens=False)
    lines = [f"{where}. {_flags(record)}", _totals(record)]
    lines = [line for text in lines for line in textwrap.wrap(text, 142)]
    levels = [name for name in LEVELS if any(domain[name] is not None for domain in domains.values())]
    wide = any((trace["domain"] == name).sum() > MOST_SAMPLES for name in drawn)
    phases = _phases(record)
    handles = _handles(levels, wide, list(dict.fromkeys(phase for phase, *_ in phases)))
    rows = -(-len(handles) // 4)
    top_in = 0.04 + 0.14 * len(title_lines) + _LINE_IN * len(lines)
    bottom_in = _LEGEND_IN * rows + 0.1 + _AXIS_IN + _STRIP_IN
    height = top_in + (_PANEL_IN + _GAP_IN) * len(drawn) + _AXIS_IN + bottom_in + 0.06
    across = (_LEFT_IN / TEXT_WIDTH_IN, (TEXT_WIDTH_IN - _LEFT_IN - _RIGHT_IN) / TEXT_WIDTH_IN)
    duration_s = float(record["window"]["duration_s"])
    last_s = max(duration_s, float(trace["time_s"].max()))
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, height))
        for i, name in enumerate(drawn):
            low = 1 - (top_in + (_PANEL_IN + _GAP_IN) * (i + 1)) / height
            axes = figure.add_axes((across[0], low, across[1], _PANEL_IN / height))
            samples = trace[trace["domain"] == name].dropna().sort_values("time_s", kind="stable")
            _panel(axes, samples, domains.get(name), SERIES[i % len(SERIES)], name)
            axes.axvspan(0, duration_s, color="0.95", linewidth=0, zorder=0)
            axes.set_xlim(min(0.0, float(trace["time_s"].min())) - 0.01 * last_s, last_s * 1.01)
            axes.tick_params(labelbottom=i == len(drawn) - 1)
            axes.xaxis.set_major_locator(MaxNLocator(9))
        axes.set_xlabel("time since the begin of the window (s); grey: the window", labelpad=2)
        strip = figure.add_axes((across[0], (bottom_in - _STRIP_IN) / height, across[1], _STRIP_IN / height))
        _strip(strip, phases)
        for i, line in enumerate(title_lines):
            figure.text(0.01, 1 - (0.08 + 0.14 * i) / height, line, va="top", fontsize=8, fontweight="bold")
        for i, line in enumerate(lines):
            at = 0.1 + 0.14 * len(title_lines) + _LINE_IN * i
            figure.text(0.01, 1 - at / height, line, va="top", fontsize=6.5)
        figure.legend(
            handles=handles,
            loc="lower center",
            bbox_to_anchor=(0.5, 0.02 / height),
            ncols=4,
            frameon=False,
            labelspacing=0.3,
            columnspacing=1.4,
        )
    return figure


def envelope(time_s: Floats, power_w: Floats, spans: int = SPANS) -> tuple[Floats, Floats, Floats, Floats]:
    """Edges of at most ``spans`` spans of equal length, and the least, mean and greatest power in each.

    ``time_s`` is ascending. A span without samples belongs to the one before it, so that the edges have no gap.
    """
    edges = np.linspace(time_s[0], time_s[-1], spans + 1)
    number = np.clip(np.searchsorted(edges, time_s, side="right") - 1, 0, spans - 1)
    kept, first = np.unique(number, return_index=True)
    low, high = np.minimum.reduceat(power_w, first), np.maximum.reduceat(power_w, first)
    mean = np.add.reduceat(power_w, first) / np.diff(np.append(first, len(power_w)))
    return np.append(edges[kept], edges[-1]), low, mean, high


def _panel(axes: Axes, samples: pd.DataFrame, domain: Mapping[str, Any] | None, colour: str, name: str) -> None:
    time_s, power_w = (samples[column].to_numpy(dtype=float) for column in ("time_s", "power_w"))
    meter = str(domain["meter"]) if domain else "not in the record"
    estimated = domain is not None and domain["evidence"] == "estimated"
    if len(time_s) > MOST_SAMPLES:
        edges, low, mean, high = envelope(time_s, power_w)
        axes.stairs(high, edges, baseline=low, fill=True, color=colour, alpha=0.3, linewidth=0, label=f"{name} range")
        axes.stairs(mean, edges, baseline=None, color=colour, linewidth=0.8, label=name)
    else:
        style = "steps-post" if meter.startswith(_HELD) else "steps-pre"
        marker = "." if len(time_s) <= 60 else ""
        axes.plot(
            time_s, power_w, drawstyle=style, color=colour, linewidth=0.9, marker=marker, markersize=3, label=name
        )
    values = [power_w]
    for level, (_, look) in LEVELS.items():
        if domain is not None and domain[level] is not None:
            axes.axhline(domain[level], linewidth=0.9, label=level, **look)
            values.append(np.array([domain[level]]))
    mean_w = domain["mean_w"] if domain is not None else None
    word = modelled("estimated") if estimated else ""
    text = f"{name} ({meter}{', estimated by a model' * estimated})"
    if mean_w is not None:
        axes.axhline(mean_w, color=colour, linewidth=1.6, alpha=0.5, label="mean_w", zorder=1)
        values.append(np.array([mean_w]))
        text += f": {word}mean {mean_w:.4g} W"
    if domain is not None and domain["gross_j"] is not None:
        text += f", {word}energy gross {domain['gross_j']:.4g} J"
        text += "" if domain["net_j"] is None else f", net {domain['net_j']:.4g} J".replace("-", "−")
    axes.set_title(text, loc="left", fontsize=6.5, pad=3)
    axes.set_ylabel(f"{word}power (W)")
    every = np.concatenate(values)
    low_w, high_w = float(np.nanmin(every)), float(np.nanmax(every))
    margin = 0.06 * (high_w - min(low_w, 0.0)) or 1.0
    axes.set_ylim(min(0.0, low_w - margin), high_w + margin)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _phases(record: Record) -> list[tuple[str, float, float]]:
    """Name, begin and length of every phase, in s since the begin of the window; the shortest kinds are together."""
    zero_s = record["window"]["start_monotonic_s"]
    return [
        (_PHASES.get(phase["phase"], "other"), phase["begin_s"] - zero_s, phase["end_s"] - phase["begin_s"])
        for phase in record["window"]["timeline"]
    ]


def _strip(axes: Axes, phases: Sequence[tuple[str, float, float]]) -> None:
    for name, begin_s, length_s in phases:
        axes.broken_barh(
            [(begin_s, length_s)], (0, 1), linewidth=0.4, edgecolor=BLACK, hatch_linewidth=0.4, **_PHASE_LOOKS[name]
        )
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    if phases:
        axes.set_xlim(min(begin for _, begin, _ in phases), max(begin + length for _, begin, length in phases))
    axes.xaxis.set_major_locator(MaxNLocator(9))
    axes.set_xlabel("phases of the whole measurement, time since the begin of the window (s)", labelpad=2)


def _totals(record: Record) -> str:
    energy = record["energy"]
    word = modelled(energy["evidence"])
    if energy["gross_j"] is None:
        return f"No total: {energy['reason'] or 'no reason given'}."
    text = f"All domains: {word}mean {energy['mean_w']:.4g} W" if energy["mean_w"] is not None else "All domains"
    for kind in ("gross", "net"):
        each = energy[f"{kind}_j_per_request"]
        text += (
            f", {word}{kind} energy {each:.3g} J / request" if each is not None else f", no {kind} energy per request"
        )
    return text.replace("-", "−") + "."


def _flags(record: Record) -> str:
    flags = list(dict.fromkeys(flag["flag"] for flag in record["quality"]["flags"]))
    return f"Flags: {', '.join(flags)}." if flags else "No flags."


def _handles(levels: Sequence[str], wide: bool, phases: Sequence[str]) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [Line2D([], [], color=GREY, linewidth=1.6, alpha=0.5, label="mean of the window")]
    if wide:
        handles.append(Patch(facecolor=GREY, alpha=0.3, label="least to greatest in a short span"))
    handles += [Line2D([], [], linewidth=0.9, label=LEVELS[name][0], **LEVELS[name][1]) for name in levels]
    for name in phases:
        look: dict[str, Any] = {"edgecolor": BLACK, "linewidth": 0.4, "hatch_linewidth": 0.4} | _PHASE_LOOKS[name]
        handles.append(Patch(label=f"phase: {name}", **look))
    return handles
