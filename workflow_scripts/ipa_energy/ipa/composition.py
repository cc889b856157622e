"""Composed against measured: for every configuration, what IPA predicts of it from stage profiles, beside what it did.

A profile and the measurements table go in (:mod:`ipa_energy.analysis.tables`); a table with a row per configuration and
cell (:mod:`ipa_energy.analysis.cells`) comes out. Errors over configurations are in :mod:`.composition_errors`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pandas as pd

from ipa_energy.analysis.aggregate import evidence_of, t_interval
from ipa_energy.analysis.cells import CELL, in_cells
from ipa_energy.analysis.tables import knob_columns
from ipa_energy.configuration import Platform
from ipa_energy.ipa.prediction import METRICS, predict
from ipa_energy.ipa.profile import Profile

FIGURES = ("predicted", "measured", "measured_lo", "measured_hi", "error")
"""What the table has of each metric, as ``{metric}_{figure}``."""

NOT_MEASURED = "not measured"


def columns_of(measurements: pd.DataFrame) -> list[str]:
    """The columns of the table that is made of ``measurements``."""
    metrics = [f"{metric}_{figure}" for metric in METRICS for figure in FIGURES]
    return [
        *("configuration", "pipeline"),
        *CELL,
        *knob_columns(measurements),
        *("pas", "n", "evidence"),
        *metrics,
        "reason",
    ]


def compose(
    profile: Profile,
    measurements: pd.DataFrame,
    *,
    drop_flags: Collection[str],
    confidence: float,
    platform: Platform | None = None,
) -> pd.DataFrame:
    """One row per configuration and cell: predicted, measured and relative error of each of :data:`METRICS`.

    Records are those that enter the statistics (:func:`.in_cells`, ``drop_flags``), ``n`` of them.
    ``{metric}_predicted`` and ``{metric}_measured`` are means over the records that have both, with the Student
    t-interval of what was measured at ``confidence``; ``{metric}_error`` is predicted / measured - 1, null where what
    was measured is not above 0. ``evidence`` is that of both sides together. ``reason`` says what is missing, and why.
    ``platform`` is that of the profile, None where it is not known.
    """
    celled = in_cells(measurements, drop_flags)
    records = celled[celled["usable"]].reset_index(drop=True)
    made = predict(profile, records, platform)
    measured = _measured(records)
    rows = []
    for key, group in records.groupby(["configuration", *CELL], sort=True):
        row: dict[str, Any] = dict(zip(["configuration", *CELL], key, strict=True))
        row |= {name: group[name].iloc[0] for name in ["pipeline", *knob_columns(measurements), "pas"]}
        row |= {"n": len(group), "evidence": together(profile.evidence, group["evidence"])}
        for metric in METRICS:
            sides = made.figures.loc[group.index, metric], measured.loc[group.index, metric]
            row |= _figures(metric, sides, confidence)
        row["reason"] = _reasons(made.reasons.loc[group.index], measured.loc[group.index])
        rows.append(row)
    frame = pd.DataFrame(rows, columns=columns_of(measurements))
    numbers = [f"{metric}_{figure}" for metric in METRICS for figure in FIGURES]
    return frame.astype(dict.fromkeys([*numbers, "pas"], "float64") | dict.fromkeys(("evidence", "reason"), "str"))


def together(profiled: str, measured: Iterable[object]) -> str | None:
    """Evidence of a prediction and what it is held against; a profile that doesn't say counts as what was measured."""
    return evidence_of([*measured, *([] if profiled in ("none", "unknown") else [profiled])])


def energy_word(evidence: object) -> str:
    """The word that must stand before an energy that is not (all) measured; empty when it is."""
    return {"estimated": "estimated ", "mixed": "partly estimated "}.get(str(evidence), "")


def _measured(records: pd.DataFrame) -> pd.DataFrame:
    figures = {metric: records[metric] for metric in METRICS if metric in records.columns}
    served = [column for column in records.columns if str(column).endswith(".service_mean_s")]
    stages = [str(column).removesuffix(".service_mean_s") for column in served]
    # A stage that the record's pipeline has and that served no batch in the window leaves no sum.
    whole = pd.Series(True, index=records.index)
    for stage, column in zip(stages, served, strict=True):
        whole &= records[column].notna() | records[f"{stage}.variant"].isna()
    figures["service_s"] = records[served].sum(axis=1, min_count=1).where(whole)
    return pd.DataFrame(figures, index=records.index, dtype="float64")


def _figures(metric: str, sides: tuple[pd.Series[float], pd.Series[float]], confidence: float) -> dict[str, Any]:
    predicted, measured = sides
    if predicted.notna().any() and measured.notna().any():  # a side without the other is shown by itself
        both = predicted.notna() & measured.notna()
        predicted, measured = predicted[both], measured[both]
    composed, (mean, lo, hi) = t_interval(predicted, confidence)[0], t_interval(measured, confidence)
    error = None if composed is None or mean is None or mean <= 0 else composed / mean - 1
    return dict(zip((f"{metric}_{figure}" for figure in FIGURES), (composed, mean, lo, hi, error), strict=True))


def _reasons(told: pd.DataFrame, measured: pd.DataFrame) -> str | None:
    """Why predictions or measured figures are missing, each reason once with the metrics that it is of."""
    found: dict[str, list[str]] = {}
    for metric in METRICS:
        whys = list(dict.fromkeys(why for why in told[metric] if why is not None))
        whys += [NOT_MEASURED] if not whys and measured[metric].isna().all() else []
        for why in whys:
            found.setdefault(why, []).append(metric)
    if not found:
        return None
    whole = len(METRICS)
    return "; ".join(why if len(of) == whole else f"{', '.join(of)}: {why}" for why, of in found.items())
