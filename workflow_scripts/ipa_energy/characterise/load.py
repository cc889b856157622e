"""The load from the measuring process's side: a process of its own that switches the GPU on and off by a schedule.

A process of its own, because a thread of ours would share the interpreter's lock with the polls. It ends with us, also
when we are killed. What it really did comes back as a :class:`Played`.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class LoadError(RuntimeError):
    """The load can't be made; the text says why."""


@dataclass(frozen=True)
class Played:
    """What a load did: each level holds from its instant (CLOCK_MONOTONIC s) on.

    ``host_s`` and ``device_s`` are the length of every pulse by the host's clock and by events on the device; the
    latter are empty where there is no device.
    """

    times_s: Floats
    levels: Floats
    host_s: Floats
    device_s: Floats


@dataclass(frozen=True)
class StubBoard:
    """The board that a load file pretends: power (W) bare, with a context, and at full load.

    Power is noisy by ``noise_w`` in pieces of 5 ms during a schedule, and after a pulse of a second or more it falls
    from ``tail_w`` above idle with the time constant ``tail_s``.
    """

    bare_w: float = 70.0
    context_w: float = 90.0
    full_w: float = 500.0
    noise_w: float = 4.0
    tail_w: float = 40.0
    tail_s: float = 0.15


class Load:
    """A load process. ``kind`` is ``cuda`` or ``file``; ``facts`` is what it said of itself once ready."""

    def __init__(self, kind: str, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self.kind = kind
        self.facts: dict[str, Any] = {}
        self.pid: int | None = None
        self._command = [sys.executable, "-m", "ipa_energy.characterise.load_process", *arguments]
        self._environment = os.environ | environment
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = b""

    def start(self) -> None:
        """Start the process; it is :meth:`ready` once it has its context on the GPU."""
        self._process = subprocess.Popen(
            [*self._command, "--parent", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
        )
        self.pid = self._process.pid

    def ready(self) -> bool:
        """Whether the process has its context. Raises LoadError when it has ended instead."""
        if not self.facts:
            said = self._said()
            self.facts = said["ready"] if said else {}
        return bool(self.facts)

    def play(self, schedule: Floats) -> None:
        """Begin a schedule: rows of duration (s) and level (0 or 1)."""
        self._say({"play": schedule.tolist()})

    def played(self) -> Played | None:
        """What was done, once the schedule is through; None before. Raises LoadError when the process has ended."""
        said = self._said()
        if said is None:
            return None
        return Played(**{name: np.array(values, dtype=float) for name, values in said["played"].items()})

    def close(self) -> None:
        """End the process and wait for it. Safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _say(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise LoadError(f"the load process ended with exit code {self._process.wait()}") from None

    def _said(self) -> dict[str, Any] | None:
        """The next message, None while there is none; never waits."""
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._heard and select.select([pipe], [], [], 0)[0]:
            piece = os.read(pipe, 1 << 20)
            if not piece:
                raise LoadError(f"the load process ended with exit code {self._process.wait()}")
            self._heard += piece
        line, newline, rest = self._heard.partition(b"\n")
        if not newline:
            return None
        self._heard = rest
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise LoadError(f"the load process failed: {message['error']}")
        return message


def cuda_load(uuid: str) -> Load:
    """Matrix products on the GPU with this UUID."""
    return Load("cuda", ["torch", "--device", "cuda"], {"CUDA_VISIBLE_DEVICES": uuid})


def file_load(path: Path, board: StubBoard) -> Load:
    """No GPU at all: power over time is written to the load file of a stub library (pairs of doubles, s and W)."""
    return Load("file", ["file", "--path", str(path), "--board", json.dumps(asdict(board))], {})
