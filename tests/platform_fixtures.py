"""A host whose platform may be changed: the stub NVML library with limits that outlive a process, and a journal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meter_fixtures import STUBS, TESTS

GPUS = [f"GPU-{i + 1}0000000-feed-beef-0000-00000000000{i}" for i in range(4)]


@dataclass(frozen=True)
class Platform:
    """``folder`` holds the stub's script, its limits, ``journal``, and ``bin``, first on the PATH."""

    folder: Path
    library: Path

    def __post_init__(self) -> None:
        self.script()

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    @property
    def environment(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("CUDA_", "NVML_", "MPS_"))}
        return clean | {
            "PATH": f"{self.folder / 'bin'}:{clean['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), clean.get("PYTHONPATH")])),
            "LD_LIBRARY_PATH": str(self.library),
            "NVML_STUB": str(self.folder / "nvml.txt"),
            "IPA_ENERGY_JOURNAL": str(self.journal),
        }

    def script(self, *lines: str, gpus: int = 1) -> None:
        """Add ``lines`` to what the stub's GPUs do; some of them hold only for processes that start from now on."""
        text = [f"gpus {gpus}", f"limit_file {self.folder / 'limits'}", "enforced_max 400", *lines]
        (self.folder / "nvml.txt").write_text("\n".join(text) + "\n")

    def limits_w(self) -> list[float]:
        """The limits that the GPUs have now, as their file says, without asking NVML; empty while nobody set one."""
        file, gpus = self.folder / "limits", int((self.folder / "nvml.txt").read_text().split()[1])
        return [float(line.split()[1]) / 1e3 for line in file.read_text().splitlines()[:gpus]] if file.exists() else []

    def set_limit(self, watts: float, gpu: int = 0) -> None:
        """What somebody else does with nvidia-smi -pl."""
        code = (
            "import sys, pynvml as nvml; nvml.nvmlInit(); handle = nvml.nvmlDeviceGetHandleByIndex(int(sys.argv[1])); "
            "nvml.nvmlDeviceSetPowerManagementLimit(handle, int(sys.argv[2]))"
        )
        command = [sys.executable, "-c", code, str(gpu), str(round(watts * 1e3))]
        subprocess.run(command, env=self.environment, check=True)

    def entries(self) -> list[str]:
        return sorted(path.name for path in self.journal.glob("*.json")) if self.journal.exists() else []

    def edit(self, **changes: Any) -> None:
        """Change the one entry of the journal; ``process`` is merged into its process."""
        (path,) = self.journal.glob("*.json")
        entry = json.loads(path.read_text())
        entry["process"] |= changes.pop("process", {})
        path.write_text(json.dumps(entry | changes))

    def start(self, **wanted: Any) -> subprocess.Popen[str]:
        extra = wanted.pop("env", {})
        return subprocess.Popen(
            [sys.executable, str(STUBS / "platform_driver.py"), json.dumps(wanted)],
            env=self.environment | extra,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **wanted: Any) -> list[dict[str, Any]]:
        """What a driver that ends by itself told, line by line."""
        driver = self.start(**wanted)
        try:
            output, errors = driver.communicate(timeout=50)
        finally:
            driver.kill()
        assert (driver.returncode, errors) == (0, "")
        return [json.loads(line) for line in output.splitlines()]

    @contextmanager
    def waiting(self, **wanted: Any) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
        """A driver that waits within its block, and what it told from there."""
        driver = self.start(within="wait", **wanted)
        try:
            assert driver.stdout is not None
            line = driver.stdout.readline()
            assert line, driver.communicate()[1]
            yield driver, json.loads(line)
        finally:
            driver.kill()
            driver.communicate()

    def killed(self, **wanted: Any) -> int:
        """The process id of a driver that was killed with SIGKILL within its block."""
        with self.waiting(**wanted) as (driver, _):
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            return driver.pid

    def command(self, action: str, expect: int = 0, env: dict[str, str] | None = None) -> list[str]:
        """The lines of ``python -m ipa_energy.platforms``."""
        done = subprocess.run(
            [sys.executable, "-m", "ipa_energy.platforms", action],
            env=self.environment | (env or {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (expect, ""), done.stdout
        return done.stdout.splitlines()
