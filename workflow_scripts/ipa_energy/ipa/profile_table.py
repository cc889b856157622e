"""The table of a profile: its columns, and checks of what stands in them.

What can't be used is refused before anything is computed, with the row, the value and what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias, cast

import numpy as np
import pandas as pd

EnergyKind: TypeAlias = Literal["net", "gross"]

COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "stage": "Name of the stage; stages stand in pipeline order.",
        "variant": "Name of the model variant.",
        "accuracy": "Published accuracy: a fraction, per cent, or minus a word error rate.",
        "metric": "Optional: name of the accuracy's metric; `wer` turns a positive word error rate into 1 - WER.",
        "cores": "Cores of one replica.",
        "gpu_share": "Optional: share of a GPU that one replica holds, 0 to 1.",
        "batch": "Batch size, in requests.",
        "latency_s": "Time of one batch in a replica, in s; used where the wanted kind has no column of its own.",
        "latency_mean_s": "Optional: mean of that time, in s.",
        "latency_p99_s": "Optional: its 99th percentile, in s.",
        "throughput_rps": "Requests per second that one replica sustains at this batch size.",
        "energy_j": "Optional: energy of one batch at full load, in J.",
        "energy_kind": "Needed with energy_j: `net` (above the waiting replica's power) or `gross` (all of it).",
        "idle_w": "Optional: power that one replica adds while it waits, in W.",
        "memory_mb": "Optional: memory of one replica, in MB; not used in decisions.",
        "evidence": "Optional: where the energies come from, `measured`, `estimated` or `mixed`.",
        "host_idle_w": "Optional: power of the bare host, in W; the same in all rows.",
        "source": "Optional: where the row comes from, such as `measured` or `fitted`.",
    }
)
"""Columns of a profile and what they hold. A file has these names; others are kept and not used."""

LATENCIES = ("latency_s", "latency_mean_s", "latency_p99_s")
KEY = ("stage", "variant", "cores", "gpu_share", "batch")
_REQUIRED = ("stage", "variant", "accuracy", "cores", "batch", "throughput_rps")
_NUMBERS = (
    *("accuracy", "cores", "gpu_share", "batch", *LATENCIES, "throughput_rps"),
    *("energy_j", "idle_w", "memory_mb", "host_idle_w"),
)


class ProfileError(ValueError):
    """A profile that can't be used: what is wrong, the value, and what to do."""


def checked(table: pd.DataFrame, unused: list[str]) -> pd.DataFrame:
    """A table with all figures as numbers and in range, no row twice, and the column gpu_share.

    Names of columns that aren't in :data:`COLUMNS` are appended to ``unused``. Raises ProfileError.
    """
    unused += [str(column) for column in table.columns if column not in COLUMNS]
    missing = [column for column in _REQUIRED if column not in table.columns]
    missing += [] if any(column in table.columns for column in LATENCIES) else ["latency_s"]
    if missing:
        raise ProfileError(
            f"a profile needs the columns {', '.join(missing)}; this one has {', '.join(map(str, table.columns))}"
        )
    if table.empty:
        raise ProfileError("the profile has no rows: give one row per stage, variant, cores and batch size")
    table = table.reset_index(drop=True)
    for name in ("stage", "variant"):
        if table[name].isna().any() or (table[name].astype(str).str.strip() == "").any():
            raise ProfileError(f"a row of the profile has no {name}")
        table[name] = table[name].astype(str).str.strip()
    if "gpu_share" not in table.columns:
        table.insert(list(table.columns).index("cores") + 1, "gpu_share", 0.0)
    table["gpu_share"] = table["gpu_share"].fillna(0.0)
    table = _as_numbers(table)
    for name in ("cores", "batch"):
        table[name] = table[name].astype(np.int64)
    double = table.duplicated(list(KEY)).to_numpy()
    if double.any():
        row = int(np.argmax(double))
        raise ProfileError(
            f"{_where(table, row)} on {table['cores'].iloc[row]} cores comes twice: keep one row of each"
        )
    return table


def _where(table: pd.DataFrame, row: int) -> str:
    stage, variant, batch = (str(table[column].iloc[row]) for column in ("stage", "variant", "batch"))
    return f"{stage}/{variant}, batch {batch.removesuffix('.0')}"


def _as_numbers(table: pd.DataFrame) -> pd.DataFrame:
    for name in _NUMBERS:
        if name not in table.columns:
            continue
        given = table[name]
        values = pd.to_numeric(given, errors="coerce").astype(float)
        wanted, good = _allowed(name, values)
        bad = (~good | (values.isna() & given.notna())).to_numpy()
        if bad.any():
            row = int(np.argmax(bad))
            told = "missing" if pd.isna(given[row]) else given[row]
            raise ProfileError(f"{name} of {_where(table, row)} is {told}: it must be {wanted}")
        table[name] = values
    return table


def _allowed(name: str, values: pd.Series[float]) -> tuple[str, pd.Series[bool]]:
    """What a column may hold, in words, and which values are so."""
    finite = values.abs() < np.inf
    if name in ("cores", "batch"):
        return "a whole number, 1 or more", finite & (values >= 1) & (values % 1 == 0)
    if name == "gpu_share":
        return "between 0 and 1", values.between(0, 1)
    if name == "accuracy":
        return "a number: the published figure", finite
    if name == "throughput_rps" or name in LATENCIES:
        return "above 0; leave the row out if there is none", finite & (values > 0)
    return "a number, or empty", finite | values.isna()


def energy_kind_of(table: pd.DataFrame, given: EnergyKind | None) -> EnergyKind | None:
    """Kind of a checked table's energy: what its column energy_kind says, or ``given``; None without energy.

    Raises ProfileError where it is not said, or said twice differently; for gross energy below 0; and for waiting power
    in some rows only, since energies of options would then not hold the same.
    """
    if "energy_j" not in table.columns or table["energy_j"].isna().all():
        return None
    kinds: set[object] = {given} if given else set()
    if "energy_kind" in table.columns:
        kinds |= set(table.loc[table["energy_j"].notna(), "energy_kind"])
    if len(kinds) != 1 or not kinds <= {"net", "gross"}:
        raise ProfileError(
            f"energy_j must be of one kind, net or gross, and the profile must say which in the column energy_kind; "
            f"it says {', '.join(sorted(map(str, kinds))) or 'nothing'}"
        )
    kind = cast("EnergyKind", kinds.pop())
    below = (table["energy_j"] < 0).to_numpy()
    if kind == "gross" and below.any():
        row = int(np.argmax(below))
        raise ProfileError(
            f"energy_j of {_where(table, row)} is {table['energy_j'].iloc[row]:g}: gross can't be below 0"
        )
    lacking = table["idle_w"].isna().to_numpy() if "idle_w" in table.columns else np.ones(len(table), dtype=bool)
    if lacking.any() and not lacking.all():
        raise ProfileError(
            f"idle_w of {_where(table, int(np.argmax(lacking)))} is missing and others have it, so energies would not "
            f"hold the same: give it in all rows, 0 where there is none, or in no row"
        )
    return kind
