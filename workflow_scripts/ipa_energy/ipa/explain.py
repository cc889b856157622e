"""Why no configuration is feasible: which constraint binds, where, and by how much, without enumerating the space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ipa_energy.ipa.options import Options, sufficient
from ipa_energy.ipa.ticks import PER_UNIT
from ipa_energy.ipa.totals import rate_ticks, sla_ticks

Constraint = Literal["throughput", "latency", "latency and throughput"]


@dataclass(frozen=True, slots=True)
class Binding:
    """The constraint that leaves no configuration, and what it says in figures.

    ``throughput``: some stage reaches the rate with no option. ``latency``: even the fastest options of all stages are
    too slow together. ``latency and throughput``: they would be fast enough, but those that reach the rate are not.
    """

    constraint: Constraint
    reason: str


def binding_constraint(options: Options) -> Binding | None:
    """What makes the space empty; None when it isn't."""
    given, enough, short = options.given, sufficient(options), []
    for stage, kept in zip(options.stages, enough.stages, strict=True):
        if len(stage) == 0:
            short.append(f"stage {stage.stage} has no option left")
        elif len(kept) == 0:
            best = int(np.argmax(stage.throughput))
            short.append(
                f"stage {stage.stage} reaches at most {stage.throughput[best] / PER_UNIT:g} requests/s "
                f"({stage.variants[stage.variant[best]]}, batch {stage.batch[best]}, {stage.replicas[best]} replicas)"
            )
    if short:
        return Binding("throughput", f"the rate is {rate_ticks(given) / PER_UNIT:g} requests/s, but {'; '.join(short)}")
    sla = sla_ticks(given)
    alone, told = _fastest(options)
    if alone > sla:
        return Binding(
            "latency", f"the SLA is {given.sla_s:g} s, but the fastest options need {alone / PER_UNIT:g} s: {told}"
        )
    together, told = _fastest(enough)
    if together > sla:
        return Binding(
            "latency and throughput",
            f"the SLA is {given.sla_s:g} s; the fastest options meet it ({alone / PER_UNIT:g} s), but not with the "
            f"replicas allowed at {given.rate_rps:g} requests/s; the fastest that do need {together / PER_UNIT:g} s: "
            f"{told}",
        )
    return None


def _fastest(options: Options) -> tuple[float, str]:
    """Least latency in ticks, and what each stage adds to it."""
    total, told = 0.0, []
    for stage in options.stages:
        i = int(np.argmin(stage.latency))
        total += float(stage.latency[i])
        told.append(
            f"{stage.stage} {stage.service[i] / PER_UNIT:g} s + queue {stage.queue[i] / PER_UNIT:g} s "
            f"({stage.variants[stage.variant[i]]}, batch {stage.batch[i]})"
        )
    return total, ", ".join(told)
