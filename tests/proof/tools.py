"""The tools that are given the scenarios, and the command that plays one to one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from ipa_energy.config_schema import config_schema

from .player import SETTLE_S
from .scenarios import CpuScenario, GpuScenario, Scenario

TESTS = Path(__file__).resolve().parents[1]
DRIVERS = TESTS / "proof" / "drivers"
RELEASES = {"zeus": "0.16.0", "codecarbon": "3.3.2"}
"""What docs/proof.md compares with, as released on PyPI."""
OURS = "ipa-energy"
PLAY_LIMIT_S = 240.0


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool's driver and the Python that runs it.

    ``settle_s`` is the time that it is given before the window. ``noise`` marks lines that it prints in any case, and
    ``cpu_noise`` such as are about the CPU where only a GPU is in question.
    """

    name: str
    driver: Path
    python: Path
    settle_s: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)
    noise: tuple[str, ...] = ()
    cpu_noise: tuple[str, ...] = ()


def default(*keys: str) -> Any:
    """A default of the config, by its keys."""
    node = config_schema()
    for key in keys:
        node = node["properties"][key]
    return node["default"]


def our_meters() -> Tool:
    """The meters of this project."""
    return Tool(OURS, DRIVERS / "ours.py", Path(sys.executable))


def rivals(environments: Path) -> tuple[Tool, ...]:
    """Zeus and CodeCarbon, each in an environment of its own below ``environments``, made where it is absent."""
    executables = environments / "bin"
    executables.mkdir(parents=True, exist_ok=True)
    smi = executables / "nvidia-smi"  # CodeCarbon looks for GPUs only where this can be run
    smi.write_text("#!/bin/sh\nexit 0\n")
    smi.chmod(0o755)
    path = os.pathsep.join([str(executables), os.environ["PATH"]])
    return (
        Tool(
            f"Zeus {RELEASES['zeus']}",
            DRIVERS / "zeus_monitor.py",
            _python(environments / "zeus", "zeus"),
            settle_s=SETTLE_S,
            noise=("warnings.warn(",),
        ),
        Tool(
            f"CodeCarbon {RELEASES['codecarbon']}",
            DRIVERS / "codecarbon_tracker.py",
            _python(environments / "codecarbon", "codecarbon"),
            settle_s=SETTLE_S,
            environment={"PATH": path},
            noise=("offline tracker init", "Multiple instances of codecarbon"),
            cpu_noise=("We saw that you have", "default power consumption", "No CPU tracking", "Linux OS detected"),
        ),
    )


def _python(folder: Path, package: str) -> Path:
    """The Python of a virtual environment that holds the release of ``package``."""
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    pins = [f"{package}=={RELEASES[package]}", f"nvidia-ml-py=={metadata.version('nvidia-ml-py')}"]
    if not stamp.exists() or stamp.read_text().split() != pins:
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *pins], check=True)
        stamp.write_text("\n".join(pins))
    return python


def play(scenario: Scenario, tool: Tool, library: Path, namespace: tuple[str, ...], lapse: float = 1.0) -> Any:
    """What ``tool`` said in ``scenario`` and what was true; ``namespace`` is the command of a mount namespace."""
    request = {
        "scenario": scenario.name,
        "command": [str(tool.python), str(tool.driver)],
        "environment": tool.environment if isinstance(scenario, GpuScenario) else {},
        "library": str(library),
        "settle_s": tool.settle_s if isinstance(scenario, CpuScenario) else 0.0,
        "lapse": lapse,
        "settings": {"sample_period_s": default("protocol", "sample_period_s")},
    }
    prefix = namespace if isinstance(scenario, CpuScenario) else ()
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "proof.player", json.dumps(request)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))},
        capture_output=True,
        text=True,
        timeout=PLAY_LIMIT_S,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{scenario.name} could not be played to {tool.name}:\n{done.stderr}")
    return json.loads(done.stdout)
