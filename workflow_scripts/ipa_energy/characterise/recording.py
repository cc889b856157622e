"""A recording: every poll of every channel in every phase, and what the load did. Written to disk before it is judged.

A folder holds ``samples.parquet`` (one row a poll: ``channel``, ``asked_us``, ``answered_us`` on the monotonic clock
since the recording's begin, ``value`` in mJ or mW as NVML gave it), ``load.parquet`` (one row a change of level:
``time_us``, ``level``) and ``recording.json`` (phases, channels, GPU, host, load, settings).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ipa_energy.characterise.load_log import LoadLog
from ipa_energy.characterise.updates import Readings
from ipa_energy.files import atomic_path, write_text

SAMPLES, LOAD, FACTS = "samples.parquet", "load.parquet", "recording.json"


@dataclass(frozen=True)
class Phase:
    """A stretch of the recording (s since its begin), and how often the channels were polled in it."""

    name: str
    begin_s: float
    end_s: float
    poll_s: float


@dataclass(frozen=True)
class Recording:
    """All that was recorded. ``facts`` is JSON-ready; ``log`` is None where the load never played."""

    readings: dict[str, Readings]
    phases: tuple[Phase, ...]
    log: LoadLog
    facts: dict[str, Any]

    def phase(self, name: str) -> Phase:
        """The phase of that name. Raises KeyError."""
        return next((p for p in self.phases if p.name == name), None) or _missing(name)


def _missing(name: str) -> Phase:
    raise KeyError(f"the recording has no phase {name!r}")


def write_recording(folder: Path, recording: Recording) -> None:
    """Write the three files, each atomically; ``recording.json`` last, so that it stands for all."""
    import pyarrow as pa  # noqa: PLC0415  # not beside the polls
    import pyarrow.parquet as pq  # noqa: PLC0415

    names = list(recording.readings)
    sizes = [recording.readings[name].values.size for name in names]
    rows = recording.readings.values()
    table = pa.table(
        {
            "channel": pa.DictionaryArray.from_arrays(np.repeat(np.arange(len(names), dtype=np.int32), sizes), names),
            "asked_us": np.concatenate([np.rint(r.asked_s * 1e6).astype(np.int64) for r in rows]),
            "answered_us": np.concatenate([np.rint(r.answered_s * 1e6).astype(np.int64) for r in rows]),
            "value": np.concatenate([r.values for r in rows]),
        }
    )
    packed = dict.fromkeys(("asked_us", "answered_us", "value"), "DELTA_BINARY_PACKED")
    with atomic_path(folder / SAMPLES) as temporary:
        pq.write_table(table, temporary, use_dictionary=["channel"], column_encoding=packed, compression="zstd")
    log = pa.table({"time_us": recording.log.times_s * 1e6, "level": recording.log.levels})
    with atomic_path(folder / LOAD) as temporary:
        pq.write_table(log, temporary, compression="zstd")
    facts = recording.facts | {"phases": [vars(phase) for phase in recording.phases]}
    write_text(folder / FACTS, json.dumps(facts, indent=1, allow_nan=False) + "\n")


def read_recording(folder: Path) -> Recording:
    """Read what :func:`write_recording` wrote. Raises FileNotFoundError naming what is missing."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    phases = tuple(Phase(**phase) for phase in facts.pop("phases"))
    table = pq.read_table(folder / SAMPLES).to_pandas()
    readings = {
        str(name): Readings(
            rows["asked_us"].to_numpy() / 1e6, rows["answered_us"].to_numpy() / 1e6, rows["value"].to_numpy()
        )
        for name, rows in table.groupby("channel", observed=True, sort=False)
    }
    log = pq.read_table(folder / LOAD)
    return Recording(
        readings, phases, LoadLog(log["time_us"].to_numpy() / 1e6, log["level"].to_numpy().astype(float)), facts
    )
