"""The file of one profiled variant: a record per allocation and batch size, with what a profile needs besides.

``results/{experiment}/profile/{stage}.{variant}.json`` holds ``schema_version``, ``stage``, ``variant``, ``entries``.
An entry is ``record`` (a whole record, :mod:`.record`, whose configuration is the one stage), ``service_s`` (the
distribution of the time of a full batch) and ``memory`` (bytes of the replica); these two are None without figures.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ipa_energy import record
from ipa_energy.files import write_text

SCHEMA_VERSION = 1
DISTRIBUTION = ("n", "mean_s", "std_s", "min_s", "p50_s", "p90_s", "p95_s", "p99_s", "max_s")
MEMORY = ("rss_bytes", "uss_bytes", "gpu_bytes")


class ProfileFileError(ValueError):
    """A file is no profile of a variant. The text names the file and what is wrong."""


@dataclass(frozen=True)
class Entry:
    """One allocation and batch size: its record, the distribution of its batches' times, and the replica's memory."""

    record: record.Record
    service_s: dict[str, float] | None
    memory: dict[str, int | None] | None


def distribution(seconds: Sequence[float]) -> dict[str, float] | None:
    """The figures :data:`DISTRIBUTION` of times in s; None of none. ``std_s`` is 0 for a single one."""
    if not seconds:
        return None
    values = np.asarray(seconds, dtype=float)
    p50, p90, p95, p99 = np.percentile(values, [50, 90, 95, 99])
    figures = (
        len(values),
        values.mean(),
        values.std(ddof=1) if len(values) > 1 else 0.0,
        values.min(),
        *(p50, p90, p95, p99),
        values.max(),
    )
    return {name: float(value) for name, value in zip(DISTRIBUTION, figures, strict=True)}


def write_profile_file(path: str | Path, stage: str, variant: str, entries: Iterable[Mapping[str, Any]]) -> None:
    """Validate every record and write the file atomically. Raises RecordError, and OSError when it can't be written."""
    listed = list(entries)
    content = {"schema_version": SCHEMA_VERSION, "stage": stage, "variant": variant, "entries": listed}
    for entry in listed:
        problem = record.fault(entry["record"])
        if problem:
            raise record.RecordError(f"refusing to write {path}: {problem}")
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_profile_file(path: str | Path) -> tuple[Entry, ...]:
    """Read one file. Raises ProfileFileError naming it and the fault."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {content['schema_version']!r}; this release reads {SCHEMA_VERSION}")
        entries = tuple(Entry(e["record"], e["service_s"], e["memory"]) for e in content["entries"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProfileFileError(f"{path} is no profile of a variant ({error}): profile it again") from error
    for entry in entries:
        problem = record.fault(entry.record)
        if problem:
            raise ProfileFileError(f"{path}: {problem}")
    return entries
