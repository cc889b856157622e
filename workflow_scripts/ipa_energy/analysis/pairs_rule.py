"""The rule for pairs: does energy go with one other metric, with a family of metrics, with none?

Rows of the pairwise table (:mod:`.coupling`) and the thresholds go in; a decision with its reason comes out for each
row, and for each family the one that decides. Pairs describe: the verdict rests on the levels of :mod:`.judge`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ipa_energy.analysis.coupling import FAMILIES
from ipa_energy.analysis.outcomes import COUPLED, DECOUPLED, INCONCLUSIVE
from ipa_energy.analysis.wording import join_words

_INTERVALS = ("tau", "spearman", "isotonic_r2")
_FIGURES = (
    *("tau_p", "tau_p_holm", "isotonic_r2_chance", "isotonic_r2_corrected", "isotonic_p"),
    *("energy_reliability", "energy_reliability_lo", "metric_reliability", "metric_reliability_lo"),
    *("metric_min", "metric_max"),
)


def decide_pair(pair: Mapping[Any, Any], rule: Mapping[str, Any]) -> tuple[str, str]:
    """Decision on one row of the pairwise table, and its reason in words.

    ``coupled``: the lower bound of isotonic R2 reaches ``coupled_r2``, and shuffled data do not reach the observed R2
    more often than the confidence allows. ``decoupled``: the upper bound stays below ``coupled_r2`` even after allowing
    for replicate noise, which lowers the R2 that could be had to the product of the reliabilities of both means (their
    lower bounds are used, so that noise never looks like information). Else ``inconclusive``.
    """
    obstacle = _obstacle(pair, rule)
    if obstacle is not None:
        return INCONCLUSIVE, obstacle
    threshold, alpha = float(rule["coupled_r2"]), 1 - float(rule["confidence"])
    lo, hi = float(pair["isotonic_r2_lo"]), float(pair["isotonic_r2_hi"])
    interval = f"isotonic R2 {pair['isotonic_r2']:.2f} [{lo:.2f}, {hi:.2f}]"
    if lo >= threshold and pair["isotonic_p"] <= alpha:
        return COUPLED, f"{interval}, lower bound at or above {threshold:g}"
    bounds = [pair["energy_reliability_lo"], pair["metric_reliability_lo"]]
    ceiling = 0.0 if any(pd.isna(bound) for bound in bounds) else float(bounds[0]) * float(bounds[1])
    if hi < threshold * ceiling:
        return DECOUPLED, f"{interval}, upper bound below {threshold:g}"
    if lo >= threshold:
        why = f", but shuffled data reach it with p = {pair['isotonic_p']:.2g}"
    elif hi >= threshold:
        why = f" reaches across {threshold:g}; more configurations or repetitions are needed"
    else:
        why = (
            f", but replicate noise alone could hold R2 down to {ceiling:.2f}; more repetitions or longer windows "
            "are needed"
        )
    return INCONCLUSIVE, interval + why


def _obstacle(pair: Mapping[Any, Any], rule: Mapping[str, Any]) -> str | None:
    """Why a pair can't be decided at all; None when it can."""
    count, least = int(pair["n_configurations"]), int(rule["min_configurations"])
    if 0 < count < least:
        return f"{count} configuration{'s' * (count > 1)}; the rule asks for {least}"
    if pd.notna(pair["reason"]):
        return str(pair["reason"])
    if int(pair["n_repetitions_max"]) < 2:
        return "one repetition each, so replicate noise is unknown; measure at least 2 blocks"
    return None


def with_decisions(pairwise: pd.DataFrame, rule: Mapping[str, Any]) -> pd.DataFrame:
    """The pairwise table with the columns ``decision`` and ``decision_reason`` added."""
    decided = [decide_pair(row, rule) for row in pairwise.to_dict("records")]
    return pairwise.assign(
        decision=pd.Series([d for d, _ in decided], index=pairwise.index, dtype="str"),
        decision_reason=pd.Series([r for _, r in decided], index=pairwise.index, dtype="str"),
    )


def families_of(rows: list[dict[Any, Any]]) -> dict[str, dict[str, str]]:
    """Decision, deciding metric and reason of each family, from the decided rows of one cell and energy."""
    return {family: _family([row for row in rows if row["family"] == family]) for family in FAMILIES}


def level_of_pairs(families: Mapping[str, Mapping[str, str]]) -> tuple[str, str]:
    """What all pairs of a cell say together: coupled with at least one family, decoupled from all, or open."""
    decisions = {name: family["decision"] for name, family in families.items()}
    coupled = [name for name, decision in decisions.items() if decision == COUPLED]
    if coupled:
        return COUPLED, f"one metric alone tells energy: {join_words(coupled)}"
    if all(value == DECOUPLED for value in decisions.values()):
        return DECOUPLED, f"no metric alone tells energy: not {join_words(list(FAMILIES))}"
    return INCONCLUSIVE, "; ".join(_open_questions(families))


def _family(rows: list[dict[Any, Any]]) -> dict[str, str]:
    """A family is coupled when any of its metrics is, decoupled when all are; ``metric`` is the one that decides."""
    order = (COUPLED, INCONCLUSIVE, DECOUPLED)
    row = min(rows, key=lambda r: order.index(r["decision"]))
    return {"decision": row["decision"], "metric": row["metric"], "reason": row["decision_reason"]}


def _open_questions(families: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What keeps the inconclusive families open, those with one reason together."""
    reasons: dict[str, list[str]] = {}
    for name, family in families.items():
        if family["decision"] == INCONCLUSIVE:
            reasons.setdefault(family["reason"], []).append(name)
    return [f"{join_words(names)}: {text}" for text, names in reasons.items()]


def pair_json(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A decided row as plain data for the verdict."""
    pair: dict[str, Any] = {
        "metric": row["metric"],
        "family": _known(row["family"]),
        "n_configurations": int(row["n_configurations"]),
        "n_repetitions_min": _known(row["n_repetitions_min"], int),
        "n_repetitions_max": _known(row["n_repetitions_max"], int),
        "isotonic_direction": _known(row["isotonic_direction"]),
    }
    for name in _INTERVALS:
        pair[name] = {
            "value": _known(row[name], float),
            "lo": _known(row[f"{name}_lo"], float),
            "hi": _known(row[f"{name}_hi"], float),
        }
    pair |= {name: _known(row[name], float) for name in _FIGURES}
    return pair | {"decision": row["decision"], "reason": row["decision_reason"]}


def _known(value: Any, kind: type = str) -> Any:
    return None if pd.isna(value) else kind(value)
