"""Exact sums of decimals: seconds, joules, requests per second and cost as whole numbers of billionths.

In floating point 0.1 + 0.2 <= 0.3 is false and a sum depends on the order of its terms, so that a configuration would
meet its SLA in one module and miss it in another, and equal configurations would not tie. Every figure of an option is
therefore rounded once, to 1e-9 of its unit (a nanosecond, a nanojoule), which is far below what anyone measures; after
that all sums and comparisons are exact. Ticks are held in float64, which is exact for whole numbers up to 2**53 and
has a NaN for what is not known.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PER_UNIT = 1e9

LARGEST = 1e6
"""Largest figure of one option, in its unit: nine options of this size still add up exactly."""


def to_ticks(values: ArrayLike, what: str) -> Floats:
    """Whole billionths of ``values``, NaN where they are NaN. Raises ValueError, naming ``what``, above a million."""
    array = np.asarray(values, dtype=float)
    if np.any(np.abs(array) > LARGEST):
        worst = array.flat[int(np.nanargmax(np.abs(array)))]
        raise ValueError(
            f"{what} is {worst:g}: figures above {LARGEST:g} can't be added exactly; check the unit of the profile"
        )
    return np.asarray(np.rint(array * PER_UNIT), dtype=float)


def from_ticks(ticks: Floats) -> Floats:
    """The figures in their unit again: the nearest float64 to the decimal, so that 3e8 ticks read 0.3."""
    return np.asarray(ticks / PER_UNIT, dtype=float)
