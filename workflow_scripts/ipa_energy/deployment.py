"""How a configuration lies on the host: arrays in shared memory, replicas on cores, one GPU."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ipa_energy import pipelines
from ipa_energy.configuration import Configuration, StageKnobs
from ipa_energy.job import decided_weights
from ipa_energy.serving.batching import StageQueue
from ipa_energy.serving.processes import Replica, ReplicaPlan, Replicas
from ipa_energy.serving.shared import SharedArray
from ipa_energy.serving.stage import Stage, StartReplica

REPLICA_MODULE = "ipa_energy.serving.replica"
RUNNER = f"{REPLICA_MODULE}:build_pipeline_runner"
_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
_SLOT_BYTES = 256 << 20
_MAX_SLOTS = 4096


class Deployed(Protocol):
    """What is served: a measuring job, or anything that says the same. ``weights`` is the file with the decision."""

    @property
    def configuration(self) -> Configuration:
        """Pipeline, platform, and the knobs to begin with."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """``seed``, ``crops_per_frame``, ``max_wait_s``."""

    @property
    def frames(self) -> str:
        """The file of frames."""

    @property
    def weights(self) -> str:
        """The file with the decision on weights."""

    @property
    def weights_folder(self) -> str:
        """Where pretrained weights are."""


PlanReplica = Callable[[StageKnobs, str, tuple[int, ...]], ReplicaPlan]
"""From the knobs of a stage, a name and cores to the plan of one replica."""


def replica_planner(job: Deployed, arrays: Sequence[Path | SharedArray]) -> PlanReplica:
    """The function that plans a replica of any stage of the job's pipeline; ``arrays`` as of :func:`make_arrays`."""
    # The preload server that forks the replicas has the environment of the first measurement, not of this one.
    environment = {name: os.environ[name] for name in _GPU_VARIABLES if name in os.environ}
    decided = decided_weights(job.weights)
    weights = {"kind": decided["weights"], "seed": job.settings["seed"], "folder": job.weights_folder}
    numbers = {knobs.stage: number for number, knobs in enumerate(job.configuration.stages)}
    platform = job.configuration.platform

    def plan(knobs: StageKnobs, name: str, cpus: tuple[int, ...]) -> ReplicaPlan:
        number = numbers[knobs.stage]
        setup = {
            "pipeline": job.configuration.pipeline,
            "knobs": dataclasses.asdict(knobs),
            "device": platform.device,
            "precision": platform.precision,
            "weights": weights,
            "crops_per_frame": job.settings["crops_per_frame"],
        }
        output = arrays[number + 1]
        assert isinstance(output, SharedArray)
        kill = platform.device != "cuda"
        return ReplicaPlan(name, cpus, RUNNER, setup, arrays[number], output, environment, kill_while_loading=kill)

    return plan


def plan_replicas(job: Deployed, arrays: Sequence[Path | SharedArray], cores: Sequence[int]) -> list[ReplicaPlan]:
    """One plan per replica, each with its own cores (shared round-robin only where there are too few)."""
    plans = []
    plan = replica_planner(job, arrays)
    used = 0
    for knobs in job.configuration.stages:
        for replica in range(knobs.replicas):
            cpus = tuple(sorted({cores[(used + i) % len(cores)] for i in range(knobs.threads)}))
            used += knobs.threads
            plans.append(plan(knobs, f"{knobs.stage}/{replica}", cpus))
    return plans


def choose_cores(threads: int, cores: Sequence[int], occupied: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The ``threads`` of ``cores`` that the fewest replicas have, at a tie the first; all where there are too few.

    ``cores`` are in the order of :func:`ipa_energy.host.available_cores`, so that free physical cores come before
    siblings; ``occupied`` holds the cores of each replica. Returned in rising order, each once.
    """
    replicas = Counter(cpu for cpus in occupied for cpu in cpus)
    return tuple(sorted(sorted(cores, key=lambda cpu: replicas[cpu])[:threads]))


def replica_starter(plan: PlanReplica, processes: Replicas, cores: Sequence[int]) -> StartReplica:
    """The function by which an engine starts replicas while it serves (:meth:`.engine.Engine.reconfigure`).

    Each gets the next number of its stage, never one used before in this run, and the cores that living replicas use
    least: old and new share some during a switch only where there are too few.
    """

    def start(knobs: StageKnobs) -> Replica:
        number = sum(replica.name.startswith(f"{knobs.stage}/") for replica in processes.replicas)
        cpus = choose_cores(knobs.threads, cores, (replica.cpus for replica in processes.living))
        return processes.start(plan(knobs, f"{knobs.stage}/{number}", cpus))

    return start


def make_arrays(
    job: Deployed, in_flight: int | None, largest_batch: int = 1
) -> tuple[list[Path | SharedArray], int, int]:
    """Input array of every stage and the last output; frames in the stream; slots between stages.

    In an open loop the slots hold the largest batch of the job's configuration, and ``largest_batch``, which is what
    later ones may need.
    """
    buffers = pipelines.get(job.configuration.pipeline).buffers(job.settings)
    bytes_per_slot = sum(int(np.prod(b.shape)) * np.dtype(b.dtype).itemsize for b in buffers)
    largest_batch = max(largest_batch, *(s.batch for s in job.configuration.stages))
    slots = in_flight or max(largest_batch, min(_MAX_SLOTS, _SLOT_BYTES // bytes_per_slot))
    arrays: list[Path | SharedArray] = [Path(job.frames)]
    arrays += [SharedArray.create(f"stage{i}", (slots, *b.shape), b.dtype) for i, b in enumerate(buffers)]
    frames = len(np.load(job.frames, mmap_mode="r"))
    return arrays, frames, slots


def make_stages(job: Deployed, processes: Replicas) -> list[Stage]:
    """The engine's stages over started replicas, each with an empty queue."""
    return [
        Stage(
            knobs.stage,
            StageQueue(knobs.batch, job.settings["max_wait_s"]),
            [r for r in processes.replicas if r.name.startswith(f"{knobs.stage}/")],
            knobs,
        )
        for knobs in job.configuration.stages
    ]


def move_dispatcher(cores: Sequence[int], occupied: Iterable[Sequence[int]]) -> None:
    """Move dispatcher and sampler, every thread of this process, to those of ``cores`` that no replica has.

    ``occupied`` holds the cores of each replica. Where they have all, and where there is no replica, every thread may
    use all of ``cores``.
    """
    taken = {cpu for cpus in occupied for cpu in cpus}
    free = [cpu for cpu in cores if cpu not in taken] or cores
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended since it was listed
            os.sched_setaffinity(int(thread.name), free)


def leave_cores(cores: Sequence[int], used: int) -> None:
    """:func:`move_dispatcher` where replicas have the first ``used`` of ``cores``, as :func:`plan_replicas` does it."""
    move_dispatcher(cores, [cores[:used]])


def keep_one_gpu() -> None:
    """Let this process, and so the meters and the replicas, see one GPU: the first of those it may use.

    A configuration runs on one, and the idle power of others is not its own. Where CUDA and NVML could mean different
    boards by an index, the meter refuses it (:mod:`.meters.visible_devices`); the order is the user's to set.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
