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

ROOT = Path("/sys/class/powercap")
_PACKAGE = re.compile(r"package-(\d+)(?:-die-(\d+))?")
MIRROR_UJ = 1_000_000
"""Slack when two counters are compared: dies may publish one counter up to an update (1 ms) apart, and a range is
tens of kilojoules, so that two counters which agree this closely again and again are one."""
MIRROR_TRIES, MIRROR_PAUSE_S = 4, 0.02


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


def live_zones(zones: Sequence[Zone], settle_s: float = 0.2) -> tuple[list[Zone], dict[str, str]]:
    """Zones worth counting, and for each one left out the reason, by domain.

    Left out are counters that stand still over ``settle_s``, and mirrors: on some multi-die processors every die shows
    the one counter of its socket, which a sum would count twice. Raises OSError or ValueError when a reading fails.
    """
    first = {zone.domain: zone.read_uj() for zone in zones}
    time.sleep(settle_s)
    kept: list[Zone] = []
    dropped: dict[str, str] = {}
    for zone in zones:
        twin = next((other for other in kept if other.part == zone.part and _mirrors(zone, other)), None)
        if zone.read_uj() == first[zone.domain]:
            dropped[zone.domain] = f"the counter {zone.path} stands still at {first[zone.domain]} µJ"
        elif twin is not None:
            dropped[zone.domain] = f"{zone.path} mirrors {twin.path} and is counted once, as {twin.domain}"
        else:
            kept.append(zone)
    return kept, dropped


def between(before_uj: int, reading_uj: int, after_uj: int, range_uj: int, slack_uj: int = 0) -> bool:
    """Whether a reading lies between two of the same counter, one taken before and one after it, across a wrap too."""
    lead = (reading_uj - before_uj) % range_uj
    span = (after_uj - before_uj) % range_uj
    return lead <= span + slack_uj or lead >= range_uj - slack_uj


def _mirrors(zone: Zone, other: Zone) -> bool:
    for _ in range(MIRROR_TRIES):
        before_uj, reading_uj, after_uj = other.read_uj(), zone.read_uj(), other.read_uj()
        if zone.range_uj != other.range_uj or not between(before_uj, reading_uj, after_uj, zone.range_uj, MIRROR_UJ):
            return False
        time.sleep(MIRROR_PAUSE_S)
    return True
