"""Valid records of a made-up pipeline whose true coupling is known: for tests of everything that reads records.

``synthetic_study`` gives records of a full factorial grid. The service model is simple and physical in outline: work
per request grows with the variant, batches amortise part of it, latency is the time of a batch through both stages,
cost follows from the throughput. What energy has to do with that is the ``truth``:

- ``coupled``: energy is a monotone function of p99 latency, and of nothing else;
- ``independent``: energy is drawn for each configuration, whatever its other metrics are;
- ``noise``: energy is the same for all configurations, and only replicate noise makes it differ.

Every truth has replicate noise of relative size ``noise`` on energy and latency.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from ipa_energy import cost
from ipa_energy.configuration import Configuration, StageKnobs, grid
from ipa_energy.energy import evidence_of
from ipa_energy.plan import ANCHOR_FIRST, ANCHOR_LAST, GRID, make_plan
from ipa_energy.record import SCHEMA_VERSION, Record, write_record

Truth = Literal["coupled", "independent", "noise"]

DETECTORS = {
    "ssdlite320_mobilenet_v3_large": (0.213, 0.020),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (0.228, 0.031),
    "ssd300_vgg16": (0.251, 0.210),
    "retinanet_resnet50_fpn_v2": (0.415, 0.900),
}
CLASSIFIERS = {
    "resnet18": (0.69758, 0.012),
    "resnet34": (0.73314, 0.022),
    "resnet50": (0.80858, 0.026),
}
"""Variant to published accuracy (fraction) and seconds of core time per request."""

PRICES = {"core_hour_usd": 0.04, "gpu_hour_usd": 2.5}
IDLE_W = 10.0

MEASURING_SETTINGS = {"crops_per_frame": 4, "max_wait_s": 0.05, "seed": 1, "gates": {"foreign_cores": 0.25}}

RAPL = ("cpu_package_0", "rapl", "measured")
NVML = ("gpu_0", "nvml", "measured")
ESTIMATE = ("cpu", "estimate", "estimated")
DOMAINS = {"measured": [RAPL], "estimated": [ESTIMATE], "mixed": [ESTIMATE, NVML], "none": []}


def video_grid(
    detectors: Sequence[str] = tuple(DETECTORS)[:3],
    classifiers: Sequence[str] = tuple(CLASSIFIERS),
    batches: Sequence[int] = (1, 4),
    replicas: Sequence[int] = (1,),
    devices: Sequence[str] = ("cpu",),
) -> list[Configuration]:
    """A grid of detect -> classify: 3 x 3 x 2 x 2 = 36 configurations by default."""
    knobs = {"batch": batches, "replicas": replicas, "threads": (1,)}
    stages = {"detect": {"variant": detectors} | knobs, "classify": {"variant": classifiers} | knobs}
    return list(grid("video", stages, {"device": devices, "precision": ("fp32",)}))


def _service_s(stage: StageKnobs) -> float:
    """Seconds that a replica needs for one full batch."""
    work_s = (DETECTORS | CLASSIFIERS)[stage.variant][1]
    return work_s * (0.3 + 0.7 * stage.batch)


def true_latency_s(configuration: Configuration) -> float:
    """Time of a batch through all stages."""
    return sum(_service_s(stage) for stage in configuration.stages)


def true_throughput_rps(configuration: Configuration) -> float:
    """Requests per second of the slowest stage."""
    return min(stage.batch * stage.replicas / _service_s(stage) for stage in configuration.stages)


def true_energy_j(configuration: Configuration, truth: Truth, seed: int = 0) -> float:
    """Net joules per request."""
    match truth:
        case "coupled":
            return float(3.0 * true_latency_s(configuration) ** 0.8)
        case "independent":
            return math.exp(random.Random(f"{seed}:{configuration.id}").gauss(0, 0.6))
        case "noise":
            return 2.0


def make_record(
    configuration: Configuration,
    *,
    latency_s: float,
    net_j_per_request: float | None,
    throughput_rps: float | None = None,
    experiment: str = "synthetic",
    workload: str = "saturated",
    block: int = 1,
    role: str = GRID,
    order: int = 0,
    host: str = "host-a",
    state: str = "ok",
    reason: str | None = None,
    flags: Iterable[str] = (),
    evidence: str = "measured",
    weights: str | None = "random",
    window_s: float = 30.0,
    domains: Sequence[tuple[str, str, str]] | None = None,
    settings: dict[str, Any] | None = None,
    frames_sha256: str = "f" * 64,
) -> Record:
    """One valid record. Without ``net_j_per_request`` there is no idle baseline, so net energy is null.

    ``domains`` are (domain, meter, evidence) of the parts that share the energy; by default what fits
    ``evidence``, which else follows from them; () is a measurement without any meter. ``settings`` are those of
    measuring, by default :data:`MEASURING_SETTINGS`.
    """
    if domains is not None:
        evidence = evidence_of([{"evidence": kind} for _, _, kind in domains])
    repetition = f"block{block}" if role == GRID else f"block{block}-{role}"
    rate = true_throughput_rps(configuration) if throughput_rps is None else throughput_rps
    hourly_usd = cost.usd_per_hour(configuration.cores, configuration.gpus, PRICES)
    record: Record = {
        "schema_version": SCHEMA_VERSION,
        "identity": {
            "experiment": experiment,
            "configuration_id": configuration.id,
            "configuration": configuration.as_dict(),
            "workload": workload,
            "workload_settings": {"kind": "saturated", "in_flight_per_batch": 2},
            "block": block,
            "repetition": repetition,
            "role": role,
            "order": order,
        },
        "status": {"state": state, "reason": reason or (None if state == "ok" else f"synthetic {state}")},
        "window": None,
        "service": None,
        "accuracy": None,
        "cost": {
            "cores": configuration.cores,
            "gpus": configuration.gpus,
            "usd_per_hour": hourly_usd,
            "usd_per_1000_requests": None,
        },
        "energy": None,
        "quality": None,
        "provenance": {
            "host": host,
            "weights": None if weights is None else {"weights": weights, "seed": 0, "reason": "synthetic"},
            "protocol_digest": "0" * 64,
            "settings": MEASURING_SETTINGS if settings is None else settings,
            "frames": {"count": 8, "sha256": frames_sha256},
        },
        "earlier_tries": [],
    }
    if state == "ok":
        record["cost"]["usd_per_1000_requests"] = cost.usd_per_1000_requests(hourly_usd, rate)
        record |= _figures(
            configuration,
            latency_s=latency_s,
            net_j_per_request=net_j_per_request,
            rate=rate,
            window_s=window_s,
            order=order,
            evidence=evidence,
            flags=list(flags),
            domains=DOMAINS[evidence] if domains is None else domains,
        )
    return record


def _figures(
    configuration: Configuration,
    *,
    latency_s: float,
    net_j_per_request: float | None,
    rate: float,
    window_s: float,
    order: int,
    evidence: str,
    flags: list[str],
    domains: Sequence[tuple[str, str, str]],
) -> dict[str, Any]:
    completed = max(1, round(rate * window_s))
    net_j = None if net_j_per_request is None else net_j_per_request * completed
    gross_j = (net_j or 0.0) + IDLE_W * window_s
    idle_w = None if net_j is None else IDLE_W
    begin_s = 1000.0 + order * 60.0
    energy: dict[str, float | None] = {
        "gross_j": gross_j,
        "net_j": net_j,
        "mean_w": gross_j / window_s,
        "idle_bare_w": idle_w,
        "idle_resident_w": idle_w,
        "idle_after_w": idle_w,
        "idle_bare_after_w": idle_w,
        "uncertainty_j": 0.02 * gross_j,
        "net_uncertainty_j": None if net_j is None else 0.02 * gross_j,
    }
    part = {name: None if value is None else value / len(domains) for name, value in energy.items() if domains}
    if not domains:
        energy = dict.fromkeys(energy)
        net_j_per_request = None
    accuracies = {stage.stage: (DETECTORS | CLASSIFIERS)[stage.variant][0] for stage in configuration.stages}
    return {
        "window": {
            "start_utc": f"2026-01-{1 + order // 1440 % 28:02}T{order // 60 % 24:02}:{order % 60:02}:00Z",
            "end_utc": f"2026-01-{1 + order // 1440 % 28:02}T{order // 60 % 24:02}:{order % 60:02}:30Z",
            "start_monotonic_s": begin_s,
            "end_monotonic_s": begin_s + window_s,
            "duration_s": window_s,
            "timeline": [
                {"phase": "idle_bare", "begin_s": begin_s - 13.0, "end_s": begin_s - 8.0},
                {"phase": "warm_up", "begin_s": begin_s - 8.0, "end_s": begin_s},
                {"phase": "window", "begin_s": begin_s, "end_s": begin_s + window_s},
            ],
        },
        "service": {
            "sent": completed,
            "completed": completed,
            "dropped": 0,
            "failed": 0,
            "throughput_rps": rate,
            "offered_rps": None,
            "in_flight_mean": 2.0,
            "latency": {
                "mean_s": latency_s * 0.8,
                "p50_s": latency_s * 0.78,
                "p90_s": latency_s * 0.9,
                "p95_s": latency_s * 0.95,
                "p99_s": latency_s,
                "max_s": latency_s * 1.1,
            },
            "stages": {
                stage.stage: {
                    "batches": completed // stage.batch,
                    "batch_mean": float(stage.batch),
                    "batch_fill": 1.0,
                    "service_mean_s": _service_s(stage),
                    "service_p99_s": _service_s(stage) * 1.1,
                    "queue_mean_s": 0.001,
                    "utilisation": 0.9,
                    "filled_crops": 0 if stage.stage == "detect" else None,
                }
                for stage in configuration.stages
            },
        },
        "accuracy": {
            "pas": math.prod(accuracies.values()),
            "method": "published",
            "stages": {
                name: {"metric": "published", "value": value, "source": "synthetic"}
                for name, value in accuracies.items()
            },
        },
        "energy": energy
        | {
            "evidence": evidence,
            "estimated_fraction": {"estimated": 1.0, "mixed": 0.5, "measured": 0.0}.get(evidence),
            "gross_j_per_request": gross_j / completed if domains else None,
            "net_j_per_request": net_j_per_request,
            "boundary": "CPU package",
            "domains": [
                part
                | {
                    "domain": domain,
                    "meter": meter,
                    "covers": domain.partition("_")[0],
                    "method": "made up",
                    "evidence": kind,
                    "window_s": window_s,
                    "period_s": 0.001,
                    "uncertainty_parts_j": {},
                    "net_uncertainty_parts_j": {},
                    "checks": [],
                    "boundary": "CPU package",
                    "reason": None if net_j is not None else "no idle baseline",
                }
                for domain, meter, kind in domains
            ],
            "unavailable": [],
            "reason": None if net_j is not None else "no idle baseline",
        },
        "quality": {
            "verdict": "flagged" if flags else "good",
            "flags": [{"flag": flag, "value": 1.0, "threshold": 0.5, "meaning": "synthetic"} for flag in flags],
            "foreign_cores": 0.01,
            "own_cores": 1.5,
            "sampler_cpu_s": 0.05,
            "dispatcher_cpu_s": 0.3,
            "samples": 300,
            "late_samples": 0,
            "phase_locking": {},
            "environment": {},
        },
    }


def synthetic_study(
    truth: Truth,
    configurations: Sequence[Configuration] | None = None,
    *,
    blocks: int = 3,
    noise: float = 0.03,
    seed: int = 0,
    anchor: bool = False,
    workloads: Sequence[str] = ("saturated",),
    **settings: Any,
) -> list[Record]:
    """All records of a study, in run order. ``settings`` go to :func:`make_record` (host, evidence, weights, ...).

    For ``noise``, net *and* gross energy per request are constant but for noise: throughput is the same everywhere.
    """
    grid_ = video_grid() if configurations is None else list(configurations)
    records = []
    for m in make_plan(grid_, dict.fromkeys(workloads), blocks, seed, grid_[0] if anchor else None):
        rng = random.Random(f"{seed}:{m.key}:{settings.get('host', '')}")
        latency_s = true_latency_s(m.configuration) * rng.lognormvariate(0, noise)
        energy_j = true_energy_j(m.configuration, truth, seed) * rng.lognormvariate(0, noise)
        records.append(
            make_record(
                m.configuration,
                latency_s=latency_s,
                net_j_per_request=energy_j,
                throughput_rps=5.0 if truth == "noise" else None,
                workload=m.workload,
                block=m.block,
                role=m.role,
                order=m.order,
                **settings,
            )
        )
    return records


def write_study(folder: Path, records: Iterable[Record]) -> list[Path]:
    """Write records in the layout of ``results/{experiment}/records``, validated; returns their paths."""
    paths = []
    for record in records:
        identity = record["identity"]
        path = (
            folder
            / record["provenance"]["host"]
            / identity["workload"]
            / identity["configuration_id"]
            / f"{identity['repetition']}.json"
        )
        write_record(path, record)
        paths.append(path)
    return paths


def write_damaged(folder: Path, good: Record) -> list[Path]:
    """Files that are no records of this release: cut off, of another schema version, and not an object at all."""
    text = json.dumps(good)
    files = {
        "cut.json": text[: len(text) // 2],
        "alien.json": json.dumps(good | {"schema_version": 99}),
        "list.json": "[1, 2, 3]",
        "nan.json": text.replace('"duration_s": 30.0', '"duration_s": NaN'),
        "empty.json": "",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return sorted(folder / name for name in files)


__all__ = [
    "ANCHOR_FIRST",
    "ANCHOR_LAST",
    "ESTIMATE",
    "MEASURING_SETTINGS",
    "NVML",
    "PRICES",
    "RAPL",
    "make_record",
    "synthetic_study",
    "true_energy_j",
    "true_latency_s",
    "video_grid",
    "write_damaged",
    "write_study",
]
