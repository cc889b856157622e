"""Adaptation in reality: the engine serves a load, decides every interval, and starts and ends replicas as it serves.

Phases as of every measurement: bare idle -> load the first configuration -> idle with it resident -> warm up -> the load,
as one window over all of it until the last request has left -> idle with the last configuration resident -> bare idle.
The decisions are those of :mod:`.ipa.controller`, the very code that the simulation asks; they take place in the
dispatcher, whose CPU time is in the record. Run by its supervisor as ``python -m ipa_energy.live JOB RESULT``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ipa_energy import host, pipelines
from ipa_energy.child import main
from ipa_energy.configuration import StageKnobs
from ipa_energy.deployment import (
    REPLICA_MODULE,
    keep_one_gpu,
    leave_cores,
    make_arrays,
    make_stages,
    plan_replicas,
    replica_planner,
    replica_starter,
)
from ipa_energy.ipa.arrival_times import arrivals_in_counts
from ipa_energy.ipa.controller import controller
from ipa_energy.ipa.decisions import choose_by, predictor_named
from ipa_energy.ipa.live_log import live_log
from ipa_energy.ipa.outcome import figures, intervals
from ipa_energy.ipa.profile import Profile, read_profile
from ipa_energy.ipa.run_log import Configuration, Decide, Decision, Log, Rules
from ipa_energy.ipa.service import service_curves
from ipa_energy.ipa.settings import prices
from ipa_energy.ipa.ticks import Floats
from ipa_energy.live_job import LiveJob, live_job_from_json
from ipa_energy.meters import open_meters
from ipa_energy.meters.recorder import Recorder, WindowReading
from ipa_energy.observation import Window, build_record
from ipa_energy.phases import EDGE_TIMEOUT_S, LOAD_TIMEOUT_S, Clock, idle_phase, warm_up
from ipa_energy.serving.arrivals import Workload, make_workload
from ipa_energy.serving.engine import Engine
from ipa_energy.serving.journal import Journal
from ipa_energy.serving.processes import Replicas, connect_to_server
from ipa_energy.trace import write_trace

_DRAIN_TIMEOUT_S = 300.0


@dataclass
class _Run:
    """The load as it was served: when it began and its last request had left, the decisions, and the CPU's readings."""

    begin_s: float = 0.0
    end_s: float = 0.0
    decisions: list[Decision] = field(default_factory=list)
    cpu: list[host.CpuReading] = field(default_factory=list)
    dispatcher_s: list[float] = field(default_factory=list)


def _serve(live: LiveJob, engine: Engine, arrivals_s: Floats, decide: Decide, pids: Callable[[], list[int]]) -> _Run:
    """Serve the whole load, with a decision every interval, and then what is still in flight."""
    interval_s = live.ipa["adaptation"]["interval_s"]
    seen = np.concatenate([np.array(live.before, dtype=float), np.array(live.counts, dtype=float)])
    current: Configuration = live.job.configuration.stages
    run = _Run()
    run.cpu.append(host.read_cpu(pids()))
    run.dispatcher_s.append(time.process_time())
    run.begin_s = time.monotonic()
    for number in range(1, int(np.ceil(len(live.counts) / interval_s))):
        at_s = number * interval_s
        engine.serve(lambda now_s, until_s=run.begin_s + at_s: now_s >= until_s)  # type: ignore[misc]
        began_s = time.perf_counter()
        chosen = decide(at_s, seen[: len(live.before) + int(at_s)], current)
        decide_s = time.perf_counter() - began_s
        if chosen is not None:
            engine.reconfigure(chosen)
            current = chosen
        run.decisions.append(Decision(at_s, current, chosen, decide_s, engine.in_flight))
    engine.serve(lambda now_s: now_s >= run.begin_s + len(live.counts))
    engine.drain(_DRAIN_TIMEOUT_S)
    last_s = [request.done_s[-1] for request in engine.journal.completed[-1:]] + engine.journal.dropped_s[-1:]
    run.end_s = max([run.begin_s + len(live.counts), *last_s])
    run.cpu.append(host.read_cpu(pids()))
    run.dispatcher_s.append(time.process_time())
    # The engine reads its own clock when it begins; the first arrival tells by how much later that was.
    if len(arrivals_s):
        run.begin_s = engine.journal.arrivals_s[0] - float(arrivals_s[0])
    return run


def adapt(live: LiveJob, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the protocol; the content of the run's file. Raises ServingError when a replica fails."""
    clock, job, settings = Clock(say), live.job, live.job.settings
    adaptation = live.ipa["adaptation"]
    profile = read_profile(live.profile)
    predictor = predictor_named(live.predictor, adaptation["margin_percent"], live.predictor_files)
    choose = choose_by(live.method, profile, live.sla_s, live.ipa, live.usd, live.replicas)
    decide = controller(predictor, choose)
    arrivals_s = arrivals_in_counts(np.array(live.counts, dtype=np.int64), (settings["seed"], 0))
    workload = Workload(None, iter(arrivals_s.tolist()), adaptation["drop_after_s"])
    largest = max(int(stage.batch.max()) for stage in profile.stages)
    arrays, frames, slots = make_arrays(job, None, largest)
    cores = host.available_cores()
    cuda = job.configuration.platform.device == "cuda"
    if cuda:
        keep_one_gpu()
    with clock.phase("start"):
        modules = (REPLICA_MODULE, *pipelines.get(job.configuration.pipeline).modules)
        server = connect_to_server(modules, job.protocol_digest)
        meters = open_meters(settings["meters"], gpu_needed=cuda)
        recorder = Recorder(meters.meters, settings["protocol"]["sample_period_s"])
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

            def pids() -> list[int]:
                return [os.getpid(), *meters.process_ids, *(replica.pid for replica in processes.replicas)]

            with clock.phase("warm_up"):
                steady = _warm(live, processes, frames, slots)
            starter = replica_starter(replica_planner(job, arrays), processes, cores)
            engine = Engine(make_stages(job, processes), processes, workload, frames, slots, starter)
            with clock.phase("window"):
                environment_begin = host.environment(cores)
                start_utc = datetime.now(UTC)
                recorder.open()
                run = _serve(live, engine, arrivals_s, decide, pids)
                recorder.close()
                give_up_s = time.monotonic() + EDGE_TIMEOUT_S
                engine.serve(lambda now_s: recorder.finished.is_set() or now_s >= give_up_s)
                environment_end = host.environment(cores)
            reading = recorder.result(timeout_s=EDGE_TIMEOUT_S)
            with clock.phase("quiesce"):
                engine.quiesce()
            idle["after"] = idle_phase(recorder, clock, "idle_after", job)
            with clock.phase("stop"):
                processes.stop()
                engine.note_exits()
                facts = {r.name: {"pid": r.pid, "cpus": r.cpus, "facts": r.facts} for r in processes.replicas}
        idle["bare_after"] = idle_phase(recorder, clock, "idle_bare_after", job)
        os.sched_setaffinity(0, cores)
        recorder.shutdown()
        write_trace(job.trace, reading.samples, run.begin_s)
        window = Window(
            run.begin_s,
            run.end_s,
            start_utc,
            reading,
            (run.cpu[0], run.cpu[1]),
            (environment_begin, environment_end),
            max(0.0, run.dispatcher_s[1] - run.dispatcher_s[0] - reading.sampler_cpu_s),
            steady,
        )
        journal = engine.journal
        served = _mean_stages(journal, job.configuration.stages, run)
        record = build_record(job, journal, window, idle, meters, facts, clock.timeline, served)
        return _content(live, profile, journal, run, record)
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


def _mean_stages(journal: Journal, first: tuple[StageKnobs, ...], run: _Run) -> list[tuple[str, float, float]]:
    """(stage, batch, replicas) as means over the run: of the batches decided, and of the replicas that could serve."""
    edges_s = [0.0, *(decision.at_s for decision in run.decisions), run.end_s - run.begin_s]
    in_force = [first, *(decision.configuration for decision in run.decisions)]
    seconds = np.diff(edges_s)
    found = []
    for number, knobs in enumerate(first):
        batch = float(np.average([configuration[number].batch for configuration in in_force], weights=seconds))
        ready_s = sum(
            max(0.0, min(life.gone_s or run.end_s, run.end_s) - max(life.ready_s, run.begin_s))
            for life in journal.replicas.values()
            if life.stage == number and life.ready_s is not None
        )
        found.append((knobs.stage, batch, ready_s / (run.end_s - run.begin_s)))
    return found


def _content(live: LiveJob, profile: Profile, journal: Journal, run: _Run, record: Mapping[str, Any]) -> dict[str, Any]:
    adaptation, settings = live.ipa["adaptation"], live.job.settings
    curves = service_curves(profile, prices=prices(live.ipa, live.usd))
    started = [life.ready_s - life.started_s for life in journal.replicas.values() if life.ready_s is not None]
    rules = Rules(
        interval_s=adaptation["interval_s"],
        start_s=float(np.median(started)) if started else 0.0,
        max_wait_s=settings["max_wait_s"],
        drop_after_s=adaptation["drop_after_s"],
        seed=settings["seed"],
    )
    log = live_log(
        journal,
        curves,
        rules,
        live.job.configuration.stages,
        run.decisions,
        run.begin_s,
        float(len(live.counts)),
        run.end_s,
    )
    table = intervals(log, live.sla_s)
    return {
        "record": record,
        "figures": figures(log, live.sla_s, profile.host_idle_w),
        "intervals": table.astype(object).where(table.notna(), None).to_dict("records"),
        "decisions": [
            {
                "at_s": decision.at_s,
                "configuration": [_knobs(knobs) for knobs in decision.configuration],
                "feasible": decision.chosen is not None,
                "decide_s": decision.decide_s,
                "in_system": decision.in_system,
            }
            for decision in run.decisions
        ],
        "replicas": [_life(life, run.begin_s) for life in journal.replicas.values()],
        "start_s": rules.start_s,
        "oversubscribed_s": _oversubscribed_s(log, len(host.available_cores())),
    }


def _knobs(knobs: StageKnobs) -> dict[str, Any]:
    return {name: getattr(knobs, name) for name in ("stage", "variant", "batch", "replicas", "threads")}


def _life(life: Any, begin_s: float) -> dict[str, Any]:
    def since(moment_s: float | None) -> float | None:
        return None if moment_s is None else moment_s - begin_s

    return {
        "name": life.name,
        "variant": life.knobs.variant,
        "threads": life.knobs.threads,
        "cpus": list(life.cpus),
        "started_s": since(life.started_s),
        "ready_s": since(life.ready_s),
        "gone_s": since(life.gone_s),
    }


def _oversubscribed_s(log: Log, cores: int) -> float:
    """How long living replicas had more threads than the host has cores, as when a switch overlaps."""
    edges_s = sorted(
        {0.0, log.end_s}
        | {min(r.started_s, log.end_s) for r in log.replicas}
        | {min(r.gone_s, log.end_s) for r in log.replicas if r.gone_s is not None}
    )
    total_s = 0.0
    for begin_s, end_s in zip(edges_s, edges_s[1:], strict=False):
        threads = sum(
            r.curve.cores for r in log.replicas if r.started_s <= begin_s and (r.gone_s is None or r.gone_s >= end_s)
        )
        total_s += (end_s - begin_s) * (threads > cores)
    return total_s


if __name__ == "__main__":
    main(lambda text, say: adapt(live_job_from_json(text), say))
