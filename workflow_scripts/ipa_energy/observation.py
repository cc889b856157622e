"""From what was seen of a measurement, the window, the journal and the meters, to its record with gates applied."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ipa_energy import environment, gates, host
from ipa_energy.aliasing import window_locking
from ipa_energy.energy import IDLE_PHASES, domain_section, energy_section, idle_figure
from ipa_energy.job import Job
from ipa_energy.meters import OpenMeters
from ipa_energy.meters.base import Check, Domain, Doubt, Energy
from ipa_energy.meters.recorder import WindowReading
from ipa_energy.record import SCHEMA_VERSION, Record
from ipa_energy.sections import accuracy_section, cost_section, job_provenance
from ipa_energy.serving.journal import Journal, service_drift, service_figures, throughput_drift


@dataclass(frozen=True)
class Window:
    """What the measuring window left: its edges, the meters' readings, the CPU used, and whether warm-up was steady.

    ``environment`` is that of the host at both edges; those of the meters are in their reading.
    """

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


def build_record(
    job: Job,
    journal: Journal,
    window: Window,
    idle: Mapping[str, WindowReading | None],
    meters: OpenMeters,
    replica_facts: Mapping[str, Any],
    timeline: Sequence[Mapping[str, Any]],
    served: Sequence[tuple[str, float, float]] | None = None,
) -> Record:
    """The whole record of a measurement that ran.

    ``idle`` holds the reading of each idle phase (None where it was left out), ``replica_facts`` what the replicas said
    of themselves, ``timeline`` the phases with their begin and end. ``served`` holds (stage, batch, replicas) as means
    over a window in which they changed; without it they are the configuration's. With it, the halves of the window, and
    idle power with models resident before and after it, are of different configurations: no gate compares them.
    """
    configuration = job.configuration
    open_loop = job.workload_settings["kind"] == "rate"
    service = service_figures(
        journal,
        window.begin_s,
        window.end_s,
        open_loop,
        [(s.stage, s.batch, s.replicas) for s in configuration.stages] if served is None else served,
    )
    pairs = list(_counted(meters, window.reading))
    opinions = _opinions(meters, window.reading)
    domains = [
        domain_section(
            meter,
            domain,
            energy,
            {phase: idle_figure(idle.get(phase), domain.name) for phase in IDLE_PHASES},
            window.duration_s,
            opinions.get(domain.name, ()),
        )
        for meter, domain, energy in pairs
    ]
    energy = energy_section(domains, meters.unavailable, _needed(job), service["completed"])
    seen = _observations(job, journal, window, service, energy, pairs, meters, idle, reconfigured=served is not None)
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
            "timeline": [dict(phase) for phase in timeline],
        },
        "service": service,
        "accuracy": accuracy_section(job),
        "cost": cost_section(job, service["throughput_rps"]),
        "energy": energy,
        "quality": _quality(seen, window, job.settings["gates"]),
        "provenance": host.provenance()
        | {
            **job_provenance(job),
            "meters": {meter.name: meter.provenance() for meter in meters.meters},
            "replicas": dict(replica_facts),
        },
        "earlier_tries": [],
    }


def _needed(job: Job) -> set[str]:
    """The parts of the machine without which a total is none: what the models run on, and GPUs that were asked for."""
    needed = {"gpu" if job.configuration.platform.device == "cuda" else "cpu"}
    settings = job.settings["meters"]
    if settings["gpus"] == "all" and "nvml" in settings["use"] and host.has_cuda_device():
        needed.add("gpu")
    return needed


def _counted(meters: OpenMeters, reading: WindowReading) -> Iterator[tuple[str, Domain, Energy]]:
    """(meter, domain, energy) of every domain that counts; the recorder gives energies in the meters' order."""
    energies = iter(reading.energies)
    for meter in meters.meters:
        for domain in meter.domains:
            energy = next(energies)
            if domain.counted:
                yield meter.name, domain, energy


def _opinions(meters: OpenMeters, reading: WindowReading) -> dict[str, list[Check]]:
    """By domain, what meters that are not counted say of it."""
    found: dict[str, list[Check]] = {}
    energies = iter(reading.energies)
    for meter in meters.meters:
        for domain in meter.domains:
            energy = next(energies)
            if not domain.counted:
                check = Check(domain.method, energy.energy_j, energy.end_s - energy.begin_s, energy.reason)
                found.setdefault(domain.name, []).append(check)
    return found


SLOWEST_STEADY_PERIOD_S = 0.01
"""A meter that is updated at least this often, as RAPL's counters are, sees every batch as it is."""


def _phase_locking(journal: Journal, pairs: Sequence[tuple[str, Domain, Energy]]) -> Iterator[tuple[str, float | None]]:
    """Of each domain that is updated in steps: how closely the updates keep step with the batches of any replica."""
    begins_s: dict[str, list[float]] = {}
    for batch in journal.batches:
        begins_s.setdefault(batch.replica, []).append(batch.begin_s)
    for _, domain, energy in pairs:
        if domain.evidence == "measured" and domain.period_s and domain.period_s >= SLOWEST_STEADY_PERIOD_S:
            edges = (energy.begin_s, energy.end_s, domain.period_s)
            found = [(window_locking(*edges, begins), name) for name, begins in begins_s.items()]
            closest = max(((value, name) for value, name in found if value is not None), default=None)
            yield (domain.name, None) if closest is None else (f"{domain.name}, {closest[1]}", closest[0])


BASELINE_PHASES = ("bare", "bare_after")
"""Idle phases that enter net energy."""


def _doubts(
    meters: OpenMeters,
    reading: WindowReading,
    pairs: Sequence[tuple[str, Domain, Energy]],
    energy: Mapping[str, Any],
) -> Iterator[Doubt]:
    """What the meters doubt in the window; figures and second figures that are not there."""
    for _, _, counted in pairs:
        yield from counted.doubts
        if counted.energy_j is None:
            yield Doubt("figure_lost", f"{counted.domain}: {counted.reason}")
    for domain in energy["domains"]:
        for check in domain["checks"]:
            if check["gross_j"] == 0 and domain["gross_j"]:
                yield Doubt("check_lost", f"{domain['domain']}: {check['method']} gave 0 J")
    uncounted = [domain.counted for meter in meters.meters for domain in meter.domains]
    for counted_domain, figure in zip(uncounted, reading.energies, strict=True):
        if not counted_domain and figure.energy_j is None:
            yield Doubt("check_lost", f"{figure.domain}: {figure.reason}")


def _baselines(meters: OpenMeters, idle: Mapping[str, WindowReading | None]) -> Iterator[tuple[str, Domain, Energy]]:
    """(phase, domain, energy) of every counted domain in the idle phases behind net energy."""
    for phase in BASELINE_PHASES:
        reading = idle.get(phase)
        if reading is not None:
            for _, domain, figure in _counted(meters, reading):
                yield phase, domain, figure


def _idle_doubts(meters: OpenMeters, idle: Mapping[str, WindowReading | None]) -> Iterator[Doubt]:
    for phase, domain, figure in _baselines(meters, idle):
        for doubt in figure.doubts:
            yield Doubt(doubt.flag, f"idle {phase}: {doubt.detail}")
        if figure.energy_j is None:
            yield Doubt("figure_lost", f"{domain.name}, idle {phase}: {figure.reason}")
        for check in figure.checks:
            if check.energy_j == 0 and figure.energy_j:
                yield Doubt("check_lost", f"{domain.name}, idle {phase}: {check.method} gave 0 J")


def _idle_ratios(meters: OpenMeters, idle: Mapping[str, WindowReading | None]) -> Iterator[tuple[str, float]]:
    for phase, domain, figure in _baselines(meters, idle):
        own_s = figure.end_s - figure.begin_s
        for check in figure.checks:
            check_s = own_s if check.window_s is None else check.window_s
            if check.energy_j and figure.mean_w is not None and check_s > 0:
                yield f"{domain.name}, idle {phase}: {check.method}", figure.mean_w / (check.energy_j / check_s)


def _drift(journal: Journal, window: Window, service: Mapping[str, Any]) -> float | None:
    """Change between the halves of the window: of throughput; in an open loop, where that is the load's, of service."""
    if service["offered_rps"] is not None:
        return service_drift(journal, len(service["stages"]), window.begin_s, window.end_s)
    return throughput_drift(journal, window.begin_s, window.end_s)


def _processes_of_others(
    gpus: Mapping[str, Sequence[Mapping[str, Any]]], kinds: Collection[str], own_pids: Collection[int]
) -> tuple[str, ...]:
    return tuple(
        f"{name}: {process}"
        for name, readings in gpus.items()
        for process in environment.others(readings, kinds, own_pids)
    )


def _throttle_reasons(gpus: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[str, ...]:
    return tuple(
        f"{name}: {reason} in {share:.0%} of the readings"
        for name, readings in gpus.items()
        for reason, share in (environment.summary(readings)["event_reasons"] or {}).items()
        if reason in gates.SLOWED_GPU
    )


def _observations(
    job: Job,
    journal: Journal,
    window: Window,
    service: Mapping[str, Any],
    energy: Mapping[str, Any],
    pairs: Sequence[tuple[str, Domain, Energy]],
    meters: OpenMeters,
    idle: Mapping[str, WindowReading | None],
    *,
    reconfigured: bool,
) -> gates.Observations:
    """What the gates look at. ``reconfigured``: whether the configuration changed within the window."""
    reading = window.reading
    periods = [d["period_s"] for d in energy["domains"] if d["period_s"]]
    before, after = window.environment
    gpus = environment.gpu_readings(reading.environments)
    own_pids = window.cpu[0].own_s.keys() | window.cpu[1].own_s.keys()  # some began or ended within the window
    # Our replicas have to be among the GPU's processes; where they are not, its pids are not those that we see.
    hidden = job.configuration.platform.device == "cuda" and not environment.shows(gpus, own_pids)
    all_readings = environment.merged([gpus, *(environment.gpu_readings(r.environments) for r in idle.values() if r)])
    cpu_clocks_mhz = [e["cpu_clock_mhz"] for e in (before, after) if e["cpu_clock_mhz"] is not None]
    cpu_temperatures_c = [e["cpu_hottest_celsius"] for e in (before, after) if e["cpu_hottest_celsius"] is not None]
    idle_pairs_w = {
        "models resident": (energy["idle_resident_w"], energy["idle_after_w"]),
        "bare": (energy["idle_bare_w"], energy["idle_bare_after_w"]),
    }
    if reconfigured:
        del idle_pairs_w["models resident"]
    return gates.Observations(
        window_s=window.duration_s,
        fewest_batches=min(stage["batches"] for stage in service["stages"].values()),
        coarsest_period_s=max(periods, default=None),
        steady_before=window.steady,
        drift=None if reconfigured else _drift(journal, window, service),
        foreign_cores=host.foreign_core_seconds(*window.cpu) / window.duration_s,
        idle_before_and_after_w=tuple((which, *pair_w) for which, pair_w in idle_pairs_w.items()),
        samples=reading.sample_count,
        late_samples=reading.late_samples,
        busiest_utilisation=max(stage["utilisation"] for stage in service["stages"].values()),
        served_fraction=None if not service["offered_rps"] else service["throughput_rps"] / service["offered_rps"],
        cores_wanted=job.configuration.cores,
        cores_available=len(host.available_cores()),
        throttle_counts=(before["cpu_throttle_count"], after["cpu_throttle_count"]),
        gpu_throttle_reasons=_throttle_reasons(gpus),
        foreign_gpu_processes=(
            () if hidden else _processes_of_others(all_readings, environment.FOREIGN_KINDS, own_pids)
        ),
        gpu_processes_hidden=bool(hidden and gpus),
        graphics_processes=_processes_of_others(gpus, environment.GRAPHICS_KINDS, own_pids),
        clock_changes=(
            ("CPU", environment.relative_range(cpu_clocks_mhz)),
            *((name, environment.clock_change(readings)) for name, readings in gpus.items()),
        ),
        temperature_changes_c=(
            ("CPU", cpu_temperatures_c[1] - cpu_temperatures_c[0] if len(cpu_temperatures_c) == 2 else None),
            *((name, environment.temperature_change_c(readings)) for name, readings in gpus.items()),
        ),
        check_ratios=(
            *(
                (f"{d['domain']}: {check['method']}", check["ratio"])
                for d in energy["domains"]
                for check in d["checks"]
                if check["ratio"] is not None
            ),
            *_idle_ratios(meters, idle),
        ),
        phase_locking=tuple(_phase_locking(journal, pairs)),
        doubts=(*_doubts(meters, reading, pairs, energy), *_idle_doubts(meters, idle)),
    )


def _quality(seen: gates.Observations, window: Window, thresholds: Mapping[str, Any]) -> dict[str, Any]:
    """The section of the record: flags under the ``thresholds``, and what else tells how good the measurement is."""
    reading = window.reading
    before, after = window.environment
    flags = gates.raised(seen, thresholds)
    return {
        "verdict": "flagged" if flags else "good",
        "flags": [flag.as_dict() for flag in flags],
        "foreign_cores": seen.foreign_cores,
        "own_cores": host.own_core_seconds(*window.cpu) / window.duration_s,
        "sampler_cpu_s": reading.sampler_cpu_s,
        "dispatcher_cpu_s": window.dispatcher_cpu_s,
        "samples": reading.sample_count,
        "late_samples": reading.late_samples,
        "phase_locking": dict(seen.phase_locking),
        "environment": {
            "begin": before | reading.environments[0][1],
            "end": after | reading.environments[-1][1],
            "gpus": {
                name: environment.summary(readings)
                for name, readings in environment.gpu_readings(reading.environments).items()
            },
        },
    }
