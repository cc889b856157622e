"""One characterisation from begin to end: phases of idling, full load and the pseudo-random sequence, all recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ipa_energy import host
from ipa_energy.characterise.channels import Poller
from ipa_energy.characterise.load import Load, LoadError, Played
from ipa_energy.characterise.load_log import LoadLog
from ipa_energy.characterise.recording import Phase, Recording
from ipa_energy.characterise.sequence import Floats, pseudo_random, steady
from ipa_energy.meters.base import MeterUnavailable
from ipa_energy.meters.nvml_device import Gpu
from ipa_energy.meters.nvml_environment import Surroundings
from ipa_energy.meters.nvml_library import load_pynvml, versions

SLOW_POLL_S = 0.1
"""How often an unobserved GPU is polled: seldom enough to see what polling every millisecond costs."""
READY_WITHIN_S = 300.0
PLAYED_WITHIN_S = 60.0
PROCESSES = ("compute_processes", "graphics_processes", "mps_processes")


@dataclass(frozen=True)
class Settings:
    """Lengths of the sequence and of each steady phase (s), time between polls (s), lengths of a pulse (s), seed."""

    sequence_s: float = 120.0
    steady_s: float = 10.0
    poll_s: float = 0.001
    pulse_s: tuple[float, float] = (0.010, 0.040)
    seed: int = 1

    @property
    def total_s(self) -> float:
        """About how long all of it takes, without the start of the load."""
        return self.sequence_s + 8 * self.steady_s


@contextmanager
def open_gpu(index: int) -> Iterator[Gpu]:
    """The GPU that NVML numbers ``index``. Raises MeterUnavailable with the reason when it can't be characterised."""
    nvml = load_pynvml()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise MeterUnavailable(f"no NVIDIA GPU can be read: NVML says {error}") from error
    try:
        count = int(nvml.nvmlDeviceGetCount())
        if not 0 <= index < count:
            raise MeterUnavailable(f"there is no GPU {index}: the driver reports {count}, numbered from 0")
        gpu = Gpu(nvml, index)
        if gpu.mig_enabled():
            raise MeterUnavailable(f"GPU {index} ({gpu.name}) has MIG enabled: others may load it unseen")
        yield gpu
    except nvml.NVMLError as error:
        raise MeterUnavailable(f"GPU {index}: NVML failed: {error}") from error
    finally:
        nvml.nvmlShutdown()


def processes_on(surroundings: dict[str, Any]) -> dict[int, str | None]:
    """Process ids and names in a reading of :class:`Surroundings`."""
    return {found["pid"]: found["name"] for kind in PROCESSES for found in surroundings[kind] or ()}


class _Session:
    """The recording while it is made."""

    def __init__(self, gpu: Gpu, load: Load, settings: Settings, say: Callable[[str], None]) -> None:
        self.poller = Poller(gpu)
        if not self.poller.channels:
            refused = "; ".join(f"{name}: {why}" for name, why in self.poller.refused.items())
            raise MeterUnavailable(f"GPU {gpu.index} ({gpu.name}) answers no counter and no power field: {refused}")
        self.surroundings = Surroundings(gpu)
        self.load, self.settings, self.say = load, settings, say
        self.origin_s = time.monotonic()
        self.phases: list[Phase] = []
        self.environment: list[dict[str, Any]] = []
        self.played: list[Played] = []
        self.foreign: dict[int, str | None] = {}

    def check_alone(self) -> None:
        found = processes_on(self.surroundings.read())
        if found:
            named = ", ".join(f"{pid} ({name or 'name unknown'})" for pid, name in sorted(found.items()))
            raise MeterUnavailable(
                f"other processes are on this GPU: {named}; wait for them to end, or choose another GPU"
            )

    def phase(self, name: str, done: Callable[[], bool], poll_s: float | None = None) -> None:
        poll_s = poll_s or self.settings.poll_s
        begin_s = time.monotonic()
        self.poller.poll_until(done, poll_s)
        end_s = time.monotonic()
        self.phases.append(Phase(name, begin_s - self.origin_s, end_s - self.origin_s, poll_s))
        seen = self.surroundings.read()
        processes = processes_on(seen)
        # In a container NVML gives our own load the pid of another namespace: one process is taken for the load.
        others = {pid: pname for pid, pname in processes.items() if pid != self.load.pid}
        expected = 1 if self.load.pid is not None and self.load.pid not in processes else 0
        if len(others) > expected:
            self.foreign |= others
        self.environment.append({"after": name, "time_s": end_s - self.origin_s} | seen)

    def wait(self, name: str, seconds: float, poll_s: float | None = None) -> None:
        end_s = time.monotonic() + seconds
        self.phase(name, lambda: time.monotonic() >= end_s, poll_s)

    def start_load(self) -> None:
        deadline_s = time.monotonic() + READY_WITHIN_S

        def ready() -> bool:
            if time.monotonic() > deadline_s:
                raise LoadError(f"the load process was not ready within {READY_WITHIN_S:g} s")
            return self.load.ready()

        self.load.start()
        self.phase("starting", ready, SLOW_POLL_S)

    def play(self, name: str, schedule: Floats) -> None:
        expected_s = time.monotonic() + float(schedule[:, 0].sum())
        self.load.play(schedule)

        def done() -> bool:
            if time.monotonic() < expected_s:  # nothing is asked of the load while it works
                return False
            played = self.load.played()
            if played is not None:
                self.played.append(played)
                return True
            if time.monotonic() > expected_s + PLAYED_WITHIN_S:
                raise LoadError(f"the load took {PLAYED_WITHIN_S:g} s longer than its schedule")
            return False

        self.phase(name, done)


def record(gpu: Gpu, load: Load, settings: Settings, say: Callable[[str], None]) -> Recording:
    """Record one GPU under one load; ``say`` gets a line for every phase.

    Raises MeterUnavailable when others are on the GPU or it answers nothing, LoadError when the load fails. Clocks,
    limits and modes of the GPU are left as they are.
    """
    session = _Session(gpu, load, settings, say)
    session.check_alone()
    started = datetime.now(UTC)
    steady_s = settings.steady_s
    try:
        say(f"idle, nothing on the GPU ({2 * steady_s:g} s)")
        session.wait("idle_bare_slow", steady_s, SLOW_POLL_S)
        session.wait("idle_bare", steady_s)
        say("starting the load's process")
        session.start_load()
        say(f"idle, with a context ({steady_s:g} s)")
        session.wait("idle_context", steady_s)
        say(f"full load ({steady_s:g} s)")
        session.play("full", steady(steady_s))
        say(f"idle after the load ({2 * steady_s:g} s)")
        session.wait("idle_after_full", 2 * steady_s)
        say(f"pseudo-random load ({settings.sequence_s:g} s)")
        session.play("sequence", pseudo_random(settings.sequence_s, settings.seed, settings.pulse_s))
        say(f"idle, with a context and without ({2 * steady_s:g} s)")
        session.wait("idle_context_after", steady_s)
        load.close()
        session.wait("idle_bare_after", steady_s)
    finally:
        load.close()
    return _finish(session, gpu, started)


def _finish(session: _Session, gpu: Gpu, started: datetime) -> Recording:
    played = session.played
    log = LoadLog(
        np.concatenate([p.times_s for p in played]) - session.origin_s, np.concatenate([p.levels for p in played])
    )
    poller, nvml = session.poller, gpu.nvml
    facts = {
        "started_utc": started.isoformat(timespec="seconds"),
        "gpu": gpu.identity(),
        "driver": gpu.maybe(nvml.nvmlSystemGetDriverVersion),
        "nvml": gpu.maybe(nvml.nvmlSystemGetNVMLVersion),
        "bindings": versions(),
        "host": host.provenance(),
        "settings": asdict(session.settings),
        "load": {"kind": session.load.kind, **session.load.facts, "edges": _edges(played[-1])},
        "channels": {
            name: {"label": c.label, "unit": c.unit, "failed_polls": c.failed, "failure": c.failure}
            for name, c in poller.channels.items()
        },
        "refused": poller.refused,
        "environment": session.environment,
        "unreadable": session.surroundings.failures,
        "foreign_processes": [{"pid": pid, "name": name} for pid, name in session.foreign.items()],
    }
    readings = {name: channel.readings(session.origin_s) for name, channel in poller.channels.items()}
    return Recording(readings, tuple(session.phases), log, facts)


def _edges(played: Played) -> dict[str, Any]:
    """How far pulses were longer by the host's clock than by events on the device (s); None without these."""
    if played.device_s.size == 0 or played.device_s.size != played.host_s.size:
        return {"pulses": int((played.levels == 1).sum()), "host_less_device_s": None}
    excess_s = played.host_s - played.device_s
    low, middle, high = (float(q) for q in np.quantile(excess_s, [0.05, 0.5, 0.95]))
    return {"pulses": int(excess_s.size), "host_less_device_s": {"p05": low, "median": middle, "p95": high}}
