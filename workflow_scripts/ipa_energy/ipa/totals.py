"""What a pipeline makes of its stages' options: sums of latency, cost and energy, least throughput, accuracy.

The one place where stages are put together: the space, the solver, the front and the baselines describe configurations
with it, so that they agree on every figure. A configuration is one option index per stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ipa_energy.configuration import StageKnobs
from ipa_energy.ipa.objective import Objective
from ipa_energy.ipa.options import Input, Options
from ipa_energy.ipa.ticks import Floats, Ints, from_ticks, to_ticks

COLUMNS = {
    "accuracy_pas": "Product over the stages of accuracy as a fraction.",
    "accuracy_rank_sum": "Sum over the stages of rank-normalised accuracy.",
    "cost": "Price of all replicas, used or not; with the default prices, their cores.",
    "batch_sum": "Sum over the stages of the batch sizes.",
    "service_s": "Sum over the stages of the latency of a batch, in s.",
    "queue_s": "Sum over the stages of (b - 1) / rate, in s.",
    "latency_s": "service_s + queue_s, which the SLA bounds.",
    "throughput_rps": "Requests per second of the slowest stage, all its replicas together.",
    "energy_j_per_request": "Energy per request at the rate, in J; null where the profile has none, or the rate is 0.",
    "objective": "Value of the objective; null when it weighs energy and there is none.",
}
"""Columns that describe a whole configuration."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Figures of configurations as arrays of one shape; ``latency``, ``throughput`` are in ticks, others as named."""

    accuracy_pas: Floats
    accuracy_rank_sum: Floats
    cost: Floats
    batch_sum: Ints
    service_s: Floats
    queue_s: Floats
    latency: Floats
    throughput: Floats
    energy_j: Floats

    def objective(self, objective: Objective) -> Floats:
        """The objective's value of each configuration."""
        accuracy = self.accuracy_pas if objective.accuracy == "pas" else self.accuracy_rank_sum
        return objective.values(accuracy, self.cost, self.batch_sum.astype(float), self.energy_j)

    def columns(self, objective: Objective) -> dict[str, NDArray[np.generic]]:
        """All figures under the names of :data:`COLUMNS`."""
        return {
            "accuracy_pas": self.accuracy_pas,
            "accuracy_rank_sum": self.accuracy_rank_sum,
            "cost": self.cost,
            "batch_sum": self.batch_sum,
            "service_s": self.service_s,
            "queue_s": self.queue_s,
            "latency_s": from_ticks(self.latency),
            "throughput_rps": from_ticks(self.throughput),
            "energy_j_per_request": self.energy_j,
            "objective": self.objective(objective),
        }


def sla_ticks(given: Input) -> float:
    """The SLA in ticks."""
    return float(to_ticks(given.sla_s, "sla_s"))


def rate_ticks(given: Input) -> float:
    """The rate in ticks."""
    return float(to_ticks(given.rate_rps, "rate_rps"))


def totals(options: Options, chosen: Sequence[Ints]) -> Totals:
    """Put together the configurations whose option of stage s is ``chosen[s]``; arrays that broadcast together."""
    first, *others = zip(options.stages, chosen, strict=True)
    stage, i = first
    pas, rank, batch = stage.accuracy[i], stage.rank[i], stage.batch[i]
    cost, service, queue = stage.cost[i], stage.service[i], stage.queue[i]
    throughput, energy = stage.throughput[i], stage.energy[i]
    for stage, i in others:
        pas, rank, batch = pas * stage.accuracy[i], rank + stage.rank[i], batch + stage.batch[i]
        cost, service, queue = cost + stage.cost[i], service + stage.service[i], queue + stage.queue[i]
        throughput, energy = np.minimum(throughput, stage.throughput[i]), energy + stage.energy[i]
    return Totals(
        accuracy_pas=pas,
        accuracy_rank_sum=rank,
        cost=from_ticks(cost),
        batch_sum=batch,
        service_s=from_ticks(service),
        queue_s=from_ticks(queue),
        latency=service + queue,
        throughput=throughput,
        energy_j=from_ticks(energy),
    )


def knobs(options: Options, chosen: Sequence[int]) -> tuple[StageKnobs, ...]:
    """One configuration as the knobs of its stages; a profile's cores are the knob ``threads``."""
    return tuple(
        StageKnobs(
            stage=stage.stage,
            variant=stage.variants[stage.variant[i]],
            batch=int(stage.batch[i]),
            replicas=int(stage.replicas[i]),
            threads=int(stage.cores[i]),
        )
        for stage, i in zip(options.stages, chosen, strict=True)
    )


def table(options: Options, chosen: Sequence[Ints], objective: Objective) -> pd.DataFrame:
    """Configurations as a table: the knobs of each stage, as ``detect.variant``, and the columns of the whole."""
    columns: dict[str, object] = {}
    for stage, i in zip(options.stages, chosen, strict=True):
        columns[f"{stage.stage}.variant"] = pd.Categorical.from_codes(
            stage.variant[i], pd.Index(stage.variants, dtype=str)
        )
        columns |= {
            f"{stage.stage}.batch": stage.batch[i],
            f"{stage.stage}.replicas": stage.replicas[i],
            f"{stage.stage}.threads": stage.cores[i],
        }
    return pd.DataFrame(columns | totals(options, chosen).columns(objective))
