"""The loads of a study: requests per second, from a pattern of IPA's or a file of the user's, and how large they are.

A *scale* says how many times as large a load is as IPA's own. A pattern has that of the config. A file has its largest
second over that of the patterns, but at least 1: IPA's excerpts have 1 too, and what is smaller is not stretched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipa_energy.ipa.random_streams import stream
from ipa_energy.ipa.ticks import Ints
from ipa_energy.ipa.trace_files import read_counts
from ipa_energy.ipa.workload import PATTERNS, pattern_counts

LARGEST_RPS = max(pattern.published.maximum for pattern in PATTERNS.values())
"""The largest second of IPA's loads."""


def load_counts(name: str, load: Mapping[str, Any], seed: int) -> Ints:
    """Requests in each second of a load of the config (``ipa.adaptation.loads``), shape (seconds,).

    Patterns scatter independently of each other, by the study's seed and the name of the load.
    """
    if "file" in load:
        return read_counts(load["file"], damping=load["damping"], first=load["first"], last=load["last"])
    return pattern_counts(load["pattern"], derived_seed(seed, f"load {name}"), load["seconds"], load["scale"])


def load_scale(load: Mapping[str, Any], counts: Ints) -> float:
    """How many times as large as IPA's loads this one is."""
    return float(load["scale"]) if "pattern" in load else scale_of_counts(counts)


def scale_of_counts(counts: Ints) -> float:
    """The scale of a load that is known by its counts alone."""
    return max(1.0, float(counts.max()) / LARGEST_RPS)


def derived_seed(seed: int, purpose: str, *numbers: int) -> int:
    """A seed of its own for a purpose, the same for the same arguments."""
    return int(stream(seed, purpose, *numbers).integers(2**31))
