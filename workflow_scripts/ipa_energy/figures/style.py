"""What all figures share: print size, a colour-blind safe palette, labels with units, atomic saving.

Colours are those of Okabe and Ito (*Color Universal Design*, 2008). Figures are made for a text width of 7.2 inches
(two columns of a journal), with type no smaller than 6 points, and are the same bytes for the same data.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from ipa_energy.files import atomic_path

TEXT_WIDTH_IN = 7.2

METERS_LINE_IN = 0.12
"""Height of each line of :func:`list_meters`, below the title."""

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY = "#7F7F7F"

SERIES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, YELLOW)
"""Okabe-Ito colours, the ones that print darkest first."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")

LABELS = {
    "accuracy": "accuracy (PAS)",
    "latency_p99": "p99 latency (s)",
    "latency_mean": "mean latency (s)",
    "cost": "cost (USD / 1000 requests)",
    "gross": "gross energy (J / request)",
    "net": "net energy (J / request)",
}
"""Axis labels of the metrics, with units."""

_RC: dict[str, Any] = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.0,
    "svg.hashsalt": "ipa-energy",
    "figure.dpi": 150,
}


@contextmanager
def print_style() -> Iterator[None]:
    """Matplotlib settings of all figures, for the length of a block."""
    with mpl.rc_context(rc=_RC):  # type: ignore[arg-type]
        yield


def name_meters(sets: Iterable[str]) -> dict[str, str]:
    """A short name for each set of meters, ``meters A``; none where there is one set, which needs no telling apart."""
    distinct = sorted(set(sets))
    return {meters: f"meters {chr(ord('A') + i)}" for i, meters in enumerate(distinct)} if len(distinct) > 1 else {}


def list_meters(figure: Figure, names: Mapping[str, str]) -> None:
    """Say below the title what the names of :func:`name_meters` stand for."""
    height = figure.get_figheight()
    for i, (meters, name) in enumerate(names.items()):
        y = 1 - (0.22 + METERS_LINE_IN * i) / height
        figure.text(0.01, y, f"{name}: {meters}", ha="left", va="top", fontsize=6.5)


def blank(message: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    with print_style():
        figure = Figure(figsize=(TEXT_WIDTH_IN, 1.5))
        figure.text(0.5, 0.5, textwrap.fill(message, 100), ha="center", va="center", fontsize=8)
    return figure


def save(figure: Figure, paths: Sequence[str | Path]) -> None:
    """Write the figure atomically to every path; the suffix (``.svg``, ``.png``) is the format."""
    for path in paths:
        kind = Path(path).suffix.removeprefix(".")
        with print_style(), atomic_path(path) as temporary:
            figure.savefig(
                temporary, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None, facecolor="white"
            )
