"""Schedules of the load: what it is to do, as rows of (duration in seconds, level 0 or 1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def steady(seconds: float) -> Floats:
    """Full load for so long. Shape (1, 2)."""
    return np.array([[seconds, 1.0]])


def pseudo_random(seconds: float, seed: int, pulse_s: tuple[float, float]) -> Floats:
    """A random telegraph of at least ``seconds``: slots of random length, each on or off by the toss of a coin.

    Lengths are uniform in ``pulse_s``, not multiples of a clock: whatever the period of a sensor, its updates meet the
    edges at all phases. Coin tosses (and not strict alternation) give the load power at low frequencies too, so that
    windows of a second are identified as well as those of 25 ms. Neighbours of one level are merged; the first is on,
    the last is off. Raises ValueError for impossible lengths.
    """
    shortest_s, longest_s = pulse_s
    if not 0 < shortest_s <= longest_s or seconds <= 0:
        raise ValueError(f"pulses of {shortest_s} to {longest_s} s in {seconds} s: all must be positive, and ordered")
    random = np.random.default_rng(seed)
    count = int(np.ceil(seconds / shortest_s)) + 2
    lengths_s = random.uniform(shortest_s, longest_s, count)
    slots = int(np.searchsorted(np.cumsum(lengths_s), seconds)) + 1
    levels = random.integers(0, 2, slots).astype(float)
    levels[0], levels[-1] = 1.0, 0.0
    changes = np.flatnonzero(np.diff(levels, prepend=-1.0))
    durations_s = np.add.reduceat(lengths_s[:slots], changes)
    return np.column_stack([durations_s, levels[changes]])
