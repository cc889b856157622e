"""Energy per request by domain, idle part and net part: a bar for each configuration, or for groups of many.

The table of :mod:`ipa_energy.analysis.split` goes in. In every bar the net parts of the domains come first, then their
idle parts: up to the first light part is net energy, the whole bar is gross. Estimated domains are hatched. External
logs of other meters are diamonds beside the bars and in no sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ipa_energy.analysis.aggregate import evidence_of
from ipa_energy.analysis.split import PARTS
from ipa_energy.analysis.tables import varying_knobs
from ipa_energy.analysis.wording import modelled
from ipa_energy.figures.names import cell_names, configuration_names, rows_of
from ipa_energy.figures.style import (
    BLACK,
    METERS_LINE_IN,
    SERIES,
    TEXT_WIDTH_IN,
    blank,
    list_meters,
    name_meters,
    print_style,
)

MOST_BARS = 40
"""More configurations than this are drawn as tenths of equal size, and as means of each variant."""

Floats = NDArray[np.float64]

GROSS, IDLE, NET = PARTS
_LINE_IN, _HEAD_IN, _AXIS_IN, _TOP_IN, _LEGEND_IN = 0.135, 0.2, 0.42, 0.28, 0.14
_LETTER_IN, _LEFT_IN, _RIGHT_IN = 0.047, 0.35, 1.25
_LIGHT = 0.68
"""How much white is in the colour of idle parts."""

_DIAMOND: dict[str, Any] = {
    "marker": "D",
    "color": BLACK,
    "linestyle": "",
    "markersize": 3,
    "markeredgewidth": 0.7,
    "clip_on": False,
}


@dataclass(frozen=True, slots=True)
class _Bars:
    """Labels from top to bottom, and by part and domain a value for each, in J per request; NaN where not known."""

    labels: tuple[str, ...]
    means: Mapping[str, Mapping[str, Floats]]
    inside: tuple[str, ...]

    def total(self, part: str) -> Floats:
        """The sum over the domains of the total."""
        return np.asarray(np.sum([self.means[part][domain] for domain in self.inside], axis=0), dtype=float)


def draw(split: pd.DataFrame, title: str) -> Figure:
    """The figure of one workload, a panel for each cell; without any energy it says so."""
    if split.empty:
        return blank(f"{title}: no usable record has an energy per request; measurements.csv has the reasons.")
    names = cell_names(split)
    domains = _domains(split)
    bars = {cell: _bars(rows_of(split, cell)) for cell in names}
    meters = name_meters(split["meters"])
    handles = _handles(split, domains)
    top_in = _TOP_IN + METERS_LINE_IN * len(meters)
    bottom_in = _LEGEND_IN * -(-len(handles) // 3) + 0.08
    heights_in = [_LINE_IN * len(one.labels) for one in bars.values()]
    height = top_in + bottom_in + sum(heights_in) + (_HEAD_IN + _AXIS_IN) * len(bars)
    left_in = _LEFT_IN + _LETTER_IN * max(len(label) for one in bars.values() for label in one.labels)
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, height))
        from_top_in = top_in
        for (cell, one), panel_in in zip(bars.items(), heights_in, strict=True):
            from_top_in += _HEAD_IN + panel_in
            box = (
                left_in / TEXT_WIDTH_IN,
                1 - from_top_in / height,
                (TEXT_WIDTH_IN - left_in - _RIGHT_IN) / TEXT_WIDTH_IN,
                panel_in / height,
            )
            axes = figure.add_axes(box)
            rows = rows_of(split, cell)
            _panel(axes, one, _evidence(rows), domains)
            word = modelled(evidence_of(rows.loc[rows["in_total"] == "yes", "evidence"]))
            axes.set_xlabel(f"{word}energy per request (J / request)", labelpad=2)
            count = rows["configuration"].nunique()
            head = names[cell] + ": " * bool(names[cell]) + f"{count:,} configuration{'s' * (count != 1)}"
            above = 1 - (from_top_in - panel_in - 0.04) / height
            figure.text(0.01, above, head, fontsize=6.5, va="bottom")
            figure.text(1 - (_RIGHT_IN - 0.05) / TEXT_WIDTH_IN, above, f"{word}total", fontsize=6.5, va="bottom")
            from_top_in += _AXIS_IN
        figure.text(0.01, 1 - 0.08 / height, title, ha="left", va="top", fontsize=8, fontweight="bold")
        list_meters(figure, meters)
        figure.legend(
            handles=handles,
            loc="lower center",
            bbox_to_anchor=(0.5, 0.02 / height),
            ncols=3,
            frameon=False,
            labelspacing=0.3,
        )
    return figure


def _domains(split: pd.DataFrame) -> list[str]:
    """Domains of totals, in the order of the table; the same colour in all panels."""
    return list(dict.fromkeys(split.loc[split["in_total"] == "yes", "domain"]))


def _evidence(rows: pd.DataFrame) -> dict[str, str]:
    return dict(zip(rows["domain"], rows["evidence"], strict=True))


def _bars(rows: pd.DataFrame) -> _Bars:
    """The bars of one cell: its configurations from the least energy to the most, or groups of them."""
    wide = {part: rows.pivot(index="configuration", columns="domain", values=part) for part in PARTS}
    inside = _domains(rows)
    total = pd.Series(wide[GROSS][inside].to_numpy(dtype=float).sum(axis=1), index=wide[GROSS].index)
    order = total.sort_values(kind="stable").index
    names = configuration_names(rows)
    if len(order) <= MOST_BARS:
        groups = [(names[str(name)], [name]) for name in order]
    else:
        tenths = np.array_split(np.array(order), 10)
        groups = [(_tenth(i), list(chosen)) for i, chosen in enumerate(tenths)]
        first = rows.drop_duplicates("configuration").set_index("configuration")
        for knob in [name for name in varying_knobs(first) if name.endswith(".variant")]:
            by_level = total.groupby(first[knob]).mean().sort_values(kind="stable")
            groups += [(f"mean with {level}", list(first.index[first[knob] == level])) for level in by_level.index]
    means = {
        part: {
            str(domain): np.array([table.loc[chosen, domain].to_numpy(dtype=float).mean() for _, chosen in groups])
            for domain in table.columns
        }
        for part, table in wide.items()
    }
    return _Bars(tuple(_shortened(label) for label, _ in groups), means, tuple(inside))


def _tenth(index: int) -> str:
    words = {0: "1st tenth (least energy)", 1: "2nd tenth", 2: "3rd tenth", 9: "10th tenth (most energy)"}
    return words.get(index, f"{index + 1}th tenth")


def _shortened(text: str, most: int = 62) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _panel(axes: Axes, bars: _Bars, evidence: dict[str, str], domains: Sequence[str]) -> None:
    y = np.arange(len(bars.labels))
    below, above = np.zeros(len(y)), np.zeros(len(y))
    gross, net = bars.total(GROSS), bars.total(NET)
    for part in (NET, IDLE, GROSS):
        for domain in bars.inside:
            width = np.where(np.isnan(net) == (part == GROSS), bars.means[part][domain], 0.0)
            if not width.any():
                continue
            look = _look(domains.index(domain), part, evidence[domain])
            axes.barh(y, width, left=np.where(width < 0, below, above), height=0.74, label=f"{domain} {part}", **look)
            below, above = below + np.minimum(width, 0), above + np.maximum(width, 0)
    for name in [name for name in evidence if name not in bars.inside]:
        for part, fill in ((GROSS, "full"), (NET, "none")):
            axes.plot(bars.means[part][name], y, fillstyle=fill, label=f"{name} {part}", **_DIAMOND)
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=BLACK, linewidth=0.6)
    for at, total, added in zip(y, gross, net, strict=True):
        text = f"{_joules(total)}, " + ("net not known" if np.isnan(added) else f"net {_joules(added)}")
        axes.annotate(text, (1, at), (4, 0), ("axes fraction", "data"), "offset points", fontsize=6, va="center")
    axes.set_yticks(y, bars.labels, fontsize=6)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(y) - 0.45, -0.55)
    axes.xaxis.set_major_locator(MaxNLocator(6))


def _look(number: int, part: str, evidence: str) -> dict[str, Any]:
    colour = np.array(to_rgb(SERIES[number % len(SERIES)]))
    face = colour if part == NET else colour + _LIGHT * (1 - colour) if part == IDLE else np.ones(3)
    hatch = {"hatch": "/////"} if evidence == "estimated" else {}
    edge = "white" if part == NET and hatch else tuple(colour)
    return {"facecolor": tuple(face), "edgecolor": edge, "linewidth": 0.5, "hatch_linewidth": 0.5} | hatch


def _handles(split: pd.DataFrame, domains: Sequence[str]) -> list[Patch | Line2D]:
    inside = split[split["in_total"] == "yes"]
    handles: list[Patch | Line2D] = []
    for domain, evidence in dict.fromkeys(zip(inside["domain"], inside["evidence"], strict=True)):
        name = f"{domain}{' (estimated)' if evidence == 'estimated' else ''}"
        known = inside.loc[(inside["domain"] == domain) & (inside["evidence"] == evidence), NET].notna()
        parts = [(NET, "net of idle")] * bool(known.any()) + [(IDLE, "idle part")] * bool(known.any())
        parts += [(GROSS, "gross, idle part not known")] * (not bool(known.all()))
        handles += [
            Patch(**_look(domains.index(domain), part, evidence), label=f"{name}: {word}") for part, word in parts
        ]
    for name in dict.fromkeys(split.loc[split["in_total"] == "no", "domain"]):
        handles.append(Line2D([], [], **_DIAMOND, label=f"{name}, external log: gross"))
        handles.append(Line2D([], [], **_DIAMOND, fillstyle="none", label=f"{name}, external log: net"))
    return handles


def _joules(value: float) -> str:
    return f"{value:.3g} J".replace("-", "−")
