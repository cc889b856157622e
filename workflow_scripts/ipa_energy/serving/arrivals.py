"""When requests arrive: the workloads.

``saturated`` is a closed loop that keeps a fixed number of requests in flight. ``rate`` is an open loop: arrival times
come from a seeded Poisson process, or from a trace with the number of requests in each second, and never wait for
responses. Configurations that get the same seed get the same arrivals, which is what a paired comparison wants.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Seed = int | Sequence[int]
"""What the random numbers of a stream depend on."""


@dataclass(frozen=True)
class Workload:
    """A load: either ``in_flight`` requests in a closed loop, or ``arrivals_s`` (offsets from the start, rising)."""

    in_flight: int | None
    arrivals_s: Iterator[float] | None
    drop_after_s: float | None = None


def poisson_arrivals(rate_rps: float, seed: Seed) -> Iterator[float]:
    """Endless arrival times in seconds of a Poisson process: cumulative sums of exponential gaps with mean 1/rate."""
    generator = np.random.default_rng(seed)
    time_s = 0.0
    while True:
        for gap_s in generator.exponential(1.0 / rate_rps, size=1024):
            time_s += float(gap_s)
            yield time_s


def trace_arrivals(counts: Sequence[int], seed: Seed) -> Iterator[float]:
    """Endless arrival times with ``counts[i]`` requests in second i, from the beginning again after the last.

    Within a second the times are sorted uniform draws: a Poisson process given its count.
    """
    generator = np.random.default_rng(seed)
    for second in itertools.count():
        draws = generator.uniform(size=counts[second % len(counts)])
        yield from (second + float(offset) for offset in np.sort(draws))


def read_trace(path: str | Path) -> list[int]:
    """Requests per second from a text file, one count a line. Raises ValueError naming the line that is not a count."""
    counts = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        if not line.strip().isdecimal():
            raise ValueError(
                f"{path}, line {number}: {line.strip()!r} is not a number of requests; allowed: 0, 1, 2, ..."
            )
        counts.append(int(line))
    if sum(counts) == 0:
        raise ValueError(f"{path}: holds no request; allowed: one count of requests a line, not all of them 0")
    return counts


def make_workload(settings: Mapping[str, Any], batch_capacity: int, seed: Seed) -> Workload:
    """The workload for a configuration whose replicas together hold ``batch_capacity`` requests in one batch each."""
    drop_after_s = settings.get("drop_after_s")
    if settings["kind"] == "saturated":
        return Workload(max(1, round(settings["in_flight_per_batch"] * batch_capacity)), None, drop_after_s)
    if "trace" in settings:
        return Workload(None, trace_arrivals(read_trace(settings["trace"]), seed), drop_after_s)
    return Workload(None, poisson_arrivals(settings["rate_rps"], seed), drop_after_s)
