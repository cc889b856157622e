"""Records of a made-up study of any size, for benchmarks: the shape and size of real ones, their figures drawn.

Each cell (a host under a workload) holds the same configurations and repetitions. Energy follows latency in part, with
noise between repetitions, so that no statistic is trivial.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ipa_energy.configuration import Configuration, grid
from ipa_energy.record import SCHEMA_VERSION, Record, fault

VARIANTS = {
    "detect": {"ssdlite": (0.213, 0.02), "fasterrcnn": (0.228, 0.03), "ssd": (0.251, 0.2), "retinanet": (0.415, 0.9)},
    "classify": {"resnet18": (0.698, 0.012), "resnet34": (0.733, 0.022), "resnet50": (0.809, 0.026)},
}
"""Variant to accuracy (fraction) and seconds of core time per request."""

LARGEST = (4 * 3) * (6 * 5 * 3) ** 2
"""Configurations of the whole grid."""

IDLE_W, WINDOW_S = 40.0, 30.0
_PLACES = list(itertools.product(("saturated", "steady"), ("host-a", "host-b")))


def configurations(count: int, seed: int = 0) -> list[Configuration]:
    """``count`` configurations, at most :data:`LARGEST`, drawn without replacement from a grid of two stages."""
    knobs = {"batch": (1, 2, 4, 8, 16, 32), "replicas": (1, 2, 3, 4, 6), "threads": (1, 2, 4)}
    stages = {stage: {"variant": tuple(variants)} | knobs for stage, variants in VARIANTS.items()}
    chosen = set(np.random.default_rng(seed).choice(LARGEST, count, replace=False).tolist())
    everything = grid("video", stages, {"device": ("cpu",), "precision": ("fp32",)})
    return [configuration for i, configuration in enumerate(everything) if i in chosen]


def write_study(folder: Path, count: int, repetitions: int = 3, cells: int = 4, seed: int = 0) -> list[str]:
    """Write ``count`` x ``repetitions`` records for each of up to 4 cells; returns their paths, sorted.

    Each file is some 15 kB. The first of a study is validated; all others differ from it in figures alone.
    """
    rng = np.random.default_rng(seed)
    paths = []
    chosen = configurations(count, seed)
    for workload, host in _PLACES[:cells]:
        for order, block, i in _run_order(count, repetitions, rng):
            record = made_up_record(chosen[i], workload, host, block, order, rng)
            if not paths and (problem := fault(record)):
                raise ValueError(f"made-up records break the schema: {problem}")
            path = folder / host / workload / chosen[i].id / f"block{block}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            paths.append(str(path))
    return sorted(paths)


def _run_order(count: int, repetitions: int, rng: np.random.Generator) -> Iterator[tuple[int, int, int]]:
    """Order, block and configuration of each measurement: randomised complete blocks."""
    order = itertools.count()
    for block in range(1, repetitions + 1):
        for i in rng.permutation(count).tolist():
            yield next(order), block, i


def made_up_record(
    configuration: Configuration, workload: str, host: str, block: int, order: int, rng: np.random.Generator
) -> Record:
    """One record that measured two domains."""
    known = {stage.stage: VARIANTS[stage.stage][stage.variant] for stage in configuration.stages}
    service_s = {
        s.stage: known[s.stage][1] * (0.3 + 0.7 * s.batch) / s.threads**0.7 * rng.lognormal(0, 0.03)
        for s in configuration.stages
    }
    latency_s = sum(service_s.values())
    rate = min(s.batch * s.replicas / service_s[s.stage] for s in configuration.stages)
    net_j = float((3 * latency_s**0.5 + 0.2 * configuration.cores) * rng.lognormal(0, 0.05))
    pas = math.prod(accuracy for accuracy, _ in known.values())
    stages = {
        s.stage: {
            "batches": 100,
            "batch_mean": float(s.batch),
            "batch_fill": 1.0,
            "service_mean_s": service_s[s.stage],
            "service_p99_s": 1.1 * service_s[s.stage],
            "queue_mean_s": 0.001,
            "utilisation": 0.9,
            "filled_crops": None,
        }
        for s in configuration.stages
    }
    minute = f"2026-{1 + order // 40320 % 12:02}-{1 + order // 1440 % 28:02}T{order // 60 % 24:02}:{order % 60:02}"
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": {
            "experiment": "benchmark",
            "configuration_id": configuration.id,
            "configuration": configuration.as_dict(),
            "workload": workload,
            "workload_settings": {"kind": workload, "in_flight_per_batch": 2},
            "block": block,
            "repetition": f"block{block}",
            "role": "grid",
            "order": order,
        },
        "status": {"state": "ok", "reason": None},
        "window": {
            "start_utc": f"{minute}:00Z",
            "end_utc": f"{minute}:30Z",
            "start_monotonic_s": 60.0 * order,
            "end_monotonic_s": 60.0 * order + WINDOW_S,
            "duration_s": WINDOW_S,
            "timeline": [
                {"phase": phase, "begin_s": 60.0 * order + i, "end_s": 60.0 * order + i + 1}
                for i, phase in enumerate(("idle_bare", "load", "idle_resident", "warm_up", "settle", "window"))
            ],
        },
        "service": {
            "sent": 1000,
            "completed": 1000,
            "dropped": 0,
            "failed": 0,
            "throughput_rps": rate,
            "offered_rps": None,
            "in_flight_mean": 2.0,
            "latency": {
                name: share * latency_s
                for name, share in zip(
                    ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s", "max_s"), (0.8, 0.78, 0.9, 0.95, 1, 1.1), strict=True
                )
            },
            "stages": stages,
        },
        "accuracy": {
            "pas": pas,
            "method": "published",
            "stages": {
                stage: {"metric": "published", "value": accuracy, "source": "made up"}
                for stage, (accuracy, _) in known.items()
            },
        },
        "cost": {"cores": configuration.cores, "gpus": 0, "usd_per_hour": 0.1, "usd_per_1000_requests": 0.01},
        "energy": _energy(net_j, 1000),
        "quality": {
            "verdict": "good",
            "flags": [],
            "foreign_cores": 0.01,
            "own_cores": 1.5,
            "sampler_cpu_s": 0.05,
            "dispatcher_cpu_s": 0.3,
            "samples": 300,
            "late_samples": 0,
            "phase_locking": {},
            "environment": {
                end: {
                    f"zone{i}": {"temperature_c": 50.5 + i, "clock_mhz": 2800.0, "throttled": 0, "processes": [17, 18]}
                    for i in range(24)
                }
                for end in ("begin", "end")
            },
        },
        "provenance": {
            "host": host,
            "weights": {"weights": "random", "seed": 0, "reason": "made up"},
            "protocol_digest": "0" * 12,
            "settings": {
                "crops_per_frame": 1,
                "max_wait_s": 0.05,
                "seed": 1,
                "gates": {f"gate{i}": i / 10 for i in range(20)},
            },
            "frames": {"count": 8, "sha256": "f" * 64},
            "packages": {f"package{i}": f"1.{i}.0" for i in range(40)},
        },
        "earlier_tries": [],
    }


def _energy(net_j_per_request: float, completed: int) -> dict[str, Any]:
    net_j = net_j_per_request * completed
    gross_j = net_j + IDLE_W * WINDOW_S
    total = {
        "gross_j": gross_j,
        "net_j": net_j,
        "mean_w": gross_j / WINDOW_S,
        **dict.fromkeys(("idle_bare_w", "idle_resident_w", "idle_after_w", "idle_bare_after_w"), IDLE_W),
        "uncertainty_j": 0.02 * gross_j,
        "net_uncertainty_j": 0.02 * gross_j,
    }
    parts = ("gain", "offset", "edges", "sampling")
    domains = [
        {name: 0.5 * value for name, value in total.items()}
        | {
            "domain": domain,
            "meter": "rapl",
            "covers": domain.partition("_")[0],
            "method": "made up",
            "evidence": "measured",
            "window_s": WINDOW_S,
            "period_s": 0.001,
            "uncertainty_parts_j": dict.fromkeys(parts, 0.01 * gross_j),
            "net_uncertainty_parts_j": dict.fromkeys(parts, 0.01 * gross_j),
            "checks": [{"method": "perf", "gross_j": 0.5 * gross_j, "ratio": 1.0, "reason": None}],
            "boundary": "CPU package",
            "reason": None,
        }
        for domain in ("cpu_package_0", "dram_0")
    ]
    return total | {
        "evidence": "measured",
        "estimated_fraction": 0.0,
        "gross_j_per_request": gross_j / completed,
        "net_j_per_request": net_j_per_request,
        "boundary": "CPU package and memory",
        "domains": domains,
        "unavailable": [{"meter": "nvml", "reason": "no GPU"}],
        "reason": None,
    }
