"""The machines on which the scenarios are played: what a tool sees there, and what was true.

The counters of a CPU stand still while a tool takes an edge of its window, so the truth is exact to the step. The power
of a GPU follows the clock, and the truth is its integral between the edges of the tool's window.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from meter_fixtures import FakePowercap, fake_cpus

from .scenarios import CpuScenario, GpuScenario

POWERCAP, CPUS = Path("/sys/class/powercap"), Path("/sys/devices/system/cpu")
FEED_S = 0.001
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


class Machine(Protocol):
    """A machine for one play."""

    environment: dict[str, str]
    restrict: Callable[[], None] | None

    def stand(self) -> None:
        """Let nothing change until ``go``."""

    def prepare(self) -> None:
        """Bring the counters to where the window wants them."""

    def go(self) -> None:
        """Run."""

    def fire(self, event: tuple[Any, ...]) -> None:
        """Let an event of the scenario happen."""

    def truth(self) -> dict[str, Any]:
        """What was true between the last two times that it stood."""

    def close(self) -> None:
        """Stop it."""


class GpuMachine:
    """GPUs of the stub library; ``library`` is the folder in which it lies."""

    def __init__(self, scenario: GpuScenario, folder: Path, library: Path) -> None:
        self.restrict: Callable[[], None] | None = None
        self._folder = folder
        self.epoch_s = time.monotonic() - 10.0  # the past of a counter that has counted for a while
        script = folder / "nvml.txt"
        script.write_text(scenario.stub_script(self.epoch_s, str(folder)))
        self.environment = {"LD_LIBRARY_PATH": str(library), "NVML_STUB": str(script)}

    def stand(self) -> None:
        """Power goes on."""

    prepare = go = close = stand

    def fire(self, event: tuple[Any, ...]) -> None:
        """Make the event's file."""
        (self._folder / event[1]).touch()

    def truth(self) -> dict[str, Any]:
        """The epoch: power follows from it."""
        return {"epoch_s": self.epoch_s}


class CpuMachine:
    """A powercap tree at the paths that all tools read; wants a mount namespace of its own."""

    def __init__(self, scenario: CpuScenario, lapse: float) -> None:
        for folder in (POWERCAP.parent, CPUS):
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
        sockets = sorted({package.socket for package in scenario.packages})
        fake_cpus(CPUS, sockets=[socket for socket in sockets for _ in range(2)])
        self.environment: dict[str, str] = {}
        self._scenario, self._lapse = scenario, lapse
        self._tree = FakePowercap(POWERCAP)
        self._paths: list[Path] = []
        for package in scenario.packages:
            path = self._tree.add_package(package.name, dram=package.dram, watts=package.watts, unit_uj=package.unit_uj)
            self._paths.append(path)
            if package.mirrors is not None:
                self._tree.mirror(path, self._paths[package.mirrors])
            if not package.readable:
                for file in path.rglob("energy_uj"):
                    file.chmod(0)
        _as_linux_shows_it()
        unreadable = any(not package.readable for package in scenario.packages)
        self.restrict: Callable[[], None] | None = _without_rights_of_root if unreadable else None
        self._lock = threading.Lock()
        self._running, self._closed = False, False
        self._last_s = 0.0
        self._frozen: list[int] = []
        self._marks: list[dict[Path, float]] = []
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def _feed(self) -> None:
        # The hardware counts on however busy the cores are; where that is not allowed, a busy host makes lumps.
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        while not self._closed:
            with self._lock:
                if self._running:
                    self._step()
            time.sleep(FEED_S)

    def _step(self) -> None:
        now_s = time.monotonic()
        self._tree.run_for((now_s - self._last_s) * self._lapse)
        self._last_s = now_s

    def stand(self) -> None:
        """Let the counters stand, and note what they were fed so far."""
        with self._lock:
            if self._running:
                self._step()
            self._running = False
            self._marks.append({path: zone.fed_uj for path, zone in self._tree.zones.items()})

    def prepare(self) -> None:
        """Put the counters as far below their wrap as the scenario says."""
        for path, package in zip(self._paths, self._scenario.packages, strict=True):
            if package.wrap_s is not None:
                self._tree.set_below_wrap(package.watts * package.wrap_s, path)
            if package.dram_wrap_s is not None:
                dram = self._tree.dram(path)
                self._tree.set_below_wrap(self._tree.zones[dram].watts * package.dram_wrap_s, dram)

    def go(self) -> None:
        """Let the counters run."""
        with self._lock:
            self._last_s, self._running = time.monotonic(), True

    def fire(self, event: tuple[Any, ...]) -> None:
        """Let a counter jump or freeze; the energy that is really drawn stays what it is."""
        _, package, joules = event
        zone = self._tree.zones[self._paths[package]]
        with self._lock:
            if joules is None:
                self._frozen.append(zone.file)
                zone.file = os.open(os.devnull, os.O_WRONLY)
            else:
                jumped_uj = self._tree.advance(self._paths[package], joules * 1e6)
                zone.fed_uj -= jumped_uj

    def truth(self) -> dict[str, Any]:
        """Energy in J and counter step in µJ by the path of the counter."""
        before, after = self._marks[-2:]
        return {
            str(path): {"energy_j": (after[path] - before[path]) / 1e6, "step_uj": zone.unit_uj, "part": _part(path)}
            for path, zone in self._tree.zones.items()
            if _part(path)
        }

    def close(self) -> None:
        """End the feeding."""
        self._closed = True
        self._thread.join()
        self._tree.close()
        for file in self._frozen:
            os.close(file)


def _as_linux_shows_it() -> None:
    """Links and files beside the counters and the topology that some tools look for."""
    top = POWERCAP / "intel-rapl"
    (top / "subsystem").symlink_to(POWERCAP)
    for zone in [*top.glob("intel-rapl:*"), *top.glob("intel-rapl:*/intel-rapl:*")]:
        (POWERCAP / zone.name).symlink_to(zone)
    for name in ("possible", "online"):
        (CPUS / name).write_text((CPUS / "present").read_text())


def _part(path: Path) -> str | None:
    name = (path / "name").read_text().strip()
    return "cpu" if name.startswith("package") else "dram" if name == "dram" else None


def _without_rights_of_root() -> None:
    libc = ctypes.CDLL(None)
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
