"""Plays one scenario to one tool: ``python -m proof.player REQUEST``; prints what the tool said and what was true.

``REQUEST`` is JSON: the scenario's name, the tool's command and environment, the folder of the stub library, and how
much faster time runs. Scenarios of a CPU want a mount namespace of their own (``unshare -m``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .machines import CpuMachine, GpuMachine, Machine
from .scenarios import SCENARIOS, GpuScenario, Scenario

SETTLE_S = 1.2
"""The counters stand for this long near their wrap before the window: a tool that looks once a second has seen it."""


class Driver:
    """A tool's process; each call gives its answer."""

    def __init__(self, command: list[str], environment: dict[str, str], machine: Machine, folder: Path) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("CUDA_", "NVML_", "LD_LIB"))}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=kept | {"HOME": str(folder)} | environment | machine.environment,
            cwd=folder,
            text=True,
            preexec_fn=machine.restrict,  # noqa: PLW1509 - two system calls, and no lock of ours
        )

    def call(self, request: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(request, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            return {"exception": f"the tool's process ended with {self._process.wait()}", "told": "", "time_s": [0, 0]}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def play(scenario: Scenario, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The tool's answers to ``open``, ``begin`` and ``end``, as far as it came, and the truth."""
    machine: Machine = (
        GpuMachine(scenario, folder, Path(request["library"]))
        if isinstance(scenario, GpuScenario)
        else CpuMachine(scenario, request["lapse"])
    )
    settings = {**request["settings"], "gpu": isinstance(scenario, GpuScenario), "lapse": request["lapse"]}
    machine.go()
    driver = Driver([*request["command"], json.dumps(settings)], request["environment"], machine, folder)
    try:
        answers = {"open": driver.call("open")}
        if "exception" in answers["open"]:
            return {"answers": answers, "truth": None}
        machine.stand()
        machine.prepare()
        time.sleep(request["settle_s"])
        machine.stand()
        answers["begin"] = driver.call("begin")
        machine.go()
        _wait(scenario, machine, request["lapse"])
        machine.stand()
        answers["end"] = driver.call("end")
        return {"answers": answers, "truth": machine.truth()}
    finally:
        driver.close()
        machine.close()


def _wait(scenario: Scenario, machine: Machine, lapse: float) -> None:
    begun_s = time.monotonic()
    for event in scenario.events:
        time.sleep(max(begun_s + event[0] / lapse - time.monotonic(), 0.0))
        machine.fire(event)
    time.sleep(max(begun_s + scenario.window_s / lapse - time.monotonic(), 0.0))


def main() -> None:
    """Play and print."""
    request = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(play(SCENARIOS[request["scenario"]], request, Path(folder))))


if __name__ == "__main__":
    main()
