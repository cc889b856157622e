"""Random numbers: one seed, and for each purpose a stream of its own.

numpy's generators of the seeds 5, (5, 0) and (5, 0, 0) are the same one. A load, its arrival times and its service
times that are all given the seed 5 would then be made of the same random bits, and not be independent of each other.
"""

from __future__ import annotations

import zlib

import numpy as np

from ipa_energy.serving.arrivals import Seed


def stream(seed: Seed, purpose: str, *numbers: int) -> np.random.Generator:
    """The generator of a seed for a purpose, such as one of several stages; the same for the same arguments."""
    key = (zlib.crc32(purpose.encode()), *numbers)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
