"""Adaptation in reality: the engine serves a load, decides every interval, and starts and ends replicas as it serves.

Phases as of every measurement: bare idle -> load the first configuration -> idle with it resident -> warm up -> the
load, as one window until the last request has left -> idle with the last configuration resident -> bare idle.
The decisions are those of :mod:`.ipa.controller`, the very code that the simulation asks; they take place in the
dispatcher, whose CPU time is in the record. Run by its supervisor as ``python -m ipa_energy.live JOB RESULT``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ipa_energy import host, pipelines
from ipa_energy.child import main
from ipa_energy.deployment import (
    REPLICA_MODULE,
    keep_one_gpu,
    leave_cores,
    make_arrays,
    make_stages,
    move_dispatcher,
    plan_replicas,
    replica_planner,
    replica_starter,
)
from ipa_energy.ipa.arrival_times import arrivals_in_counts
from ipa_energy.ipa.controller import controller
from ipa_energy.ipa.deciding import LEAST_RPS, Setting, choose_by
from ipa_energy.ipa.profile import read_profile
from ipa_energy.ipa.run_log import Configuration, Decide, Decision
from ipa_energy.ipa.ticks import Floats
from ipa_energy.ipa.trained_predictors import make_predictor
from ipa_energy.live_job import LiveJob, arrival_seed, live_job_from_json, live_setting
from ipa_energy.live_outcome import Served, decisions_content, journal_content, mean_stages
from ipa_energy.meters import open_meters
from ipa_energy.meters.recorder import Recorder, WindowReading
from ipa_energy.observation import Window, build_record
from ipa_energy.phases import EDGE_TIMEOUT_S, LOAD_TIMEOUT_S, Clock, idle_phase, warm_up
from ipa_energy.serving.arrivals import Workload, make_workload
from ipa_energy.serving.engine import Engine
from ipa_energy.serving.processes import Replicas, connect_to_server
from ipa_energy.serving.shared import SharedArray
from ipa_energy.trace import write_trace


@dataclass(frozen=True)
class _Means:
    """What the phases work with."""

    live: LiveJob
    decide: Decide
    clock: Clock
    recorder: Recorder
    cores: Sequence[int]
    arrays: Sequence[Path | SharedArray]
    frames: int
    slots: int
    meter_pids: Sequence[int]


def _serve(means: _Means, engine: Engine, arrivals_s: Floats, processes: Replicas) -> Served:
    """Serve the whole load, with a decision every interval, and then what is still in flight."""
    live = means.live

    def read_cpu() -> host.CpuReading:
        pids = [os.getpid(), *means.meter_pids, *(replica.pid for replica in processes.replicas)]
        return host.read_cpu(pids, processes.cpu_s_of_gone)

    interval_s = live.ipa["adaptation"]["interval_s"]
    seen = np.concatenate([np.array(live.before, dtype=float), np.array(live.counts, dtype=float)])
    current: Configuration = live.job.configuration.stages
    run = Served()
    run.cpu.append(read_cpu())
    run.dispatcher_s.append(time.process_time())
    run.begin_s = time.monotonic()
    for number in range(1, int(np.ceil(len(live.counts) / interval_s))):
        at_s = number * interval_s
        engine.serve(lambda now_s, until_s=run.begin_s + at_s: now_s >= until_s)  # type: ignore[misc]
        began_s = time.perf_counter()
        chosen = means.decide(at_s, seen[: len(live.before) + int(at_s)], current)
        decide_s = time.perf_counter() - began_s
        if chosen is not None:
            engine.reconfigure(chosen)
            move_dispatcher(means.cores, [replica.cpus for replica in processes.living])
            current = chosen
        run.decisions.append(Decision(at_s, current, chosen, decide_s, engine.in_flight))
    engine.serve(lambda now_s: now_s >= run.begin_s + len(live.counts))
    engine.drain(live.drain_timeout_s)
    ends_s = [*(request.done_s[-1] for request in engine.journal.completed), *engine.journal.dropped_s]
    run.end_s = max([run.begin_s + len(live.counts), *ends_s])
    run.cpu.append(read_cpu())
    run.dispatcher_s.append(time.process_time())
    # The engine reads its own clock when it begins; the first arrival tells by how much later that was.
    if len(arrivals_s):
        run.begin_s = engine.journal.arrivals_s[0] - float(arrivals_s[0])
    return run


def _decider(live: LiveJob, setting: Setting) -> Decide:
    """The predictor and the method of the run, as one decision."""
    margin_percent = setting.adaptation["margin_percent"]
    predictor = make_predictor(
        live.predictor, scale=live.scale, margin_percent=margin_percent, trained=live.predictor_files
    )
    choose = choose_by(setting, live.method).choose
    return controller(lambda history_rps: max(LEAST_RPS, predictor(history_rps)), choose)


def _window(means: _Means, processes: Replicas) -> tuple[Engine, Served, Window]:
    """Warm up, then serve the whole load within one window of the meters."""
    live, clock, recorder = means.live, means.clock, means.recorder
    with clock.phase("warm_up"):
        steady = _warm(live, processes, means.frames, means.slots)
    arrivals_s = arrivals_in_counts(np.array(live.counts, dtype=np.int64), arrival_seed(live))
    workload = Workload(None, iter(arrivals_s.tolist()), live.ipa["adaptation"]["drop_after_s"])
    start = replica_starter(replica_planner(live.job, means.arrays), processes, means.cores)
    engine = Engine(make_stages(live.job, processes), processes, workload, means.frames, means.slots, start)

    with clock.phase("window"):
        environment_begin = host.environment(means.cores)
        start_utc = datetime.now(UTC)
        recorder.open()
        served = _serve(means, engine, arrivals_s, processes)
        recorder.close()
        give_up_s = time.monotonic() + EDGE_TIMEOUT_S
        engine.serve(lambda now_s: recorder.finished.is_set() or now_s >= give_up_s)
        environment_end = host.environment(means.cores)
    reading = recorder.result(timeout_s=EDGE_TIMEOUT_S)
    with clock.phase("quiesce"):
        # Idle power afterwards is to be that of the last configuration, not of a switch under way.
        give_up_s = time.monotonic() + LOAD_TIMEOUT_S
        engine.serve(lambda now_s: engine.settled or now_s >= give_up_s)
        served.settled = engine.settled
        engine.quiesce()
    window = Window(
        served.begin_s,
        served.end_s,
        start_utc,
        reading,
        (served.cpu[0], served.cpu[1]),
        (environment_begin, environment_end),
        max(0.0, served.dispatcher_s[1] - served.dispatcher_s[0] - reading.sampler_cpu_s),
        steady,
    )
    return engine, served, window


def adapt(live: LiveJob, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the protocol; the content of the run's file. Raises ServingError when a replica fails."""
    clock, job = Clock(say), live.job
    profile = read_profile(live.profile)
    setting = live_setting(live, profile)
    decide = _decider(live, setting)
    largest = max(int(stage.batch.max()) for stage in profile.stages)
    arrays, frames, slots = make_arrays(job, None, largest)
    cores = host.available_cores()
    cuda = job.configuration.platform.device == "cuda"
    if cuda:
        keep_one_gpu()
    with clock.phase("start"):
        modules = (REPLICA_MODULE, *pipelines.get(job.configuration.pipeline).modules)
        server = connect_to_server(modules, job.protocol_digest)
        meters = open_meters(job.settings["meters"], gpu_needed=cuda)
        recorder = Recorder(meters.meters, job.settings["protocol"]["sample_period_s"])
    means = _Means(live, decide, clock, recorder, cores, arrays, frames, slots, meters.process_ids)
    idle: dict[str, WindowReading | None] = {}
    try:
        idle["bare"] = idle_phase(recorder, clock, "idle_bare", job)
        with Replicas(server) as processes:
            with clock.phase("load_models"):
                for plan in plan_replicas(job, arrays, cores):
                    processes.start(plan)
                leave_cores(cores, job.configuration.cores)
                processes.wait_ready(LOAD_TIMEOUT_S)
            idle["resident"] = idle_phase(recorder, clock, "idle_resident", job)
            engine, served, window = _window(means, processes)
            idle["after"] = idle_phase(recorder, clock, "idle_after", job)
            with clock.phase("stop"):
                processes.stop()
                engine.note_exits()
                facts = {r.name: {"pid": r.pid, "cpus": r.cpus, "facts": r.facts} for r in processes.replicas}
        idle["bare_after"] = idle_phase(recorder, clock, "idle_bare_after", job)
        move_dispatcher(cores, [])
        recorder.shutdown()
        write_trace(job.trace, window.reading.samples, served.begin_s)
        journal = engine.journal
        stages = mean_stages(journal, job.configuration.stages, served)
        return {
            "record": build_record(job, journal, window, idle, meters, facts, clock.timeline, stages),
            "journal": journal_content(journal, served),
            "decisions": decisions_content(served),
            "settled": served.settled,
        }
    finally:
        for meter in meters.meters:
            meter.close()


def _warm(live: LiveJob, processes: Replicas, frames: int, slots: int) -> bool:
    """Fill the caches of the first configuration under saturation, with an engine of its own; whether it got steady."""
    job = live.job
    capacity = sum(knobs.batch * knobs.replicas for knobs in job.configuration.stages)
    workload = make_workload({"kind": "saturated", "in_flight_per_batch": 1}, capacity, job.settings["seed"])
    engine = Engine(make_stages(job, processes), processes, workload, frames, slots)
    steady = warm_up(engine, job, workload.in_flight)
    engine.quiesce()
    return steady


if __name__ == "__main__":
    main(lambda text, say, _keep: adapt(live_job_from_json(text), say))
