"""Service curves: what a replica does with a batch of any size, for the simulation. From a profile, or made by hand.

A profile has some batch sizes; a queue hands out whatever is there. Between profiled sizes time and energy of a batch
are interpolated linearly, as a fit may dip below what was measured; below the smallest they are those of the smallest,
which the batch would be padded to at worst.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np

from ipa_energy.ipa.options import CORES, Prices
from ipa_energy.ipa.profile import Profile, StageProfile, curves
from ipa_energy.ipa.profile_table import EnergyKind, ProfileError
from ipa_energy.ipa.ticks import Floats, Ints

Noise: TypeAlias = Callable[[np.random.Generator, int], Floats]
"""Draws factors with mean 1, shape (n,), that service times are multiplied by."""


@dataclass(frozen=True, slots=True, eq=False)
class ServiceCurve:
    """One replica of a variant on its cores. ``latency_s`` and ``busy_j`` have one entry per batch size, from 1 on.

    ``busy_j`` is what a batch costs above the waiting replica, None where unknown; ``idle_w`` is the power that the
    replica adds while it exists, None where unknown; ``cost`` is its price, in cores by default.
    """

    stage: str
    variant: str
    cores: int
    accuracy: float
    latency_s: Floats
    busy_j: Floats | None = None
    idle_w: float | None = None
    cost: float = 0.0
    noise: Noise | None = None

    @property
    def largest(self) -> int:
        """The largest batch size."""
        return len(self.latency_s)


Curves: TypeAlias = Mapping[str, Mapping[tuple[str, int], ServiceCurve]]
"""By stage, in pipeline order, and by (variant, cores of a replica)."""


@dataclass(frozen=True, slots=True)
class LognormalNoise:
    """Lognormal factors with mean 1 and this coefficient of variation (standard deviation over mean)."""

    variation: float

    def __call__(self, generator: np.random.Generator, size: int) -> Floats:
        """Draw ``size`` factors."""
        variance = math.log1p(self.variation**2)
        return np.asarray(generator.lognormal(-variance / 2, math.sqrt(variance), size), dtype=float)


def lognormal_variation(mean: float, p99: float) -> float:
    """Coefficient of variation of the lognormal distribution with this mean and 99th percentile.

    With standard deviation s of the logarithm, p99 / mean = exp(z s - s^2 / 2), of which the smaller root s is taken.
    0 where the percentile doesn't exceed the mean. Raises ValueError above exp(z^2 / 2) = 15, which none has.
    """
    z = NormalDist().inv_cdf(0.99)
    if p99 <= mean:
        return 0.0
    inside = z**2 - 2 * math.log(p99 / mean)
    if inside < 0:
        raise ValueError(f"no lognormal distribution has a 99th percentile of {p99 / mean:g} times its mean")
    return math.sqrt(math.expm1((z - math.sqrt(inside)) ** 2))


def service_curves(
    profile: Profile,
    *,
    latency: str = "mean",
    noise: float | Literal["p99"] = 0.0,
    prices: Prices = CORES,
) -> Curves:
    """The curves of all replicas of a profile.

    ``latency`` is the kind of service time, the mean by default, since a simulation makes its own percentiles.
    ``noise`` is the coefficient of variation of service times, or ``p99`` to take it from the profile's mean and 99th
    percentile, the mean of its batch sizes. Gross energy of a batch is made net as in :mod:`.options`. Raises
    ProfileError for a latency that the profile lacks, and for a variant with the same cores on two GPU shares.
    """
    return {stage.stage: _stage_curves(stage, profile.energy_kind, latency, noise, prices) for stage in profile.stages}


def _stage_curves(
    stage: StageProfile, kind: EnergyKind | None, latency: str, noise: float | Literal["p99"], prices: Prices
) -> dict[tuple[str, int], ServiceCurve]:
    seconds, price = stage.latency_s(latency), prices.of_replica(stage)
    busy_j = stage.energy_j if kind is not None else np.full(len(seconds), np.nan)
    if kind == "gross":
        waiting_w = np.where(np.isnan(stage.idle_w), 0.0, stage.idle_w)
        busy_j = busy_j - waiting_w * stage.batch / stage.throughput_rps
    made: dict[tuple[str, int], ServiceCurve] = {}
    for name, rows in curves(stage):
        first = int(rows[0])
        key = (stage.variants[stage.variant[first]], int(stage.cores[first]))
        if key in made:
            raise ProfileError(f"{name}: the same cores come with several GPU shares; simulate a profile with one")
        variation = _variation(stage, rows, name) if noise == "p99" else noise
        waiting = stage.idle_w[rows]
        made[key] = ServiceCurve(
            stage=stage.stage,
            variant=key[0],
            cores=key[1],
            accuracy=float(stage.accuracy[stage.variant[first]]),
            latency_s=_every_size(stage.batch[rows], seconds[rows]),
            busy_j=None if np.isnan(busy_j[rows]).any() else _every_size(stage.batch[rows], busy_j[rows]),
            idle_w=None if np.isnan(waiting).any() else float(waiting.mean()),
            cost=float(price[first]),
            noise=LognormalNoise(variation) if variation > 0 else None,
        )
    return made


def _every_size(batch: Ints, values: Floats) -> Floats:
    return np.interp(np.arange(1, int(batch[-1]) + 1), batch, values)


def _variation(stage: StageProfile, rows: Ints, name: str) -> float:
    if not {"latency_mean_s", "latency_p99_s"} <= set(stage.latencies):
        raise ProfileError(f"noise from the profile needs latency_mean_s and latency_p99_s, and {name} lacks one")
    mean, p99 = stage.latencies["latency_mean_s"], stage.latencies["latency_p99_s"]
    try:
        return float(np.mean([lognormal_variation(mean[row], p99[row]) for row in rows]))
    except ValueError as error:
        raise ProfileError(f"{name}: {error}; give the noise as a number") from error
