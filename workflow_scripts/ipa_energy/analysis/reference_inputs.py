"""Inputs (rate and SLA) for which a choice is asked: those of the config, or made from the measurements.

The paper chooses a configuration for an input: a rate of requests and a bound on latency. Where a study names none, or
none that anything measured can serve, quartiles of what was measured stand in for them, and say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class ReferenceInput:
    """An input: rate in requests/s, SLA on p99 latency in s, and whether the config gave it or the data did."""

    name: str
    rate_rps: float
    sla_s: float
    given_by: Literal["config", "derived"]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate_rps) and self.rate_rps >= 0):
            raise ValueError(f"input {self.name}: rate_rps is {self.rate_rps}: give a number, 0 or more")
        if not self.sla_s > 0:
            raise ValueError(f"input {self.name}: sla_s is {self.sla_s}: give a number above 0")


def given_inputs(inputs: Mapping[str, tuple[float, float]]) -> list[ReferenceInput]:
    """The inputs of the config: name to (rate in requests/s, SLA in s). Raises ValueError for negative ones."""
    return [ReferenceInput(str(name), float(rate), float(sla), "config") for name, (rate, sla) in inputs.items()]


def derived_inputs(throughput_rps: Floats, latency_p99_s: Floats) -> list[ReferenceInput]:
    """The quartiles of throughput as rates by those of p99 latency as SLAs, where any configuration serves both.

    Both arrays have the shape (configurations,). Equal quartiles give one input, and no configuration none.
    """
    if len(throughput_rps) == 0:
        return []
    found: dict[tuple[float, float], ReferenceInput] = {}
    for rate_share in QUARTILES:
        for sla_share in QUARTILES:
            # A quartile is the figure of a configuration, or rounding could leave that configuration out.
            rate = float(np.quantile(throughput_rps, rate_share, method="lower"))
            sla = float(np.quantile(latency_p99_s, sla_share, method="higher"))
            if ((throughput_rps >= rate) & (latency_p99_s <= sla)).any():
                name = f"rate-p{100 * rate_share:.0f}-sla-p{100 * sla_share:.0f}"
                found.setdefault((rate, sla), ReferenceInput(name, rate, sla, "derived"))
    return list(found.values())
