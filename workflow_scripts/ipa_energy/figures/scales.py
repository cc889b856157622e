"""Axes that fit their values, with few plain ticks: for metrics, and for ratios about 1."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOG_SPAN = 4.0
"""An axis whose largest value is more than this times its smallest is drawn on a log scale."""

_MARGIN = 0.06


def fit(axes: Axes, side: str, values: Floats) -> None:
    """Scale, limits and ticks of the axis ``side`` (``x`` or ``y``) for ``values``, of which at least one is finite."""
    axis = axes.xaxis if side == "x" else axes.yaxis
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low > 0 and high / low > LOG_SPAN:
        (axes.set_xscale if side == "x" else axes.set_yscale)("log")
        margin = (high / low) ** _MARGIN
        limits = (low / margin, high * margin)
        axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if high / low < 200 else (1.0,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    else:
        margin = _MARGIN * (high - low) or 0.1 * abs(high) or 1.0
        limits = (low - margin, high + margin)
        axis.set_major_locator(MaxNLocator(5))
    (axes.set_xlim if side == "x" else axes.set_ylim)(*limits)


def fit_factors(axes: Axes, side: str, values: Floats) -> None:
    """A log axis of ratios whose limits hold ``values`` and 1; ticks as factors."""
    axis = axes.yaxis if side == "y" else axes.xaxis
    low, high = min(float(values.min()), 1.0), max(float(values.max()), 1.0)
    margin = max((high / low) ** 0.05, 1.02)
    (axes.set_yscale if side == "y" else axes.set_xscale)("log")
    (axes.set_ylim if side == "y" else axes.set_xlim)(low / margin, high * margin)
    axis.set_major_locator(FixedLocator(_ticks(high / low * margin**2, few=side == "x")))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"×{value:.3g}"))


def _ticks(span: float, *, few: bool) -> list[float]:
    """Round factors on both sides of 1, for limits that differ by a factor of ``span``."""
    if span < 1.15:
        steps = [1 + 0.02 * i for i in range(-10, 11)]
    elif span < 1.8:
        steps = [1 + 0.1 * i for i in range(-4, 6)] if few else [1 + 0.05 * i for i in range(-7, 11)]
    elif span < 3:
        steps = [0.4, 0.5, 0.7, 1, 1.5, 2, 3] if few else [0.4, 0.5, 0.6, 0.7, 0.8, 1, 1.2, 1.5, 2, 2.5, 3]
    elif span < 40:
        steps = [2.0**i for i in range(-6, 7, 2 if few and span > 12 else 1)]
    else:
        steps = [10.0**i for i in range(-9, 10)]
    return [float(step) for step in steps]
