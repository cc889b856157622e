"""From what was seen of a measurement, the window, the journal and the meters, to its record with gates applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ipa_energy import gates, host
from ipa_energy.energy import domain_section, energy_section, idle_power
from ipa_energy.job import Job
from ipa_energy.meters import OpenMeters
from ipa_energy.meters.recorder import WindowReading
from ipa_energy.record import SCHEMA_VERSION, Record
from ipa_energy.sections import accuracy_section, cost_section, job_provenance
from ipa_energy.serving.journal import Journal, service_drift, service_figures, throughput_drift


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


def build_record(
    job: Job,
    journal: Journal,
    window: Window,
    idle: Mapping[str, WindowReading | None],
    meters: OpenMeters,
    replica_facts: Mapping[str, Any],
    phases_s: Mapping[str, float],
) -> Record:
    """The whole record of a measurement that ran.

    ``idle`` holds the reading of each idle phase (None where it was left out), ``replica_facts`` what the replicas said
    of themselves, ``phases_s`` the seconds spent in each phase.
    """
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
            "phases_s": dict(phases_s),
        },
        "service": service,
        "accuracy": accuracy_section(job),
        "cost": cost_section(job, service["throughput_rps"]),
        "energy": energy,
        "quality": _quality(job, journal, window, service, energy),
        "provenance": host.provenance()
        | {
            **job_provenance(job),
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
        drift=(
            service_drift(journal, len(service["stages"]), window.begin_s, window.end_s)
            if service["offered_rps"] is not None
            else throughput_drift(journal, window.begin_s, window.end_s)
        ),
        foreign_cores=foreign_cores,
        idle_before_w=energy["idle_resident_w"],
        idle_after_w=energy["idle_after_w"],
        samples=reading.sample_count,
        late_samples=reading.late_samples,
        busiest_utilisation=max(stage["utilisation"] for stage in service["stages"].values()),
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
