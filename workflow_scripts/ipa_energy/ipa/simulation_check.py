"""The simulation against the real engine: the arrivals of each open-loop record, simulated from the profile alone.

A profile, records and their rows of the measurements table go in. Each record is simulated from the moment at which
its warm-up began, with the very arrivals that it had, and its window is cut out of the simulated log; out comes a table
with a row per record, simulated beside measured, and :func:`check_errors` makes errors of it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ipa_energy.analysis.aggregate import evidence_of
from ipa_energy.analysis.cells import CELL, in_cells, used
from ipa_energy.analysis.tables import knob_columns
from ipa_energy.configuration import Platform, configuration_from_dict
from ipa_energy.ipa import relative_errors
from ipa_energy.ipa.composition import energy_word, together
from ipa_energy.ipa.prediction import profile_rows
from ipa_energy.ipa.profile import Profile
from ipa_energy.ipa.profile_table import ProfileError
from ipa_energy.ipa.relative_errors import Resampling
from ipa_energy.ipa.run_log import Rules
from ipa_energy.ipa.service import Curves, service_curves
from ipa_energy.ipa.simulated_window import ENERGIES, METRICS, arrivals_of, window_figures, window_span
from ipa_energy.ipa.simulation import simulate
from ipa_energy.record import Record

SIDES = ("simulated", "measured", "error")
_RECORD = ["experiment", "workload", "configuration", "repetition", "host"]

ERROR_COLUMNS = (
    *(*CELL, "metric", "evidence", "n", "n_configurations"),
    *("bias", "bias_lo", "bias_hi", "mean_absolute_error", "mean_absolute_error_lo", "mean_absolute_error_hi"),
    *("p90_absolute_error", "reason"),
)


def curves_for(profile: Profile) -> tuple[Curves, str | None]:
    """Service curves with the profile's means, and its 99th percentiles as noise; a note where it has none of these.

    Raises ProfileError for a profile that can't be simulated.
    """
    try:
        return service_curves(profile, latency="mean", noise="p99"), None
    except ProfileError as error:
        return service_curves(profile, latency="mean"), f"service times are simulated without noise: {error}"


def check_table(
    profile: Profile,
    records: Sequence[Record],
    measurements: pd.DataFrame,
    *,
    drop_flags: Collection[str],
    max_wait_s: float,
    seed: int,
    platform: Platform | None = None,
) -> pd.DataFrame:
    """One row per usable record of an open loop: ``{metric}_simulated``, ``_measured`` and ``_error`` of METRICS.

    Usable records are those that enter the statistics (:func:`.in_cells`). Measured figures are those of
    ``measurements``. ``max_wait_s`` and ``seed``, of the arrivals, hold for records that don't tell their own. ``sent``
    counts the arrivals in the window; where the simulated ones are not as many, they are not those of the record, and
    nothing is compared. ``reason`` says what is missing, and why.
    """
    rows = used(measurements, in_cells(measurements, drop_flags))
    loads = [json.loads(text) for text in rows["workload_settings"]]
    rows = rows[[load.get("kind") == "rate" for load in loads]].reset_index(drop=True)
    columns = _columns(measurements)
    if rows.empty:
        return _typed(pd.DataFrame(columns=columns), columns)
    by_key = {_key(record): record for record in records}
    _, lacking = profile_rows(profile, rows, platform)
    try:
        curves, _ = curves_for(profile)
    except ProfileError as error:
        curves, lacking = {}, [reason or str(error) for reason in lacking]
    found = []
    for row, reason in zip(rows.to_dict("records"), lacking, strict=True):
        record = by_key.get(tuple(str(row[name]) for name in _RECORD))
        made: dict[str, Any] = {}
        why = reason or (None if record is not None else "the record is not among those that were given")
        if why is None and record is not None:
            try:
                made, why = _simulated(profile, curves, record, max_wait_s=max_wait_s, seed=seed)
            except (ValueError, KeyError, OSError) as error:
                why = f"it can't be simulated: {error}"
        found.append(_row(row, made, why, columns, together(profile.evidence, [row["evidence"]])))
    return _typed(pd.DataFrame(found, columns=columns), columns)


def _columns(measurements: pd.DataFrame) -> list[str]:
    metrics = [f"{metric}_{side}" for metric in METRICS for side in SIDES]
    knobs = knob_columns(measurements)
    sent = ["sent_simulated", "sent_measured"]
    return [
        *_RECORD,
        "pipeline",
        "block",
        "weights",
        "meters",
        *knobs,
        "offered_rps",
        "evidence",
        *sent,
        *metrics,
        "reason",
    ]


def _typed(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    numbers = [name for name in columns if name.endswith(SIDES) or name == "offered_rps"]
    return frame.astype(dict.fromkeys(numbers, "float64") | dict.fromkeys(("evidence", "reason", "meters"), "str"))


def _key(record: Record) -> tuple[str, ...]:
    identity = record["identity"]
    names = (identity[name] for name in ("experiment", "workload", "configuration_id", "repetition"))
    return (*names, record["provenance"]["host"])


def _row(
    row: Mapping[Any, Any], made: Mapping[str, Any], why: str | None, columns: Sequence[str], evidence: str | None
) -> dict[str, Any]:
    found: dict[str, Any] = {name: row[name] for name in columns if name in row}
    found |= {"evidence": evidence, "sent_measured": row["sent"], "sent_simulated": made.get("sent")}
    missing: dict[str, list[str]] = {}
    for metric in METRICS:
        simulated, measured = made.get(metric), row[metric]
        found[f"{metric}_simulated"], found[f"{metric}_measured"] = simulated, measured
        if simulated is not None and pd.notna(measured) and measured > 0:
            found[f"{metric}_error"] = simulated / measured - 1
        elif why is None:
            told = made.get("reasons", {}).get(metric) if simulated is None else None
            missing.setdefault(told or ("not measured" if pd.isna(measured) else "not above 0"), []).append(metric)
    found["reason"] = why or "; ".join(f"{', '.join(of)}: {told}" for told, of in missing.items()) or None
    return found


def _simulated(
    profile: Profile, curves: Curves, record: Record, *, max_wait_s: float, seed: int
) -> tuple[dict[str, Any], str | None]:
    """Figures of a record's window as simulated, and why they say nothing of the record."""
    span = window_span(record)
    settings = record["provenance"].get("settings") or {}
    configuration = configuration_from_dict(record["identity"]["configuration"])
    arrivals_s = arrivals_of(record, configuration, span.end_s, int(settings.get("seed", seed)))
    sent = int(np.sum((arrivals_s > span.begin_s) & (arrivals_s <= span.end_s)))
    really = record["service"]["sent"]
    # The engine starts its clock some microseconds after the phase, so that an arrival may lie across each edge.
    if abs(sent - really) > 2:
        return {"sent": sent}, (
            f"its arrivals can't be made again: {sent} in the window, and it counted {really}; the seed, the trace or "
            f"the code that makes them is another"
        )
    rules = Rules(
        interval_s=span.end_s + 1,  # nothing is decided
        max_wait_s=float(settings.get("max_wait_s", max_wait_s)),
        drop_after_s=record["identity"]["workload_settings"].get("drop_after_s"),
        seed=int(record["identity"]["block"]),
    )
    log = simulate(curves, arrivals_s, span.end_s + 1, configuration.stages, rules=rules)
    return {"sent": sent} | window_figures(log, span, profile.host_idle_w), None


def check_errors(table: pd.DataFrame, how: Resampling) -> pd.DataFrame:
    """Errors of the simulation, one row per cell and metric; intervals come from resampling configurations.

    The errors of a configuration's records are averaged first, so that repetitions don't count as independent: ``n``
    records, ``n_configurations`` points. Null with a ``reason`` for fewer than three configurations.
    """
    rows = []
    for key, group in table.groupby(CELL, sort=True, dropna=False):
        cell: dict[str, Any] = dict(zip(CELL, key, strict=True))
        for metric in METRICS:
            known = group.dropna(subset=[f"{metric}_error"])
            errors = known[f"{metric}_error"].groupby(known["configuration"]).mean().to_numpy(dtype=float)
            row = cell | {"metric": metric, "n": len(known), "n_configurations": len(errors)}
            if metric in ENERGIES:
                row["evidence"] = evidence_of(known["evidence"])
            row |= relative_errors.mean_errors(errors, how, "/".join([*map(str, key), metric]))
            if "bias" not in row:
                number = "1 configuration" if len(errors) == 1 else f"{len(errors)} configurations"
                row["reason"] = f"{number}; statistics need at least {relative_errors.MIN_POINTS}"
            rows.append(row)
    frame = pd.DataFrame(rows, columns=list(ERROR_COLUMNS))
    texts = (*CELL, "metric", "evidence", "reason")
    kinds = dict.fromkeys(texts, "str") | dict.fromkeys(("n", "n_configurations"), "Int64")
    return frame.astype({name: kinds.get(name, "float64") for name in ERROR_COLUMNS})


def told(profile: Profile, table: pd.DataFrame, errors: pd.DataFrame) -> str:
    """What the tables came to, in lines of text."""
    if table.empty:
        return "No usable record has a workload of kind rate: there is nothing to check the simulation against."
    lines = [f"{table['throughput_rps_simulated'].notna().sum()} of {len(table)} records under an open load simulated"]
    try:
        note = curves_for(profile)[1]
    except ProfileError as error:
        note = str(error)
    lines += [note] if note else []
    for row in errors.to_dict("records"):
        word = energy_word(row["evidence"]).strip()
        name = f"{row['workload']} on {row['host']}, {row['metric']}" + (f" ({word})" if word else "")
        if pd.isna(row["bias"]):
            lines.append(f"{name}: {row['reason']}")
        else:
            lines.append(
                f"{name}: off by {100 * row['mean_absolute_error']:.1f} % on average, bias {100 * row['bias']:+.1f} %, "
                f"{row['n']} records of {row['n_configurations']} configurations"
            )
    lines += [f"{count} x {reason}" for reason, count in table["reason"].value_counts().items()]
    return "\n".join(lines)
