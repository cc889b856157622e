"""The figure of a characterisation: power over the whole recording, an excerpt of the sequence, and every response."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ipa_energy.characterise.recording import Recording
from ipa_energy.characterise.steady import Course
from ipa_energy.characterise.window import Shape
from ipa_energy.figures.style import BLACK, GREY, SERIES, TEXT_WIDTH_IN, print_style

Floats = NDArray[np.float64]

EXCERPT_S = 2.0
LEGEND_COLUMNS = 5
PHASE_WORDS = {
    "idle_bare_slow": "bare,\nrarely\npolled",
    "idle_bare": "bare",
    "idle_context": "context",
    "full": "full\nload",
    "idle_after_full": "idle",
    "sequence": "pseudo-random sequence",
    "idle_context_after": "context",
    "idle_bare_after": "bare",
}
"""Phases as the figure names them."""
SHORT = {
    "counter": "energy counter",
    "instant": "instant power (field 186)",
    "average": "average power (field 185)",
    "usage": "nvmlDeviceGetPowerUsage",
    "module_instant": "instant power, module scope",
    "module_average": "average power, module scope",
    "memory_instant": "instant power, memory scope",
    "memory_average": "average power, memory scope",
}
_DASHES: dict[str, Any] = {"usage": (0, (3, 3)), "module_average": (0, (1, 3)), "memory_average": (0, (1, 3))}
"""Channels that often say the same as another one: both can be seen."""
_ROW_IN, _UPPER_IN, _TOP_IN, _BOTTOM_IN = 1.8, 3.0, 0.72, 0.55


def draw(recording: Recording, result: dict[str, Any], courses: dict[str, Course]) -> Figure:
    """The figure. Channels without a response have no panel of their own."""
    colours = {name: SERIES[i % len(SERIES)] for i, name in enumerate(courses)}
    shown = [name for name, channel in result["channels"].items() if channel["response"]]
    columns = 2 if len(shown) in (2, 4) else min(max(len(shown), 1), 3)
    rows = -(-len(shown) // columns)
    top_in = _TOP_IN + 0.13 * (len(courses) // LEGEND_COLUMNS)  # more rows of the legend
    height = top_in + _UPPER_IN + _BOTTOM_IN + _ROW_IN * rows
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, height))
        split = 1 - (top_in + _UPPER_IN) / height
        upper = figure.add_gridspec(2, 1, left=0.075, right=0.98, hspace=0.6, top=1 - top_in / height, bottom=split)
        _whole(figure.add_subplot(upper[0]), recording, courses, colours)
        _excerpt(figure.add_subplot(upper[1]), recording, courses, colours)
        if shown:
            lower = figure.add_gridspec(
                rows, columns, left=0.075, right=0.98, wspace=0.28, hspace=0.85, top=split - 0.8 / height,
                bottom=_BOTTOM_IN / height,
            )  # fmt: skip
        for i, name in enumerate(shown):
            axes = figure.add_subplot(lower[i // columns, i % columns])
            _response(axes, name, result["channels"][name], colours[name], 118 // columns)
        if shown:
            _explain(figure, height)
        gpu = result["gpu"]
        title = f"{gpu['name']}, driver {result['driver']}, {result['started_utc'][:10]}"
        if result["load"]["kind"] != "cuda":
            title += "  (pretended load, no GPU)"
        figure.text(0.01, 1 - 0.08 / height, title, ha="left", va="top", fontsize=8, fontweight="bold")
        handles: list[Any] = [
            Line2D([], [], color=colours[n], linestyle=_DASHES.get(n, "-"), label=SHORT[n]) for n in courses
        ]
        handles.append(Patch(facecolor=GREY, alpha=0.3, linewidth=0, label="load on"))
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0.0, 1 - 0.2 / height),
            ncols=LEGEND_COLUMNS,
            frameon=False,
            borderpad=0.2,
            columnspacing=1.2,
        )
    return figure


def _steps(
    axes: Axes, path: Course, span_s: tuple[float, float], origin_s: float, colour: str, width: float, dashes: Any
) -> None:
    kept = (path.times_s[1:] >= span_s[0]) & (path.times_s[:-1] <= span_s[1])
    if kept.any():
        edges_s = np.append(path.times_s[:-1][kept], path.times_s[1:][kept][-1]) - origin_s
        axes.stairs(path.powers_w[kept], edges_s, color=colour, linewidth=width, linestyle=dashes, baseline=None)


def _whole(axes: Axes, recording: Recording, courses: dict[str, Course], colours: dict[str, str]) -> None:
    end_s = recording.phases[-1].end_s
    for name, path in courses.items():
        _steps(axes, path, (0.0, end_s), 0.0, colours[name], 0.4, _DASHES.get(name, "-"))
    axes.set_xlim(0, end_s)
    axes.set_ylim(0, 1.05 * max(float(np.quantile(path.powers_w, 0.999)) for path in courses.values()))
    for phase in recording.phases:
        if phase.name not in PHASE_WORDS:
            continue
        axes.axvline(phase.begin_s, color=GREY, linewidth=0.4, linestyle=":")
        middle_s = (phase.begin_s + phase.end_s) / 2
        axes.text(
            middle_s, 1.02, PHASE_WORDS[phase.name], transform=axes.get_xaxis_transform(), ha="center", va="bottom",
            fontsize=6,
        )  # fmt: skip
    axes.set_xlabel("time (s)", labelpad=1)
    axes.set_ylabel("power (W)")


def _excerpt(axes: Axes, recording: Recording, courses: dict[str, Course], colours: dict[str, str]) -> None:
    phase = recording.phase("sequence")
    begin_s = phase.begin_s + (phase.end_s - phase.begin_s - EXCERPT_S) / 2
    end_s = begin_s + EXCERPT_S
    times_s, levels = recording.log.times_s, recording.log.levels
    for i in np.flatnonzero(levels[:-1] > 0):
        if times_s[i + 1] > begin_s and times_s[i] < end_s:
            axes.axvspan(times_s[i] - begin_s, times_s[i + 1] - begin_s, color=GREY, alpha=0.3, linewidth=0)
    for name, path in courses.items():
        _steps(axes, path, (begin_s, end_s), begin_s, colours[name], 0.9, _DASHES.get(name, "-"))
    axes.set_xlim(0, EXCERPT_S)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"time (s) since {begin_s:.1f} s", labelpad=1)
    axes.set_ylabel("power (W)")
    axes.set_title(
        "an excerpt: the counter as mean power since its last update, power fields held until their next",
        loc="left",
        pad=3,
    )


def _response(axes: Axes, name: str, channel: dict[str, Any], colour: str, line_length: int) -> None:
    response, window = channel["response"], channel["window"]
    lags_ms = np.array(response["lags_s"]) * 1e3
    per_ms = 100 / np.diff(lags_ms)
    low, high = (np.array(response[key]) * per_ms for key in ("low", "high"))
    axes.stairs(high, lags_ms, baseline=low, fill=True, color=colour, alpha=0.3, linewidth=0)
    axes.stairs(np.array(response["weights"]) * per_ms, lags_ms, color=colour, linewidth=1.0, baseline=None)
    shape = Shape(**window["shape"])
    fine_s = np.linspace(lags_ms[0], lags_ms[-1], 2000) / 1e3
    density = np.gradient(shape.step(fine_s), fine_s) / 10
    axes.plot(fine_s * 1e3, density, color=BLACK, linewidth=0.7, linestyle="--")
    period_ms = channel["updates"]["period_s"] * 1e3
    for turn in range(1, int(lags_ms[-1] / period_ms) + 1):
        if lags_ms[-1] / period_ms < 5:
            axes.axvline(turn * period_ms, color=GREY, linewidth=0.5, linestyle=":")
    axes.axhline(0, color=GREY, linewidth=0.4)
    axes.set_xlim(lags_ms[0], lags_ms[-1])
    axes.set_xlabel("load before the update (ms)", labelpad=1)
    axes.set_ylabel("weight (% per ms)")
    text = "\n".join(textwrap.wrap(channel["verdict"]["text"].replace("CI ", "CI\u00a0"), line_length))
    axes.set_title(f"{SHORT[name]}\n{text}", loc="left", pad=3, fontsize=6.5)


def _explain(figure: Figure, height: float) -> None:
    """What the lines of the responses are, below them."""
    handles: list[Any] = [
        Line2D([], [], color=GREY, label="weights of any shape"),
        Patch(facecolor=GREY, alpha=0.3, linewidth=0, label="their 95 % interval"),
        Line2D([], [], color=BLACK, linestyle="--", linewidth=0.7, label="fitted window"),
        Line2D([], [], color=GREY, linestyle=":", linewidth=0.5, label="update periods"),
    ]
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.02 / height), ncols=4, frameon=False)
