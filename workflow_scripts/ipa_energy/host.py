"""What this host is and how busy it is: facts for the record's provenance, readings for its quality gates."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from ipa_energy.names import as_host

_PACKAGES = ("ipa-energy", "torch", "torchvision", "numpy", "nvidia-ml-py", "pyRAPL", "snakemake")


_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal")
"""Kernel drivers whose sensors are those of the CPU; a disk's may be warmer and hide it."""


def available_cores() -> list[int]:
    """Numbers of the CPUs this process may use: one of each physical core first, then their siblings."""
    usable = sorted(os.sched_getaffinity(0))
    taken: dict[str, int] = {}
    turn = {}
    for cpu in usable:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = siblings.read_text().strip() if siblings.exists() else str(cpu)
        turn[cpu] = taken[core] = taken.get(core, -1) + 1
    return sorted(usable, key=lambda cpu: (turn[cpu], cpu))


def has_cuda_device() -> bool:
    """Whether the machine shows an NVIDIA GPU, told without loading a framework (native Linux, or WSL)."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


@dataclass(frozen=True)
class CpuReading:
    """Core seconds since some fixed instant: of the whole host, and of each of our own processes by its id.

    Those of a process that has ended are what it used in its life.
    """

    host_busy_s: float
    own_s: dict[int, float]


def read_cpu(own_pids: Iterable[int], gone_s: Mapping[int, float] | None = None) -> CpuReading:
    """Core seconds used so far, by everybody and by our own processes.

    ``own_pids`` are read where they still live; ``gone_s`` holds, by process id, the core seconds of those that have
    ended (:attr:`.serving.processes.Replicas.cpu_s_of_gone`). Where some end between two readings, give it to both.
    """
    gone_s = gone_s or {}
    times = psutil.cpu_times()
    busy_s = times.user + times.nice + times.system + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0)
    own_s = dict(gone_s)
    for pid in set(own_pids) - gone_s.keys():  # the number of one that has ended may be another's by now
        with suppress(psutil.Error):
            used = psutil.Process(pid).cpu_times()
            own_s[pid] = used.user + used.system
    return CpuReading(busy_s, own_s)


def own_core_seconds(begin: CpuReading, end: CpuReading) -> float:
    """Core seconds our processes used between two readings: of those that began in between, all that they used.

    What a process used that is not in the second reading, because it ended and no one told of its use, is not known and
    left out.
    """
    return sum(used_s - begin.own_s.get(pid, 0.0) for pid, used_s in end.own_s.items())


def foreign_core_seconds(begin: CpuReading, end: CpuReading) -> float:
    """Core seconds used by everybody else between two readings; the ticks of the accounting can't make it negative."""
    return max(0.0, end.host_busy_s - begin.host_busy_s - own_core_seconds(begin, end))


def environment(cpus: Collection[int]) -> dict[str, Any]:
    """Temperature, throttling and, as the mean over ``cpus``, clock of the CPU; None for what the machine hides."""
    throttles: list[int] = []
    for file in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
        with suppress(OSError, ValueError):
            throttles.append(int(file.read_text()))
    temperatures: list[float] = []
    with suppress(AttributeError, OSError):
        sensors = psutil.sensors_temperatures()
        temperatures = [t.current for name, found in sensors.items() if name in _CPU_SENSORS for t in found]
    clock_mhz = None
    with suppress(AttributeError, OSError, NotImplementedError):
        clocks_mhz = [f.current for cpu, f in enumerate(psutil.cpu_freq(percpu=True)) if cpu in cpus]
        clock_mhz = sum(clocks_mhz) / len(clocks_mhz) if clocks_mhz else None
    return {
        "cpu_hottest_celsius": max(temperatures, default=None),
        "cpu_clock_mhz": clock_mhz,
        "cpu_throttle_count": sum(throttles) if throttles else None,
        "load_average_1min": os.getloadavg()[0],
    }


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():  # an archive unpacked inside some other repository has no commit of its own
        return None
    git = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(git, check=False, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def host_name() -> str:
    """Who this host is: the scheduler's name of the node (``SLURMD_NODENAME``) inside a job of Slurm, else its own.

    Several nodes of a scheduler may live on one machine, and are several hosts. ``IPA_ENERGY_HOST`` names a host that
    does not know its own name, as in a container.
    """
    names = (os.environ.get("SLURMD_NODENAME"), os.environ.get("IPA_ENERGY_HOST"))
    return as_host(next(filter(None, names), platform.node()))


def same_host(one: str, other: str) -> bool:
    """Whether two names are of one host: equal, or one is the other without its domain; case means nothing."""
    one, other = one.lower(), other.lower()
    return one == other or (("." in one) != ("." in other) and one.partition(".")[0] == other.partition(".")[0])


def provenance() -> dict[str, Any]:
    """Host, CPU, kernel, versions and commit, JSON-ready."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "host": host_name(),
        "machine": as_host(platform.node()),
        "cpu": _cpu_model(),
        "cores_available": len(available_cores()),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "governor": governor.read_text().strip() if governor.exists() else None,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
    }
