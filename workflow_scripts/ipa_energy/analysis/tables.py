"""The measurements table: one row per record, flat and tidy, and the CSV files that carry tables between rules.

Records that :func:`ipa_energy.record.read_records` could read go in, with today's prices; out comes a frame with a row
for each of them, failed and not-run ones too, and a list of the files that were refused, by name. A figure that a
record does not have is null here, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from ipa_energy.analysis.boards import boards_of
from ipa_energy.analysis.rows import ENERGY_TOTALS, LATENCIES, STAGE_FIGURES, Kind, kind_of, row_of
from ipa_energy.configuration import PLATFORM_KNOBS, STAGE_KNOBS, configuration_from_dict
from ipa_energy.files import atomic_path
from ipa_energy.record import Reading, Record

_TEXT = (
    *("experiment", "configuration", "pipeline", "workload", "workload_settings", "repetition", "role", "host"),
    *("gpu_uuid", "weights", "meters", "settings_digest", "protocol_digest", "state", "reason", "start_utc"),
    *("evidence", "verdict", "flags"),
    # of the tables made from this one
    *("path", "energy", "family", "metric", "isotonic_direction", "decision", "decision_reason"),
    *("knob", "level", "reference"),
    *("only_with", "kept", "left_out", "basis", "metrics", "favours"),
    *("term", "error", "choice", "one", "other", "members", "decisions", "same_decision"),
    *("log", "covers", "offset_method", "series", "first_utc", "last_utc", "boundary"),
    *("domain", "in_total"),
    *("input", "scope", "given_by", "baseline", "cost_unit"),
    # of simulated studies
    *("truth", "kind", "binding", "level_joint", "level_tradeoff", "level_decision", "wrong", "right"),
    *("design", "because", "against"),
)
_WHOLE = ("block", "order", "sent", "completed", "dropped", "failed", "cores", "gpus", "tries")
_WHOLE_KNOBS = tuple(knob for knob in STAGE_KNOBS if knob != "variant")
_COUNTS = (
    "n_pairs",
    "n_configurations",
    "n_repetitions_min",
    "n_repetitions_max",
    "resamples",
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
    *("n_feasible", "n_alternatives", "n_references", "n_with_alternative"),
    *("samples", "rows", "missing", "negative", "duplicates", "out_of_order", "records"),
    *("draws", "n_front_without", "n_front_without_lo", "n_front_without_hi", "n_front_with", "n_only_with"),
    *("n_above_threshold", "n_only_with_lo", "n_only_with_hi", "front_without", "front_with", "size"),
    *("n_measurements", "n_studies", "n_lost", "n_gained"),
    *("n_repetitions", "seed", "n_runs", "n_coupled", "n_decoupled", "n_inconclusive", "n_wrong", "n_right"),
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


_KEY = ("experiment", "workload", "configuration", "repetition", "host", "gpu_uuid")
"""Columns in which no two rows are alike."""

_KEY_WORDS = "experiment, workload, configuration, repetition, host and GPU"


def _key(record: Record) -> tuple[str, ...]:
    identity = record["identity"]
    return (
        identity["experiment"],
        identity["workload"],
        identity["configuration_id"],
        identity["repetition"],
        record["provenance"]["host"],
        boards_of(record["provenance"]) or "",
    )


def _contradiction(record: Record) -> str | None:
    named = record["identity"]["configuration_id"]
    made = configuration_from_dict(record["identity"]["configuration"]).id
    return None if named == made else f"configuration_id is {named!r}, but its knobs make {made!r}"


def accept(reading: Reading) -> Reading:
    """Refuse, by name, what is a valid record but must not enter a table.

    That is a record whose id contradicts its knobs, and a second record of the same experiment, workload,
    configuration, repetition, host and GPU: the first in the order of paths stays.
    """
    found = sorted(reading.records, key=lambda item: str(item[0]))
    refused = _refusals(
        [str(path) for path, _ in found],
        [_contradiction(record) for _, record in found],
        [_key(record) for _, record in found],
    )
    good = tuple(item for i, item in enumerate(found) if i not in refused)
    return Reading(good, (*reading.refused, *refused.values()))


def _refusals(
    paths: Sequence[str], contradictions: Sequence[str | None], keys: Iterable[tuple[str, ...]]
) -> dict[int, str]:
    """Which of the records must not enter a table, with the line that says why, in the order of paths."""
    first: dict[tuple[str, ...], str] = {}
    refused: dict[int, str] = {}
    entries = list(zip(paths, contradictions, keys, strict=True))
    for i in sorted(range(len(entries)), key=lambda i: paths[i]):
        path, contradiction, key = entries[i]
        if contradiction is not None:
            refused[i] = f"{path}: {contradiction}"
        elif key in first:
            refused[i] = f"{path}: duplicate of {first[key]} (same {_KEY_WORDS})"
        else:
            first[key] = path
    return refused


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


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of some records on their way to a measurements table.

    ``frame`` has a typed row for each; ``kinds`` and ``contradictions`` (an id that its knobs do not make, in words) go
    with its rows. ``refused`` maps the path of a file left out to a line on it.
    """

    frame: pd.DataFrame
    kinds: tuple[Kind, ...]
    contradictions: tuple[str | None, ...]
    refused: Mapping[str, str]


def part_of(records: Iterable[tuple[str, Record]], prices: Mapping[str, float]) -> Part:
    """Rows of records with their paths; each record can go once its row is made."""
    rows: list[dict[str, Any]] = []
    kinds: list[Kind] = []
    contradictions: list[str | None] = []
    refused: dict[str, str] = {}
    for path, record in records:
        configuration = configuration_from_dict(record["identity"]["configuration"])
        try:
            rows.append(row_of(path, record, configuration, prices))
        except OverflowError as error:
            refused[path] = f"{path}: a number in it is too large for a table ({error})"
            continue
        kinds.append(kind_of(record, configuration))
        contradictions.append(_contradiction(record))
    try:
        return Part(_typed(pd.DataFrame(rows)), tuple(kinds), tuple(contradictions), refused)
    except (OverflowError, TypeError, ValueError):
        faults = [_unfit(row) for row in rows]
    fit = [i for i, fault in enumerate(faults) if fault is None]
    refused |= {row["path"]: f"{row['path']}: {fault}" for row, fault in zip(rows, faults, strict=True) if fault}
    return Part(
        _typed(pd.DataFrame([rows[i] for i in fit])),
        tuple(kinds[i] for i in fit),
        tuple(contradictions[i] for i in fit),
        refused,
    )


def _unfit(row: Mapping[str, Any]) -> str | None:
    """What in a row no table can hold, in words; None when it fits."""
    for name, value in row.items():
        try:
            _typed(pd.DataFrame([{name: value}]))
        except (OverflowError, TypeError, ValueError):
            return f"{name} is {str(value)[:30]}, which is too large a number for a table"
    return None


def measurements_table(reading: Reading, prices: Mapping[str, float]) -> pd.DataFrame:
    """One row per record of ``reading`` that :func:`accept` accepts; see :func:`assembled`.

    Raises ValueError for a record with a whole number that no table can hold.
    """
    part = part_of(((str(path), record) for path, record in reading.records), prices)
    if part.refused:
        raise ValueError("; ".join(part.refused.values()))
    return assembled([part])[0]


def assembled(parts: Sequence[Part]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The measurements table, one row per accepted record in run order per experiment and host, and what was refused.

    Costs are computed from today's prices (``core_hour_usd``, ``gpu_hour_usd``, dollars per core and per GPU hour) and
    not taken from the record. ``pas`` is the product over the stages of accuracy as a fraction, ``pas_rank`` the
    rank-normalised sum of IPA v1 (arXiv:2308.12871v1): the variants of a stage sorted by accuracy score
    r / (|M_s| - 1) with r from 0, a single variant scores 1; ranked among the variants that this table holds, equal
    accuracies sharing their mean rank. The lines on refused files are in the order of ``parts``, then those that
    :func:`accept` tells in the order of paths.
    """
    filled = [part.frame for part in parts if len(part.frame)]
    everything = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=["path", "order", *_KEY])
    kinds = [kind for part in parts for kind in part.kinds]
    keys = list(zip(*(everything[name].fillna("").tolist() for name in _KEY), strict=True))
    contradictions = [words for part in parts for words in part.contradictions]
    refused = _refusals(everything["path"].tolist(), contradictions, keys)
    places = list(zip(*(everything[name].tolist() for name in ("experiment", "host", "order")), keys, strict=True))
    ordered = sorted((i for i in range(len(places)) if i not in refused), key=places.__getitem__)
    found = dict.fromkeys(kinds[i] for i in ordered)
    knobs, stages, domains = (
        tuple(dict.fromkeys(name for kind in found for name in kind[part])) for part in range(len(Kind._fields))
    )
    frame = _typed(everything.iloc[ordered].reindex(columns=_columns(knobs, stages, domains)).reset_index(drop=True))
    frame["pas_rank"] = _rank_normalised(frame, stages)
    return frame, (*(line for part in parts for line in part.refused.values()), *refused.values())


def _columns(knobs: Sequence[str], stages: Sequence[str], domains: Sequence[str]) -> list[str]:
    return [
        *("experiment", "configuration", "pipeline", "workload", "block", "repetition", "role", "order", "path"),
        *("host", "gpu_uuid", "weights", "state", "reason"),
        *knobs,
        *("window_s", "measurement_s", "start_utc"),
        *("sent", "completed", "dropped", "failed", "throughput_rps", "offered_rps"),
        *(f"latency_{name}_s" for name in LATENCIES),
        *(f"{stage}.{figure}" for stage in stages for figure in (*STAGE_FIGURES, "accuracy")),
        *("pas", "pas_rank", "cores", "gpus", "usd_per_hour", "usd_per_1000_requests"),
        *("evidence", "estimated_fraction", "meters"),
        *ENERGY_TOTALS,
        *(f"{domain}.{kind}" for domain in domains for kind in ("gross_j", "net_j")),
        *("verdict", "flags", "foreign_cores", "own_cores", "tries", "workload_settings"),
        *("settings_digest", "protocol_digest"),
    ]


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
            numbers = pd.to_numeric(column).astype("float64")
            columns[name] = numbers.where(np.isfinite(numbers))
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
