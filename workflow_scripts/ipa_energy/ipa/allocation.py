"""Base allocation: the smallest replica of each variant that sustains a threshold rate within the stage's SLA.

The paper's equation 1 fixes, before any input is known, how many cores a replica of a variant has: the fewest with
throughput of at least a threshold and latency at the largest batch size of at most the stage's SLA. It goes with a
profile that has every variant on several numbers of cores, or shares of a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ipa_energy.ipa.options import CORES, Prices
from ipa_energy.ipa.profile import Profile, StageProfile, curves, make_profile
from ipa_energy.ipa.profile_table import ProfileError
from ipa_energy.ipa.ticks import Floats


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a variant's replica is given, and why; ``cores`` and ``gpu_share`` are None where nothing suffices."""

    stage: str
    variant: str
    cores: int | None
    gpu_share: float | None
    reason: str


def base_allocation(
    stage: StageProfile,
    threshold_rps: float,
    sla_s: float,
    *,
    max_batch: int | None = None,
    latency: str = "p99",
    prices: Prices = CORES,
) -> tuple[Allocation, ...]:
    """Equation 1 for every variant of a stage, in the order of the profile.

    Throughput is the largest over the batch sizes up to ``max_batch``, latency that of the largest of them. Of the
    allocations that suffice the cheapest is taken, then the one with fewer cores: with the default prices, the fewest
    cores. Raises ValueError for a threshold or an SLA that isn't above 0, ProfileError for a max_batch below all sizes.
    """
    for name, value in (("threshold_rps", threshold_rps), ("sla_s", sla_s)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} of stage {stage.stage} is {value}: give a number above 0")
    if max_batch is not None and max_batch < stage.batch.min():
        raise ProfileError(f"max_batch is {max_batch}, but stage {stage.stage} starts at batch {stage.batch.min()}")
    seconds, price = stage.latency_s(latency), prices.of_replica(stage)
    tried: dict[int, list[tuple[float, int, int, float, float]]] = {}
    for _, rows in curves(stage):
        usable = rows[stage.batch[rows] <= max_batch] if max_batch else rows
        if len(usable):
            first, last = int(usable[0]), int(usable[-1])
            most = float(stage.throughput_rps[usable].max())
            tried.setdefault(int(stage.variant[first]), []).append(
                (float(price[first]), int(stage.cores[first]), first, most, float(seconds[last]))
            )
    return tuple(
        _smallest(stage, variant, sorted(tried.get(variant, [])), threshold_rps, sla_s)
        for variant in range(len(stage.variants))
    )


def _smallest(
    stage: StageProfile,
    variant: int,
    tried: list[tuple[float, int, int, float, float]],
    threshold_rps: float,
    sla_s: float,
) -> Allocation:
    name = stage.variants[variant]
    for _, cores, row, most, slowest in tried:
        if most >= threshold_rps and slowest <= sla_s:
            share = float(stage.gpu_share[row])
            reason = f"sustains {most:g} requests/s, largest batch takes {slowest:g} s"
            return Allocation(stage.stage, name, cores, share, reason)
    if not tried:
        return Allocation(stage.stage, name, None, None, "no batch size up to max_batch was profiled")
    most, fastest = max(t[3] for t in tried), min(t[4] for t in tried)
    reason = (
        f"none of its {len(tried)} allocations sustains {threshold_rps:g} requests/s with the largest batch in "
        f"{sla_s:g} s: the most is {most:g} requests/s, the fastest {fastest:g} s"
    )
    return Allocation(stage.stage, name, None, None, reason)


def stage_sla_s(stage: StageProfile, factor: float = 5.0, latency: str = "p99", prices: Prices = CORES) -> float:
    """The paper's SLA of a stage: ``factor`` times the mean over variants of the latency at the smallest batch size.

    Each variant counts with its cheapest allocation, the base allocation where the profile holds only that. IPA's code
    multiplies twice, by 25 (docs/ipa.md).
    """
    seconds, price = stage.latency_s(latency), prices.of_replica(stage)
    least: Floats = np.array(
        [
            seconds[min(np.flatnonzero(stage.variant == v), key=lambda row: (price[row], stage.batch[row]))]
            for v in range(len(stage.variants))
        ]
    )
    return float(factor * least.mean())


def with_base_allocation(
    profile: Profile,
    thresholds_rps: Mapping[str, float],
    slas_s: Mapping[str, float],
    *,
    max_batch: int | None = None,
    latency: str = "p99",
    prices: Prices = CORES,
) -> Profile:
    """The profile with each variant on its base allocation only; variants that nothing suffices for are left out.

    What was left out and why stands in ``remarks``. Raises ProfileError when a stage loses all its variants.
    """
    keep, told = np.zeros(len(profile.table), dtype=bool), []
    table = profile.table
    for stage in profile.stages:
        found = base_allocation(
            stage,
            thresholds_rps[stage.stage],
            slas_s[stage.stage],
            max_batch=max_batch,
            latency=latency,
            prices=prices,
        )
        if all(a.cores is None for a in found):
            raise ProfileError(f"no variant of stage {stage.stage} has a base allocation: {found[0].reason}")
        for a in found:
            if a.cores is None:
                told.append(f"{a.stage}/{a.variant} is left out: {a.reason}")
            same = (table["stage"] == a.stage) & (table["variant"] == a.variant)
            keep |= (same & (table["cores"] == a.cores) & (table["gpu_share"] == a.gpu_share)).to_numpy()
    made = make_profile(table[keep].reset_index(drop=True), profile.energy_kind)
    return Profile(made.table, made.stages, made.energy_kind, (*profile.remarks, *told))


def allocation_table(allocations: tuple[Allocation, ...]) -> pd.DataFrame:
    """Allocations as a table, null where there is none."""
    rows = [(a.stage, a.variant, a.cores, a.gpu_share, a.reason) for a in allocations]
    made = pd.DataFrame(rows, columns=["stage", "variant", "cores", "gpu_share", "reason"])
    return made.astype({"cores": "Int64", "gpu_share": float})
