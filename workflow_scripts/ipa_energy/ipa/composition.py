"""Composed against measured: for every configuration, what IPA predicts of it from stage profiles, beside what it did.

A profile and the measurements table go in (:mod:`ipa_energy.analysis.tables`); a table with a row per configuration and
cell (:mod:`ipa_energy.analysis.cells`) comes out. Errors over configurations are in :mod:`.composition_errors`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ipa_energy.analysis.aggregate import evidence_of
from ipa_energy.analysis.cells import CELL, in_cells
from ipa_energy.analysis.tables import knob_columns
from ipa_energy.analysis.wording import modelled
from ipa_energy.configuration import Platform
from ipa_energy.ipa.prediction import METRICS, predict
from ipa_energy.ipa.profile import Profile

FIGURES = ("predicted", "measured", "measured_lo", "measured_hi", "measured_sem", "error")
"""What the table has of each metric, as ``{metric}_{figure}``."""

NOT_MEASURED = "not measured"


def columns_of(measurements: pd.DataFrame) -> list[str]:
    """The columns of the table that is made of ``measurements``."""
    metrics = [f"{metric}_{figure}" for metric in METRICS for figure in FIGURES]
    return [
        "configuration",
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
    t-interval of what was measured at ``confidence`` and its standard error (``_sem``), null for a single record;
    ``{metric}_error`` is predicted / measured - 1, null where what was measured is not above 0. ``evidence`` is that of
    both sides together. ``reason`` says what is missing, and why. ``platform`` is that of the profile, None where it is
    not known.
    """
    celled = in_cells(measurements, drop_flags)
    records = celled[celled["usable"]].reset_index(drop=True)
    made = predict(profile, records, platform)
    measured = _measured(records)
    group = records.groupby(["configuration", *CELL], sort=True).ngroup()
    frame = records.set_axis(group)[~group.duplicated().to_numpy()].sort_index()
    frame = frame[["configuration", *CELL, *knob_columns(measurements), "pas"]]
    frame["n"] = group.value_counts()
    for metric in METRICS:
        frame = frame.join(_figures(metric, made.figures[metric], measured[metric], group, confidence))
    members = [np.flatnonzero(group == number) for number in frame.index]
    reasons, absent = made.reasons.to_numpy(dtype=object), measured.isna().to_numpy()
    frame["reason"] = [_reasons(reasons[rows], absent[rows]) for rows in members]
    evidence = records["evidence"].to_numpy(dtype=object)
    frame["evidence"] = [together(profile.evidence, evidence[rows]) for rows in members]
    numbers = [f"{metric}_{figure}" for metric in METRICS for figure in FIGURES]
    kinds = dict.fromkeys([*numbers, "pas"], "float64") | dict.fromkeys(("evidence", "reason"), "str")
    return frame.reindex(columns=columns_of(measurements)).reset_index(drop=True).astype(kinds)


def together(profiled: str, measured: Iterable[object]) -> str | None:
    """Evidence of a prediction and what it is held against; a profile that doesn't say counts as what was measured."""
    return evidence_of([*measured, *([] if profiled in ("none", "unknown") else [profiled])])


def energy_word(evidence: object) -> str:
    """The word that must stand before an energy that is not (all) measured; empty when it is."""
    return modelled(str(evidence))


def _measured(records: pd.DataFrame) -> pd.DataFrame:
    figures = {metric: records[metric] for metric in METRICS if metric in records.columns}
    served = [column for column in records.columns if str(column).endswith(".service_mean_s")]
    stages = [str(column).removesuffix(".service_mean_s") for column in served]
    # A stage that the record's pipeline has and that served no batch in the window leaves no sum.
    whole = pd.Series(True, index=records.index)
    for stage, column in zip(stages, served, strict=True):
        whole &= records[column].notna() | records[f"{stage}.variant"].isna()
    figures["service_s"] = records[served].sum(axis=1, min_count=1).where(whole)
    return pd.DataFrame(figures, index=records.index, columns=list(METRICS), dtype="float64")


def _figures(
    metric: str, predicted: pd.Series[float], measured: pd.Series[float], group: pd.Series[int], confidence: float
) -> pd.DataFrame:
    """The columns of a metric, a row per group: means, interval and error."""
    both = predicted.notna() & measured.notna()
    paired = both.groupby(group).transform("any")
    # A group without any pair shows each side by itself, and has no error.
    composed = predicted.where(both | ~paired).groupby(group).mean()
    known = measured.where(both | ~paired).groupby(group)
    mean, count = known.mean(), known.count()
    sem: pd.Series[float] = known.std() / np.sqrt(count)
    half = stats.t.ppf((1 + confidence) / 2, (count - 1).where(count > 1)) * sem
    error = (composed / mean - 1).where((mean > 0) & paired.groupby(group).first())
    columns = (composed, mean, mean - half, mean + half, sem, error)
    return pd.DataFrame({f"{metric}_{name}": column for name, column in zip(FIGURES, columns, strict=True)})


def _reasons(told: NDArray[np.object_], absent: NDArray[np.bool_]) -> str | None:
    """Why predictions or measured figures are missing, each reason once with the metrics that it is of.

    Both have shape (records, metrics); ``told`` holds a reason or None, ``absent`` whether there is no measured figure.
    """
    found: dict[str, list[str]] = {}
    for metric, whys, lacks in zip(METRICS, told.T, absent.T, strict=True):
        distinct = list(dict.fromkeys(why for why in whys if why is not None))
        for why in distinct or [NOT_MEASURED] * bool(lacks.all()):
            found.setdefault(why, []).append(metric)
    whole = len(METRICS)
    return "; ".join(why if len(of) == whole else f"{', '.join(of)}: {why}" for why, of in found.items()) or None
