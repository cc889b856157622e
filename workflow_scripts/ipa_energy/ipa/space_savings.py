"""What a choice saves in IPA's composed space that knows energy, as the profile predicts it.

The Parquet file of an input's space and its optima go in; out comes one row, like those that measured configurations
get (:mod:`ipa_energy.analysis.saving_rows`). Energies here are predictions from stage profiles, without replicate
noise: there is no interval, and nothing is decided on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ipa_energy.analysis.choices import Tolerances
from ipa_energy.analysis.saving_rows import SPACE
from ipa_energy.configuration import STAGE_KNOBS

PREDICTED = "predicted from the stage profiles, without replicate noise: no interval, and nothing is decided on it"

_NEEDED = ("accuracy_pas", "latency_s", "cost", "energy_j_per_request", "feasible")
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class _Least:
    """The least energy so far: in J per request, row group and row of the file, latency in s, cost."""

    energy_j: float
    group: int
    row: int
    latency_s: float
    cost: float


def space_savings(
    space_parquet: str | Path, optima: pd.DataFrame, *, tolerances: Mapping[str, float], cost_unit: str | None = None
) -> dict[str, Any]:
    """The row of one input: IPA's optimum, the least energy within the tolerances of it, and what that saves.

    ``optima`` is the input's table of optima (:func:`ipa_energy.ipa.space_report.optima_table`), in which the method
    ``ipa`` is the baseline; its ``evidence`` is that of the row. Configurations are named by their knobs. Only the
    columns needed are read, one row group at a time. Raises ValueError where the optima lack the method ``ipa``.
    """
    allowed = Tolerances(**tolerances)
    rows = optima[optima["method"] == "ipa"]
    if len(rows) != 1:
        raise ValueError(
            f"the optima have {len(rows)} rows of method ipa: give the table of one input, with that method"
        )
    best = rows.iloc[0]
    row: dict[str, Any] = {
        "evidence": _known(best["evidence"]),
        "scope": SPACE,
        "input": best["input"],
        "cost_unit": cost_unit,
    }
    if not best["chosen"]:
        return row | {"n_references": 0, "reason": _known(best["reason"]) or "IPA has no choice for this input"}
    base = {name: float(best[name]) for name in _NEEDED[:4]}
    row |= {"n_references": 1, "baseline": _name(best)} | _side("baseline", base)
    if not base["energy_j_per_request"] > 0:
        return row | {
            "reason": "the profile has no positive energy for IPA's choice, so that nothing can be saved of it"
        }
    file = pq.ParquetFile(space_parquet)
    feasible, alternatives = 0, 0
    within: _Least | None = None
    anywhere: _Least | None = None
    for group in range(file.num_row_groups):
        of = {name: column.to_numpy() for name, column in _columns(file, group).items()}
        good = of["feasible"].astype(bool)
        feasible += int(good.sum())
        accuracy = base["accuracy_pas"] - allowed.accuracy * abs(base["accuracy_pas"])
        good &= of["accuracy_pas"] >= accuracy - _ROUNDING
        anywhere = _lesser(anywhere, of, good, group)
        good &= of["latency_s"] <= base["latency_s"] * (1 + allowed.latency) + _ROUNDING
        good &= of["cost"] <= base["cost"] * (1 + allowed.cost) + _ROUNDING
        alternatives += int(good.sum())
        within = _lesser(within, of, good, group)
    if within is None or anywhere is None:
        return row | {"n_feasible": feasible, "reason": "the space holds no configuration within the tolerances"}
    knobs = [name for name in file.schema_arrow.names if name.rpartition(".")[2] in STAGE_KNOBS]
    chosen = file.read_row_group(within.group, columns=[*knobs, *_NEEDED]).slice(within.row, 1).to_pandas().iloc[0]
    others = max(0, alternatives - 1)  # the baseline lies within its own tolerances
    row |= {"choice": _name(chosen)} | _side("choice", {name: float(chosen[name]) for name in _NEEDED[:4]})
    return row | {
        "n_configurations": file.metadata.num_rows,
        "n_feasible": feasible,
        "n_with_alternative": int(others > 0),
        "n_alternatives": others,
        "saving": 1 - within.energy_j / base["energy_j_per_request"],
        "regret": base["energy_j_per_request"] / anywhere.energy_j - 1 if anywhere.energy_j > 0 else None,
        "price_latency": anywhere.latency_s / base["latency_s"] - 1,
        "price_cost": anywhere.cost / base["cost"] - 1 if base["cost"] > 0 else None,
        "reason": PREDICTED,
    }


def _columns(file: pq.ParquetFile, group: int) -> dict[str, Any]:
    table = file.read_row_group(group, columns=list(_NEEDED))
    return {name: table.column(name) for name in _NEEDED}


def _lesser(so_far: _Least | None, of: Mapping[str, Any], good: Any, group: int) -> _Least | None:
    energy = np.where(good, of["energy_j_per_request"], np.inf)
    energy[np.isnan(energy)] = np.inf
    if not np.isfinite(energy).any():
        return so_far
    at = int(np.argmin(energy))
    if so_far is not None and so_far.energy_j <= energy[at]:
        return so_far
    return _Least(float(energy[at]), group, at, float(of["latency_s"][at]), float(of["cost"][at]))


def _side(side: str, figures: Mapping[str, float]) -> dict[str, float]:
    accuracy, latency, cost, energy = (figures[name] for name in _NEEDED[:4])
    return {
        f"{side}_accuracy": accuracy,
        f"{side}_latency_p99_s": latency,
        f"{side}_cost": cost,
        f"{side}_energy_j_per_request": energy,
    }


def _name(row: pd.Series) -> str:
    """The knobs of every stage in words: ``detect variant=a batch=1 ...; classify ...``."""
    stages = [str(name).removesuffix(".variant") for name in row.index if str(name).endswith(".variant")]
    return "; ".join(f"{s} " + " ".join(f"{knob}={row[f'{s}.{knob}']}" for knob in STAGE_KNOBS) for s in stages)


def _known(value: Any) -> str | None:
    return None if pd.isna(value) else str(value)
