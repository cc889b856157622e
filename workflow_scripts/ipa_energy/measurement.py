"""The protocol of one measurement, in the process that measures: from a job to a record.

Bare idle -> load the models -> idle with models resident -> warm up until service times are steady -> window -> idle
again -> quality gates -> record. The process serves (:mod:`.serving`) and reads the meters on a second thread; models
run in replicas. It expects the host's lock to be held by its supervisor (:mod:`.supervisor`), and is run by it as
``python -m ipa_energy.measurement JOB RESULT``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ipa_energy import gates, host, pipelines
from ipa_energy.energy import domain_section, energy_section, idle_power
from ipa_energy.files import write_text
from ipa_energy.job import Job, decided_weights, job_from_json
from ipa_energy.meters import OpenMeters, open_meters
from ipa_energy.meters.recorder import Recorder, WindowReading
from ipa_energy.record import SCHEMA_VERSION, Record
from ipa_energy.sections import accuracy_section, cost_section
from ipa_energy.serving.arrivals import make_workload
from ipa_energy.serving.batching import StageQueue
from ipa_energy.serving.engine import Engine, Stage
from ipa_energy.serving.journal import Journal, service_figures, throughput_drift
from ipa_energy.serving.preload import die_with_parent
from ipa_energy.serving.processes import ReplicaPlan, Replicas, ServingError, connect_to_server
from ipa_energy.serving.shared import SharedArray
from ipa_energy.trace import write_trace

REPLICA_MODULE = "ipa_energy.serving.replica"
RUNNER = f"{REPLICA_MODULE}:build_pipeline_runner"
_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
_SLOT_BYTES = 256 << 20
_MAX_SLOTS = 4096
_LOAD_TIMEOUT_S = 300.0
_EDGE_TIMEOUT_S = 5.0


@dataclass
class Clock:
    """Seconds spent in each phase, and the voice that tells people which phase runs."""

    say: Callable[[str], None]
    phases_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block as phase ``name``."""
        began_s = time.monotonic()
        self.say(name)
        try:
            yield
        finally:
            self.phases_s[name] = self.phases_s.get(name, 0.0) + time.monotonic() - began_s


@dataclass(frozen=True)
class Window:
    """What the measuring window left: its edges, the meters' readings, the CPU used, and whether warm-up was steady."""

    begin_s: float
    end_s: float
    start_utc: datetime
    reading: WindowReading
    cpu: tuple[host.CpuReading, host.CpuReading]
    environment: tuple[dict[str, Any], dict[str, Any]]
    dispatcher_cpu_s: float
    steady: bool

    @property
    def duration_s(self) -> float:
        """Length of the service window."""
        return self.end_s - self.begin_s


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


def _make_arrays(job: Job, in_flight: int | None) -> tuple[list[Path | SharedArray], int, int]:
    """Input array of every stage and the last output; frames in the stream; slots between stages."""
    buffers = pipelines.get(job.configuration.pipeline).buffers(job.settings)
    bytes_per_slot = sum(int(np.prod(b.shape)) * np.dtype(b.dtype).itemsize for b in buffers)
    largest_batch = max(s.batch for s in job.configuration.stages)
    slots = in_flight or max(largest_batch, min(_MAX_SLOTS, _SLOT_BYTES // bytes_per_slot))
    arrays: list[Path | SharedArray] = [Path(job.frames)]
    arrays += [SharedArray.create(f"stage{i}", (slots, *b.shape), b.dtype) for i, b in enumerate(buffers)]
    frames = len(np.load(job.frames, mmap_mode="r"))
    return arrays, frames, slots


def is_steady(journal: Journal, stages: int, batches: int, cv: float) -> bool:
    """Whether, in every stage, the last ``batches`` batches of its usual size took about equally long.

    "About equally" is a coefficient of variation of at most ``cv``; the usual size is the most frequent one of late,
    because an open loop leaves batches of several sizes.
    """
    for stage in range(stages):
        recent = [b for b in journal.batches if b.stage == stage][-4 * batches :]
        sizes = [b.size for b in recent]
        usual = max(set(sizes), key=sizes.count, default=0)
        service_s = np.array([b.service_s for b in recent if b.size == usual][-batches:])
        if len(service_s) < batches or service_s.std() > cv * service_s.mean():
            return False
    return True


def _warm_up(engine: Engine, job: Job, in_flight: int | None) -> bool:
    protocol = job.settings["protocol"]
    stages = len(job.configuration.stages)
    began_s = time.monotonic()
    steady = False

    def done(now_s: float) -> bool:
        nonlocal steady
        if now_s - began_s < protocol["warm_up_min_s"]:
            return False
        # Until the requests of the first fill are through, latencies are those of an empty pipeline.
        filled = len(engine.journal.completed) >= (in_flight or 1)
        steady = filled and is_steady(engine.journal, stages, protocol["warm_up_batches"], protocol["steady_cv"])
        return steady or now_s - began_s >= protocol["warm_up_max_s"]

    engine.serve(done)
    return steady


def _next_completion(engine: Engine, not_before_s: float, give_up_s: float) -> float:
    """Serve until the last stage completes a batch after ``not_before_s``; its time, or ``give_up_s`` without one."""
    seen = engine.completions

    def done(now_s: float) -> bool:
        return (engine.completions > seen and engine.last_completion_s >= not_before_s) or now_s >= give_up_s

    engine.serve(done)
    return engine.last_completion_s if engine.completions > seen else time.monotonic()


def _open_window(
    engine: Engine, recorder: Recorder, job: Job, pids: Sequence[int], steady: bool, clock: Clock
) -> Window:
    window_s = job.settings["protocol"]["window_s"]
    closed_loop = job.workload_settings["kind"] == "saturated"
    patience_s = max(window_s, 30.0)
    with clock.phase("window"):
        # A closed loop is cut at completions, so that no batch lies across an edge; an open loop by the clock, so that
        # the arrivals decide nothing.
        now_s = time.monotonic()
        begin_s = _next_completion(engine, now_s, now_s + patience_s) if closed_loop else now_s
        start_utc = datetime.now(UTC)
        cpu_begin, environment_begin, dispatcher_begin_s = host.read_cpu(pids), host.environment(), time.process_time()
        recorder.open()
        if closed_loop:
            end_s = _next_completion(engine, begin_s + window_s, begin_s + window_s + patience_s)
        else:
            engine.serve(lambda now_s: now_s >= begin_s + window_s)
            end_s = begin_s + window_s
        cpu_end, environment_end, dispatcher_end_s = host.read_cpu(pids), host.environment(), time.process_time()
        recorder.close()
        # The load goes on until the meters have their closing edges: the tail belongs to the window, not to idling.
        give_up_s = time.monotonic() + _EDGE_TIMEOUT_S
        engine.serve(lambda now_s: recorder.finished.is_set() or now_s >= give_up_s)
    reading = recorder.result(timeout_s=_EDGE_TIMEOUT_S)
    return Window(
        begin_s,
        end_s,
        start_utc,
        reading,
        (cpu_begin, cpu_end),
        (environment_begin | reading.environment_begin, environment_end | reading.environment_end),
        max(0.0, dispatcher_end_s - dispatcher_begin_s - reading.sampler_cpu_s),
        steady,
    )


def _idle(recorder: Recorder, duration_s: float) -> WindowReading | None:
    return recorder.measure_for(duration_s) if duration_s > 0 else None


def measure(job: Job, say: Callable[[str], None]) -> Record:
    """Run the protocol. Raises ServingError when a replica fails, ValueError when the job can't be served."""
    clock = Clock(say)
    configuration = job.configuration
    protocol = job.settings["protocol"]
    workload = make_workload(
        job.workload_settings, sum(s.batch * s.replicas for s in configuration.stages), job.settings["seed"]
    )
    arrays, frames, slots = _make_arrays(job, workload.in_flight)
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
        with clock.phase("idle_bare"):
            idle["bare"] = _idle(recorder, protocol["idle_bare_s"])
        with Replicas(server) as processes:
            with clock.phase("load_models"):
                for plan in plan_replicas(job, arrays, cores):
                    processes.start(plan)
                _leave_cores(cores, configuration.cores)
                processes.wait_ready(_LOAD_TIMEOUT_S)
            with clock.phase("idle_resident"):
                idle["resident"] = _idle(recorder, protocol["idle_resident_s"])
            engine = Engine(_stages(job, processes), processes, workload, frames=frames, slots=slots)
            pids = [os.getpid(), *(r.pid for r in processes.replicas)]
            with clock.phase("warm_up"):
                steady = _warm_up(engine, job, workload.in_flight)
            window = _open_window(engine, recorder, job, pids, steady, clock)
            with clock.phase("idle_after"):
                engine.quiesce()
                idle["after"] = _idle(recorder, protocol["idle_after_s"])
            with clock.phase("stop"):
                facts = {r.name: {"pid": r.pid, "facts": r.facts} for r in processes.replicas}
        os.sched_setaffinity(0, cores)  # the record tells of all cores, not of those left to the dispatcher
        recorder.shutdown()
        write_trace(job.trace, window.reading.samples, window.begin_s)
        return _record(job, engine.journal, window, idle, meters, facts, clock)
    finally:
        for meter in meters.meters:
            meter.close()


def _leave_cores(cores: Sequence[int], used: int) -> None:
    """Move dispatcher and sampler, every thread of this process, off the replicas' cores where there are others."""
    if len(cores) > used:
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores[used:])


def keep_one_gpu() -> None:
    """Let this process, and so the meters and the replicas, see one GPU: the first of those it may use.

    A configuration runs on one, and the idle power of others is not its own. Both CUDA and NVML then number by bus.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = first


def _stages(job: Job, processes: Replicas) -> list[Stage]:
    return [
        Stage(
            knobs.stage,
            StageQueue(knobs.batch, job.settings["max_wait_s"]),
            [r for r in processes.replicas if r.name.startswith(f"{knobs.stage}/")],
        )
        for knobs in job.configuration.stages
    ]


def _record(
    job: Job,
    journal: Journal,
    window: Window,
    idle: Mapping[str, WindowReading | None],
    meters: OpenMeters,
    replica_facts: Mapping[str, Any],
    clock: Clock,
) -> Record:
    configuration = job.configuration
    open_loop = job.workload_settings["kind"] == "rate"
    service = service_figures(
        journal,
        window.begin_s,
        window.end_s,
        open_loop,
        [(s.stage, s.batch, s.replicas) for s in configuration.stages],
    )
    domains = [
        domain_section(
            meter.name,
            domain,
            next(e for e in window.reading.energies if e.domain == domain.name),
            idle_power({phase: None if r is None else r.energies for phase, r in idle.items()}, domain.name),
            window.duration_s,
        )
        for meter in meters.meters
        for domain in meter.domains
    ]
    covered = frozenset(domain.covers for meter in meters.meters for domain in meter.domains)
    energy = energy_section(domains, covered, meters.unavailable, configuration.platform.device, service["completed"])
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": job.identity(),
        "status": {"state": "ok", "reason": None},
        "window": {
            "start_utc": window.start_utc.isoformat(),
            "end_utc": datetime.fromtimestamp(window.start_utc.timestamp() + window.duration_s, UTC).isoformat(),
            "start_monotonic_s": window.begin_s,
            "end_monotonic_s": window.end_s,
            "duration_s": window.duration_s,
            "phases_s": clock.phases_s,
        },
        "service": service,
        "accuracy": accuracy_section(job),
        "cost": cost_section(job, service["throughput_rps"]),
        "energy": energy,
        "quality": _quality(job, journal, window, service, energy),
        "provenance": host.provenance()
        | {
            "weights": decided_weights(job.weights),
            "protocol_digest": job.protocol_digest,
            "meters": {meter.name: meter.provenance() for meter in meters.meters},
            "replicas": dict(replica_facts),
        },
        "earlier_tries": [],
    }


def _quality(
    job: Job, journal: Journal, window: Window, service: Mapping[str, Any], energy: Mapping[str, Any]
) -> dict[str, Any]:
    reading = window.reading
    foreign_cores = host.foreign_core_seconds(*window.cpu) / window.duration_s
    periods = [d["period_s"] for d in energy["domains"] if d["period_s"]]
    readings = [reading for end in window.environment for reading in end.get("nvml", {}).values()]
    gpu = [reading for reading in readings if isinstance(reading, dict)]  # else it is the text of an error
    seen = gates.Observations(
        window_s=window.duration_s,
        fewest_batches=min(stage["batches"] for stage in service["stages"].values()),
        coarsest_period_s=max(periods, default=None),
        steady_before=window.steady,
        throughput_drift=throughput_drift(journal, window.begin_s, window.end_s),
        foreign_cores=foreign_cores,
        idle_before_w=energy["idle_resident_w"],
        idle_after_w=energy["idle_after_w"],
        samples=reading.sample_count,
        late_samples=reading.late_samples,
        served_fraction=None if not service["offered_rps"] else service["throughput_rps"] / service["offered_rps"],
        cores_wanted=job.configuration.cores,
        cores_available=len(host.available_cores()),
        throttle_counts=(
            window.environment[0]["cpu_throttle_count"],
            window.environment[1]["cpu_throttle_count"],
        ),
        gpu_throttle_reasons=tuple(
            reason for g in gpu for reason in g.get("event_reasons") or () if reason in gates.SLOWED_GPU
        ),
        foreign_gpu_processes=tuple(
            f"{p['name']} (pid {p['pid']})"
            for g in gpu
            for p in g.get("compute_processes") or ()
            if p["pid"] not in window.cpu[0].own_s
        ),
        check_ratios=tuple(d["check"]["ratio"] for d in energy["domains"] if d["check"] and d["check"]["ratio"]),
    )
    flags = gates.raised(seen, job.settings["gates"])
    return {
        "verdict": "flagged" if flags else "good",
        "flags": [flag.as_dict() for flag in flags],
        "foreign_cores": foreign_cores,
        "own_cores": host.own_core_seconds(*window.cpu) / window.duration_s,
        "sampler_cpu_s": reading.sampler_cpu_s,
        "dispatcher_cpu_s": window.dispatcher_cpu_s,
        "samples": reading.sample_count,
        "late_samples": reading.late_samples,
        "environment": {"begin": window.environment[0], "end": window.environment[1]},
    }


def main() -> None:
    """Measure the job in the file JOB; leave ``{"record": ...}`` or ``{"failed": reason}`` in the file RESULT."""
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
    except Exception as error:
        traceback.print_exc()
        result = {"failed": f"{type(error).__name__}: {error}"}
    write_text(arguments.result, json.dumps(result, allow_nan=False))


if __name__ == "__main__":
    main()
