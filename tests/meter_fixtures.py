"""Machines made for the meters' tests: a powercap tree whose energy is known, and a libnvidia-ml.so.1 without a GPU."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
STUBS = TESTS / "stubs"


def run_python(
    script: Path, *arguments: object, env: dict[str, str] | None = None, prefix: tuple[str, ...] = ()
) -> Any:
    """Run a driver script in a process of its own and read the JSON that it prints; its stderr must stay empty."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("CUDA_", "NVML_", "LD_LIBRARY"))}
    path = os.pathsep.join(filter(None, [str(TESTS), clean.get("PYTHONPATH")]))
    done = subprocess.run(
        [*prefix, sys.executable, str(script), *map(str, arguments)],
        env=clean | {"PYTHONPATH": path} | (env or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@lru_cache(maxsize=1)
def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build_nvml_stub(folder: Path) -> Path:
    """Compile the stub into ``folder``; skips the test where there is no C compiler."""
    found = compiler()
    if found is None:
        pytest.skip("no C compiler (cc, gcc, clang) to build the NVML stub library")
    source = STUBS / "nvml_stub.c"
    command = [found, "-shared", "-fPIC", "-pthread", "-O1", "-Wall", "-Wextra", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([*command, "-o", folder / "libnvidia-ml.so.1", source, "-lm"], check=True)
    return folder


@lru_cache(maxsize=1)
def unshare_mount() -> tuple[str, ...] | str:
    """The command that gives a process a mount namespace of its own, or why there is none."""
    if shutil.which("unshare") is None:
        return "no unshare command"
    why = ""
    for command in (("unshare", "-m"), ("unshare", "-rm")):
        done = subprocess.run(
            [*command, "mount", "-t", "tmpfs", "tmpfs", "/sys/class"], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return command
        why = done.stderr.strip()
    return why


CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN, CAP_PERFMON = 1, 2, 21, 38


@contextmanager
def without_capabilities(*capabilities: int) -> Iterator[None]:
    """Within the block, this thread lacks these of root's rights (a user who is not root has none to lose)."""

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    class Data(ctypes.Structure):
        _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))

    libc = ctypes.CDLL(None)
    header, data = Header(0x20080522, 0), (Data * 2)()
    assert libc.capget(ctypes.byref(header), data) == 0
    before = [half.effective for half in data]
    for capability in capabilities:
        data[capability // 32].effective &= ~(1 << capability % 32)
    assert libc.capset(ctypes.byref(header), data) == 0
    try:
        yield
    finally:
        for half, effective in zip(data, before, strict=True):
            half.effective = effective
        assert libc.capset(ctypes.byref(header), data) == 0


def host_sockets() -> list[int]:
    """Physical packages of this machine, as pyRAPL finds them."""
    files = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/physical_package_id")
    return sorted({int(file.read_text()) for file in files})


def fake_cpus(root: Path, sockets: Sequence[int], dies: Sequence[int] = ()) -> Path:
    """A /sys/devices/system/cpu whose CPU number n lies in ``sockets[n]`` and, where dies are given, ``dies[n]``."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "present").write_text(f"0-{len(sockets) - 1}\n" if len(sockets) > 1 else "0\n")
    for number, socket in enumerate(sockets):
        topology = root / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{socket}\n")
        if dies:
            (topology / "die_id").write_text(f"{dies[number]}\n")
    return root


class FakeClock:
    """A monotonic clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(slots=True)
class FakeZone:
    """A 32-bit counter: its steps in µJ, the energy that it was fed in whole steps, and the power it runs at."""

    unit_uj: float
    watts: float
    count: int
    file: int
    fed_uj: float = 0.0


class FakePowercap:
    """A powercap tree with counters of 32 bits, wrapping after 262 kJ at 61 µJ a step, or 65.5 kJ at 15.3 µJ.

    ``zones`` holds the counters by path. Files are rewritten in place, as pyRAPL keeps them open, and through a file
    descriptor, which asks for no permission.
    """

    server_uj = 1e6 / 2**14
    fine_uj = 15.3
    """Intel's memory on servers (in the kernel's rounding), and about AMD's packages: 1e6 / 2**16."""
    modulus = 2**32

    def __init__(self, root: Path) -> None:
        self.root = root
        self.zones: dict[Path, FakeZone] = {}
        self._packages = 0
        (root / "intel-rapl").mkdir(parents=True)

    def add_package(
        self,
        name: str,
        *,
        dram: bool = False,
        other: tuple[str, ...] = ("core",),
        watts: float = 80,
        unit_uj: float = server_uj,
    ) -> Path:
        """A package zone with ``other`` child zones before its DRAM, all running."""
        package = self.root / "intel-rapl" / f"intel-rapl:{self._packages}"
        self._packages += 1
        self.add_zone(package, name, watts, unit_uj)
        for number, child in enumerate(other):
            self.add_zone(package / f"{package.name}:{number}", child, watts / 2, unit_uj)
        if dram:
            self.add_zone(package / f"{package.name}:{len(other)}", "dram", watts / 4, self.fine_uj)
        return package

    def add_zone(self, path: Path, name: str, watts: float, unit_uj: float) -> None:
        path.mkdir(parents=True)
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{int((self.modulus - 1) * unit_uj)}\n")
        file = os.open(path / "energy_uj", os.O_WRONLY | os.O_CREAT, 0o644)
        self.zones[path] = FakeZone(unit_uj, watts, 1_000_000_000 + 50_000_000 * len(self.zones), file)
        self._write(path)

    def mirror(self, path: Path, real: Path) -> None:
        """Let a zone show the counter of another one."""
        os.close(self.zones.pop(path).file)
        (path / "energy_uj").unlink()
        (path / "energy_uj").symlink_to(real / "energy_uj")

    def remove(self, path: Path) -> None:
        os.close(self.zones.pop(path).file)
        shutil.rmtree(path)

    def unplug(self, path: Path) -> None:
        """Empty the counter's file; the energy that goes on flowing is still known."""
        zone = self.zones[path]
        os.truncate(path / "energy_uj", 0)
        os.close(zone.file)
        zone.file = os.open(os.devnull, os.O_WRONLY)

    def plug_in(self, path: Path) -> None:
        """Show the counter in its file again, a new one if there is none."""
        os.close(self.zones[path].file)
        self.zones[path].file = os.open(path / "energy_uj", os.O_WRONLY | os.O_CREAT, 0o644)
        self._write(path)

    def dram(self, package: Path) -> Path:
        return next(path for path in self.zones if path.parent == package and (path / "name").read_text() == "dram\n")

    def _write(self, path: Path) -> None:
        zone = self.zones[path]
        os.pwrite(zone.file, f"{int(zone.count * zone.unit_uj):020d}\n".encode(), 0)

    def advance(self, path: Path, energy_uj: float) -> float:
        """Add energy to a counter; gives the energy really added, a whole number of steps, in µJ."""
        zone = self.zones[path]
        steps = round(energy_uj / zone.unit_uj)
        zone.count = (zone.count + steps) % self.modulus
        zone.fed_uj += steps * zone.unit_uj
        self._write(path)
        return steps * zone.unit_uj

    def run_for(self, seconds: float) -> None:
        """Let all counters run at their watts."""
        for path, zone in self.zones.items():
            self.advance(path, zone.watts * seconds * 1e6)

    def set_below_wrap(self, joules: float, *paths: Path) -> None:
        """Put these counters, or all of them, this far below their wrap."""
        for path in paths or self.zones:
            zone = self.zones[path]
            zone.count = self.modulus - round(joules * 1e6 / zone.unit_uj)
            self._write(path)

    def close(self) -> None:
        for zone in self.zones.values():
            os.close(zone.file)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within the block all counters run at their watts in real time, a step a millisecond."""
        stop = threading.Event()

        def run() -> None:
            last_s = time.monotonic()
            while not stop.wait(0.001):
                now_s = time.monotonic()
                self.run_for(now_s - last_s)
                last_s = now_s

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
