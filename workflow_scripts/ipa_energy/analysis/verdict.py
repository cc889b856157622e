"""The verdict: is energy redundant with accuracy, latency and cost? Decided by a rule that is fixed before the data.

Measurements, the pairwise statistics, the judgements of all cells (:mod:`.evidence`) and the rule from the config go
in; a JSON-ready verdict, validated against ``config/schemas/verdict.schema.json``, comes out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd

from ipa_energy.analysis.aggregate import evidence_of
from ipa_energy.analysis.caveats import counts, limitations, of_look
from ipa_energy.analysis.cells import CELL, PLACE, in_cells, used
from ipa_energy.analysis.evidence import Judged
from ipa_energy.analysis.judge import DECISION, JOINT, LEVELS, TRADE_OFF
from ipa_energy.analysis.merging import members_of, mergings, speaking
from ipa_energy.analysis.outcomes import INCONCLUSIVE
from ipa_energy.analysis.pairs_rule import families_of, level_of_pairs, pair_json, with_decisions
from ipa_energy.analysis.sentences import answer
from ipa_energy.files import write_text

SCHEMA_VERSION = 2
SCHEMA_FILE = Path(__file__).parents[1] / "config" / "schemas" / "verdict.schema.json"

PAIRS = "pairwise"

NO_EVIDENCE = (
    "No evidence: the energy is estimated from busy core time. Such a model makes energy follow busy time by "
    "construction, whatever the hardware does, so this decision says nothing about real joules."
)

PARTLY_ESTIMATED = (
    "Part of this energy{share} is estimated from busy core time, which follows busy time by construction; only the "
    "rest is evidence."
)

MOSTLY_ESTIMATED = 0.5
"""Share of the gross energy from which on an estimate leaves no evidence: the model decides more than the meters."""

THRESHOLDS = (
    *("coupled_r2", "spread_threshold", "gain_threshold", "expansion_threshold", "saving_threshold"),
    *("delta_threshold", "tolerances", "min_configurations", "confidence", "bootstrap", "draws"),
)
"""What of the config's section ``analysis`` is told in the verdict, besides the flags that drop a record."""


def make_verdict(
    measurements: pd.DataFrame,
    pairwise: pd.DataFrame,
    judged: Sequence[Judged],
    refused: pd.DataFrame,
    *,
    experiment: str,
    analysis: Mapping[str, Any],
    seed: int,
    look: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole verdict. ``analysis`` is that section of the config; ``refused`` has ``path`` and ``reason``.

    ``look`` is the one that a sequential study ended with (:mod:`.look`).
    """
    rule = {name: analysis[name] for name in THRESHOLDS} | {"drop_flags": list(analysis["drop_flags"]), "seed": seed}
    decided = with_decisions(pairwise, rule)
    by_key = {j.key: j for j in judged}
    celled = in_cells(measurements, rule["drop_flags"])
    shares = estimated_shares(celled)
    cells = [
        _cell(group, by_key.get(tuple(map(str, key))), shares.get(tuple(map(str, key[:-1]))))
        for key, group in decided.groupby([*CELL, "energy"])
    ]
    cells.sort(key=lambda cell: not members_of(cell["host"]))
    chosen = used(measurements, celled)
    deciding, no_evidence = deciding_cells(cells, rule["min_configurations"])
    agreed = {cell["decision"] for cell in deciding}
    decision = agreed.pop() if len(agreed) == 1 else INCONCLUSIVE
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": experiment,
        "decision": decision,
        "no_evidence": no_evidence,
        "answer": answer(deciding, decision, no_evidence=no_evidence),
        "evidence": evidence_of(chosen["evidence"]),
        "weights": sorted(set(chosen["weights"])),
        "hosts": sorted(set(chosen["host"])),
        "meters": sorted(set(chosen["meters"].dropna())),
        "counts": counts(measurements, celled, refused, rule["drop_flags"]),
        "refused": refused.to_dict("records"),
        "rule": rule,
        "cells": cells,
        "limitations": limitations(measurements, celled, chosen, cells, [j.panel for j in judged]) + of_look(look),
        "sequential": None if look is None else {name: look[name] for name in ("round", "because", "reason")},
    }


def estimated_shares(celled: pd.DataFrame) -> dict[tuple[str, ...], float | None]:
    """Share of the gross energy that is estimated, by cell, those of merged hosts too; None where it is unknown."""
    shares: dict[Any, Any] = celled[celled["usable"]].groupby(CELL)["estimated_fraction"].mean().to_dict()
    shares |= {m.cell: m.rows["estimated_fraction"].mean() for m in mergings(celled) if m.energies}
    return {tuple(map(str, cell)): _number(share) for cell, share in shares.items()}


def is_no_evidence(evidence: str | None, share: float | None) -> bool:
    """Whether an energy of this kind, of which ``share`` is estimated, says nothing about real joules."""
    return evidence == "estimated" or (evidence == "mixed" and not (share or 0.0) <= MOSTLY_ESTIMATED)


def _note(evidence: str | None, share: float | None) -> str | None:
    if evidence == "mixed":
        return PARTLY_ESTIMATED.format(share="" if share is None else f" ({share:.0%})")
    return NO_EVIDENCE if evidence == "estimated" else None


def _cell(pairs: pd.DataFrame, judged: Judged | None, share: float | None) -> dict[str, Any]:
    rows = pairs.to_dict("records")
    families = families_of(rows)
    of_pairs, why = level_of_pairs(families)
    evidence = evidence_of(pairs["evidence"])
    levels: dict[str, Any] = {PAIRS: {"decision": of_pairs, "reason": why}}
    if judged is None:
        missing = next((row["reason"] for row in rows if pd.notna(row["reason"])), "no usable record has this energy")
        decision, binding, reason = INCONCLUSIVE, JOINT, str(missing)
        levels |= {level: {"decision": INCONCLUSIVE, "reason": reason} for level in LEVELS}
    else:
        found = judged.judgement
        decision, binding, reason = found.decision, found.binding, found.reason
        levels |= _levels(judged)
    return {
        **{name: str(rows[0][name]) for name in (*CELL, "energy")},
        "evidence": evidence,
        "estimated_fraction": share,
        "no_evidence": is_no_evidence(evidence, share),
        "note": _note(evidence, share),
        "decision": decision,
        "binding": binding,
        "reason": reason,
        "n_configurations": max(int(row["n_configurations"]) for row in rows),
        "levels": levels,
        "families": families,
        "pairs": [pair_json(row) for row in rows],
    }


_JOINT_FIGURES = ("noise", "cv_r2", "noise_ceiling", "repetitions_needed", "configurations_needed", "drift", "drift_p")
_SPACE_COUNTS = (
    *("n_configurations", "n_front_without", "n_front_with", "n_only_with"),
    *("n_above_threshold", "n_only_with_lo", "n_only_with_hi"),
)


def _levels(judged: Judged) -> dict[str, Any]:
    found = judged.judgement
    told: dict[str, dict[str, Any]] = {
        name: {"decision": decision, "reason": reason} for name, (decision, reason) in found.levels.items()
    }
    joint, space, saved = found.joint.summary, found.trade_off.summary, found.savings
    told[JOINT] |= {name: _interval(joint, name) for name in ("spread", "total_spread", "unexplained")}
    told[JOINT] |= {name: _number(joint.get(name)) for name in _JOINT_FIGURES}
    told[TRADE_OFF] |= {name: _number(space.get(name)) for name in _SPACE_COUNTS}
    told[TRADE_OFF] |= {name: _interval(space, name) for name in ("growth", "hypervolume_share")}
    told[TRADE_OFF] |= {
        "delta": {
            str(row["left_out"]): {"value": _number(row["delta"]), "lo": _number(row["delta_lo"]), "hi": None}
            for row in judged.objectives.to_dict("records")
            if isinstance(row["left_out"], str) and "+" not in row["left_out"]
        },
        "sufficient": [
            str(row["kept"])
            for row in judged.sufficient.to_dict("records")
            if row["basis"] == "means" and isinstance(row["kept"], str)
        ],
    }
    told[DECISION] |= {
        "scope": saved.scope,
        "saving": {
            "value": _number(saved.saving),
            "lo": _number(saved.saving_lo),
            "hi": _number(saved.saving_hi),
        },
    }
    return told


def _interval(row: Mapping[str, Any], name: str) -> dict[str, float | None]:
    return {
        "value": _number(row.get(name)),
        "lo": _number(row.get(f"{name}_lo")),
        "hi": _number(row.get(f"{name}_hi")),
    }


def _number(value: Any) -> Any:
    """A plain number, or None; whole numbers stay whole."""
    if value is None or pd.isna(value):
        return None
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(value) if isinstance(value, int | np.integer) else number


def deciding_cells(cells: list[dict[str, Any]], least: int) -> tuple[list[dict[str, Any]], bool]:
    """The cells that must agree on the overall decision; and whether none of them has evidence.

    A cell holds the names of :data:`.cells.PLACE`, ``energy``, ``evidence``, ``no_evidence`` and ``n_configurations``.

    They are those with evidence, or all when there is none. A set of meters with fewer than ``least`` configurations
    does not speak where another set has enough for the same load, host, weights and energy: a few stray records, as
    after a meter dropped out, can't undo a decision. Merged hosts speak for their members (:func:`.merging.speaking`).
    """
    with_evidence = [cell for cell in cells if cell["evidence"] and not cell["no_evidence"]]
    candidates = with_evidence or cells
    enough = {_place(cell) for cell in candidates if _size(cell) >= least}
    left = [c for c in candidates if _size(c) >= least or _place(c) not in enough]
    return speaking(left), not with_evidence


def _place(cell: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(cell[name] for name in (*PLACE, "energy"))


def _size(cell: Mapping[str, Any]) -> int:
    return int(cell["n_configurations"])


def decisions_of(verdict: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
    """The decision of each cell and kind of energy, by the values of :data:`.cells.CELL` and ``energy``."""
    return {tuple(cell[name] for name in (*CELL, "energy")): cell["decision"] for cell in verdict["cells"]}


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
