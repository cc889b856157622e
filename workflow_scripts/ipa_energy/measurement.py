"""The protocol of one measurement, in the process that measures: from a job to a record.

Bare idle -> load the models -> idle with models resident -> warm up until service times are steady -> window -> idle
with models resident again -> models gone, bare idle again -> quality gates -> record. The process serves
(:mod:`.serving`) and reads the meters on a second thread; models run in replicas. It expects the host's lock to be held
by its supervisor (:mod:`.supervisor`), and is run by it as
``python -m ipa_energy.measurement JOB RESULT``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ipa_energy import host, pipelines
from ipa_energy.deployment import REPLICA_MODULE, keep_one_gpu, leave_cores, make_arrays, make_stages, plan_replicas
from ipa_energy.files import write_text
from ipa_energy.job import Job, job_from_json
from ipa_energy.meters import open_meters
from ipa_energy.meters.recorder import Recorder, WindowReading
from ipa_energy.observation import Window, build_record
from ipa_energy.plan import block_and_role
from ipa_energy.record import Record
from ipa_energy.serving.arrivals import make_workload
from ipa_energy.serving.engine import Engine
from ipa_energy.serving.preload import die_with_parent
from ipa_energy.serving.processes import Replicas, ServerError, ServingError, connect_to_server
from ipa_energy.serving.steadiness import is_steady
from ipa_energy.trace import write_trace

_LOAD_TIMEOUT_S = 300.0
_EDGE_TIMEOUT_S = 5.0
_LOOK_EVERY_S = 0.25
_AFTER_LOAD = ("idle_after", "idle_bare_after")


@dataclass
class Clock:
    """The phases so far with their begin and end (monotonic s), and the voice that tells people which phase runs."""

    say: Callable[[str], None]
    timeline: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block as phase ``name``."""
        began_s = time.monotonic()
        self.say(name)
        try:
            yield
        finally:
            self.timeline.append({"phase": name, "begin_s": began_s, "end_s": time.monotonic()})


def _warm_up(engine: Engine, job: Job, in_flight: int | None) -> bool:
    protocol = job.settings["protocol"]
    stages = len(job.configuration.stages)
    began_s = time.monotonic()
    steady = False

    looked_s = began_s

    def done(now_s: float) -> bool:
        nonlocal steady, looked_s
        # Looking after every batch would sooner or later meet a few alike by luck, and keep the dispatcher busy.
        if now_s - began_s < protocol["warm_up_min_s"] or now_s - looked_s < _LOOK_EVERY_S:
            return False
        looked_s = now_s
        # Until the requests of the first fill are through, latencies are those of an empty pipeline.
        filled = len(engine.journal.completed) >= (in_flight or 1)
        steady = filled and is_steady(engine.journal, stages, protocol["warm_up_batches"], protocol["steady_cv"])
        return steady or now_s - began_s >= protocol["warm_up_max_s"]

    engine.serve(done)
    return steady


def _next_completion(engine: Engine, not_before_s: float, give_up_s: float) -> float:
    """Serve until the last stage completes a batch at or after ``not_before_s``; its time, or now without one."""
    seen = engine.completions

    def done(now_s: float) -> bool:
        return (engine.completions > seen and engine.last_completion_s >= not_before_s) or now_s >= give_up_s

    engine.serve(done)
    completed = engine.completions > seen and engine.last_completion_s >= not_before_s
    return engine.last_completion_s if completed else time.monotonic()


def _open_window(
    engine: Engine,
    recorder: Recorder,
    job: Job,
    pids: Sequence[int],
    cpus: Collection[int],
    steady: bool,
    clock: Clock,
) -> Window:
    """The window; ``pids`` are our processes, ``cpus`` the cores of the replicas."""
    window_s = job.settings["protocol"]["window_s"]
    closed_loop = job.workload_settings["kind"] == "saturated"
    patience_s = max(window_s, 30.0)
    with clock.phase("window"):
        # A closed loop is cut at completions, so that no batch lies across an edge; an open loop by the clock, so that
        # the arrivals decide nothing.
        environment_begin = host.environment(cpus)  # slow on large hosts, so outside the edges
        now_s = time.monotonic()
        begin_s = _next_completion(engine, now_s, now_s + patience_s) if closed_loop else now_s
        start_utc = datetime.now(UTC)
        cpu_begin, dispatcher_begin_s = host.read_cpu(pids), time.process_time()
        recorder.open()
        if closed_loop:
            end_s = _next_completion(engine, begin_s + window_s, begin_s + window_s + patience_s)
        else:
            engine.serve(lambda now_s: now_s >= begin_s + window_s)
            end_s = begin_s + window_s
        cpu_end, dispatcher_end_s = host.read_cpu(pids), time.process_time()
        recorder.close()
        # The load goes on until the meters have their closing edges: the tail belongs to the window, not to idling.
        give_up_s = time.monotonic() + _EDGE_TIMEOUT_S
        engine.serve(lambda now_s: recorder.finished.is_set() or now_s >= give_up_s)
        environment_end = host.environment(cpus)
    reading = recorder.result(timeout_s=_EDGE_TIMEOUT_S)
    return Window(
        begin_s,
        end_s,
        start_utc,
        reading,
        (cpu_begin, cpu_end),
        (environment_begin, environment_end),
        max(0.0, dispatcher_end_s - dispatcher_begin_s - reading.sampler_cpu_s),
        steady,
    )


def _idle(recorder: Recorder, clock: Clock, phase: str, job: Job) -> WindowReading | None:
    """Idle power of ``phase``; None where the protocol leaves it out."""
    protocol = job.settings["protocol"]
    duration_s = protocol[f"{phase}_s"]
    if duration_s <= 0:
        return None
    if phase in _AFTER_LOAD:
        with clock.phase("settle"):
            time.sleep(protocol["settle_s"])
    with clock.phase(phase):
        return recorder.measure_for(duration_s)


def measure(job: Job, say: Callable[[str], None]) -> Record:
    """Run the protocol. Raises ServingError when a replica fails, ValueError when the job can't be served."""
    clock = Clock(say)
    configuration = job.configuration
    protocol = job.settings["protocol"]
    workload = make_workload(
        job.workload_settings,
        batch_capacity=sum(s.batch * s.replicas for s in configuration.stages),
        # The same arrivals for all configurations of a block, others in the next: repetitions hold their chance, too.
        seed=(job.settings["seed"], block_and_role(job.repetition)[0]),
    )
    arrays, frames, slots = make_arrays(job, workload.in_flight)
    cores = host.available_cores()
    if configuration.platform.device == "cuda":
        keep_one_gpu()
    with clock.phase("start"):
        modules = (REPLICA_MODULE, *pipelines.get(configuration.pipeline).modules)
        server = connect_to_server(modules, job.protocol_digest)
        meters = open_meters(job.settings["meters"], gpu_needed=configuration.platform.device == "cuda")
        recorder = Recorder(meters.meters, protocol["sample_period_s"])
    idle: dict[str, WindowReading | None] = {}
    try:
        idle["bare"] = _idle(recorder, clock, "idle_bare", job)
        with Replicas(server) as processes:
            with clock.phase("load_models"):
                plans = plan_replicas(job, arrays, cores)
                for plan in plans:
                    processes.start(plan)
                cpus = {plan.name: plan.cpus for plan in plans}
                leave_cores(cores, configuration.cores)
                processes.wait_ready(_LOAD_TIMEOUT_S)
            idle["resident"] = _idle(recorder, clock, "idle_resident", job)
            engine = Engine(make_stages(job, processes), processes, workload, frames=frames, slots=slots)
            pids = [os.getpid(), *meters.process_ids, *(r.pid for r in processes.replicas)]
            with clock.phase("warm_up"):
                steady = _warm_up(engine, job, workload.in_flight)
            used = {cpu for plan in plans for cpu in plan.cpus}
            window = _open_window(engine, recorder, job, pids, used, steady, clock)
            with clock.phase("quiesce"):
                engine.quiesce()
            idle["after"] = _idle(recorder, clock, "idle_after", job)
            with clock.phase("stop"):
                processes.stop()
                facts = {r.name: {"pid": r.pid, "cpus": cpus[r.name], "facts": r.facts} for r in processes.replicas}
        idle["bare_after"] = _idle(recorder, clock, "idle_bare_after", job)
        os.sched_setaffinity(0, cores)  # the record tells of all cores, not of those left to the dispatcher
        recorder.shutdown()
        write_trace(job.trace, window.reading.samples, window.begin_s)
        return build_record(job, engine.journal, window, idle, meters, facts, clock.timeline)
    finally:
        for meter in meters.meters:
            meter.close()


def main() -> None:
    """Measure the job in the file JOB; leave ``{"record": ...}`` or ``{"failed": reason}`` in RESULT."""
    parser = argparse.ArgumentParser(description="Run one measurement.")
    parser.add_argument("job", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--parent", type=int, required=True, help="process id of the supervisor, to end with")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    job = job_from_json(arguments.job.read_text(encoding="utf-8"))
    result: dict[str, Any]
    try:
        result = {"record": measure(job, lambda text: print(f"{time.monotonic():.3f} {text}", flush=True))}
    except ServingError as error:
        result = {"failed": str(error)}
    except (OSError, ServerError) as error:  # a disk, a file, the installation: no property of the configuration
        traceback.print_exc()
        result = {"infrastructure": f"{type(error).__name__}: {error}"}
    except Exception as error:
        traceback.print_exc()
        result = {"failed": f"{type(error).__name__}: {error}"}
    write_text(arguments.result, json.dumps(result, allow_nan=False))


if __name__ == "__main__":
    main()
