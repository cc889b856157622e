"""A replica: one process that runs one stage on the batches it is given, from its own cores.

It is forked by the preload server and talks with the engine over a socket: ``R`` + JSON when the model is loaded,
then for every batch (two arrays of row numbers) ``D`` + begin, end (monotonic seconds) and filled crops, or ``E`` +
JSON when the stage raised. It ends when the engine closes the socket.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import struct
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipa_energy import pipelines
from ipa_energy.configuration import StageKnobs
from ipa_energy.pipelines.base import StageRunner, StageSetup, Weights
from ipa_energy.serving.shared import SharedArray

MAX_MESSAGE = 1 << 16
DONE = struct.Struct("<cddI")


def encode_batch(sources: list[int], slots: list[int]) -> bytes:
    """A batch as bytes: row numbers of the inputs, then of the outputs, as uint32."""
    return np.array([sources, slots], dtype=np.uint32).tobytes()


def decode_batch(message: bytes) -> NDArray[np.uint32]:
    """Inverse of :func:`encode_batch`; shape (2, batch)."""
    return np.frombuffer(message, dtype=np.uint32).reshape(2, -1)


def describe_input(source: Path | SharedArray) -> dict[str, Any]:
    """JSON-ready description of a stage's input array; a shared one expects its descriptor to travel along."""
    if isinstance(source, SharedArray):
        return {"shape": source.shape, "dtype": source.dtype}
    return {"path": str(source)}


def _attach(description: dict[str, Any], descriptors: list[int]) -> NDArray[Any]:
    if "path" in description:
        return np.load(description["path"], mmap_mode="r")  # type: ignore[no-any-return]
    return SharedArray(descriptors.pop(0), tuple(description["shape"]), description["dtype"]).view()


def build_pipeline_runner(setup: dict[str, Any], inputs: NDArray[Any], outputs: NDArray[Any]) -> StageRunner:
    """The runner of a pipeline's stage, for the JSON form of its setup."""
    weights = Weights(setup["weights"]["kind"], setup["weights"]["seed"], Path(setup["weights"]["folder"]))
    stage = StageSetup(
        StageKnobs(**setup["knobs"]), setup["device"], setup["precision"], weights, setup["crops_per_frame"]
    )
    return pipelines.get(setup["pipeline"]).build_runner(stage, inputs, outputs)


def _limit_to(cpus: list[int]) -> None:
    os.sched_setaffinity(0, cpus)
    with suppress(OSError):
        # If memory runs out, the kernel should end a replica, which becomes a record, rather than the workflow.
        Path("/proc/self/oom_score_adj").write_text("1000")
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(len(cpus))
        torch.set_num_interop_threads(1)


def run(arguments: dict[str, Any], descriptors: list[int]) -> None:
    """Entry point in the forked process; ``descriptors`` are the control socket, then those of the arrays."""
    control = socket.socket(fileno=descriptors[0])
    try:
        os.environ.update(arguments["environment"])
        _limit_to(arguments["cpus"])
        arrays = descriptors[1:]
        inputs = _attach(arguments["inputs"], arrays)
        outputs = _attach(arguments["outputs"], arrays)
        module, factory = arguments["factory"].split(":")
        runner = getattr(importlib.import_module(module), factory)(arguments["setup"], inputs, outputs)
        control.send(b"R" + json.dumps(dict(runner.describe())).encode())
        _serve(control, runner)
    except (BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        traceback.print_exc()
        report = {"error": type(error).__name__, "text": str(error)[:2000]}
        with suppress(OSError):
            control.send(b"E" + json.dumps(report).encode())
        raise SystemExit(1) from error


def _serve(control: socket.socket, runner: StageRunner) -> None:
    while message := control.recv(MAX_MESSAGE):
        sources, slots = decode_batch(message)
        begin_s = time.monotonic()
        filled = runner(sources, slots)
        control.send(DONE.pack(b"D", begin_s, time.monotonic(), filled))
