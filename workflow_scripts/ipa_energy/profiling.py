"""IPA's profiler: one stage variant by itself, all its allocations and batch sizes, in the process that measures.

Jobs that differ in batch size and cores go in, an entry for each comes out (:mod:`.profile_record`). Phases, meters and
gates are those of every measurement: bare idle -> for every allocation: load one replica, idle with it resident, then
for every batch size warm up and window, idle with it resident -> bare idle. A replica that dies at one batch size (out
of memory) costs that one; the others go on with a new replica. A window that is flagged as disturbed is measured again
at once, and all tries are kept. Run by its supervisor as ``python -m ipa_energy.profiling JOBS RESULT``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import psutil

from ipa_energy import host, pipelines
from ipa_energy.child import Keep, Say, main
from ipa_energy.deployment import (
    REPLICA_MODULE,
    keep_one_gpu,
    leave_cores,
    make_stages,
    move_dispatcher,
    plan_replicas,
)
from ipa_energy.environment import FOREIGN_KINDS, gpu_readings
from ipa_energy.gates import disturbances
from ipa_energy.job import Job, job_from_json
from ipa_energy.meters import OpenMeters, open_meters
from ipa_energy.meters.recorder import Recorder, WindowReading
from ipa_energy.observation import Window, build_record
from ipa_energy.phases import LOAD_TIMEOUT_S, Clock, idle_phase, open_window, warm_up
from ipa_energy.profile_record import distribution
from ipa_energy.record import Record
from ipa_energy.sections import empty_record
from ipa_energy.serving.arrivals import make_workload
from ipa_energy.serving.engine import Engine
from ipa_energy.serving.journal import Journal
from ipa_energy.serving.processes import Replicas, ServingError, connect_to_server
from ipa_energy.serving.shared import SharedArray
from ipa_energy.trace import write_trace


@dataclass(frozen=True)
class _Seen:
    """One try at one batch size, as it stood when its window closed."""

    journal: Journal
    window: Window
    facts: Mapping[str, Any]
    memory: dict[str, int | None]


@dataclass
class _Resident:
    """What was seen while one replica was loaded: idle power before and after, and the tries of each batch size."""

    idle: dict[str, WindowReading | None] = field(default_factory=dict)
    tries: list[tuple[Job, list[_Seen]]] = field(default_factory=list)
    failed: tuple[Job, str] | None = None


class _Profiler:
    """The means that all batch sizes of a variant share: stage input, output, meters, and the clock of the phases."""

    def __init__(self, jobs: Sequence[Job], say: Say) -> None:
        self.clock = Clock(say)
        self.jobs = jobs
        first = jobs[0]
        self.pipeline = pipelines.get(first.configuration.pipeline)
        self.cuda = first.configuration.platform.device == "cuda"
        self.cores = host.available_cores()
        (knobs,) = first.configuration.stages
        frames = np.load(first.frames, mmap_mode="r")
        made = self.pipeline.stage_input(knobs.stage, frames, first.settings)
        self.requests = len(made)
        self.inputs = SharedArray.create("input", made.shape, str(made.dtype))
        self.inputs.view()[:] = made
        self.slots = max(self._in_flight(job) for job in jobs)
        buffer = self.pipeline.buffers(first.settings)[self.pipeline.stage_names.index(knobs.stage)]
        self.outputs = SharedArray.create("output", (self.slots, *buffer.shape), buffer.dtype)
        if self.cuda:
            keep_one_gpu()
        with self.clock.phase("start"):
            # The server must be up before idle power is read, or its imports would be measured as idling.
            self.connect().close()
            self.meters: OpenMeters = open_meters(first.settings["meters"], gpu_needed=self.cuda)
            self.recorder = Recorder(self.meters.meters, first.settings["protocol"]["sample_period_s"])

    def connect(self) -> Any:
        """A connection to the preload server, for the replicas of one allocation."""
        return connect_to_server((REPLICA_MODULE, *self.pipeline.modules), self.jobs[0].protocol_digest)

    @staticmethod
    def _in_flight(job: Job) -> int:
        (knobs,) = job.configuration.stages
        in_flight = make_workload(job.workload_settings, knobs.batch, job.settings["seed"]).in_flight
        assert in_flight is not None  # a profile is made under saturation
        return in_flight

    def resident(self, jobs: Sequence[Job], seen: _Resident, done: Callable[[], None]) -> None:
        """Load one replica and measure the batch sizes of ``jobs`` with it into ``seen``, until one fails.

        ``done`` is called after each batch size.
        """
        job = jobs[0]
        with Replicas(self.connect()) as processes:
            try:
                with self.clock.phase("load_models"):
                    (plan,) = plan_replicas(job, [self.inputs, self.outputs], self.cores)
                    processes.start(plan)
                    leave_cores(self.cores, job.configuration.cores)
                    processes.wait_ready(LOAD_TIMEOUT_S)
                (replica,) = processes.replicas
                facts = {replica.name: {"pid": replica.pid, "cpus": plan.cpus, "facts": replica.facts}}
                seen.idle["resident"] = idle_phase(self.recorder, self.clock, "idle_resident", job)
                for job in jobs:
                    seen.tries.append((job, []))
                    self._batch_size(job, processes, facts, seen)
                    done()
                seen.idle["after"] = idle_phase(self.recorder, self.clock, "idle_after", job)
            except ServingError as error:
                seen.failed = (job, str(error))
                self.recorder.abandon()  # the next replica is measured in windows of its own
            with self.clock.phase("stop"):
                processes.stop()
        move_dispatcher(self.cores, [])

    def _batch_size(self, job: Job, processes: Replicas, facts: Mapping[str, Any], seen: _Resident) -> None:
        """Warm up and measure one batch size, again while its flags say so, into the last of ``seen.tries``."""
        protocol, in_flight = job.settings["protocol"], self._in_flight(job)
        workload = make_workload(job.workload_settings, job.configuration.stages[0].batch, job.settings["seed"])
        engine = Engine(make_stages(job, processes), processes, workload, frames=self.requests, slots=self.slots)
        pids = [os.getpid(), *self.meters.process_ids, *(r.pid for r in processes.replicas)]
        cpus = {cpu for fact in facts.values() for cpu in fact["cpus"]}
        for _ in range(1 + protocol["retries"]):
            with self.clock.phase("warm_up"):
                steady = warm_up(engine, job, in_flight)
            window = open_window(engine, self.recorder, job, pids, cpus, steady, self.clock)
            memory = self._memory(processes.replicas[0].pid, window.reading)
            seen.tries[-1][1].append(_Seen(engine.journal, window, facts, memory))
            record = self.record(job, seen.tries[-1][1][-1], seen.idle)
            if not disturbances(record, protocol["retry_flags"]):
                break
        with self.clock.phase("quiesce"):
            engine.quiesce()

    def _memory(self, pid: int, reading: WindowReading) -> dict[str, int | None]:
        rss = uss = None
        with suppress(psutil.Error):
            used = psutil.Process(pid).memory_full_info()
            rss, uss = int(used.rss), int(used.uss)
        on_gpu = [
            process["memory_bytes"]
            for readings in gpu_readings(reading.environments).values()
            for seen in readings
            for kind in FOREIGN_KINDS
            for process in seen.get(kind) or ()
            if process["pid"] == pid and process.get("memory_bytes") is not None
        ]
        return {"rss_bytes": rss, "uss_bytes": uss, "gpu_bytes": max(on_gpu, default=None)}

    def record(self, job: Job, seen: _Seen, idle: Mapping[str, WindowReading | None]) -> Record:
        """The record of one try, with the idle phases there are."""
        return build_record(job, seen.journal, seen.window, idle, self.meters, seen.facts, self.clock.timeline)


def profile(jobs: Sequence[Job], say: Say, keep: Keep) -> list[dict[str, Any]]:
    """Profile the jobs of one stage variant; an entry for each, in their order. Raises OSError, ServerError.

    After every batch size, ``keep`` gets the entries so far, in case this process does not live to the end.
    """
    profiler = _Profiler(jobs, say)
    residents: list[_Resident] = []
    try:
        bare = idle_phase(profiler.recorder, profiler.clock, "idle_bare", jobs[0])

        def so_far() -> None:
            keep([entry for _, entry in _entries(profiler, residents, {"bare": bare})])

        for _, group in groupby(jobs, key=lambda job: job.configuration.stages[0].threads):
            pending = list(group)
            while pending:
                seen = _Resident()
                residents.append(seen)
                profiler.resident(pending, seen, so_far)
                pending = [] if seen.failed is None else pending[pending.index(seen.failed[0]) + 1 :]
        bare_after = idle_phase(profiler.recorder, profiler.clock, "idle_bare_after", jobs[-1])
        profiler.recorder.shutdown()
        windows = [seen.window for r in residents for _, tries in r.tries for seen in tries]
        samples = [sample for window in windows for sample in window.reading.samples]
        write_trace(jobs[0].trace, samples, windows[0].begin_s if windows else 0.0)
        found = dict(_entries(profiler, residents, {"bare": bare, "bare_after": bare_after}))
        return [found[job.configuration.id] for job in jobs]
    finally:
        profiler.meters.close()


def _entries(
    profiler: _Profiler, residents: Iterable[_Resident], bare: Mapping[str, WindowReading | None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for resident in residents:
        idle = {**bare, **resident.idle}
        failed, reason = resident.failed or (None, "")
        for job, tries in resident.tries:
            records = [profiler.record(job, seen, idle) for seen in tries]
            if records:  # a try whose figures are there stands, also where a later one failed
                last = tries[-1]
                (knobs,) = job.configuration.stages
                full_s = [
                    b.service_s
                    for b in last.journal.batches
                    if b.size == knobs.batch and last.window.begin_s < b.end_s <= last.window.end_s
                ]
                records[-1]["earlier_tries"] = records[:-1]
                entry = {"record": records[-1], "service_s": distribution(full_s), "memory": last.memory}
                yield job.configuration.id, entry
        if failed is not None and not any(job is failed and tries for job, tries in resident.tries):
            yield failed.configuration.id, failed_entry(failed, reason)


def failed_entry(job: Job, reason: str, state: str = "failed") -> dict[str, Any]:
    """The entry of a batch size without figures."""
    return {"record": empty_record(job, state, reason), "service_s": None, "memory": None}


def jobs_to_json(jobs: Sequence[Job]) -> str:
    """JSON text of the jobs of one variant; inverse of :func:`jobs_from_json`."""
    return json.dumps([json.loads(job.to_json()) for job in jobs])


def jobs_from_json(text: str) -> list[Job]:
    """Rebuild the jobs from :func:`jobs_to_json`."""
    return [job_from_json(json.dumps(data)) for data in json.loads(text)]


if __name__ == "__main__":
    main(lambda text, say, keep: profile(jobs_from_json(text), say, keep))
