"""RAPL's counters as Linux shows them under ``/sys/class/powercap``: zones, names, ranges, readings.

In: the root of the tree (an argument, so that a copy of a tree can be read). Out: the zones that a sum may hold, each
counted once: packages and DRAM. Left out are ``core`` and ``uncore`` (inside the package), ``psys`` (holds the package)
and ``intel-rapl-mmio`` (a second view of the same package). AMD's packages appear under the same names.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ipa_energy.meters.base import MeterUnavailable
from ipa_energy.meters.counters import wrapped_delta

ROOT = Path("/sys/class/powercap")
_PACKAGE = re.compile(r"package-(\d+)(?:-die-(\d+))?")
MIRROR_J = 5.0
"""Two counters that differ by less than this, again and again, are one: true ones are hundreds of kilojoules wide."""


@dataclass(frozen=True, slots=True)
class Zone:
    """One counter: ``energy_uj`` under ``path``, in µJ, restarting after ``range_uj``."""

    path: Path
    part: Literal["cpu", "dram"]
    socket: int
    die: int | None
    range_uj: int

    @property
    def domain(self) -> str:
        """Name of the meter's domain: ``cpu_package_0``, ``dram_1``, ``cpu_package_0_die_1``."""
        stem = "cpu_package" if self.part == "cpu" else "dram"
        return f"{stem}_{self.socket}" + ("" if self.die is None else f"_die_{self.die}")

    def read_uj(self) -> int:
        """The counter now. Raises OSError or ValueError."""
        return int((self.path / "energy_uj").read_text())


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except PermissionError as error:
        root = path.parent
        while root.name.startswith("intel-rapl"):
            root = root.parent
        raise MeterUnavailable(
            f"{path} can't be read: permission denied (Linux keeps it for root since CVE-2020-8694); "
            f"sudo chmod a+r {root}/intel-rapl:*/energy_uj {root}/intel-rapl:*/max_energy_range_uj, "
            "again after every boot"
        ) from error
    except OSError as error:
        raise MeterUnavailable(f"{path} can't be read: {error.strerror or error}") from error


def _number(path: Path) -> int:
    text = _read(path)
    try:
        return int(text)
    except ValueError:
        raise MeterUnavailable(f"{path} holds {text!r}, not a number") from None


def _children(parent: Path, pattern: str) -> list[Path]:
    found = [path for path in parent.glob("intel-rapl:*") if re.fullmatch(pattern, path.name)]
    return sorted(found, key=lambda path: [int(number) for number in path.name.split(":")[1:]])


def find_zones(root: Path = ROOT) -> list[Zone]:
    """All package and DRAM zones below ``root``, in the order of the kernel's numbers.

    Raises MeterUnavailable when there is none, or naming the file that can't be read and the command that helps.
    """
    # The control type's folder nests the zones; some containers show only the flat links beside it.
    top = root / "intel-rapl" if _children(root / "intel-rapl", r"intel-rapl:\d+") else root
    zones: list[Zone] = []
    for package in _children(top, r"intel-rapl:\d+"):
        match = _PACKAGE.fullmatch(_read(package / "name"))
        if match is None:
            continue
        socket, die = int(match[1]), None if match[2] is None else int(match[2])
        zones.append(_zone(package, "cpu", socket, die, zones))
        for child in _children(package if top != root else root, rf"{package.name}:\d+"):
            if _read(child / "name") == "dram":
                zones.append(_zone(child, "dram", socket, die, zones))
    if not zones:
        raise MeterUnavailable(
            f"no RAPL package under {root} (a virtual machine or container, a kernel without intel_rapl_msr, "
            "or a processor without RAPL)"
        )
    return zones


def _zone(path: Path, part: Literal["cpu", "dram"], socket: int, die: int | None, others: Sequence[Zone]) -> Zone:
    _number(path / "energy_uj")
    zone = Zone(path, part, socket, die, _number(path / "max_energy_range_uj"))
    if zone.range_uj <= 0:
        raise MeterUnavailable(f"{path / 'max_energy_range_uj'} is {zone.range_uj}; a wrap could not be repaired")
    # Older kernels give every die of a package the same name.
    while zone.domain in {other.domain for other in others}:
        zone = replace(zone, die=(zone.die or 0) + 1)
    return zone


def live_zones(zones: Sequence[Zone], settle_s: float = 0.2, tries: int = 4) -> tuple[list[Zone], dict[str, str]]:
    """Zones worth counting, and for each one left out the reason, by domain.

    Left out are counters that stand still over ``settle_s`` and mirrors: on some multi-die processors every die shows
    the one counter of its socket, which a sum would count twice. A mirror reads, ``tries`` times, within a few joules
    of the zone that it mirrors, of the same part.
    """
    readings = {zone.domain: [zone.read_uj()] for zone in zones}
    for _ in range(tries - 1):
        time.sleep(settle_s / (tries - 1))
        for zone in zones:
            readings[zone.domain].append(zone.read_uj())
    kept: list[Zone] = []
    dropped: dict[str, str] = {}
    for zone in zones:
        mine = readings[zone.domain]
        if len(set(mine)) == 1:
            dropped[zone.domain] = f"the counter {zone.path} stands still at {mine[0]} µJ"
            continue
        twin = next(
            (other for other in kept if other.part == zone.part and _mirrors(zone, mine, readings[other.domain])), None
        )
        if twin is not None:
            dropped[zone.domain] = f"{zone.path} mirrors {twin.path}, counted once as {twin.domain}"
            continue
        kept.append(zone)
    return kept, dropped


def _mirrors(zone: Zone, mine: Sequence[int], others: Sequence[int]) -> bool:
    def apart_uj(a: int, b: int) -> int:
        if max(a, b) > zone.range_uj:
            return zone.range_uj
        return min(wrapped_delta(a, b, zone.range_uj), wrapped_delta(b, a, zone.range_uj))

    return all(apart_uj(a, b) < MIRROR_J * 1e6 for a, b in zip(mine, others, strict=True))
