"""RAPL's counters as Linux shows them under ``/sys/class/powercap``: zones, names, ranges, readings.

In: the root of the tree (an argument, so that a copy of a tree can be read). Out: the zones that a sum may hold, each
counted once: packages and DRAM. Left out are ``core`` and ``uncore`` (inside the package), ``psys`` (holds the package)
and ``intel-rapl-mmio`` (a second view of the same package). AMD's packages appear under the same names.

A package that can't be used makes the whole tree unusable, because a sum with a socket missing is the energy of
nothing. Memory that can't be used is left out, with the reason.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ipa_energy.meters.base import MeterUnavailable

ROOT = Path("/sys/class/powercap")
PERIOD_S = 0.001
"""Update period of the counters (Khan et al. 2018, "RAPL in Action")."""
MAX_ZONE_W = 1000.0
"""No package, and no package's memory, draws more. The largest sockets of 2025 are rated 500 W, and two dozen memory
modules at some 20 W each come to as much: twice that leaves room for short peaks. A counter of a range of 65 kJ still
lasts a minute at this power."""
HEARTBEAT_S = 1.0
"""Longest sample period that a configuration may set: a counter has to last longer than that at the highest power."""
MIRROR_UJ = 1_000_000
"""Slack when two counters are compared: dies may publish one counter up to an update (1 ms) apart, and a range is
tens of kilojoules, so that two counters which agree this closely again and again are one."""
MIRROR_TRIES, MIRROR_PAUSE_S = 4, 0.02
_PACKAGE = re.compile(r"package-(\d+)(?:-die-(\d+))?")


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
        return _domain(self.part, self.socket, self.die)

    @property
    def max_hop_s(self) -> float:
        """Longest time between two readings in which the counter wraps once at most."""
        return self.range_uj / 1e6 / MAX_ZONE_W

    def read_uj(self) -> int:
        """The counter now. Raises OSError or ValueError."""
        return int((self.path / "energy_uj").read_text())


def _domain(part: Literal["cpu", "dram"], socket: int, die: int | None) -> str:
    stem = "cpu_package" if part == "cpu" else "dram"
    return f"{stem}_{socket}" + ("" if die is None else f"_die_{die}")


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


def find_zones(root: Path = ROOT) -> tuple[list[Zone], dict[str, str]]:
    """All package and DRAM zones below ``root``, in the order of the kernel's numbers, and reasons for memory left out.

    Raises MeterUnavailable when there is no package, or naming the file of a package that can't be used and, where it
    is a matter of permission, the command that helps.
    """
    link = root / "intel-rapl"
    if link.is_symlink() and not link.exists():
        raise MeterUnavailable(
            f"{link} leads to {link.readlink()}, which is hidden here, as container runtimes do (docker run "
            "--security-opt systempaths=unconfined, podman run --security-opt unmask=ALL show it)"
        )
    # The control type's folder nests the zones; some containers show only the flat links beside it.
    top = link if _children(link, r"intel-rapl:\d+") else root
    zones: dict[str, Zone] = {}
    left_out: dict[str, str] = {}
    for package in _children(top, r"intel-rapl:\d+"):
        match = _PACKAGE.fullmatch(_read(package / "name"))
        if match is None:
            continue
        socket = int(match[1])
        die = _free_die("cpu", socket, None if match[2] is None else int(match[2]), zones)
        zones[_domain("cpu", socket, die)] = _zone(package, "cpu", socket, die)
        for child in _children(package if top != root else root, rf"{package.name}:\d+"):
            if _read(child / "name") != "dram":
                continue
            child_die = _free_die("dram", socket, die, zones)
            domain = _domain("dram", socket, child_die)
            try:
                zones[domain] = _zone(child, "dram", socket, child_die)
            except MeterUnavailable as error:
                left_out[domain] = str(error)
    if not zones:
        raise MeterUnavailable(
            f"no RAPL package under {root} (a virtual machine or container, a kernel without intel_rapl_msr, "
            "or a processor without RAPL)"
        )
    return list(zones.values()), left_out


def _free_die(part: Literal["cpu", "dram"], socket: int, die: int | None, taken: Collection[str]) -> int | None:
    # Older kernels give every die of a package the same name.
    while _domain(part, socket, die) in taken:
        die = (die or 0) + 1
    return die


def _zone(path: Path, part: Literal["cpu", "dram"], socket: int, die: int | None) -> Zone:
    reading_uj, range_file = _number(path / "energy_uj"), path / "max_energy_range_uj"
    zone = Zone(path, part, socket, die, _number(range_file))
    if zone.range_uj <= 0:
        raise MeterUnavailable(f"{range_file} is {zone.range_uj}; a wrap could not be repaired")
    if not 0 <= reading_uj <= zone.range_uj:
        raise MeterUnavailable(
            f"{path / 'energy_uj'} is at {reading_uj}, outside 0..{zone.range_uj} of {range_file}; "
            "a wrap could not be repaired"
        )
    if zone.max_hop_s < HEARTBEAT_S:
        raise MeterUnavailable(
            f"{range_file} is {zone.range_uj}: the counter would wrap within {zone.max_hop_s:.3g} s at "
            f"{MAX_ZONE_W:g} W, and RAPL's last for a minute or more"
        )
    return zone


def live_zones(zones: Sequence[Zone], settle_s: float = 0.2) -> tuple[list[Zone], dict[str, str]]:
    """Zones worth counting, and for each one left out the reason, by domain.

    Left out are memory counters that stand still over ``settle_s``, and mirrors: on some multi-die processors every die
    shows the one counter of its socket, which a sum would count twice. Raises MeterUnavailable when a package's counter
    stands still, OSError or ValueError when a reading fails.
    """
    first = {zone.domain: zone.read_uj() for zone in zones}
    time.sleep(settle_s)
    kept: list[Zone] = []
    dropped: dict[str, str] = {}
    for zone in zones:
        twin = next((other for other in kept if other.part == zone.part and _mirrors(zone, other)), None)
        if zone.read_uj() == first[zone.domain]:
            still = f"the counter {zone.path} stands still at {first[zone.domain]} µJ"
            if zone.part == "cpu":
                raise MeterUnavailable(f"{still}; a total without this package would be the energy of nothing")
            dropped[zone.domain] = still
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
