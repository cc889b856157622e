"""The journal: what happened to every request, batch and replica, and the service figures of a window cut from it.

All times are ``time.monotonic()`` seconds, which replicas on the same host share with the engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ipa_energy.configuration import StageKnobs
from ipa_energy.record import finite

_LEAST_BATCHES = 4
"""Fewer batches than this say nothing about a drift."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of one replica: ``begin_s`` to ``end_s`` in the replica's own clock readings."""

    stage: int
    replica: str
    begin_s: float
    end_s: float
    size: int
    filled_crops: int

    @property
    def service_s(self) -> float:
        """Time in service."""
        return self.end_s - self.begin_s


@dataclass(slots=True)
class Request:
    """One request: arrival, and per stage the times it was queued, taken, and done, and the name of who served it."""

    arrival_s: float
    queued_s: list[float] = field(default_factory=list)
    taken_s: list[float] = field(default_factory=list)
    done_s: list[float] = field(default_factory=list)
    served_by: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Drop:
    """A request that was too old when a replica of ``stage`` would have taken it; with what it had been through."""

    stage: int
    at_s: float
    request: Request

    @property
    def arrival_s(self) -> float:
        """When the request had arrived."""
        return self.request.arrival_s


@dataclass(slots=True)
class ReplicaLife:
    """The life of a replica: when it was started, could serve, and was gone, as a process.

    ``ready_s`` is None for one that never could serve, ``gone_s`` while it lives. ``knobs`` are those it was started
    for: its variant and threads for as long as it lives. ``cpus`` is empty where they are not known.
    """

    stage: int
    name: str
    knobs: StageKnobs
    cpus: tuple[int, ...]
    started_s: float
    ready_s: float | None = None
    gone_s: float | None = None


@dataclass
class Journal:
    """Everything since the engine started; append only.

    ``replicas`` holds the lives of all replicas by name, in the order in which they were started; only of stages whose
    knobs the engine was told.
    """

    arrivals_s: list[float] = field(default_factory=list)
    completed: list[Request] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    replicas: dict[str, ReplicaLife] = field(default_factory=dict)

    @property
    def dropped_s(self) -> list[float]:
        """When requests were dropped."""
        return [drop.at_s for drop in self.drops]


def _latency(values_s: np.ndarray[Any, Any]) -> dict[str, float | None]:
    if values_s.size == 0:
        return dict.fromkeys(("mean_s", "p50_s", "p90_s", "p95_s", "p99_s", "max_s"))
    p50, p90, p95, p99 = np.percentile(values_s, [50, 90, 95, 99])
    figures = {
        "mean_s": values_s.mean(),
        "p50_s": p50,
        "p90_s": p90,
        "p95_s": p95,
        "p99_s": p99,
        "max_s": values_s.max(),
    }
    return {name: finite(float(value)) for name, value in figures.items()}


def completed_in(journal: Journal, begin_s: float, end_s: float) -> list[Request]:
    """Requests completed after ``begin_s`` and not after ``end_s``.

    With edges that are themselves completions, the count over the time between them is the throughput without the
    rounding error of a batch that lies across an edge.
    """
    return [r for r in journal.completed if begin_s < r.done_s[-1] <= end_s]


def throughput_drift(journal: Journal, begin_s: float, end_s: float) -> float | None:
    """Change of throughput between the halves of a window, as a fraction of their mean; None with under 4 batches.

    The halves meet at the completion nearest the middle, so that no batch is cut.
    """
    requests = completed_in(journal, begin_s, end_s)
    ends_s = sorted({r.done_s[-1] for r in requests})
    if len(ends_s) < _LEAST_BATCHES:
        return None
    middle_s = min(ends_s[:-1], key=lambda t: abs(t - (begin_s + end_s) / 2))
    first = sum(r.done_s[-1] <= middle_s for r in requests) / (middle_s - begin_s)
    second = sum(r.done_s[-1] > middle_s for r in requests) / (end_s - middle_s)
    return abs(second - first) / ((first + second) / 2)


def service_drift(journal: Journal, stages: int, begin_s: float, end_s: float) -> float | None:
    """Largest change of a stage's mean batch service time between the halves of a window, as a fraction of their mean.

    Only batches of the stage's most frequent size count, as an open loop leaves batches of several. Unlike throughput,
    which follows the arrivals there, this shows the machine. None when a half of every stage holds under 4 batches.
    """
    middle_s = (begin_s + end_s) / 2
    changes = []
    for stage in range(stages):
        ended = [b for b in journal.batches if b.stage == stage and begin_s < b.end_s <= end_s]
        sizes = Counter(b.size for b in ended)
        usual = [b for b in ended if b.size == sizes.most_common(1)[0][0]]
        halves = [[b.service_s for b in usual if (b.end_s <= middle_s) == first] for first in (True, False)]
        if min(map(len, halves)) >= _LEAST_BATCHES:
            first_s, second_s = (float(np.mean(half)) for half in halves)
            changes.append(abs(second_s - first_s) / ((first_s + second_s) / 2))
    return max(changes, default=None)


def stage_figures(
    journal: Journal, stage: int, batch: float, replicas: float, begin_s: float, end_s: float, crops: bool
) -> dict[str, Any]:
    """Service figures of one stage in a window: batches that ended in it, and requests completed in it.

    ``utilisation`` is the share of the window during which its replicas were busy, from 0 to 1.
    """
    ended = [b for b in journal.batches if b.stage == stage and begin_s < b.end_s <= end_s]
    busy_s = sum(max(0.0, min(b.end_s, end_s) - max(b.begin_s, begin_s)) for b in journal.batches if b.stage == stage)
    service_s = np.array([b.service_s for b in ended])
    queue_s = [r.taken_s[stage] - r.queued_s[stage] for r in completed_in(journal, begin_s, end_s)]
    mean_size = float(np.mean([b.size for b in ended])) if ended else None
    return {
        "batches": len(ended),
        "batch_mean": mean_size,
        "batch_fill": None if mean_size is None else mean_size / batch,
        "service_mean_s": float(service_s.mean()) if ended else None,
        "service_p99_s": float(np.percentile(service_s, 99)) if ended else None,
        "queue_mean_s": float(np.mean(queue_s)) if queue_s else None,
        "utilisation": busy_s / (replicas * (end_s - begin_s)),
        "filled_crops": sum(b.filled_crops for b in ended) if crops else None,
    }


def service_figures(
    journal: Journal, begin_s: float, end_s: float, offered: bool, stages: Sequence[tuple[str, float, float]]
) -> dict[str, Any]:
    """The ``service`` section of the record for a window; ``stages`` holds (name, batch, replicas).

    ``offered`` adds the arrival rate of an open loop. In-flight requests follow from Little's law: throughput times
    mean latency.
    """
    requests = completed_in(journal, begin_s, end_s)
    sent = sum(begin_s < t <= end_s for t in journal.arrivals_s)
    duration_s = end_s - begin_s
    latency = _latency(np.array([r.done_s[-1] - r.arrival_s for r in requests]))
    throughput_rps = len(requests) / duration_s
    return {
        "sent": sent,
        "completed": len(requests),
        "dropped": sum(begin_s < t <= end_s for t in journal.dropped_s),
        "failed": 0,
        "throughput_rps": throughput_rps,
        "offered_rps": sent / duration_s if offered else None,
        "in_flight_mean": None if latency["mean_s"] is None else throughput_rps * latency["mean_s"],
        "latency": latency,
        "stages": {
            name: stage_figures(journal, i, batch, replicas, begin_s, end_s, crops=i == 0)
            for i, (name, batch, replicas) in enumerate(stages)
        },
    }
