"""How a configuration lies on the host: arrays in shared memory, replicas on cores, one GPU."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ipa_energy import pipelines
from ipa_energy.job import Job, decided_weights
from ipa_energy.serving.batching import StageQueue
from ipa_energy.serving.engine import Stage
from ipa_energy.serving.processes import ReplicaPlan, Replicas
from ipa_energy.serving.shared import SharedArray

REPLICA_MODULE = "ipa_energy.serving.replica"
RUNNER = f"{REPLICA_MODULE}:build_pipeline_runner"
_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
_SLOT_BYTES = 256 << 20
_MAX_SLOTS = 4096


def plan_replicas(job: Job, arrays: Sequence[Path | SharedArray], cores: Sequence[int]) -> list[ReplicaPlan]:
    """One plan per replica, each with its own cores (shared round-robin only where there are too few)."""
    plans = []
    # The preload server that forks the replicas has the environment of the first measurement, not of this one.
    environment = {name: os.environ[name] for name in _GPU_VARIABLES if name in os.environ}
    weights = decided_weights(job.weights)
    used = 0
    for number, knobs in enumerate(job.configuration.stages):
        setup = {
            "pipeline": job.configuration.pipeline,
            "knobs": dataclasses.asdict(knobs),
            "device": job.configuration.platform.device,
            "precision": job.configuration.platform.precision,
            "weights": {"kind": weights["weights"], "seed": job.settings["seed"], "folder": job.weights_folder},
            "crops_per_frame": job.settings["crops_per_frame"],
        }
        for replica in range(knobs.replicas):
            cpus = tuple(sorted({cores[(used + i) % len(cores)] for i in range(knobs.threads)}))
            used += knobs.threads
            output = arrays[number + 1]
            assert isinstance(output, SharedArray)
            name = f"{knobs.stage}/{replica}"
            plans.append(ReplicaPlan(name, cpus, RUNNER, setup, arrays[number], output, environment))
    return plans


def make_arrays(job: Job, in_flight: int | None) -> tuple[list[Path | SharedArray], int, int]:
    """Input array of every stage and the last output; frames in the stream; slots between stages."""
    buffers = pipelines.get(job.configuration.pipeline).buffers(job.settings)
    bytes_per_slot = sum(int(np.prod(b.shape)) * np.dtype(b.dtype).itemsize for b in buffers)
    largest_batch = max(s.batch for s in job.configuration.stages)
    slots = in_flight or max(largest_batch, min(_MAX_SLOTS, _SLOT_BYTES // bytes_per_slot))
    arrays: list[Path | SharedArray] = [Path(job.frames)]
    arrays += [SharedArray.create(f"stage{i}", (slots, *b.shape), b.dtype) for i, b in enumerate(buffers)]
    frames = len(np.load(job.frames, mmap_mode="r"))
    return arrays, frames, slots


def make_stages(job: Job, processes: Replicas) -> list[Stage]:
    """The engine's stages over started replicas, each with an empty queue."""
    return [
        Stage(
            knobs.stage,
            StageQueue(knobs.batch, job.settings["max_wait_s"]),
            [r for r in processes.replicas if r.name.startswith(f"{knobs.stage}/")],
        )
        for knobs in job.configuration.stages
    ]


def leave_cores(cores: Sequence[int], used: int) -> None:
    """Move dispatcher and sampler, every thread of this process, off the replicas' cores where there are others."""
    if len(cores) > used:
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores[used:])


def keep_one_gpu() -> None:
    """Let this process, and so the meters and the replicas, see one GPU: the first of those it may use.

    A configuration runs on one, and the idle power of others is not its own. Where CUDA and NVML could mean different
    boards by an index, the meter refuses it (:mod:`.meters.visible_devices`); the order is the user's to set.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
