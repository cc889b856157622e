"""The phases of a measurement, each with its begin and end: idle, warm-up, window. In the process that measures.

A running engine and a recorder with open meters go in; readings come out. :mod:`.measurement` strings the phases
together for one configuration, :mod:`.profiling` for the batch sizes of one variant.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ipa_energy import host
from ipa_energy.job import Job
from ipa_energy.meters.recorder import Recorder, WindowReading
from ipa_energy.observation import Window
from ipa_energy.serving.engine import Engine
from ipa_energy.serving.steadiness import is_steady

LOAD_TIMEOUT_S = 300.0
"""Longest wait for the replicas to load their models."""
EDGE_TIMEOUT_S = 5.0
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


def warm_up(engine: Engine, job: Job, in_flight: int | None) -> bool:
    """Serve until the service times of every stage are steady, or for ``warm_up_max_s``; whether they are steady."""
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


def open_window(
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
        give_up_s = time.monotonic() + EDGE_TIMEOUT_S
        engine.serve(lambda now_s: recorder.finished.is_set() or now_s >= give_up_s)
        environment_end = host.environment(cpus)
    reading = recorder.result(timeout_s=EDGE_TIMEOUT_S)
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


def idle_phase(recorder: Recorder, clock: Clock, phase: str, job: Job) -> WindowReading | None:
    """Measure one of the idle phases; None where the protocol leaves it out."""
    protocol = job.settings["protocol"]
    duration_s = protocol[f"{phase}_s"]
    if duration_s <= 0:
        return None
    if phase in _AFTER_LOAD:
        with clock.phase("settle"):
            time.sleep(protocol["settle_s"])
    with clock.phase(phase):
        return recorder.measure_for(duration_s)
