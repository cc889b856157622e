"""Exchange of configurations of a subset for others of the grid, until no exchange makes the effects more orthogonal.

What is made smaller is the sum of the squares of all entries of X'X, for the model matrix X of main effects and two-way
interactions in orthonormal contrasts: the criterion E(s²) of Booth and Cox (*Some systematic supersaturated designs*,
Technometrics 4, 1962), minimised by exchanges as by Nguyen (Technometrics 38, 1996). It equals the sum of K(a, b)² over
all pairs of chosen configurations, where K(a, b) is the inner product of two rows of X, and an integer. For a knob
whose level the two share let u be its number of levels less 1, and -1 for any other knob; K is then 1, plus the sum of
u over the knobs, plus the sum of u u' over pairs of knobs. No rounding can decide an exchange: every machine makes the
same ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ipa_energy.design_check import Factor

Ints = NDArray[np.int64]

_TRIED = 10
"""Configurations that are tried for leaving, those first that are most alike to the others."""


def exchanged(factors: Sequence[Factor], chosen: Ints, *, interactions: bool = True) -> Ints:
    """Sorted places of as many configurations as ``chosen``, after the exchanges."""
    grid = len(factors[0].codes)
    inside = np.zeros(grid, dtype=bool)
    inside[chosen] = True
    likeness = np.zeros(grid, dtype=np.int64)
    for place in chosen:
        likeness += _squares(factors, int(place), interactions)
    own = int(_squares(factors, 0, interactions)[0])
    while True:
        members = np.flatnonzero(inside)
        worst_first = members[np.argsort(-likeness[members], kind="stable")]
        for leaving in worst_first[:_TRIED]:
            removed = _squares(factors, int(leaving), interactions)
            others = np.where(inside, np.iinfo(np.int64).max, likeness - removed)
            entering = int(np.argmin(others))
            # The sum changes by twice this difference, so that it falls with each exchange, and the loop ends.
            if others[entering] < likeness[leaving] - own:
                likeness += _squares(factors, entering, interactions) - removed
                inside[leaving], inside[entering] = False, True
                break
        else:
            return members


def _squares(factors: Sequence[Factor], place: int, interactions: bool) -> Ints:
    """K² of one configuration with every one of the grid, shape (grid,)."""
    total = np.zeros(len(factors[0].codes), dtype=np.int64)
    squares = np.zeros_like(total)
    for factor in factors:
        shared = len(factor.levels) - 1
        u = np.where(factor.codes == factor.codes[place], shared, -1)
        total += u
        squares += u * u
    inner = 1 + total
    if interactions:
        inner += (total * total - squares) // 2
    return np.asarray(inner * inner, dtype=np.int64)
