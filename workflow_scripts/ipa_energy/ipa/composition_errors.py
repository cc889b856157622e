"""How far off, over configurations: errors of what was composed from stage profiles, metric by metric.

The table of :mod:`.composition` goes in; a table with a row per cell and metric comes out: size of the errors, whether
the configurations are ranked alike, and for energies what is lost by choosing by the prediction.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from ipa_energy.analysis.aggregate import evidence_of
from ipa_energy.analysis.cells import CELL
from ipa_energy.ipa import relative_errors
from ipa_energy.ipa.prediction import ENERGIES, METRICS
from ipa_energy.ipa.relative_errors import MIN_POINTS, Resampling

_STATISTICS = (
    *("bias", "bias_lo", "bias_hi", "mean_absolute_error", "mean_absolute_error_lo", "mean_absolute_error_hi"),
    *("p90_absolute_error", "tau", "tau_lo", "tau_hi", "log_r2", "noise_error", "tau_ceiling"),
    *("measured_min", "measured_max", "spread", "regret", "regret_same_accuracy"),
)
COLUMNS = (*CELL, "metric", "evidence", "n_configurations", *_STATISTICS, "reason")


def errors_table(configurations: pd.DataFrame, how: Resampling) -> pd.DataFrame:
    """One row per cell and metric, with the columns :data:`COLUMNS`.

    ``bias`` and ``mean_absolute_error`` are means of the relative error and of its size over configurations,
    ``p90_absolute_error`` the size that 90 % stay below; ``tau`` is Kendall's tau-b of predicted and measured,
    ``log_r2`` as in :func:`.explained`. ``noise_error`` and ``tau_ceiling`` are what a prediction without error would
    have for the scatter between repetitions (:func:`.noise`). ``spread`` is the largest measured figure over the
    smallest. For energies ``regret`` is how much more than the best one the configuration takes that the prediction
    ranks best, and ``regret_same_accuracy`` the mean of that over the groups of equal accuracy with two configurations
    or more. Statistics are null, with the ``reason``, for fewer than :data:`MIN_POINTS` configurations.
    """
    rows = []
    for key, group in configurations.groupby(CELL, sort=True):
        cell: dict[str, Any] = dict(zip(CELL, key, strict=True))
        for metric in METRICS:
            known = group.dropna(subset=[f"{metric}_predicted", f"{metric}_measured"])
            row = cell | {"metric": metric, "n_configurations": len(known)}
            if metric in ENERGIES:
                row["evidence"] = evidence_of(known["evidence"])
            rows.append(row | _statistics(known, metric, how, "/".join([*map(str, key), metric])))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = dict.fromkeys((*CELL, "metric", "evidence", "reason"), "str") | {"n_configurations": "Int64"}
    return frame.astype(dict.fromkeys(_STATISTICS, "float64") | kinds)


def _statistics(known: pd.DataFrame, metric: str, how: Resampling, purpose: str) -> dict[str, Any]:
    if known.empty:
        return {"reason": "no configuration has both sides; composition/configurations.csv says why"}
    predicted, measured = (known[f"{metric}_{side}"].to_numpy(dtype=float) for side in ("predicted", "measured"))
    least, most = float(measured.min()), float(measured.max())
    found: dict[str, Any] = {"measured_min": least, "measured_max": most, "spread": most / least if least > 0 else None}
    if len(known) < MIN_POINTS:
        number = "1 configuration" if len(known) == 1 else f"{len(known)} configurations"
        return found | {"reason": f"{number}; statistics need at least {MIN_POINTS}"}
    errors = known[f"{metric}_error"].dropna().to_numpy(dtype=float)
    found |= relative_errors.mean_errors(errors, how, purpose)
    found |= relative_errors.rank_correlation(predicted, measured, how, purpose)
    sem = known[f"{metric}_measured_sem"].to_numpy(dtype=float)
    found |= relative_errors.noise(measured, sem, how, purpose)
    found["log_r2"] = relative_errors.explained(predicted, measured)
    if metric in ENERGIES:
        found["regret"] = relative_errors.regret(predicted, measured)
        found["regret_same_accuracy"] = _regret_same_accuracy(known, metric)
    reasons = []
    if len(errors) < len(known):
        reasons.append(f"measured figures not above 0, which have no relative error: {len(known) - len(errors)}")
    if "tau" not in found:
        reasons.append("no tau: predicted or measured is the same in all configurations")
    return found | {"reason": "; ".join(reasons) or None}


def _regret_same_accuracy(known: pd.DataFrame, metric: str) -> float | None:
    groups = [group for _, group in known.groupby(known["pas"].round(11)) if len(group) > 1]
    regrets = [
        relative_errors.regret(
            group[f"{metric}_predicted"].to_numpy(dtype=float), group[f"{metric}_measured"].to_numpy(dtype=float)
        )
        for group in groups
    ]
    return relative_errors.mean_or_none([each for each in regrets if each is not None])
