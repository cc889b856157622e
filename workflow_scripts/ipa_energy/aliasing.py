"""Aliasing: whether a sensor that is read in steps saw the load always at the same point of its cycle.

Power sensors may see only a part of each update period (25 of 100 ms on A100 and H100 PCIe; Yang, Adámek and Armour,
SC'24). As long as the instants of the updates wander through the cycle of the load, that averages out. Where batches
and updates keep step, every update sees the same part of a batch: a bias that a longer window does not remove and that
no second figure from the same sensor shows. So it is looked for where it arises, in the phase of the updates within the
batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LEAST_UPDATES = 10
"""Fewer phases than this keep step by chance."""
SHORTEST_CYCLE_S = 0.010
"""Cycles below this are shorter than the shortest part that a sensor is known to see (10 ms on V100): it averages over
them, whatever their phase."""
HARMONICS = 4
"""Cycles of the load from one to this many updates long are looked for; what longer ones leave is smaller."""
CHANCE = 1e-3
"""Probability with which random phases may be taken for locked ones."""
TICK_S = 0.0014
DETECTED_UPDATES = 10
"""How the period was found: from this many updates, each known to about this time."""


def phase_locking(updates_s: Sequence[float], cycle_begins_s: Sequence[float], trials: int = 1) -> float | None:
    """How closely the updates keep step with the cycles, from 0 (no more than chance) to 1 (always the same phases).

    ``updates_s`` are instants at which the sensor was updated, ``cycle_begins_s`` those at which a cycle of the load
    began (seconds of one clock, both ascending). With φ the phases of the updates within the cycles, the figure is the
    largest of |mean exp(2πi m φ)|, m = 1..:data:`HARMONICS`: the mean resultant length (K. V. Mardia and P. E. Jupp,
    Directional Statistics, 2000, section 2.3) for updates that meet one phase, two phases (a cycle of two updates) and
    so on. Lengths that n random phases reach with a probability of :data:`CHANCE`, exp(-n R²) for each of the
    harmonics and ``trials``, count as 0. None where fewer than :data:`LEAST_UPDATES` updates fall into cycles, and
    where the median cycle is shorter than :data:`SHORTEST_CYCLE_S`.
    """
    begins_s = np.unique(np.asarray(cycle_begins_s, dtype=float))
    updates = np.asarray(updates_s, dtype=float)
    if begins_s.size < 2 or float(np.median(np.diff(begins_s))) < SHORTEST_CYCLE_S:
        return None
    inside = updates[(updates >= begins_s[0]) & (updates < begins_s[-1])]
    if inside.size < LEAST_UPDATES:
        return None
    before = np.searchsorted(begins_s, inside, side="right") - 1
    phases = (inside - begins_s[before]) / (begins_s[before + 1] - begins_s[before])
    longest = max(float(abs(np.exp(2j * np.pi * m * phases).mean())) for m in range(1, HARMONICS + 1))
    by_chance = math.sqrt(math.log(HARMONICS * trials / CHANCE) / inside.size)
    return longest if longest > by_chance else 0.0


def window_locking(begin_s: float, end_s: float, period_s: float, cycle_begins_s: Sequence[float]) -> float | None:
    """:func:`phase_locking` over a window whose edges are updates themselves, about ``period_s`` apart (s).

    The period is known from a few updates only, and its error adds up over a long window: one update too many or too
    few turns the phase round once, and locked updates would look random. So all numbers of updates that the period's
    error allows are tried, and the largest figure counts. None where the window holds too few.
    """
    updates = round((end_s - begin_s) / period_s)
    slack = round(updates * TICK_S / (DETECTED_UPDATES * period_s))
    counts = [count for count in range(updates - slack, updates + slack + 1) if count >= LEAST_UPDATES]
    found = [
        phase_locking(np.linspace(begin_s, end_s, count + 1).tolist(), cycle_begins_s, trials=len(counts))
        for count in counts
    ]
    return max((value for value in found if value is not None), default=None)
