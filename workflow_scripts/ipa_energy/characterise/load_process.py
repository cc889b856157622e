"""The load process: does what schedules say, and reports the instants at which it really did it.

Talks over its standard streams, a JSON text a line. It says ``{"ready": facts}`` once its context is there; for every
``{"play": [[duration_s, level], ...]}`` it answers ``{"played": {...}}`` with the log; it ends when its input does, and
with its parent. A fault is ``{"error": text}``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ipa_energy.characterise.load import StubBoard
from ipa_energy.serving.preload import die_with_parent

LEAD_S = 0.05
"""A schedule begins so much after it came: a load file has to be written before the stub library reads on in it."""
SPIN_S = 0.0005
"""The last part of a wait is spent spinning, since a sleep may end late by about this much."""
KERNEL_S = 0.5e-3
"""Length of one matrix product: long enough to fill the GPU, and a pulse of 10 ms still ends within a tenth of it."""
QUEUED = 2
SIDES = (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288)
NOISE_PIECE_S = 0.005
TAIL_PIECE_S = 0.02
LONG_PULSE_S = 1.0


class Player(Protocol):
    """Something that can be loaded."""

    def prepare(self) -> dict[str, Any]:
        """Get ready; facts about the load."""

    def play(self, schedule: list[list[float]]) -> dict[str, list[float]]:
        """Do it; the fields of :class:`ipa_energy.characterise.load.Played`."""

    def close(self) -> None:
        """Leave the device."""


def wait_until(instant_s: float) -> None:
    """Wait for an instant of the monotonic clock, closely."""
    left_s = instant_s - time.monotonic()
    if left_s > SPIN_S:
        time.sleep(left_s - SPIN_S)
    while time.monotonic() < instant_s:
        pass


class TorchPlayer:
    """Matrix products by torch, back to back while the level is 1. At most :data:`QUEUED` wait in the GPU's queue."""

    def __init__(self, device: str) -> None:
        self.device = device

    def prepare(self) -> dict[str, Any]:
        """Create the context and find a size of matrix whose product takes about :data:`KERNEL_S`."""
        torch: Any = importlib.import_module("torch")  # takes seconds, and a load file needs none
        self.torch = torch
        cuda = self.device == "cuda"
        if cuda and not torch.cuda.is_available():
            raise RuntimeError("torch finds no CUDA device (a build without CUDA, or a driver that is too old)")
        kind = (
            torch.float32
            if not cuda
            else torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float16
        )
        self.synchronize: Callable[[], Any] = torch.cuda.synchronize if cuda else lambda: None
        self.multiply: Callable[[], Any]
        kernel_s = 0.0
        for side in SIDES:
            random = torch.Generator(device=self.device).manual_seed(side)
            a, b = (torch.randn(side, side, generator=random, device=self.device, dtype=kind) for _ in range(2))
            out = torch.empty_like(a)
            self.multiply = partial(torch.matmul, a, b, out=out)
            kernel_s = self._time(10)
            if kernel_s >= KERNEL_S:
                break
        return {
            "what": f"torch.matmul of {side} x {side} matrices of {str(kind).removeprefix('torch.')}, random values",
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "torch": torch.__version__,
            "kernel_s": kernel_s,
        }

    def _time(self, times: int) -> float:
        """Seconds of one product, the best of a few."""
        self.multiply()
        best_s = np.inf
        for _ in range(3):
            self.synchronize()
            begin_s = time.monotonic()
            for _ in range(times):
                self.multiply()
            self.synchronize()
            best_s = min(best_s, (time.monotonic() - begin_s) / times)
        return float(best_s)

    def play(self, schedule: list[list[float]]) -> dict[str, list[float]]:
        """Instants are taken before the first launch of a pulse and after the synchronisation at its end."""
        times_s: list[float] = []
        levels: list[float] = []
        marks: list[tuple[Any, Any]] = []
        at_s = time.monotonic() + LEAD_S
        for duration_s, level in schedule:
            if level:
                wait_until(at_s)
                times_s.append(time.monotonic())
                marks.append(self._pulse(at_s + duration_s))
                times_s.append(time.monotonic())
                levels += [1.0, 0.0]
            at_s += duration_s
        wait_until(at_s)
        return {
            "times_s": times_s,
            "levels": levels,
            "host_s": np.diff(times_s)[::2].tolist(),
            "device_s": [begin.elapsed_time(end) / 1e3 for begin, end in marks if begin is not None],
        }

    def _pulse(self, until_s: float) -> tuple[Any, Any]:
        if self.device != "cuda":
            while time.monotonic() < until_s:
                self.multiply()
            return None, None
        event = self.torch.cuda.Event
        begin, end = event(enable_timing=True), event(enable_timing=True)
        queued: deque[Any] = deque()
        begin.record()
        while time.monotonic() < until_s:
            self.multiply()
            queued.append(event())
            queued[-1].record()
            if len(queued) > QUEUED:
                queued.popleft().synchronize()
        end.record()
        self.synchronize()
        return begin, end

    def close(self) -> None:
        """Nothing to do: the context ends with the process."""


class FilePlayer:
    """Writes the power of a pretended board, ahead of time, so that a busy host can't make it come late."""

    def __init__(self, path: Path, board: StubBoard) -> None:
        self.path, self.board = path, board
        self.last_s = 0.0
        self.random = np.random.default_rng(len(str(path)))

    def _write(self, times_s: list[float], watts: list[float]) -> None:
        if times_s and min(times_s) < self.last_s:
            raise RuntimeError("a schedule begins before the power of the last one has settled; wait longer")
        self.last_s = max(times_s, default=self.last_s)
        with self.path.open("ab") as file:
            file.write(np.column_stack([times_s, watts]).astype("<f8").tobytes())

    def prepare(self) -> dict[str, Any]:
        """Power rises from bare to that with a context."""
        self._write([time.monotonic() + LEAD_S], [self.board.context_w])
        return {"what": "no load: a load file for a stub of NVML", "device": str(self.path), "board": vars(self.board)}

    def play(self, schedule: list[list[float]]) -> dict[str, list[float]]:
        """The instants are those of the file, to the bit."""
        board = self.board
        at_s = time.monotonic() + LEAD_S
        times_s: list[float] = []
        levels: list[float] = []
        pairs: list[tuple[float, float]] = []
        for duration_s, level in schedule:
            times_s.append(at_s)
            levels.append(level)
            watts = board.full_w if level else board.context_w
            pieces = np.arange(0.0, duration_s, NOISE_PIECE_S) if board.noise_w else np.zeros(1)
            pairs += [(at_s + float(p), watts + board.noise_w * self.random.standard_normal()) for p in pieces]
            at_s += duration_s
        tail = list(self._tail()) if board.tail_w and schedule[-1][1] and schedule[-1][0] >= LONG_PULSE_S else []
        pairs += [(at_s + after_s, watts) for after_s, watts in tail]
        pairs.append((pairs[-1][0] if tail else at_s, board.context_w))
        self._write([time_s for time_s, _ in pairs], [watts for _, watts in pairs])
        wait_until(at_s)
        if levels[-1]:
            times_s.append(at_s)
            levels.append(0.0)
        return {"times_s": times_s, "levels": levels, "host_s": [], "device_s": []}

    def _tail(self) -> Iterator[tuple[float, float]]:
        for after_s in np.arange(0.0, 6 * self.board.tail_s, TAIL_PIECE_S).tolist():
            yield after_s, self.board.context_w + self.board.tail_w * float(np.exp(-after_s / self.board.tail_s))

    def close(self) -> None:
        """Power falls back to bare."""
        self._write([max(time.monotonic() + LEAD_S, self.last_s)], [self.board.bare_w])


def main() -> int:
    """Serve schedules until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["torch", "file"])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--board", type=json.loads, default={})
    parser.add_argument("--parent", type=int, default=os.getppid())
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not land among the messages
    player: Player = (
        TorchPlayer(arguments.device)
        if arguments.kind == "torch"
        else FilePlayer(arguments.path, StubBoard(**arguments.board))
    )
    try:
        print(json.dumps({"ready": player.prepare()}), file=out, flush=True)
        for line in sys.stdin:
            print(json.dumps({"played": player.play(json.loads(line)["play"])}), file=out, flush=True)
        player.close()
    except Exception as error:  # whatever went wrong has to reach the other side in words
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=out, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
