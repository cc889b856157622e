"""Windows on NVML's energy counter whose edges lie on the instants at which the counter changes.

The counter moves in steps (100 ms or so on datacentre parts), so a window cut at arbitrary instants is wrong by up to
one step's energy. In: open GPUs. Out: for every GPU the step's length and, per edge, an instant, the counter's reading
there, and how far the instant may be off.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ipa_energy.meters.base import PowerSample
from ipa_energy.meters.nvml_device import Gpu

POLL_S = 0.001
PRECISE_POLL_S = 0.003
"""A tick caught between polls farther apart than this (a busy host) is not taken while a better one may come."""
WAIT_PERIODS = 3
WAIT_UNKNOWN_S = 0.6
"""Longest wait for a tick when the period is unknown: the slowest default of the driver's poller is 500 ms."""
DETECT_S = 1.2
DETECT_TICKS = 5


@dataclass(frozen=True, slots=True)
class Edge:
    """A window edge: time (s), counter there (mJ), width of the interval it lies in (s), and why it is no tick."""

    time_s: float
    counter_mj: int
    width_s: float
    note: str | None = None


@dataclass(slots=True)
class Channel:
    """One GPU, and what was read of it in the current window.

    ``lost`` and ``power_lost`` say why the counter's and the power's figure of this window are gone.
    """

    gpu: Gpu
    name: str
    counter: bool
    source: str | None
    period_s: float | None = None
    begin: Edge | None = None
    counter_mj: int = 0
    times_s: list[float] = field(default_factory=list)
    powers_w: list[float] = field(default_factory=list)
    lost: str | None = None
    power_lost: str | None = None

    def clear(self) -> None:
        """Forget the last window."""
        self.begin, self.counter_mj, self.lost, self.power_lost = None, 0, None, None
        self.times_s, self.powers_w = [], []

    def read_counter(self) -> int:
        """The counter in mJ; the last reading again, and the window lost, when it fails or went backwards."""
        try:
            reading_mj = self.gpu.energy_mj()
        except self.gpu.nvml.NVMLError as error:
            self.lost = self.lost or f"NVML energy counter failed within the window: {error}"
            return self.counter_mj
        if reading_mj < self.counter_mj:
            self.lost = self.lost or (
                f"NVML energy counter went backwards, from {self.counter_mj} mJ to {reading_mj} mJ "
                "(driver reloaded or GPU reset)"
            )
        self.counter_mj = reading_mj
        return reading_mj

    def read_power(self) -> PowerSample | None:
        """Power now. A failure spoils the integral of this window, and the figure too where that is the integral."""
        if self.source is None:
            return None
        before_s = time.monotonic()
        try:
            power_w = self.gpu.power_w(self.source)
        except self.gpu.nvml.NVMLError as error:
            self.power_lost = self.power_lost or f"{self.source} failed within the window: {error}"
            return None
        sample = PowerSample((before_s + time.monotonic()) / 2, self.name, power_w)
        self.times_s.append(sample.time_s)
        self.powers_w.append(power_w)
        return sample


def ticks(channels: Sequence[Channel], limit_s: float) -> Iterator[tuple[Channel, Edge]]:
    """Watch the counters and yield every change, for at most ``limit_s`` or until all are lost.

    The change happened between two readings; its time is given as their middle.
    """
    last = {channel.name: (time.monotonic(), channel.read_counter()) for channel in channels}
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s and not all(channel.lost for channel in channels):
        time.sleep(POLL_S)
        for channel in channels:
            since_s, before_mj = last[channel.name]
            asked_s = time.monotonic()
            reading_mj = channel.read_counter()
            width_s = time.monotonic() - since_s
            last[channel.name] = (asked_s, reading_mj)
            if reading_mj != before_mj and not channel.lost:
                yield channel, Edge(since_s + width_s / 2, reading_mj, width_s)


def detect_periods(channels: Sequence[Channel]) -> None:
    """Set each channel's ``period_s``, the median time between changes; None when fewer than two are seen in 1.2 s."""
    times_s: dict[str, list[float]] = {channel.name: [] for channel in channels}
    for channel, edge in ticks(channels, DETECT_S):
        times_s[channel.name].append(edge.time_s)
        if all(len(seen) >= DETECT_TICKS for seen in times_s.values()):
            break
    for channel in channels:
        seen = times_s[channel.name]
        gaps_s = [later - earlier for earlier, later in pairwise(seen)]
        channel.period_s = statistics.median(gaps_s) if gaps_s else None


def align(channels: Sequence[Channel]) -> dict[str, Edge]:
    """An edge for every channel by name, on a tick where one comes in time. Lost channels have none.

    Where no tick comes, the edge is the call and its width the whole update period (or the wait, if that is unknown).
    """
    waits_s = {c.name: WAIT_PERIODS * c.period_s if c.period_s else WAIT_UNKNOWN_S for c in channels}
    call_s = time.monotonic()
    edges = {
        channel.name: Edge(
            call_s,
            channel.read_counter(),
            channel.period_s or WAIT_UNKNOWN_S,
            f"no tick of the energy counter within {waits_s[channel.name]:.1f} s, so this edge is the call",
        )
        for channel in channels
    }
    pending = set(edges)
    for channel, edge in ticks(channels, max(waits_s.values(), default=0.0)):
        best = edges[channel.name]
        if channel.name in pending and (best.note or edge.width_s < best.width_s):
            edges[channel.name] = edge
            channel.read_power()
            if edge.width_s <= PRECISE_POLL_S:
                pending.discard(channel.name)
        if pending <= {other.name for other in channels if other.lost}:
            break
    return {channel.name: edges[channel.name] for channel in channels if not channel.lost}
