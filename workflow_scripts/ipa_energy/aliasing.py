"""Aliasing: whether a sensor that is read in steps saw the load always at the same point of its cycle.

Power sensors may see only a part of each update period (25 of 100 ms on A100 and H100 PCIe; Yang, Adámek and Armour,
SC'24). As long as the instants of the updates wander through the cycle of the load, that averages out. Where batches
and updates keep step, every update sees the same part of a batch: a bias that a longer window does not remove and that
no second figure from the same sensor shows. So it is looked for where it arises, in the phase of the updates within the
batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST_UPDATES = 10
"""Fewer phases than this keep step by chance: the mean resultant length of n random ones is about 0.9/√n."""
SHORTEST_CYCLE_S = 0.010
"""Cycles below this are shorter than the shortest part that a sensor is known to see (10 ms on V100): it averages over
them, whatever their phase."""


def phase_locking(updates_s: Sequence[float], cycle_begins_s: Sequence[float]) -> float | None:
    """How closely the updates keep step with the cycles, from 0 (any phase alike) to 1 (always the same phase).

    ``updates_s`` are instants at which the sensor was updated, ``cycle_begins_s`` those at which a cycle of the load
    began (seconds of one clock, both ascending). The figure is the mean resultant length of the phases of the updates
    (K. V. Mardia and P. E. Jupp, Directional Statistics, 2000, section 2.3). None where fewer than
    :data:`LEAST_UPDATES` updates fall into cycles, and where the median cycle is shorter than
    :data:`SHORTEST_CYCLE_S`.
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
    return float(abs(np.exp(2j * np.pi * phases).mean()))


def update_instants(begin_s: float, end_s: float, period_s: float) -> Sequence[float]:
    """Instants of the updates in a window whose edges are updates themselves, about ``period_s`` apart (s).

    The period is taken from the whole window, because a small error of it would add up over many updates. Empty when
    the window holds none.
    """
    updates = round((end_s - begin_s) / period_s)
    return [] if updates < 1 else [float(t) for t in np.linspace(begin_s, end_s, updates + 1)]
