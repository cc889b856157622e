"""Machines made for the meters' tests: a powercap tree whose energy is known, and a libnvidia-ml.so.1 without a GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    command = [found, "-shared", "-fPIC", "-O1", "-Wl,-soname,libnvidia-ml.so.1", "-o", folder / "libnvidia-ml.so.1"]
    subprocess.run([*command, source, "-lm"], check=True)
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


def host_sockets() -> list[int]:
    """Physical packages of this machine, as pyRAPL finds them."""
    files = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/physical_package_id")
    return sorted({int(file.read_text()) for file in files})


class FakePowercap:
    """A powercap tree with 32-bit counters like Intel's servers: 61 µJ a step, wrapping after 262 kJ.

    ``zones`` holds the raw counts by path. Files are rewritten in place, as pyRAPL keeps them open.
    """

    unit_uj = 1e6 / 2**14
    modulus = 2**32

    def __init__(self, root: Path) -> None:
        self.root = root
        self.zones: dict[Path, int] = {}
        self.watts: dict[Path, float] = {}
        self._packages = 0
        root.mkdir(parents=True, exist_ok=True)
        (root / "intel-rapl").mkdir()

    def add_package(
        self, name: str, *, dram: bool = False, other: tuple[str, ...] = ("core",), watts: float = 80
    ) -> Path:
        """A package zone with ``other`` child zones before its DRAM."""
        package = self.root / "intel-rapl" / f"intel-rapl:{self._packages}"
        self._packages += 1
        self._add(package, name, watts)
        children = [*other, *(["dram"] if dram else [])]
        for number, child in enumerate(children):
            self._add(package / f"{package.name}:{number}", child, watts / 4)
        return package

    def _add(self, path: Path, name: str, watts: float) -> None:
        path.mkdir()
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{int((self.modulus - 1) * self.unit_uj)}\n")
        if name != "core":
            self.watts[path] = watts
            self.zones[path] = 1_000_000_000 + 50_000_000 * len(self.zones)
        self._write(path)

    def _write(self, path: Path) -> None:
        text = f"{int(self.zones.get(path, 0) * self.unit_uj):020d}\n".encode()
        file = os.open(path / "energy_uj", os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(file, text, 0)
        finally:
            os.close(file)

    def advance(self, path: Path, energy_uj: float) -> float:
        """Add energy to a counter; gives the energy really added, a whole number of steps, in µJ."""
        steps = round(energy_uj / self.unit_uj)
        self.zones[path] = (self.zones[path] + steps) % self.modulus
        self._write(path)
        return steps * self.unit_uj

    def set_below_wrap(self, energy_uj: float) -> None:
        """Put every counter this far below its wrap."""
        for path in self.zones:
            self.zones[path] = self.modulus - round(energy_uj / self.unit_uj)
            self._write(path)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within the block all counters run at their watts, a step a millisecond."""
        stop = threading.Event()

        def run() -> None:
            last_s = time.monotonic()
            while not stop.wait(0.001):
                now_s = time.monotonic()
                for path, watts in self.watts.items():
                    self.advance(path, watts * (now_s - last_s) * 1e6)
                last_s = now_s

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
