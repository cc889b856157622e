"""The window of a record in a simulated run: when it was, which requests arrived, and the figures cut out of it.

Records and logs of :mod:`.simulation` go in, figures as the record has them come out. Arrivals are those of the real
engine, made again from the same seed: they begin when warm-up begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ipa_energy.configuration import Configuration
from ipa_energy.ipa.outcome import requests
from ipa_energy.ipa.run_log import Log
from ipa_energy.ipa.ticks import Floats
from ipa_energy.record import Record
from ipa_energy.serving.arrivals import make_workload

METRICS = {
    "completed": "Requests completed in the window.",
    "throughput_rps": "Those per second of the window.",
    "latency_mean_s": "Mean time from arrival to completion, over them.",
    "latency_p50_s": "Its median.",
    "latency_p95_s": "Its 95th percentile.",
    "latency_p99_s": "Its 99th percentile.",
    "net_j_per_request": "Energy above the bare host in the window, per completed request.",
    "gross_j_per_request": "The same with the power of the bare host.",
}
"""What is compared."""

ENERGIES = ("net_j_per_request", "gross_j_per_request")


@dataclass(frozen=True, slots=True)
class Span:
    """A window in seconds since serving began; requests completed after ``begin_s`` and until ``end_s`` count."""

    begin_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end_s - self.begin_s


def window_span(record: Record) -> Span:
    """The window of a record, in seconds since its warm-up began. Raises ValueError for a record without that phase."""
    window = record["window"]
    begins_s = [phase["begin_s"] for phase in window["timeline"] if phase["phase"] == "warm_up"]
    if not begins_s:
        raise ValueError("its timeline has no phase warm_up, when arrivals begin")
    return Span(window["start_monotonic_s"] - begins_s[0], window["end_monotonic_s"] - begins_s[0])


def arrivals_of(record: Record, configuration: Configuration, until_s: float, seed: int) -> Floats:
    """The arrivals of a record of an open loop up to ``until_s``, in s since serving began, made as when it ran.

    ``seed`` is the study's. Raises OSError or ValueError for a trace that can't be read.
    """
    workload = make_workload(
        record["identity"]["workload_settings"],
        batch_capacity=sum(stage.batch * stage.replicas for stage in configuration.stages),
        seed=(seed, int(record["identity"]["block"])),
    )
    if workload.arrivals_s is None:
        raise ValueError("its workload is a closed loop, whose arrivals follow from what is completed")
    found = []
    for arrival_s in workload.arrivals_s:
        if arrival_s > until_s:
            break
        found.append(arrival_s)
    return np.array(found, dtype=float)


def window_figures(log: Log, span: Span, host_idle_w: float | None) -> dict[str, Any]:
    """The figures of :data:`METRICS` in a window of a simulated run; ``reasons`` says by metric why one is None.

    Energy is that of the window: of each batch the part of its ``busy_j`` that falls into it, the waiting power of all
    replicas, and for gross ``host_idle_w``, the power of the bare host in W.
    """
    table = requests(log)
    done_s = table.done_s[:, -1]
    inside = (done_s > span.begin_s) & (done_s <= span.end_s)
    latency_s, completed = table.latency_s[inside], int(inside.sum())
    found: dict[str, Any] = {"completed": completed, "throughput_rps": completed / span.seconds}
    reasons: dict[str, str] = {}
    names = ("latency_mean_s", "latency_p50_s", "latency_p95_s", "latency_p99_s")
    if completed:
        values = [latency_s.mean(), *np.percentile(latency_s, [50, 95, 99])]
        found |= dict(zip(names, map(float, values), strict=True))
        net_j = _net_j(log, span, reasons)
        if net_j is not None:
            found["net_j_per_request"] = net_j / completed
            if host_idle_w is None:
                reasons["gross_j_per_request"] = "the profile has no power of the bare host (host_idle_w)"
            else:
                found["gross_j_per_request"] = (net_j + host_idle_w * span.seconds) / completed
    else:
        reasons |= dict.fromkeys((*names, *ENERGIES), "no request is completed in the simulated window")
    return dict.fromkeys(METRICS) | found | {"reasons": reasons}


def _net_j(log: Log, span: Span, reasons: dict[str, str]) -> float | None:
    """Energy in the window above the bare host, in J; None with the reason noted for both energies."""
    joules = 0.0
    for batch in log.batches:
        if batch.curve.busy_j is None:
            reasons |= dict.fromkeys(
                ENERGIES, f"the profile has no energy of {batch.curve.stage}/{batch.curve.variant}"
            )
            return None
        inside_s = max(0.0, min(batch.end_s, span.end_s) - max(batch.begin_s, span.begin_s))
        joules += float(batch.curve.busy_j[len(batch.requests) - 1]) * inside_s / (batch.end_s - batch.begin_s)
    for replica in log.replicas:
        if replica.curve.idle_w is None:
            reasons |= dict.fromkeys(ENERGIES, "the profile has no power of waiting replicas (idle_w)")
            return None
        joules += replica.curve.idle_w * span.seconds
    return joules
