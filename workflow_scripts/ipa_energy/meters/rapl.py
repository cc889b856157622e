"""The CPU meter: energy of packages and DRAM from RAPL's counters, read through pyRAPL and, as a check, by ourselves.

Both readers look at the same counters; the differences, the repair of wraps and the handling of what is missing are
ours. A counter wraps every few minutes under load (after 262 kJ on Intel servers, 65 kJ on AMD), so every ``sample``
takes a hop and repairs at most one wrap in it. Where pyRAPL can't set itself up (packages split in dies, for one), the
powercap files give the figure and the method says so.

Standard uncertainty (k = 1): only what the meter can know, the position of the two edges: a counter is up to 1 ms old
(Khan et al. 2018, "RAPL in Action") plus the time that the reading took, /√12, at mean power. The error of RAPL's power
model itself is unknown and not included.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipa_energy.meters.base import Check, Domain, Energy, MeterUnavailable, PowerSample
from ipa_energy.meters.counters import wrapped_delta
from ipa_energy.meters.powercap import ROOT, Zone, find_zones, live_zones
from ipa_energy.meters.pyrapl_reader import PyRaplReader, PyRaplUnusableError

PERIOD_S = 0.001
MAX_ZONE_W = 1000.0
"""No package or its DRAM draws more: a hop shorter than range/MAX_ZONE_W can't hide a second wrap."""
MIN_POWER_HOP_S = 0.005
"""Shorter hops give no power sample: the counter's own 1 ms steps would be most of it."""


class _PowercapReader:
    """The zones' files, read directly."""

    def __init__(self, zones: list[Zone]) -> None:
        self._zones = zones
        self.domains = frozenset(zone.domain for zone in zones)

    def read(self) -> dict[str, int]:
        return {zone.domain: zone.read_uj() for zone in self._zones}


@dataclass(frozen=True, slots=True)
class _Moment:
    """When a reading was taken (s), and the width of the interval from which its value may stem (s)."""

    time_s: float
    width_s: float


@dataclass(slots=True)
class _Tally:
    """Energy that one reader counted in the current window, by domain, hop by hop."""

    reader: PyRaplReader | _PowercapReader
    ranges_uj: dict[str, int]
    last_uj: dict[str, int] = field(default_factory=dict)
    total_uj: dict[str, int] = field(default_factory=dict)
    begin: _Moment = field(default_factory=lambda: _Moment(0.0, 0.0))
    now: _Moment = field(default_factory=lambda: _Moment(0.0, 0.0))
    wraps: int = 0
    lost: str | None = None

    def start(self) -> None:
        """Begin a window with a first reading."""
        self.last_uj, self.total_uj, self.lost = {}, dict.fromkeys(self.reader.domains, 0), None
        self.begin = self.now = _Moment(time.monotonic(), 0.0)
        self.hop()
        self.begin = self.now

    def hop(self) -> dict[str, int]:
        """Read on; energy since the last reading in µJ by domain, nothing at the first or once the window is lost."""
        if self.lost:
            return {}
        before_s = time.monotonic()
        try:
            readings_uj = self.reader.read()
            after_s = time.monotonic()
            hop_uj = {
                domain: wrapped_delta(last, readings_uj[domain], self.ranges_uj[domain])
                for domain, last in self.last_uj.items()
            }
        except (OSError, ValueError) as error:
            self.lost = f"a RAPL counter failed within the window: {error}"
            return {}
        stalled_s = after_s - self.now.time_s
        if stalled_s > min(self.ranges_uj[domain] for domain in readings_uj) / 1e6 / MAX_ZONE_W:
            self.lost = f"no RAPL reading for {stalled_s:.0f} s: the counter may have wrapped more than once"
            return {}
        self.wraps += sum(readings_uj[domain] < last for domain, last in self.last_uj.items())
        for domain, energy_uj in hop_uj.items():
            self.total_uj[domain] += energy_uj
        self.last_uj = readings_uj
        self.now = _Moment((before_s + after_s) / 2, after_s - before_s + PERIOD_S)
        return hop_uj

    def joules(self, domain: str) -> float | None:
        """Energy of the window, None where this reader doesn't have it."""
        if self.lost or domain not in self.total_uj:
            return None
        return self.total_uj[domain] / 1e6


class RaplMeter:
    """CPU packages (``cpu_package_0``...) and their DRAM where the processor counts it (``dram_0``...)."""

    name = "rapl"

    def __init__(self, root: Path = ROOT) -> None:
        """Find the counters below ``root`` and see that they move (0.2 s or more). Raises MeterUnavailable."""
        try:
            zones, self._dropped = live_zones(find_zones(root))
        except (OSError, ValueError) as error:
            raise MeterUnavailable(f"a RAPL counter can't be read: {error}") from error
        if not any(zone.part == "cpu" for zone in zones):
            raise MeterUnavailable("no RAPL package can be used: " + "; ".join(self._dropped.values()))
        self._pyrapl: PyRaplReader | None = None
        self._why_not_pyrapl = f"pyRAPL reads nothing but {ROOT}"
        if root == ROOT:
            try:
                self._pyrapl = PyRaplReader(zones)
                self._why_not_pyrapl = "pyRAPL does not show this counter"
            except PyRaplUnusableError as error:
                self._why_not_pyrapl = str(error)
        self._zones = zones
        ranges_uj = {zone.domain: zone.range_uj for zone in zones}
        self._own = _Tally(_PowercapReader(zones), ranges_uj)
        self._primary = _Tally(self._pyrapl, ranges_uj) if self._pyrapl else self._own
        self.domains = tuple(self._domain(zone) for zone in zones)

    def _by_pyrapl(self, domain: str) -> bool:
        return self._pyrapl is not None and domain in self._pyrapl.domains

    def _domain(self, zone: Zone) -> Domain:
        if self._pyrapl and self._by_pyrapl(zone.domain):
            reader = f"RAPL counter read by pyRAPL {self._pyrapl.version}"
        else:
            reader = f"RAPL counter read from powercap ({self._why_not_pyrapl})"
        within = (
            "its cores, caches, memory controller and integrated GPU" if zone.part == "cpu" else "its memory modules"
        )
        die = "" if zone.die is None else f" die {zone.die}"
        return Domain(
            name=zone.domain,
            covers=zone.part,
            boundary=f"CPU socket {zone.socket}{die}: {within}; not fans, disks, network, power supply",
            method=f"{reader}; own differences and wrap repair",
            evidence="measured",
            period_s=PERIOD_S,
        )

    def _tallies(self) -> list[_Tally]:
        return [self._own] if self._primary is self._own else [self._own, self._primary]

    def begin(self) -> None:
        """Open a window with a first reading."""
        for tally in self._tallies():
            tally.start()

    def sample(self) -> list[PowerSample]:
        """Take a hop; mean power of each domain since the last one."""
        samples: dict[str, PowerSample] = {}
        for tally in self._tallies():
            since_s = tally.now.time_s
            hop_uj = tally.hop()
            hop_s = tally.now.time_s - since_s
            if hop_s >= MIN_POWER_HOP_S:
                samples |= {d: PowerSample(tally.now.time_s, d, uj / 1e6 / hop_s) for d, uj in hop_uj.items()}
        return [samples[zone.domain] for zone in self._zones if zone.domain in samples]

    def end(self) -> list[Energy]:
        """Close the window with a last reading."""
        for tally in self._tallies():
            tally.hop()
        return [self._energy(zone.domain) for zone in self._zones]

    def _energy(self, domain: str) -> Energy:
        by_pyrapl = self._by_pyrapl(domain)
        tally = self._primary if by_pyrapl else self._own
        own = Check("the same counter read from powercap", self._own.joules(domain))
        checks = (own,) if by_pyrapl else ()
        begin_s, end_s = tally.begin.time_s, tally.now.time_s
        energy_j = tally.joules(domain)
        if energy_j is None:
            return Energy(domain, None, begin_s, end_s, checks=checks, reason=tally.lost or "no window was begun")
        if end_s <= begin_s or energy_j == 0:
            reason = f"the RAPL counter stood still for the whole window of {end_s - begin_s:.3f} s"
            return Energy(domain, None, begin_s, end_s, checks=checks, reason=reason)
        edges_s = math.hypot(tally.begin.width_s, tally.now.width_s) / math.sqrt(12)
        return Energy(domain, energy_j, begin_s, end_s, {"edges": energy_j / (end_s - begin_s) * edges_s}, checks)

    def environment(self) -> dict[str, Any]:
        """How many wraps were repaired since the meter was opened."""
        return {"wraps_repaired": self._primary.wraps}

    def provenance(self) -> dict[str, Any]:
        """Reader, zones with their ranges (J), and the zones left out with the reason."""
        return {
            "pyrapl": self._pyrapl.version if self._pyrapl else None,
            "pyrapl_reason": None if self._pyrapl else self._why_not_pyrapl,
            "zones": {zone.domain: {"path": str(zone.path), "range_j": zone.range_uj / 1e6} for zone in self._zones},
            "left_out": self._dropped,
        }

    def close(self) -> None:
        """Let go of pyRAPL's open files. Safe to call twice."""
        if self._pyrapl:
            self._pyrapl.close()
