"""What an energy-aware choice saves: at accuracy, latency and cost as good as those of the choice that ignores energy.

A panel goes in (:mod:`.panel`); out comes a row for each input (rate and SLA), a row for the mean over them, a row for
the mean over all choices that anybody could make who ignores energy (the configurations that are Pareto-optimal in
accuracy, latency and cost), and a decision on both means.

Noise must not look like a saving: the least of many noisy energies is too low. So choices are made with one half of the
repetitions and their energies are taken from the other half, both ways round, for a few random splits
(:mod:`.honest_ratios`).

Part of a saving needs no joules: where energy is a function of the metrics, a tolerance of 5 % in cost may halve
latency and energy with it. ``own_saving`` is what is left: the lesser of the saving against the baseline and the saving
against the choice that follows the energy which the metrics foretell (:func:`.choices.foretold`). That is smooth: where
energy jumps between configurations that are within the tolerances of each other, the jump counts as energy's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from ipa_energy.analysis.choices import DEFAULT_WEIGHTS, Tolerances
from ipa_energy.analysis.panel import Panel
from ipa_energy.analysis.reference_inputs import given_inputs
from ipa_energy.analysis.saving_rows import (
    FEASIBLE,
    NEEDED,
    NO_REPETITIONS,
    SCOPES,
    Study,
    frame_of,
    scope_rows,
    study_of,
    ways_of,
)
from ipa_energy.analysis.wording import modelled


@dataclass(frozen=True, slots=True)
class Savings:
    """Rows of :data:`.saving_rows.COLUMNS` and the decision on one cell and energy.

    ``saving`` is the mean own saving of the scope that ``scope`` names, a fraction of the energy per request, with the
    bounds that were compared with the threshold; None where there is none.
    """

    rows: pd.DataFrame
    decision: Literal["coupled", "decoupled", "inconclusive"]
    reason: str
    scope: str | None = None
    saving: float | None = None
    saving_lo: float | None = None
    saving_hi: float | None = None


def weights_of(ipa: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a choice from the config's section ``ipa``: without energy, with its scales and its cost."""
    named = {name: ipa["weights"][name] for name in ("alpha", "beta", "gamma") if name in ipa.get("weights", {})}
    return dict(DEFAULT_WEIGHTS) | named | {name: ipa[name] for name in ("scales", "cost") if name in ipa}


def savings(
    panel: Panel,
    *,
    inputs: Mapping[str, tuple[float, float]] | None = None,
    weights: Mapping[str, Any] | None = None,
    tolerances: Mapping[str, float] | None = None,
    confidence: float = 0.95,
    saving_threshold: float = 0.05,
    min_configurations: int = 8,
    splits: int = 3,
    seed: int = 0,
) -> Savings:
    """Savings of energy-aware choices in one cell and the decision on them.

    ``inputs`` map a name to (rate in requests/s, SLA on p99 latency in s). Without any, or where none of them can be
    served, reference inputs are derived from the measurements (:mod:`.reference_inputs`). ``weights`` override
    :data:`.choices.DEFAULT_WEIGHTS`; ``tolerances`` are fractions of ``accuracy``, ``latency`` and ``cost``. The cost
    is US$ per 1000 requests in the scope ``grid`` and what the objective counts in the scope ``feasible``.

    ``decoupled`` when the lower bound of the mean own saving reaches ``saving_threshold`` in one of the two scopes,
    ``coupled`` when the upper bound stays below it in both. The intervals of means are shared between the scopes
    (Bonferroni), so that of a scope has the level 1 - (1 - ``confidence``) / 2; intervals of single inputs have
    ``confidence``. Raises ValueError for inputs, weights or tolerances out of range.
    """
    if splits < 1:
        raise ValueError(f"splits is {splits}: give 1 or more")
    wanted = given_inputs(inputs or {})
    allowed = Tolerances(**(tolerances or {}))
    lacking = [name for name in NEEDED if name not in panel.names]
    if lacking:
        return _silent(panel, f"no figures for {', '.join(lacking)}")
    if len(panel.configurations) < 2:
        return _silent(panel, "fewer than two configurations: there is nothing to choose from")
    study = study_of(panel, wanted, dict(DEFAULT_WEIGHTS) | dict(weights or {}), allowed)
    ways = list(ways_of(study, splits, seed)) if study.repeated else []
    shared = 1 - (1 - confidence) / 2
    rows, means = [], {}
    for scope in SCOPES:
        single, mean = scope_rows(study, ways, scope, confidence, shared)
        rows += [*single, mean]
        means[scope] = mean
    return _decided(frame_of(rows), means, study, saving_threshold, min_configurations)


def _silent(panel: Panel, reason: str) -> Savings:
    """No answer: one row for each scope that says why."""
    start: dict[str, Any] = panel.key | {
        "evidence": panel.evidence,
        "n_configurations": len(panel.configurations),
        "reason": reason,
    }
    return Savings(frame_of([start | {"scope": scope} for scope in SCOPES]), "inconclusive", reason)


def _decided(
    rows: pd.DataFrame, means: Mapping[str, Mapping[str, Any]], study: Study, threshold: float, least: int
) -> Savings:
    """The rule, on the rows of means."""
    count = len(study.places)
    if count < least:
        repeated = " with two repetitions" if count < len(study.panel.configurations) else ""
        return Savings(rows, "inconclusive", f"{count} configurations{repeated}; the rule asks for {least}")
    if not study.repeated:
        return Savings(rows, "inconclusive", NO_REPETITIONS)
    speaking = {
        scope: row
        for scope, row in means.items()
        if "own_saving" in row and 2 * row["n_with_alternative"] >= row["n_references"]
    }
    told: dict[str, str] = {}
    for scope, row in means.items():
        what = "inputs" if scope == FEASIBLE else "configurations that are optimal without energy"
        if scope in speaking:
            lo, hi = row["own_saving_lo"], row["own_saving_hi"]
            word = modelled(study.panel.evidence)
            saved = f"{row['own_saving']:.1%} [{lo:.1%}, {hi:.1%}]"
            told[scope] = f"mean saving of {word}energy {saved} over {row['n_references']} {what}"
        elif "own_saving" in row:
            told[scope] = (
                f"only {row['n_with_alternative']} of {row['n_references']} {what} have an alternative within the "
                "tolerances"
            )
        else:
            told[scope] = str(row["reason"])

    def found(decision: Literal["coupled", "decoupled", "inconclusive"], scope: str | None, reason: str) -> Savings:
        if scope is None:
            return Savings(rows, decision, reason)
        row = speaking[scope]
        return Savings(rows, decision, reason, scope, row["own_saving"], row["own_saving_lo"], row["own_saving_hi"])

    above = [scope for scope, row in speaking.items() if row["own_saving_lo"] >= threshold]
    if above:
        best = max(above, key=lambda scope: float(speaking[scope]["own_saving_lo"]))
        return found("decoupled", best, f"{told[best]}, lower bound at or above {threshold:.0%}")
    widest = max(speaking, key=lambda scope: float(speaking[scope]["own_saving_hi"]), default=None)
    both = "; ".join(told[scope] for scope in SCOPES)
    if len(speaking) == len(SCOPES) and widest is not None and speaking[widest]["own_saving_hi"] < threshold:
        return found("coupled", widest, f"{both}; upper bounds below {threshold:.0%}")
    reaches = f"; not all upper bounds are below {threshold:.0%}" if speaking else ""
    return found("inconclusive", widest, both + reaches)
