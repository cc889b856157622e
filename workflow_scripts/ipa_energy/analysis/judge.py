"""The rule of the verdict: three levels of evidence on one panel, and the one decision that follows from them.

A panel and the thresholds of the config go in. Level ``joint`` asks whether accuracy, latency and cost tell energy,
``tradeoff`` whether energy makes configurations optimal that nothing else does, ``decision`` what a choice that knows
energy saves. Energy is

- ``coupled`` when the three tell it, and neither the front nor a choice depends on it beyond them;
- ``decoupled`` when it varies at equal accuracy, latency and cost, *and* that has a consequence: it makes
  configurations optimal, or a choice that knows it saves. Either part alone can be an artefact: the first of a surface
  that is too stiff, the second of an energy that merely opposes another metric. The choice is asked beside the front
  because configurations that tie in all but energy are optimal without it: there the front can't grow;
- else ``inconclusive``, and the level that keeps it open is named.

Pairs of metrics (:mod:`.coupling`) describe; a high correlation with one metric still leaves room at equal metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ipa_energy.analysis.decision import Savings, savings
from ipa_energy.analysis.joint import Joint, joint
from ipa_energy.analysis.outcomes import COUPLED, DECOUPLED, INCONCLUSIVE
from ipa_energy.analysis.panel import Panel
from ipa_energy.analysis.tradeoff import TradeOff, trade_off

JOINT, TRADE_OFF, DECISION = "joint", "tradeoff", "decision"
LEVELS = (JOINT, TRADE_OFF, DECISION)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The decision on one panel. ``binding`` is the level that it rests on, or that keeps it open.

    ``levels`` maps each level to its own decision and reason.
    """

    decision: str
    binding: str
    reason: str
    levels: Mapping[str, tuple[str, str]]
    joint: Joint
    trade_off: TradeOff
    savings: Savings


def judge(
    panel: Panel,
    rule: Mapping[str, Any],
    *,
    seed: int,
    draws: int = 0,
    inputs: Mapping[str, tuple[float, float]] | None = None,
    weights: Mapping[str, Any] | None = None,
) -> Judgement:
    """Judge one panel by the thresholds of ``rule``, which is the section ``analysis`` of the config.

    ``inputs`` map names to (rate in requests/s, SLA in s) and ``weights`` are those of IPA's objective; ``draws`` are
    for the probabilities of membership, which decide nothing.
    """
    common = {"confidence": rule["confidence"], "min_configurations": rule["min_configurations"], "seed": seed}
    together = joint(panel, spread_threshold=rule["spread_threshold"], bootstrap=rule["bootstrap"], **common)
    space = trade_off(
        panel,
        gain_threshold=rule["gain_threshold"],
        expansion_threshold=rule["expansion_threshold"],
        draws=draws,
        **common,
    )
    saved = savings(
        panel,
        inputs=inputs,
        weights=weights,
        tolerances=rule["tolerances"],
        saving_threshold=rule["saving_threshold"],
        **common,
    )
    levels = {
        JOINT: (together.decision, together.reason),
        TRADE_OFF: (str(space.summary["decision"]), str(space.summary["reason"])),
        DECISION: (saved.decision, saved.reason),
    }
    return Judgement(*combine(levels), levels, together, space, saved)


def combine(levels: Mapping[str, tuple[str, str]]) -> tuple[str, str, str]:
    """Decision, binding level and reason that follow from the decisions and reasons of the levels."""
    found = {name: decision for name, (decision, _) in levels.items()}
    reasons = {name: reason for name, (_, reason) in levels.items()}
    if found[JOINT] == INCONCLUSIVE:
        return INCONCLUSIVE, JOINT, reasons[JOINT]
    if found[JOINT] == COUPLED:
        against = [name for name in (TRADE_OFF, DECISION) if found[name] == DECOUPLED]
        if not against:
            return COUPLED, JOINT, reasons[JOINT]
        why = f"{reasons[JOINT]}; yet it asks for other choices than they do: {reasons[against[0]]}"
        return INCONCLUSIVE, against[0], why
    for consequence in (TRADE_OFF, DECISION):
        if found[consequence] == DECOUPLED:
            return DECOUPLED, consequence, f"{reasons[JOINT]}; {reasons[consequence]}"
    why = f"{reasons[JOINT]}; but whether that matters is open: {reasons[TRADE_OFF]}; {reasons[DECISION]}"
    return INCONCLUSIVE, TRADE_OFF, why
