"""From runs to an answer: means over the seeds, and what IPA with energy changes against IPA, in numbers and in words.

The tables of :mod:`.adaptation_study` go in. Intervals are Student t-intervals over the seeds: other arrivals within
the seconds and other service times of *the same* load and decisions, not of other loads. Savings are differences
between runs of the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ipa_energy.analysis.aggregate import t_interval
from ipa_energy.analysis.wording import modelled
from ipa_energy.ipa.settings import METHOD_NAMES, WITH_ENERGY

METRICS = (
    "accuracy_pas",
    "cost_mean",
    "net_j_per_request",
    "gross_j_per_request",
    "violation_share",
    "late",
    "dropped",
    "latency_p99_s",
    "decide_mean_s",
    "decide_max_s",
    "changes",
    "infeasible",
)
SAVED = {"net_energy_saved_vs_ipa": "net_j_per_request", "gross_energy_saved_vs_ipa": "gross_j_per_request"}
"""Relative savings, and the energy that each is of: 1 - energy / IPA's, of the same load, predictor and seed."""

_KEY = ["load", "predictor", "method"]


def read_runs(table: pd.DataFrame) -> pd.DataFrame:
    """A table of runs as read from a file with all fields as text: numbers where they are."""
    text = [*_KEY, "evidence", "reason", "start_reason", "energy_reason"]
    return table.assign(**{name: pd.to_numeric(table[name]) for name in table.columns if name not in text})


def summary_table(runs: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """A row for each load, predictor and method, in their order: every metric with its interval, and savings.

    Bounds are ``{metric}_lo`` and ``{metric}_hi``, null for fewer than two seeds. ``runs`` counts the runs,
    ``reason`` says why there are none, ``energy_reason`` why an energy is null.
    """
    runs = runs.assign(**{name: _saved(runs, energy) for name, energy in SAVED.items()})
    rows = []
    for key, group in runs.groupby(_KEY, sort=False):
        row: dict[str, Any] = dict(zip(_KEY, key, strict=True))
        row |= {"runs": int(group["seed"].notna().sum())}
        row |= {name: group[name].iloc[0] for name in ("sla_s", "evidence", "reason", "start_reason", "energy_reason")}
        for metric in (*METRICS, *SAVED):
            row[metric], row[f"{metric}_lo"], row[f"{metric}_hi"] = t_interval(group[metric], confidence)
        rows.append(row)
    metrics = [f"{metric}{end}" for metric in (*METRICS, *SAVED) for end in ("", "_lo", "_hi")]
    columns = [*_KEY, "runs", "sla_s", "evidence", *metrics, "reason", "start_reason", "energy_reason"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(metrics, "float64"))


def _saved(runs: pd.DataFrame, energy: str) -> pd.Series[float]:
    """1 - energy / that of IPA in the run of the same load, predictor and seed; null for IPA itself and without it."""
    pair = ["load", "predictor", "seed"]
    ipa = runs[(runs["method"] == "ipa") & runs["seed"].notna()].set_index(pair)[energy].astype(float)
    theirs = ipa.reindex(pd.MultiIndex.from_frame(runs[pair])).to_numpy(dtype=float)
    saved = 1 - runs[energy].astype(float) / pd.Series(theirs, index=runs.index).where(lambda joules: joules > 0)
    return saved.where(runs["method"] != "ipa")


def answer(summary: pd.DataFrame, cost_unit: str) -> str:
    """A few sentences for each load: what IPA with energy changes against IPA, by the first predictor.

    Energies that aren't measured are called what they are.
    """
    lines = []
    for load, of_load in summary.groupby("load", sort=False):
        predictor = of_load["predictor"].iloc[0]
        rows = {row["method"]: row for row in of_load[of_load["predictor"] == predictor].to_dict("records")}
        lines.append(f"Load {load}, predictor {predictor}: {_compared(rows, cost_unit)}")
    return "\n".join(lines) + "\n"


def _compared(rows: Mapping[str, Mapping[Any, Any]], cost_unit: str) -> str:
    lacking = [METHOD_NAMES[name] for name in ("ipa", WITH_ENERGY) if name not in rows]
    if lacking:
        return f"no comparison, as the methods are without {' and '.join(lacking)}."
    for name in ("ipa", WITH_ENERGY):
        if not rows[name]["runs"]:
            return f"no comparison, as {METHOD_NAMES[name]} could not run: {rows[name]['reason']}."
    ipa, energy = rows["ipa"], rows[WITH_ENERGY]
    told = [
        _figure("accuracy (PAS)", ipa["accuracy_pas"], energy["accuracy_pas"]),
        _figure("cost", ipa["cost_mean"], energy["cost_mean"], cost_unit),
        _figure("SLA violations", 100 * ipa["violation_share"], 100 * energy["violation_share"], "% of requests"),
    ]
    word = modelled(energy["evidence"])
    doubt = " (evidence unknown)" if energy["evidence"] == "unknown" else ""
    known = [column for column in SAVED.values() if pd.notna(energy[column]) and pd.notna(ipa[column])]
    told += [
        _figure(f"{word}{kind} energy{doubt}", ipa[column], energy[column], "J per request", _interval(energy, saved))
        for saved, column in SAVED.items()
        for kind in [column.split("_", maxsplit=1)[0]]
        if column in known
    ]
    text = f"with energy in its objective, IPA has {'; '.join(told)}."
    if not known:
        reasons = [row["energy_reason"] for row in (energy, ipa) if isinstance(row["energy_reason"], str)]
        text += f" Energy can't be compared: {next(filter(None, reasons), 'no request was completed')}."
    runs = f"{energy['runs']} run{'s' if energy['runs'] != 1 else ''}"
    return f"{text} Means of {runs}."


def _interval(row: Mapping[Any, Any], saved: str) -> str:
    """Relative change with the interval of its mean, in per cent."""
    if pd.isna(row[saved]):
        return ""
    text = f"{-100 * row[saved]:+.3g} %"
    if pd.isna(row[f"{saved}_lo"]):
        return text
    return f"{text}, interval over the runs {-100 * row[f'{saved}_hi']:+.3g} to {-100 * row[f'{saved}_lo']:+.3g} %"


def _figure(name: str, before: float | None, after: float | None, unit: str = "", change: str = "") -> str:
    if before is None or after is None or pd.isna(before) or pd.isna(after):
        return f"{name} not known"
    unit = f" {unit}" if unit else ""
    if before == after:
        return f"{name} {after:.4g}{unit}, as without"
    if not change and before and unit != " % of requests":
        change = f"{100 * (after / before - 1):+.3g} %"
    return f"{name} {after:.4g}{unit} instead of {before:.4g}" + (f" ({change})" if change else "")
