"""RAPL's energy by another way through the kernel: the events of the perf PMU ``power``, through perf_event_open(2).

``energy-pkg`` and ``energy-ram`` are what ``perf stat -e power/energy-pkg/`` and the tools that wrap it read. The
system call is used and not the tool: the events are the same, but the edges are the two moments at which they are read
and not the start and the end of a process, no process runs beside what is measured, and nothing has to be installed.

In: the PMU's folder in sysfs (an argument, so that another PMU can stand in), a zone's part, socket and die. Out: an
open counter that gives counts, and what a count is worth in joules. The kernel's counts have 64 bits and it repairs the
wraps of the hardware itself, but only while less than half a range passes between two updates, and its own timer is
laid out for 200 W (Linux, arch/x86/events/rapl.c). Every reading is an update: read as often as the counter itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PMU = Path("/sys/bus/event_source/devices/power")
CPUS = Path("/sys/devices/system/cpu")
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
EVENTS = {"cpu": "energy-pkg", "dram": "energy-ram"}
COUNTER_RANGE = 2**64 - 1
_SYSCALLS = {"x86_64": 298, "aarch64": 241}
_ALL_PROCESSES, _NO_GROUP, _CLOSE_ON_EXEC = -1, -1, 8


class PerfEventsUnusableError(Exception):
    """The kernel offers no such event here. The text says why, and what would help."""


class _Attributes(ctypes.Structure):
    """The first published layout of ``struct perf_event_attr``, 64 bytes, which every kernel since takes."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_uint64),
    )


@dataclass(frozen=True, slots=True)
class EnergyEvent:
    """An event of a PMU: how to ask for it, joules per count, and the CPUs that count it, one per package or die."""

    name: str
    pmu_type: int
    config: int
    joules_per_count: float
    cpus: tuple[int, ...]


def find_event(part: Literal["cpu", "dram"], pmu: Path = PMU) -> EnergyEvent:
    """The PMU's energy event for packages or their memory. Raises PerfEventsUnusableError."""
    if not pmu.is_dir():
        raise PerfEventsUnusableError(
            f"the kernel has no perf PMU {pmu} (a virtual machine, another processor than x86, or the kernel module "
            "rapl is not loaded)"
        )
    event = pmu / "events" / EVENTS[part]
    name = f"{pmu.name}/{event.name}/"
    if not event.exists():
        raise PerfEventsUnusableError(f"the perf PMU {pmu} has no event {event.name}")
    unit = _text(event.with_name(f"{event.name}.unit"))
    if unit != "Joules":
        raise PerfEventsUnusableError(f"{name} counts in {unit!r}, not in Joules")
    scale = _text(event.with_name(f"{event.name}.scale"))
    try:
        joules_per_count = float(scale)
        pmu_type = int(_text(pmu / "type"))
        cpus = tuple(_cpu_list(_text(pmu / "cpumask")))
        config = _config(_text(event), pmu / "format")
    except ValueError as error:
        raise PerfEventsUnusableError(f"{name} can't be understood: {error}") from error
    if not 0 < joules_per_count < float("inf"):
        raise PerfEventsUnusableError(f"{name} has the scale {scale}, must be positive")
    return EnergyEvent(name, pmu_type, config, joules_per_count, cpus)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise PerfEventsUnusableError(f"{path} can't be read: {error.strerror or error}") from error


def _cpu_list(text: str) -> list[int]:
    """CPU numbers of a list in the kernel's notation, such as ``0,8-9``. Raises ValueError."""
    cpus: list[int] = []
    for item in text.split(","):
        first, _, last = item.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def _config(terms: str, formats: Path) -> int:
    """The event's number from terms like ``event=0x02``, each placed where its format says. Raises ValueError."""
    config = 0
    for term in terms.split(","):
        name, _, value = term.partition("=")
        place = re.fullmatch(r"config:(\d+)(?:-\d+)?", _text(formats / name))
        if place is None:
            raise ValueError(f"the format of {name!r} is not a range of bits of config")
        config |= int(value or "1", 0) << int(place[1])
    return config


def counting_cpu(event: EnergyEvent, socket: int, die: int | None, cpus: Path = CPUS) -> int:
    """The CPU that counts the event for a package, or for one of its dies. Raises PerfEventsUnusableError."""
    places = {cpu: _place(cpus / f"cpu{cpu}" / "topology") for cpu in event.cpus}
    found = [cpu for cpu, place in places.items() if place[0] == socket and die in (None, place[1])]
    if len(found) != 1:
        what = f"package {socket}" + ("" if die is None else f" die {die}")
        raise PerfEventsUnusableError(
            f"{event.name} is counted on CPUs {list(event.cpus)}, {len(found)} of them in {what}; exactly one would do"
        )
    return found[0]


def _place(topology: Path) -> tuple[int, int | None]:
    package, die = topology / "physical_package_id", topology / "die_id"
    try:
        return int(_text(package)), int(_text(die)) if die.exists() else None
    except ValueError as error:
        raise PerfEventsUnusableError(f"{topology} can't be understood: {error}") from error


class PerfCounter:
    """One event on one CPU, counting from now on, until it is closed."""

    def __init__(self, event: EnergyEvent, cpu: int) -> None:
        """Open the event. Raises PerfEventsUnusableError."""
        number = _SYSCALLS.get(platform.machine())
        if number is None:
            raise PerfEventsUnusableError(f"perf_event_open is not known for the processor {platform.machine()!r}")
        attributes = _Attributes(type=event.pmu_type, size=ctypes.sizeof(_Attributes), config=event.config)
        system_call = ctypes.CDLL(None, use_errno=True).syscall
        system_call.restype = ctypes.c_long
        file = system_call(
            ctypes.c_long(number),
            ctypes.byref(attributes),
            ctypes.c_long(_ALL_PROCESSES),
            ctypes.c_long(cpu),
            ctypes.c_long(_NO_GROUP),
            ctypes.c_ulong(_CLOSE_ON_EXEC),
        )
        if file < 0:
            raise PerfEventsUnusableError(_refusal(event, cpu, ctypes.get_errno()))
        self._file: int | None = int(file)
        self.joules_per_count = event.joules_per_count
        self.name = f"{event.name} on CPU {cpu}"

    def read(self) -> int:
        """Counts since it was opened. Raises OSError where the kernel gives none, ValueError once closed."""
        if self._file is None:
            raise ValueError(f"{self.name} was closed")
        value = os.read(self._file, 8)
        if len(value) != 8:  # the kernel's sign of an event that it had to stop
            raise OSError(f"{self.name} is no longer counted")
        return int.from_bytes(value, sys.byteorder)

    def close(self) -> None:
        """Stop counting. Safe to call twice."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _refusal(event: EnergyEvent, cpu: int, code: int) -> str:
    said = f"perf_event_open for {event.name} on CPU {cpu}: {errno.errorcode.get(code, code)} ({os.strerror(code)})"
    if code not in {errno.EACCES, errno.EPERM}:
        return said
    try:
        level = PARANOID.read_text().strip()
    except OSError:
        level = "not to be read"
    return (
        f"{said}; kernel.perf_event_paranoid is {level}: sudo sysctl kernel.perf_event_paranoid=0, or the capability "
        "CAP_PERFMON, and in a container a seccomp profile that allows the call"
    )
