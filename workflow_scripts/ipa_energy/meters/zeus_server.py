"""Runs ZeusMonitor in a process of its own; answers JSON, a line for a line, to :mod:`ipa_energy.meters.zeus`.

A process of its own, because Zeus starts helpers that import the caller's main module again, prints, warns, and leaves
its helpers to the interpreter's exit. What it prints goes to standard error. The process ends when its input does, so
it does not outlive the measurement, and its helpers end with it. Requests: ``open``, ``begin``, ``end``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

WINDOW = "window"
QUIET_S = 0.5
START_LIMIT_S = 20.0


class Server:
    """Zeus's devices and its monitor, which exists from ``open`` on."""

    def __init__(self) -> None:
        from zeus import __version__  # noqa: PLC0415 - the error, if any, is an answer

        self.version = __version__
        self._monitor: Any = None

    def found(self) -> dict[str, Any]:
        """Zeus's version; by Zeus's index, every GPU's fault or None and every CPU's zone; why there is none."""
        gpus, no_gpu = _attempt(_gpus)
        cpus, no_cpu = _attempt(_cpus)
        return {"version": self.version, "gpus": gpus, "no_gpu": no_gpu, "cpus": cpus, "no_cpu": no_cpu}

    def open(self, gpus: list[int], cpus: list[int]) -> dict[str, Any]:
        """Make the monitor for these indices and see that it works; process ids of it and its helpers."""
        from zeus.monitor import ZeusMonitor  # noqa: PLC0415 - slow

        self._monitor = ZeusMonitor(gpu_indices=gpus, cpu_indices=cpus)
        # The helpers that count the wraps of RAPL start at the first reading, and take seconds.
        self.begin()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that so short a window has no energy
            self.end()
        helpers = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
        _wait_until_quiet(helpers)
        return {"pids": [os.getpid(), *helpers]}

    def begin(self) -> dict[str, Any]:
        """Begin a window; the times around the call, and the counters that Zeus began with (J)."""
        before_s = time.monotonic()
        self._monitor.begin_window(WINDOW, sync_execution=False, restart=True)
        after_s = time.monotonic()
        state = self._monitor.measurement_states[WINDOW]
        return {"time_s": [before_s, after_s], "cpu": state.cpu_energy or {}, "dram": state.dram_energy or {}}

    def end(self) -> dict[str, Any]:
        """End the window; the times around the call, and Zeus's figures (J) by part and index."""
        before_s = time.monotonic()
        result = self._monitor.end_window(WINDOW, sync_execution=False)
        after_s = time.monotonic()
        return {
            "time_s": [before_s, after_s],
            "gpu": result.gpu_energy,
            "cpu": result.cpu_energy or {},
            "dram": result.dram_energy or {},
        }


def _attempt(find: Callable[[], list[Any]]) -> tuple[list[Any], str | None]:
    try:
        return find(), None
    except Exception as error:
        return [], _text(error)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _gpus() -> list[str | None]:
    from zeus.device import get_gpus  # noqa: PLC0415 - slow

    return [_fault(gpu) for gpu in get_gpus().gpus]


def _fault(gpu: Any) -> str | None:
    try:
        if not gpu.supports_get_total_energy_consumption():
            return "Zeus takes it for older than Volta, and would poll its power without a pause during the window"
        gpu.get_total_energy_consumption()
    except Exception as error:
        return _text(error)
    return None


def _cpus() -> list[str]:
    from zeus.device import get_cpus  # noqa: PLC0415 - slow

    return [f"intel-rapl:{cpu.cpu_index}" for cpu in get_cpus().cpus]


def _wait_until_quiet(pids: list[int]) -> None:
    """Wait until these processes have used no CPU time for a while: they give no other sign that they have started."""
    last: list[int] = []
    changed_s = time.monotonic()
    give_up_s = changed_s + START_LIMIT_S
    while pids and time.monotonic() < min(changed_s + QUIET_S, give_up_s):
        ticks = [_cpu_ticks(pid) for pid in pids]
        if ticks != last:
            last, changed_s = ticks, time.monotonic()
        time.sleep(0.05)


def _cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return -1
    return int(fields[11]) + int(fields[12])


def main() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(of: Callable[[], dict[str, Any]]) -> None:
        try:
            reply = of()
        except Exception as error:
            reply = {"error": _text(error)}
        print(json.dumps(reply), file=answers, flush=True)

    try:
        server = Server()
    except Exception as error:
        print(json.dumps({"error": _text(error)}), file=answers, flush=True)
        return
    answer(server.found)
    for line in sys.stdin:
        call, arguments = json.loads(line)
        requests = {"open": server.open, "begin": server.begin, "end": server.end}
        answer(lambda request=requests[call], arguments=arguments: request(*arguments))  # type: ignore[misc]


if __name__ == "__main__":
    main()
