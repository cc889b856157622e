"""The verdict: is energy coupled with accuracy, latency or cost? Decided by a rule that is fixed before the data.

Measurements, the pairwise statistics and the rule from the config go in; a JSON-ready verdict, validated against
``config/schemas/verdict.schema.json``, comes out. Of the four kinds of evidence that a full verdict wants, this version
decides on the pairwise one alone, and says so among its limitations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd

from ipa_energy.analysis.aggregate import evidence_of
from ipa_energy.analysis.caveats import counts, join_words, limitations
from ipa_energy.analysis.cells import CELL, PLACE, in_cells, used
from ipa_energy.analysis.coupling import FAMILIES
from ipa_energy.files import write_text

SCHEMA_VERSION = 1
SCHEMA_FILE = Path(__file__).resolve().parents[3] / "config" / "schemas" / "verdict.schema.json"

COUPLED, DECOUPLED, INCONCLUSIVE = "coupled", "decoupled", "inconclusive"

NO_EVIDENCE = (
    "No evidence: the energy is estimated from busy core time. Such a model makes energy follow busy time by "
    "construction, whatever the hardware does, so this decision says nothing about real joules."
)

PARTLY_ESTIMATED = (
    "Part of this energy is estimated from busy core time, which follows busy time by construction; only the rest is "
    "evidence."
)

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


def make_verdict(
    measurements: pd.DataFrame,
    pairwise: pd.DataFrame,
    refused: pd.DataFrame,
    *,
    experiment: str,
    analysis: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """The whole verdict. ``analysis`` is that section of the config; ``refused`` has ``path`` and ``reason``."""
    rule = {
        "coupled_r2": analysis["coupled_r2"],
        "min_configurations": analysis["min_configurations"],
        "confidence": analysis["confidence"],
        "bootstrap": analysis["bootstrap"],
        "drop_flags": list(analysis["drop_flags"]),
        "seed": seed,
    }
    decided = with_decisions(pairwise, rule)
    cells = [_cell(group) for _, group in decided.groupby([*CELL, "energy"], sort=True)]
    celled = in_cells(measurements, rule["drop_flags"])
    chosen = used(measurements, celled)
    deciding, no_evidence = _deciding(cells, rule["min_configurations"])
    agreed = {cell["decision"] for cell in deciding}
    decision = agreed.pop() if len(agreed) == 1 else INCONCLUSIVE
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": experiment,
        "decision": decision,
        "no_evidence": no_evidence,
        "answer": _answer(deciding, decision, no_evidence),
        "evidence": evidence_of(chosen["evidence"]),
        "weights": sorted(set(chosen["weights"])),
        "hosts": sorted(set(chosen["host"])),
        "meters": sorted(set(chosen["meters"].dropna())),
        "counts": counts(measurements, celled, refused, rule["drop_flags"]),
        "refused": refused.to_dict("records"),
        "rule": rule,
        "cells": cells,
        "limitations": limitations(measurements, celled, chosen, cells),
    }


def _cell(pairs: pd.DataFrame) -> dict[str, Any]:
    rows = pairs.to_dict("records")
    families = {family: _family([row for row in rows if row["family"] == family]) for family in FAMILIES}
    decisions = {name: family["decision"] for name, family in families.items()}
    coupled = [name for name, decision in decisions.items() if decision == COUPLED]
    if coupled:
        decision, reason = COUPLED, f"coupled with {join_words(coupled)}"
    elif all(value == DECOUPLED for value in decisions.values()):
        decision, reason = DECOUPLED, f"decoupled from {join_words(list(FAMILIES))}"
    else:
        decision, reason = INCONCLUSIVE, "; ".join(_open_questions(families))
    evidence = evidence_of(pairs["evidence"])
    no_evidence = evidence == "estimated"
    return {
        **{name: str(rows[0][name]) for name in (*CELL, "energy")},
        "evidence": evidence,
        "no_evidence": no_evidence,
        "note": {"estimated": NO_EVIDENCE, "mixed": PARTLY_ESTIMATED}.get(evidence or ""),
        "decision": decision,
        "reason": reason,
        "families": families,
        "pairs": [_pair(row) for row in rows],
    }


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


def _pair(row: Mapping[Any, Any]) -> dict[str, Any]:
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


def _deciding(cells: list[dict[str, Any]], least: int) -> tuple[list[dict[str, Any]], bool]:
    """The cells that must agree on the overall decision; and whether none of them has evidence.

    They are those with evidence, or all when there is none. A set of meters with fewer than ``least`` configurations
    does not speak where another set has enough for the same load, host, weights and energy: a few stray records, as
    after a meter dropped out, can't undo a decision.
    """
    with_evidence = [cell for cell in cells if cell["evidence"] in ("measured", "mixed")]
    candidates = with_evidence or cells
    enough = {_place(cell) for cell in candidates if _size(cell) >= least}
    return [c for c in candidates if _size(c) >= least or _place(c) not in enough], not with_evidence


def _place(cell: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(cell[name] for name in (*PLACE, "energy"))


def _size(cell: Mapping[str, Any]) -> int:
    return max(int(pair["n_configurations"]) for pair in cell["pairs"])


def _answer(deciding: list[dict[str, Any]], decision: str, no_evidence: bool) -> str:
    """One to three sentences for people."""
    considered = [cell for cell in deciding if cell["evidence"]]
    if not considered:
        return "No answer: there is no usable record with an energy figure."
    told_apart = [name for name in CELL if len({cell[name] for cell in considered}) > 1]
    groups: dict[tuple[str, str, str], list[str]] = {}
    for cell in considered:
        kind = {"estimated": "estimated ", "mixed": "partly estimated "}.get(cell["evidence"], "") + cell["energy"]
        place = " / ".join(cell[name] for name in told_apart)
        groups.setdefault((cell["decision"], kind, _phrase(cell)), []).append(place)
    where: dict[str, list[str]] = {COUPLED: [], DECOUPLED: [], INCONCLUSIVE: []}
    for (found, kind, phrase), places in groups.items():
        where[found].append(f"{kind} energy{f' ({join_words(places)})' if told_apart else ''} is {phrase}")
    if no_evidence:
        text = "No evidence, as the energy is estimated and its model follows busy time by construction."
    elif decision == COUPLED:
        text = "Coupled: energy follows what IPA already weighs and adds little of its own."
    elif decision == DECOUPLED:
        text = "Decoupled: energy follows none of accuracy, latency and cost closely."
    elif where[COUPLED] and where[DECOUPLED]:
        text = "It depends on what is counted and where."
    else:
        text = "Not decided by these data."
    if any(cell["evidence"] == "mixed" for cell in considered):
        text += " Part of the energy behind this is estimated and follows busy time by construction."
    details = [*where[COUPLED], *where[DECOUPLED], *where[INCONCLUSIVE]]
    shown = "; ".join(details[:4]) + (f"; and {len(details) - 4} more" if len(details) > 4 else "")
    return f"{text} {shown[:1].upper()}{shown[1:]}."


def _phrase(cell: Mapping[str, Any]) -> str:
    if cell["decision"] != INCONCLUSIVE:
        return str(cell["reason"])
    questions = _open_questions(cell["families"])
    if len(questions) == 1:
        return f"inconclusive ({questions[0]})"
    return f"inconclusive on {join_words([n for n, f in cell['families'].items() if f['decision'] == INCONCLUSIVE])}"


@lru_cache(maxsize=1)
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))


def write_verdict(path: str | Path, verdict: Mapping[str, Any]) -> None:
    """Validate and write atomically. Raises ValueError naming the place where it breaks the schema or holds NaN."""
    error = jsonschema.exceptions.best_match(_validator().iter_errors(verdict))
    if error is not None:
        raise ValueError(f"refusing to write {path}: {'/'.join(map(str, error.absolute_path))}: {error.message[:300]}")
    write_text(path, json.dumps(verdict, indent=1, allow_nan=False) + "\n")


def read_verdict(path: str | Path) -> dict[str, Any]:
    """Read and validate a verdict. Raises ValueError naming the file and the fault."""
    verdict = json.loads(Path(path).read_text(encoding="utf-8"))
    error = jsonschema.exceptions.best_match(_validator().iter_errors(verdict))
    if error is not None:
        raise ValueError(f"{path}: {'/'.join(map(str, error.absolute_path))}: {error.message[:300]}")
    return dict(verdict)
