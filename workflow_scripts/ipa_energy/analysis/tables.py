"""The measurements table: one row per record, flat and tidy, and the CSV files that carry tables between rules.

Records that :func:`ipa_energy.record.read_records` could read go in, with today's prices; out comes a frame with a row
for each of them, failed and not-run ones too, and a list of the files that were refused, by name. A figure that a
record does not have is null here, never 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import rankdata

from ipa_energy import cost
from ipa_energy.analysis.comparable import meters_of, settings_digest
from ipa_energy.configuration import PLATFORM_KNOBS, STAGE_KNOBS, configuration_from_dict
from ipa_energy.files import atomic_path
from ipa_energy.record import Reading, Record, finite

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

_TEXT = (
    *("experiment", "configuration", "pipeline", "workload", "workload_settings", "repetition", "role", "host"),
    *("weights", "meters", "settings_digest", "protocol_digest", "state", "reason", "start_utc", "evidence"),
    *("verdict", "flags"),
    # of the tables made from this one
    *("path", "energy", "family", "metric", "isotonic_direction", "decision", "decision_reason"),
    *("knob", "level", "reference"),
    *("term", "error", "choice", "one", "other", "members", "decisions", "same_decision"),
    *("log", "covers", "offset_method", "series", "first_utc", "last_utc", "boundary"),
    *("domain", "in_total"),
    *("input", "scope", "given_by", "baseline", "cost_unit"),
)
_WHOLE = ("block", "order", "sent", "completed", "dropped", "failed", "cores", "gpus", "tries")
_WHOLE_KNOBS = tuple(knob for knob in STAGE_KNOBS if knob != "variant")
_COUNTS = (
    "n_pairs",
    "n_configurations",
    "n_repetitions_min",
    "n_repetitions_max",
    "n",
    "n_recorded",
    "n_flagged",
    "n_dropped",
    "n_other_settings",
    "n_failed",
    "n_not_run",
    "n_gross",
    "n_net",
    *("df", "error_df", "n_possible", "n_members"),
    *("n_feasible", "n_alternatives", "n_references"),
    *("samples", "rows", "missing", "negative", "duplicates", "out_of_order", "records"),
)


def is_knob(column: str) -> bool:
    """Whether a column of these tables holds the values of a knob."""
    return column in PLATFORM_KNOBS or column.rpartition(".")[2] in STAGE_KNOBS


def knob_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of ``frame`` that hold knobs, in its order."""
    return [str(column) for column in frame.columns if is_knob(str(column))]


def varying_knobs(frame: pd.DataFrame) -> list[str]:
    """The knobs that have more than one value in ``frame``."""
    return [column for column in knob_columns(frame) if frame[column].nunique() > 1]


def _is_whole(column: str) -> bool:
    return column in _WHOLE or column in _COUNTS or column.rpartition(".")[2] in _WHOLE_KNOBS


def _is_text(column: str) -> bool:
    return column in _TEXT or (is_knob(column) and not _is_whole(column))


def _key(record: Record) -> tuple[str, ...]:
    identity = record["identity"]
    return (
        identity["experiment"],
        identity["workload"],
        identity["configuration_id"],
        identity["repetition"],
        record["provenance"]["host"],
    )


def accept(reading: Reading) -> Reading:
    """Refuse, by name, what is a valid record but must not enter a table.

    That is a record whose id contradicts its knobs, and a second record of the same experiment, workload,
    configuration, repetition and host: the first in the order of paths stays.
    """
    first: dict[tuple[str, ...], Path] = {}
    good: list[tuple[Path, Record]] = []
    refused = list(reading.refused)
    for path, record in sorted(reading.records, key=lambda item: str(item[0])):
        named = record["identity"]["configuration_id"]
        made = configuration_from_dict(record["identity"]["configuration"]).id
        if named != made:
            refused.append(f"{path}: configuration_id is {named!r}, but its knobs make {made!r}")
        elif _key(record) in first:
            refused.append(f"{path}: duplicate of {first[_key(record)]} (same {_KEY_WORDS})")
        else:
            first[_key(record)] = path
            good.append((path, record))
    return Reading(tuple(good), tuple(refused))


_KEY_WORDS = "experiment, workload, configuration, repetition and host"


def refused_table(paths: Iterable[str | Path], reading: Reading) -> pd.DataFrame:
    """The refused files: columns ``path`` and ``reason``; empty when all of ``paths`` could be used."""
    known = {str(path) for path in paths}
    return pd.DataFrame([_split(line, known) for line in reading.refused], columns=["path", "reason"], dtype="str")


def _split(line: str, known: set[str]) -> tuple[str, str]:
    """Path and reason of a refusal; a path may hold ': ' itself."""
    at = line.find(": ")
    while at >= 0:
        if line[:at] in known:
            return line[:at], line[at + 2 :]
        at = line.find(": ", at + 1)
    return "", line


def measurements_table(reading: Reading, prices: Mapping[str, float]) -> pd.DataFrame:
    """One row per record of ``reading``, in run order per experiment and host.

    ``prices`` are dollars per core and per GPU hour (``core_hour_usd``, ``gpu_hour_usd``); costs are computed from them
    and not taken from the record. ``pas`` is the product over the stages of accuracy as a fraction, ``pas_rank`` the
    rank-normalised sum of IPA v1 (arXiv:2308.12871v1): the variants of a stage sorted by accuracy score
    r / (|M_s| - 1) with r from 0, a single variant scores 1; ranked among the variants that this table holds, equal
    accuracies sharing their mean rank.
    """
    records = [record for _, record in accept(reading).records]
    records.sort(key=lambda r: (r["identity"]["experiment"], r["provenance"]["host"], r["identity"]["order"], _key(r)))
    knobs: dict[str, None] = {}
    stages: dict[str, None] = {}
    domains: dict[str, None] = {}
    for record in records:
        configuration = configuration_from_dict(record["identity"]["configuration"])
        knobs |= dict.fromkeys(configuration.knobs())
        stages |= dict.fromkeys(stage.stage for stage in configuration.stages)
        domains |= dict.fromkeys(domain["domain"] for domain in (record["energy"] or {}).get("domains", []))
    per_stage = [f"{stage}.{figure}" for stage in stages for figure in (*STAGE_FIGURES, "accuracy")]
    per_domain = [f"{domain}.{kind}" for domain in domains for kind in ("gross_j", "net_j")]
    columns = [
        *("experiment", "configuration", "pipeline", "workload", "block", "repetition", "role", "order", "host"),
        *("weights", "state", "reason"),
        *knobs,
        *("window_s", "start_utc", "sent", "completed", "dropped", "failed", "throughput_rps", "offered_rps"),
        *(f"latency_{name}_s" for name in LATENCIES),
        *per_stage,
        *("pas", "pas_rank", "cores", "gpus", "usd_per_hour", "usd_per_1000_requests"),
        *("evidence", "estimated_fraction", "meters"),
        *ENERGY_TOTALS,
        *per_domain,
        *("verdict", "flags", "foreign_cores", "own_cores", "tries", "workload_settings"),
        *("settings_digest", "protocol_digest"),
    ]
    frame = pd.DataFrame([_row(record, prices) for record in records], columns=columns)
    frame["pas_rank"] = _rank_normalised(frame, list(stages))
    return _typed(frame)


def _row(record: Record, prices: Mapping[str, float]) -> dict[str, Any]:
    identity, status, provenance = record["identity"], record["status"], record["provenance"]
    configuration = configuration_from_dict(identity["configuration"])
    row: dict[str, Any] = {
        "configuration": identity["configuration_id"],
        "pipeline": configuration.pipeline,
        "host": provenance["host"],
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
    if record["window"] is not None:
        row = {"window_s": record["window"]["duration_s"], "start_utc": record["window"]["start_utc"]}
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


def _rank_normalised(frame: pd.DataFrame, stages: Sequence[str]) -> pd.Series:
    """Sum over a pipeline's stages of r / (|M_s| - 1); null where the accuracy of one of its variants is unknown."""
    total = pd.Series(0.0, index=frame.index)
    for stage in stages:
        variant = frame[f"{stage}.variant"]
        accuracy = pd.to_numeric(frame[f"{stage}.accuracy"]).groupby(variant).mean().dropna()
        size = len(accuracy)
        ranks = (rankdata(accuracy) - 1) / (size - 1) if size > 1 else [1.0] * size
        scores = variant.map(dict(zip(accuracy.index, ranks, strict=True)))
        # A record of another pipeline does not have this stage: it adds nothing there.
        total = total + pd.to_numeric(scores).mask(variant.isna(), 0.0)
    return total


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Text, whole numbers and floats by the name of the column, whatever happens to be null."""
    columns: dict[str, pd.Series] = {}
    for name in frame.columns:
        column = frame[name]
        if _is_text(name):
            columns[name] = column.astype("str")
        elif _is_whole(name):
            columns[name] = pd.to_numeric(column).astype("Int64")
        elif column.dtype == object or not pd.api.types.is_string_dtype(column):
            # A number too large for a float reads as infinite: not a figure.
            columns[name] = pd.to_numeric(column).astype("float64").map(finite).astype("float64")
        else:
            columns[name] = column
    return pd.DataFrame(columns, index=frame.index)


def write_csv(path: str | Path, frame: pd.DataFrame) -> None:
    """Write a table atomically; floats in full precision, null as an empty field."""
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")


def read_csv(path: str | Path) -> pd.DataFrame:
    """Read a table that :func:`write_csv` wrote, digit by digit.

    Only an empty field is null, and the type of a column follows from its name: a workload may be called NA or 7.
    """
    frame = pd.read_csv(path, dtype="str", keep_default_na=False, na_values=[""])
    kinds = {name: "str" if _is_text(name) else "Int64" if _is_whole(name) else "float64" for name in frame.columns}
    return frame.astype(kinds)
