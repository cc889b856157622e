"""The answer of a verdict in words: one to three sentences for people, and half a sentence for each cell.

Cells of the verdict, as plain data, go in. Whatever is estimated is called so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.judge import DECISION
from ipa_energy.analysis.outcomes import COUPLED, DECOUPLED, INCONCLUSIVE
from ipa_energy.analysis.wording import join_words, modelled

_MOST = 4


def answer(deciding: Sequence[Mapping[str, Any]], decision: str, *, no_evidence: bool) -> str:
    """One to three sentences: the decision, what it rests on, and where it differs."""
    considered = [cell for cell in deciding if cell["evidence"]]
    if not considered:
        return "No answer: there is no usable record with an energy figure."
    told_apart = [name for name in CELL if len({cell[name] for cell in considered}) > 1]
    groups: dict[tuple[str, str], list[str]] = {}
    for cell in considered:
        place = " / ".join(cell[name] for name in told_apart)
        where = f" ({place})" if place else ""
        groups.setdefault((cell["decision"], short(cell)), []).append(
            f"{modelled(cell['evidence'])}{cell['energy']} energy{where}"
        )
    text = _verdict(considered, decision, no_evidence=no_evidence)
    order = (COUPLED, DECOUPLED, INCONCLUSIVE)
    ordered = sorted(groups.items(), key=lambda item: order.index(item[0][0]))
    details = [f"{join_words(who)}: {what}" for (_, what), who in ordered]
    shown = "; ".join(details[:_MOST]) + (f"; and {len(details) - _MOST} more" if len(details) > _MOST else "")
    return f"{text} {shown[:1].upper()}{shown[1:]}."


def _verdict(considered: Sequence[Mapping[str, Any]], decision: str, *, no_evidence: bool) -> str:
    found = {cell["decision"] for cell in considered}
    if no_evidence:
        text = "No evidence, as the energy is estimated and its model follows busy time by construction."
    elif decision == COUPLED:
        text = (
            "Coupled: accuracy, latency and cost together tell energy, and nothing shows that it changes what is "
            "optimal or worth choosing."
        )
    elif decision == DECOUPLED:
        text = "Decoupled: energy varies at equal accuracy, latency and cost, and what is worth choosing depends on it."
    elif {COUPLED, DECOUPLED} <= found:
        text = "It depends on what is counted and where."
    else:
        text = "Not decided by these data."
    if any(cell["evidence"] == "mixed" for cell in considered):
        text += " Part of the energy behind this is estimated and follows busy time by construction."
    return text


def percent(interval: Mapping[str, float | None]) -> str:
    """``3.1 % [2.0, 4.2]`` of an interval of fractions; empty without a value."""
    value, lo, hi = interval["value"], interval["lo"], interval["hi"]
    if value is None:
        return ""
    bounds = "" if lo is None or hi is None else f" [{100 * lo:.1f}, {100 * hi:.1f}]"
    return f"{100 * value:.1f} %{bounds}"


def short(cell: Mapping[str, Any]) -> str:
    """Decision on a cell and the figures that it rests on, in half a sentence."""
    joint, space = cell["levels"]["joint"], cell["levels"]["tradeoff"]
    spread = percent(joint["spread"]) if "spread" in joint else ""
    if cell["decision"] == COUPLED:
        return f"coupled, it varies by {spread} at equal accuracy, latency and cost"
    if cell["decision"] == DECOUPLED:
        told = f"decoupled, it varies by {spread} at equal accuracy, latency and cost"
        if cell["binding"] == DECISION:
            return f"{told}, and choosing by it saves {percent(cell['levels'][DECISION]['saving'])}"
        return (
            f"{told}, and makes {space['n_only_with_lo']} to {space['n_only_with_hi']} configurations optimal beside "
            f"{space['n_front_without']}"
        )
    return f"inconclusive, {cell['reason']}"
