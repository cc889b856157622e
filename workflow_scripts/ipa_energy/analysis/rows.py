"""A record as the row of a table: its figures under the names of their columns, flat.

One valid record goes in, with today's prices; a dict comes out, and what kind of record it is, from which the columns
of a table follow. A figure that the record does not have is missing or None, never 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from ipa_energy import cost
from ipa_energy.analysis.boards import boards_of
from ipa_energy.analysis.comparable import meters_of, settings_digest
from ipa_energy.configuration import Configuration
from ipa_energy.record import Record

UNKNOWN_WEIGHTS = "unknown"
"""Weights of a record that doesn't say, so that no grouping loses its row."""

LATENCIES = ("mean", "p50", "p90", "p95", "p99", "max")
STAGE_FIGURES = ("service_mean_s", "queue_mean_s", "batch_mean", "batch_fill", "utilisation")
ENERGY_TOTALS = (
    "gross_j",
    "net_j",
    "gross_j_per_request",
    "net_j_per_request",
    "mean_w",
    "idle_bare_w",
    "idle_resident_w",
    "idle_after_w",
    "idle_bare_after_w",
    "uncertainty_j",
    "net_uncertainty_j",
)


class Kind(NamedTuple):
    """What a record brings to the columns of a table: its knobs, its stages, the domains of its energy."""

    knobs: tuple[str, ...]
    stages: tuple[str, ...]
    domains: tuple[str, ...]


@lru_cache(maxsize=1024)
def _one_kind(*parts: tuple[str, ...]) -> Kind:
    """Equal kinds as the same object, which a row of a table can refer to at no cost."""
    return Kind(*parts)


def kind_of(record: Record, configuration: Configuration) -> Kind:
    """The kind of a record, the same object for all of that kind."""
    domains = tuple(domain["domain"] for domain in (record["energy"] or {}).get("domains", []))
    return _one_kind(tuple(configuration.knobs()), tuple(stage.stage for stage in configuration.stages), domains)


def row_of(path: str, record: Record, configuration: Configuration, prices: Mapping[str, float]) -> dict[str, Any]:
    """The row of one record, whose configuration is ``configuration``; ``path`` is where it lies."""
    identity, status, provenance = record["identity"], record["status"], record["provenance"]
    row: dict[str, Any] = {
        "configuration": identity["configuration_id"],
        "pipeline": configuration.pipeline,
        "path": path,
        "host": provenance["host"],
        "gpu_uuid": boards_of(provenance),
        "weights": (provenance["weights"] or {}).get("weights") or UNKNOWN_WEIGHTS,
        "state": status["state"],
        "reason": status["reason"],
        "cores": configuration.cores,
        "gpus": configuration.gpus,
        "usd_per_hour": cost.usd_per_hour(configuration.cores, configuration.gpus, prices),
        "tries": 1 + len(record["earlier_tries"]),
        "workload_settings": json.dumps(identity["workload_settings"], sort_keys=True),
        "settings_digest": settings_digest(record),
        "protocol_digest": provenance["protocol_digest"],
    }
    row |= {name: identity[name] for name in ("experiment", "workload", "block", "repetition", "role", "order")}
    row |= configuration.knobs()
    return (
        row | _window_and_service(record, row["usd_per_hour"]) | _accuracy(record) | _energy(record) | _quality(record)
    )


def _window_and_service(record: Record, hourly_usd: float) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if (window := record["window"]) is not None:
        row = {"window_s": window["duration_s"], "measurement_s": _whole_s(record), "start_utc": window["start_utc"]}
    service = record["service"]
    if service is None:
        return row
    row |= {name: service[name] for name in ("sent", "completed", "dropped", "failed", "throughput_rps", "offered_rps")}
    row |= {f"latency_{name}_s": service["latency"][f"{name}_s"] for name in LATENCIES}
    row |= {
        f"{stage}.{figure}": figures[figure] for stage, figures in service["stages"].items() for figure in STAGE_FIGURES
    }
    row["usd_per_1000_requests"] = cost.usd_per_1000_requests(hourly_usd, service["throughput_rps"])
    return row


def _whole_s(record: Record) -> float | None:
    """From the begin of the first phase to the end of the last (s), the tries before added; None without phases."""
    took = 0.0
    for one in (record, *record["earlier_tries"]):
        phases = (one["window"] or {}).get("timeline")
        if phases:
            took += phases[-1]["end_s"] - phases[0]["begin_s"]
    return took or None


def _accuracy(record: Record) -> dict[str, Any]:
    accuracy = record["accuracy"]
    if accuracy is None:
        return {}
    return {f"{stage}.accuracy": entry["value"] for stage, entry in accuracy["stages"].items()} | {
        "pas": accuracy["pas"]
    }


def _energy(record: Record) -> dict[str, Any]:
    energy = record["energy"]
    if energy is None:
        return {}
    row = {name: energy[name] for name in ("evidence", "estimated_fraction", *ENERGY_TOTALS)}
    row["meters"] = meters_of(energy["domains"])
    for domain in energy["domains"]:
        row |= {f"{domain['domain']}.{kind}": domain[kind] for kind in ("gross_j", "net_j")}
    return row


def _quality(record: Record) -> dict[str, Any]:
    quality = record["quality"]
    if quality is None:
        return {}
    flags = ";".join(dict.fromkeys(flag["flag"] for flag in quality["flags"]))
    return {
        "verdict": quality["verdict"],
        "flags": flags or None,
        "foreign_cores": quality["foreign_cores"],
        "own_cores": quality["own_cores"],
    }
