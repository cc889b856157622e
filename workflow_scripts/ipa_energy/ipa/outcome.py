"""What a simulated run came to: figures of the whole, and a table of its intervals. From the log, nothing else.

A request violates the SLA when it is dropped or completed later than the SLA after its arrival; both are counted, each
for itself. (IPA's notebooks count dropped requests only.) Replicas cost, and draw their waiting power, from the moment
they are started until they are gone, so that a switch pays for both sets. Whatever is left when arrivals end is served
to the end, and paid for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ipa_energy.ipa.run_log import Configuration, Log
from ipa_energy.ipa.ticks import Floats

FIGURES = {
    "requests": "Requests that arrived.",
    "completed": "Requests that left the last stage.",
    "dropped": "Requests given up for their age.",
    "late": "Completed requests with a latency above the SLA.",
    "violations": "dropped + late.",
    "violation_share": "violations / requests; null without requests.",
    "latency_mean_s": "Mean time from arrival to the end of the last stage, over completed requests.",
    "latency_p50_s": "Its median.",
    "latency_p95_s": "Its 95th percentile.",
    "latency_p99_s": "Its 99th percentile.",
    "latency_max_s": "The longest.",
    "accuracy_pas": "Mean over completed requests of the product of the accuracies of the variants that served them.",
    "cost_mean": "Price of all replicas that existed, averaged over the run; with the default prices, cores.",
    "cost_decided_mean": "The same for the replicas as decided, as IPA counts: without starting and leaving ones.",
    "cores_mean": "Cores of all replicas that existed, averaged over the run.",
    "cores_peak": "The most cores at one time, overlaps included.",
    "busy_j": "Energy of all batches above the waiting replicas; null where a batch's energy is not known.",
    "waiting_j": "Waiting power of all replicas over their lives; null where not known.",
    "base_j": "Power of the bare host over the run; null where not given.",
    "net_j": "busy_j + waiting_j: what serving costs above the bare host.",
    "gross_j": "net_j + base_j.",
    "net_j_per_request": "net_j / completed.",
    "gross_j_per_request": "gross_j / completed.",
    "energy_reason": "Why an energy is null; empty where none is.",
    "decisions": "Decisions made.",
    "changes": "Decisions that changed the configuration.",
    "infeasible": "Decisions to keep the configuration because there was no feasible one.",
    "decide_mean_s": "Mean time to decide, prediction included, in real seconds on the machine that simulated.",
    "decide_max_s": "The longest.",
    "duration_s": "Time in which requests arrive.",
    "end_s": "When the last request had left; averages and energies reach to here.",
}
"""Figures of a run and what they hold."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Every request; times are NaN from the stage on at which it was dropped.

    ``taken_s`` and ``done_s`` have shape (requests, stages), all else (requests,). ``accuracy`` is the product over the
    stages of the accuracies of what served it, NaN where it was dropped.
    """

    arrival_s: Floats
    taken_s: Floats
    done_s: Floats
    accuracy: Floats
    dropped: NDArray[np.bool_]

    @property
    def latency_s(self) -> Floats:
        """From arrival to the end of the last stage."""
        return np.asarray(self.done_s[:, -1] - self.arrival_s, dtype=float)

    @property
    def queue_s(self) -> Floats:
        """Wait in each stage's queue, shape (requests, stages)."""
        entered = np.column_stack([self.arrival_s, self.done_s[:, :-1]])
        return np.asarray(self.taken_s - entered, dtype=float)


def requests(log: Log) -> Requests:
    """Put the batches of a log together by request."""
    count, stages = len(log.arrivals_s), len(log.curves)
    taken_s, done_s = np.full((count, stages), np.nan), np.full((count, stages), np.nan)
    accuracy = np.full((count, stages), np.nan)
    if log.batches:
        sizes = [len(batch.requests) for batch in log.batches]
        who = np.concatenate([batch.requests for batch in log.batches]).astype(np.int64)
        place = (who, np.repeat([batch.stage for batch in log.batches], sizes))
        taken_s[place] = np.repeat([batch.begin_s for batch in log.batches], sizes)
        done_s[place] = np.repeat([batch.end_s for batch in log.batches], sizes)
        accuracy[place] = np.repeat([batch.curve.accuracy for batch in log.batches], sizes)
    dropped = np.zeros(count, dtype=bool)
    dropped[[drop.request for drop in log.drops]] = True
    return Requests(log.arrivals_s, taken_s, done_s, accuracy.prod(axis=1), dropped)


def figures(log: Log, sla_s: float, host_base_w: float | None = None) -> dict[str, float | int | str | None]:
    """The figures of :data:`FIGURES` for an SLA in s, and the power of the bare host in W where it is known."""
    table = requests(log)
    # One that is neither dropped nor through, as none should be, has no latency.
    latency_s = table.latency_s[np.isfinite(table.latency_s)]
    late, dropped = int(np.sum(latency_s > sla_s)), int(table.dropped.sum())
    lives = _lives(log)
    changed = [
        now.configuration != before
        for now, before in zip(log.decisions, [log.initial, *(d.configuration for d in log.decisions)], strict=False)
    ]
    decide_s = [decision.decide_s for decision in log.decisions]
    return {
        "requests": len(table.arrival_s),
        "completed": len(latency_s),
        "dropped": dropped,
        "late": late,
        "violations": late + dropped,
        "violation_share": (late + dropped) / len(table.arrival_s) if len(table.arrival_s) else None,
        **_latency(latency_s),
        "accuracy_pas": float(table.accuracy[np.isfinite(table.latency_s)].mean()) if len(latency_s) else None,
        "cost_mean": float(lives.cost @ lives.seconds) / log.end_s,
        "cost_decided_mean": _cost_decided(log),
        "cores_mean": float(lives.cores @ lives.seconds) / log.end_s,
        "cores_peak": _peak(lives),
        **_energy(log, lives, host_base_w, len(latency_s)),
        "decisions": len(log.decisions),
        "changes": sum(changed),
        "infeasible": sum(decision.chosen is None for decision in log.decisions),
        "decide_mean_s": float(np.mean(decide_s)) if decide_s else None,
        "decide_max_s": max(decide_s, default=None),
        "duration_s": log.duration_s,
        "end_s": log.end_s,
    }


def intervals(log: Log, sla_s: float) -> pd.DataFrame:
    """One row for each interval between decisions: what arrived in it, and what was there.

    ``arrived``, ``late`` and ``dropped`` count the requests that arrived in the interval, ``accuracy_pas`` is their
    mean; ``cores`` and ``cost`` are means over the interval, overlaps included; ``busy_j`` is of the batches that ended
    in it, ``waiting_j`` of the replicas that existed. The knobs, as ``detect.variant``, are those decided at its begin.
    """
    edges = np.array([0.0, *(decision.at_s for decision in log.decisions), log.duration_s])
    table, lives = requests(log), _lives(log)
    late = table.latency_s > sla_s
    row = np.searchsorted(edges, table.arrival_s, side="right") - 1
    size = len(edges) - 1
    arrived = np.bincount(row, minlength=size)
    served = np.isfinite(table.latency_s)
    accuracy = np.bincount(row[served], table.accuracy[served], minlength=size)
    completed = np.bincount(row[served], minlength=size)
    overlap_s = np.clip(np.minimum(lives.end_s, edges[1:, None]) - np.maximum(lives.begin_s, edges[:-1, None]), 0, None)
    seconds = np.diff(edges)
    busy_j, _ = _busy_j(log)
    ended = np.searchsorted(edges, [batch.end_s for batch in log.batches], side="left") - 1
    in_force = _in_force(log)
    columns: dict[str, Any] = {
        "begin_s": edges[:-1],
        "end_s": edges[1:],
        "arrived": arrived,
        "late": np.bincount(row[late], minlength=size),
        "dropped": np.bincount(row[table.dropped], minlength=size),
        "accuracy_pas": np.divide(accuracy, completed, out=np.full(size, np.nan), where=completed > 0),
        "cores": overlap_s @ lives.cores / seconds,
        "cost": overlap_s @ lives.cost / seconds,
        "busy_j": np.bincount(ended, busy_j, minlength=size)[:size],
        "waiting_j": overlap_s @ lives.idle_w,
    }
    for stage, name in enumerate(log.curves):
        for knob in ("variant", "batch", "replicas", "threads"):
            columns[f"{name}.{knob}"] = [getattr(configuration[stage], knob) for configuration in in_force]
    return pd.DataFrame(columns)


@dataclass(frozen=True, slots=True)
class _Lives:
    """All replicas as arrays of shape (replicas,): when they existed, and what they are; ``idle_w`` may be NaN."""

    begin_s: Floats
    end_s: Floats
    cores: Floats
    cost: Floats
    idle_w: Floats

    @property
    def seconds(self) -> Floats:
        return np.asarray(self.end_s - self.begin_s, dtype=float)


def _lives(log: Log) -> _Lives:
    return _Lives(
        begin_s=np.array([replica.started_s for replica in log.replicas]),
        # A switch that was under way when the last request left ends some replicas after the end.
        end_s=np.array([log.end_s if r.gone_s is None else min(r.gone_s, log.end_s) for r in log.replicas]),
        cores=np.array([float(replica.curve.cores) for replica in log.replicas]),
        cost=np.array([replica.curve.cost for replica in log.replicas]),
        idle_w=np.array([math.nan if r.curve.idle_w is None else r.curve.idle_w for r in log.replicas]),
    )


def _latency(latency_s: Floats) -> dict[str, float | None]:
    names = ("latency_mean_s", "latency_p50_s", "latency_p95_s", "latency_p99_s", "latency_max_s")
    if latency_s.size == 0:
        return dict.fromkeys(names)
    values = [latency_s.mean(), *np.percentile(latency_s, [50, 95, 99]), latency_s.max()]
    return dict(zip(names, map(float, values), strict=True))


def _in_force(log: Log) -> Sequence[Configuration]:
    """The configuration decided last at the begin of each interval."""
    return [log.initial, *(decision.configuration for decision in log.decisions)]


def _cost_decided(log: Log) -> float:
    begins_s = [0.0, *(decision.at_s for decision in log.decisions)]
    costs = [
        sum(log.curves[k.stage][k.variant, k.threads].cost * k.replicas for k in configuration)
        for configuration in _in_force(log)
    ]
    return float(np.diff([*begins_s, log.end_s]) @ np.array(costs)) / log.end_s


def _peak(lives: _Lives) -> float:
    times = np.concatenate([lives.begin_s, lives.end_s])
    cores = np.concatenate([lives.cores, -lives.cores])
    # Who leaves at the moment at which another comes makes room for it.
    return float(np.cumsum(cores[np.lexsort((cores, times))]).max(initial=0.0))


def _busy_j(log: Log) -> tuple[Floats, str | None]:
    """Energy of each batch, NaN where not known, and the first variant of which it is not."""
    joules = np.array(
        [
            math.nan if batch.curve.busy_j is None else batch.curve.busy_j[len(batch.requests) - 1]
            for batch in log.batches
        ]
    )
    unknown = [f"{b.curve.stage}/{b.curve.variant}" for b in log.batches if b.curve.busy_j is None]
    return joules, unknown[0] if unknown else None


def _energy(log: Log, lives: _Lives, base_w: float | None, completed: int) -> dict[str, float | str | None]:
    joules, unknown = _busy_j(log)
    reasons = [] if unknown is None else [f"the energy of a batch of {unknown} is not known"]
    busy_j = None if unknown else float(joules.sum())
    waiting_j: float | None = float(lives.idle_w @ lives.seconds)
    if math.isnan(lives.idle_w.sum()):
        curve = next(replica.curve for replica in log.replicas if replica.curve.idle_w is None)
        reasons.append(f"the power of a waiting replica of {curve.stage}/{curve.variant} is not known")
        waiting_j = None
    if base_w is None:
        reasons.append("the power of the bare host is not given")
    base_j = None if base_w is None else base_w * log.end_s
    net_j = None if busy_j is None or waiting_j is None else busy_j + waiting_j
    gross_j = None if net_j is None or base_j is None else net_j + base_j
    return {
        "busy_j": busy_j,
        "waiting_j": waiting_j,
        "base_j": base_j,
        "net_j": net_j,
        "gross_j": gross_j,
        "net_j_per_request": None if net_j is None or not completed else net_j / completed,
        "gross_j_per_request": None if gross_j is None or not completed else gross_j / completed,
        "energy_reason": "; ".join(reasons),
    }
