"""Resampling of updates in blocks, so that intervals hold although neighbouring updates see overlapping load.

Moving blocks on a circle: D. N. Politis and J. P. Romano, "A circular block-resampling procedure for stationary data",
in Exploring the Limits of Bootstrap, 1992.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Interval:
        """The same in another unit."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)


def interval(value: float, draws: Floats) -> Interval:
    """The percentile interval of ``draws`` about ``value``, never leaving the value outside."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(min(low, value)), float(max(high, value)))


def block_counts(rows: int, block: int, draws: int, random: np.random.Generator) -> Floats:
    """How often each row is drawn, shape (draws, rows): blocks of ``block`` neighbours, as many rows as there are.

    The last block is cut so that every draw has ``rows`` rows.
    """
    block = int(np.clip(block, 1, rows))
    starts = random.integers(0, rows, (draws, -(-rows // block)))
    chosen = ((starts[:, :, None] + np.arange(block)) % rows).reshape(draws, -1)[:, :rows]
    counts = np.zeros((draws, rows))
    np.add.at(counts, (np.arange(draws)[:, None], chosen), 1.0)
    return counts
