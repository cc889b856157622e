"""One GPU as the meter watches it: its energy counter and its power fields within the current window."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ipa_energy.meters.base import PowerSample
from ipa_energy.meters.nvml_device import Gpu
from ipa_energy.meters.nvml_power import PowerFields, PowerSeries
from ipa_energy.meters.nvml_updates import ChangeWatch, Updates

PRECISE_POLL_S = 0.003
"""A tick caught between polls farther apart than this (a busy host) is not taken while a better one may come."""
WAIT_PERIODS = 3
WAIT_UNKNOWN_S = 1.2
"""Longest wait for a tick when the period is unknown: the driver's poller can be set to 1000 ms at most."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A change of the counter: time (s), reading after it (mJ), and width of the interval that it lies in (s)."""

    time_s: float
    counter_mj: int
    width_s: float


@dataclass(slots=True)
class Channel:
    """One GPU, and what was read of it in the current window.

    ``fault`` says why the GPU's energy counter isn't used at all, ``lost`` why its figure of this window is gone.
    ``begin`` and ``end`` are the edges, ``last`` the last change seen; ``off_tick`` says for an edge that had to be
    taken from the samples why. ``asked_s`` are the times at which the caller held the window to be open: from
    the return of the call that begins it to the call that ends it.
    """

    gpu: Gpu
    name: str
    fields: PowerFields
    fault: str | None
    updates: Updates | None = None
    powers: list[PowerSeries] = field(default_factory=list)
    watch: ChangeWatch = field(default_factory=ChangeWatch)
    counter_mj: int = 0
    begin: Edge | None = None
    end: Edge | None = None
    last: Edge | None = None
    off_tick: dict[str, str] = field(default_factory=dict)
    asked_s: tuple[float, float] = (0.0, 0.0)
    lost: str | None = None

    @property
    def counted(self) -> bool:
        """Whether the energy counter can be read in this window."""
        return self.fault is None and self.lost is None

    @property
    def period_s(self) -> float | None:
        """The detected update period of the counter; None where it is unknown."""
        return self.updates.period_s if self.updates else None

    @property
    def precise_s(self) -> float:
        """A tick this narrow is taken at once: wider where the driver itself is slow to answer."""
        slow_s = 2 * self.updates.poll_s if self.updates and self.updates.poll_s else 0.0
        return max(PRECISE_POLL_S, min(slow_s, (self.period_s or 0.0) / 20))

    @property
    def wait_s(self) -> float:
        """How long a tick is waited for."""
        return WAIT_PERIODS * self.period_s if self.period_s else WAIT_UNKNOWN_S

    def clear(self) -> None:
        """Forget the last window."""
        self.watch, self.counter_mj = ChangeWatch(), 0
        self.begin = self.end = self.last = self.lost = None
        self.off_tick = {}
        for series in self.powers:
            series.clear()

    def read_counter(self) -> Edge | None:
        """Read the counter; gives an edge if it has changed. The window is lost when it fails or went backwards."""
        if not self.counted:
            return None
        asked_s = time.monotonic()
        try:
            reading_mj = self.gpu.energy_mj()
        except self.gpu.nvml.NVMLError as error:
            self.lost = f"NVML energy counter failed within the window: {error}"
            return None
        if reading_mj < self.counter_mj:
            self.lost = (
                f"NVML energy counter went backwards, from {self.counter_mj} mJ to {reading_mj} mJ "
                "(driver reloaded or GPU reset)"
            )
            return None
        self.counter_mj = reading_mj
        tick = self.watch.see(reading_mj, asked_s, time.monotonic())
        if tick is None:
            return None
        self.last = Edge(tick.time_s, reading_mj, tick.width_s)
        return self.last

    def read_power(self) -> PowerSample | None:
        """Read all power fields; gives the first one's power. A field that fails spoils its own integral only."""
        if not self.powers:
            return None
        before_s = time.monotonic()
        readings = self.gpu.read_powers([series.power for series in self.powers])
        time_s = (before_s + time.monotonic()) / 2
        for series, reading in zip(self.powers, readings, strict=True):
            series.see(reading, time_s)
        power_w = readings[0].power_w
        return None if power_w is None else PowerSample(time_s, self.name, power_w)
