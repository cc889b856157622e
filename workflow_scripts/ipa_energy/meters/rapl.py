"""The CPU meter: energy of packages and DRAM from RAPL's counters, by up to three ways of reading them.

The figure is read through pyRAPL's sensors; the checks are the same counter read from its powercap file, and the
kernel's perf event for the same package, where it offers one. Where pyRAPL can't read a zone (packages split in dies,
for one), the powercap file gives the figure and the method says so. Differences, the repair of wraps and the handling
of what is missing are ours (:mod:`ipa_energy.meters.rapl_tally`), the same for all ways, and separate for every domain:
one that is lost doesn't take the others with it.

A counter wraps every few minutes under load (after 262 kJ on Intel servers, 65 kJ for their memory and on AMD), so
every ``sample`` takes a hop and repairs at most one wrap in it. ``max_hop_s`` is the longest time that may pass between
two readings in a window, those of ``begin``, ``sample`` and ``end``: over a minute for all known counters.

Standard uncertainty (k = 1): only what the meter can know, the position of the two edges: a counter is up to 1 ms old
(Khan et al. 2018, "RAPL in Action") plus the time that the reading took, /√12, at mean power. The error of RAPL's power
model itself is unknown and not included; the checks don't bound it either, since all ways lead to the same counter.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_energy.meters.base import Check, Domain, Doubt, Energy, MeterUnavailable, PowerSample
from ipa_energy.meters.perf_events import (
    COUNTER_RANGE,
    CPUS,
    PMU,
    PerfCounter,
    PerfEventsUnusableError,
    counting_cpu,
    find_event,
)
from ipa_energy.meters.powercap import PERIOD_S, ROOT, Zone, find_zones, live_zones
from ipa_energy.meters.pyrapl_reader import PyRaplReader, PyRaplUnusableError
from ipa_energy.meters.rapl_tally import Tally

MIN_POWER_HOP_S = 0.005
"""Shorter hops give no power sample: the counter's own 1 ms steps would be most of it."""


@dataclass(frozen=True, slots=True)
class _Channel:
    """A zone with its ways of reading: the one that gives the figure, and by their methods those that check it."""

    zone: Zone
    figure: Tally
    checks: dict[str, Tally]
    pyrapl: PyRaplReader | None
    pyrapl_reason: str | None
    perf: PerfCounter | None
    perf_reason: str | None

    def tallies(self) -> list[Tally]:
        return [self.figure, *self.checks.values()]


class RaplMeter:
    """CPU packages (``cpu_package_0``...) and their DRAM where the processor counts it (``dram_0``...)."""

    name = "rapl"

    def __init__(
        self,
        root: Path = ROOT,
        pmu: Path = PMU,
        cpus: Path = CPUS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Find the counters below ``root`` and see that they move (0.2 s or more). Raises MeterUnavailable.

        ``pmu`` and ``cpus`` are the folders of the perf PMU and of the CPUs' topology, ``clock`` gives the seconds by
        which windows and hops are timed.
        """
        found, self._left_out = find_zones(root)
        try:
            zones, dropped = live_zones(found)
        except (OSError, ValueError) as error:
            raise MeterUnavailable(f"a RAPL counter can't be read: {error}") from error
        self._left_out |= dropped
        self._channels = [_channel(zone, root, pmu, cpus, clock) for zone in zones]
        self.domains = tuple(_domain(channel, self._counts_memory(channel.zone)) for channel in self._channels)
        self.max_hop_s = min(zone.max_hop_s for zone in zones)

    def _counts_memory(self, package: Zone) -> bool:
        zones = [channel.zone for channel in self._channels]
        return any(zone.part == "dram" and zone.socket == package.socket for zone in zones)

    def begin(self) -> None:
        """Open a window with a first reading."""
        for channel in self._channels:
            for tally in channel.tallies():
                tally.start()

    def sample(self) -> list[PowerSample]:
        """Take a hop; mean power of each domain since the last one."""
        samples: list[PowerSample] = []
        for channel in self._channels:
            since_s = channel.figure.now.time_s
            joules, *_ = [tally.hop() for tally in channel.tallies()]
            now_s = channel.figure.now.time_s
            if joules is not None and now_s - since_s >= MIN_POWER_HOP_S:
                samples.append(PowerSample(now_s, channel.zone.domain, joules / (now_s - since_s)))
        return samples

    def end(self) -> list[Energy]:
        """Close the window with a last reading."""
        for channel in self._channels:
            for tally in channel.tallies():
                tally.hop()
        return [_energy(channel) for channel in self._channels]

    def environment(self) -> dict[str, Any]:
        """How many wraps were repaired since the meter was opened."""
        return {"wraps_repaired": sum(channel.figure.wraps for channel in self._channels)}

    def provenance(self) -> dict[str, Any]:
        """Every zone with its range (J) and its ways of reading, and the zones left out with the reason."""
        versions = {channel.pyrapl.version for channel in self._channels if channel.pyrapl}
        return {
            "pyrapl": next(iter(versions), None),
            "zones": {
                channel.zone.domain: {
                    "path": str(channel.zone.path),
                    "range_j": channel.zone.range_uj / 1e6,
                    "pyrapl_reason": channel.pyrapl_reason,
                    "perf": channel.perf.name if channel.perf else None,
                    "perf_reason": channel.perf_reason,
                }
                for channel in self._channels
            },
            "left_out": self._left_out,
            "max_hop_s": self.max_hop_s,
        }

    def close(self) -> None:
        """Let go of pyRAPL's open files and of the perf events. Safe to call twice."""
        for channel in self._channels:
            if channel.pyrapl:
                channel.pyrapl.close()
            if channel.perf:
                channel.perf.close()


def _channel(zone: Zone, root: Path, pmu: Path, cpus: Path, clock: Callable[[], float]) -> _Channel:
    pyrapl, pyrapl_reason = _pyrapl(zone, root)
    perf, perf_reason = _perf(zone, pmu, cpus)
    own = Tally(zone.read_uj, 1e-6, zone.range_uj, zone.max_hop_s, clock)
    figure, checks = own, {}
    if pyrapl:
        figure = Tally(pyrapl.read_uj, 1e-6, zone.range_uj, zone.max_hop_s, clock)
        checks["the same counter read from powercap"] = own
    if perf:
        # The kernel takes more than half a range between two updates for a step backwards.
        way = Tally(perf.read, perf.joules_per_count, COUNTER_RANGE, zone.max_hop_s / 2, clock)
        checks[f"the kernel's perf event {perf.name}"] = way
    return _Channel(zone, figure, checks, pyrapl, pyrapl_reason, perf, perf_reason)


def _pyrapl(zone: Zone, root: Path) -> tuple[PyRaplReader | None, str | None]:
    if root != ROOT:
        return None, f"pyRAPL reads nothing but {ROOT}"
    try:
        return PyRaplReader(zone), None
    except PyRaplUnusableError as error:
        return None, str(error)


def _perf(zone: Zone, pmu: Path, cpus: Path) -> tuple[PerfCounter | None, str | None]:
    try:
        event = find_event(zone.part, pmu)
        return PerfCounter(event, counting_cpu(event, zone.socket, zone.die, cpus)), None
    except PerfEventsUnusableError as error:
        return None, str(error)


def _domain(channel: _Channel, memory_counted: bool) -> Domain:
    zone = channel.zone
    if channel.pyrapl:
        reader = f"RAPL counter read by pyRAPL {channel.pyrapl.version}"
    else:
        reader = f"RAPL counter read from powercap ({channel.pyrapl_reason})"
    if zone.part == "dram":
        inside, outside = "its memory modules", "not"
    else:
        inside = "its cores, caches, memory controller and integrated GPU"
        outside = "not" if memory_counted else "not its memory modules,"
    die = "" if zone.die is None else f" die {zone.die}"
    return Domain(
        name=zone.domain,
        covers=zone.part,
        boundary=f"CPU socket {zone.socket}{die}: {inside}; {outside} fans, disks, network, power supply",
        method=f"{reader}; own differences and wrap repair",
        evidence="measured",
        period_s=PERIOD_S,
    )


def _energy(channel: _Channel) -> Energy:
    tally, domain = channel.figure, channel.zone.domain
    energy_j, reason = tally.energy()
    checks = tuple(_check(method, check) for method, check in channel.checks.items())
    lost = [Doubt("check_lost", f"{check.method}: {check.reason}") for check in checks if check.energy_j is None]
    doubts = (*([tally.doubt] if tally.doubt else []), *lost)
    begin_s, end_s = tally.begin.time_s, tally.now.time_s
    if energy_j is None:
        return Energy(domain, None, begin_s, end_s, checks=checks, reason=reason, doubts=doubts)
    edges_s = math.hypot(tally.begin.width_s, tally.now.width_s) / math.sqrt(12)
    parts = {"edges": energy_j / (end_s - begin_s) * edges_s}
    return Energy(domain, energy_j, begin_s, end_s, parts, checks, doubts=doubts)


def _check(method: str, tally: Tally) -> Check:
    energy_j, reason = tally.energy()
    return Check(method, energy_j, tally.window_s, reason)
