"""The answer on one page, for people: what was asked, what is decided, on which evidence, and what it does not say.

The verdict as plain data and the tables behind it go in; Markdown comes out. Whatever is estimated is called so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.sentences import percent
from ipa_energy.analysis.wording import join_words, modelled

_MOST_CELLS = 8
_MOST_KNOBS = 3

_LEVELS = {
    "pairwise": "Does one metric alone tell energy?",
    "joint": "Does energy vary at equal accuracy, latency and cost?",
    "tradeoff": "Does energy make configurations optimal?",
    "decision": "Does a choice that knows energy save any?",
}


def answer_page(verdict: Mapping[str, Any], found: Mapping[str, pd.DataFrame]) -> str:
    """The page. ``found`` are the tables of :func:`ipa_energy.analysis.evidence.tables`."""
    rule, counts = verdict["rule"], verdict["counts"]
    lines = [
        f"# Is energy redundant? {verdict['decision'].capitalize()}{_doubt(verdict)}",
        "",
        verdict["answer"],
        "",
        f"Experiment `{verdict['experiment']}`: {counts['usable']} usable of {counts['recorded']} records; hosts "
        f"{join_words(verdict['hosts']) if verdict['hosts'] else 'none'}; meters "
        f"{join_words(verdict['meters']) if verdict['meters'] else 'none'}; weights "
        f"{join_words(verdict['weights']) if verdict['weights'] else 'unknown'}.",
        "",
        "The rule, fixed before the data: energy is *coupled* when configurations that are equal in accuracy, latency "
        f"and cost differ in energy by less than {rule['spread_threshold']:.0%}, and nothing shows that the Pareto "
        "front or a choice depends on it; *decoupled* when they differ by more, and energy makes at least "
        f"{rule['expansion_threshold']:.0%} more configurations optimal or a choice that knows it saves at least "
        f"{rule['saving_threshold']:.0%}; else *inconclusive*. Bounds are at "
        f"{rule['confidence']:.0%}, with replicate noise taken out.",
    ]
    cells = [cell for cell in verdict["cells"] if cell["evidence"]]
    for cell in cells[:_MOST_CELLS]:
        lines += ["", *_cell(cell, found)]
    if len(cells) > _MOST_CELLS:
        lines += ["", f"{len(cells) - _MOST_CELLS} more cells are in `verdict.json`."]
    lines += ["", "## What this does not say", ""]
    lines += [f"- {note}" for note in verdict["limitations"]] or ["- Anything beyond these configurations."]
    return "\n".join(lines) + "\n"


def _doubt(verdict: Mapping[str, Any]) -> str:
    if verdict["no_evidence"]:
        return " - no evidence"
    return " - partly estimated" if verdict["evidence"] == "mixed" else ""


def _cell(cell: Mapping[str, Any], found: Mapping[str, pd.DataFrame]) -> list[str]:
    place = f"{cell['pipeline']}, {cell['workload']}, {cell['host']}, {cell['weights']} weights, {cell['meters']}"
    note = f" {cell['note']}" if cell["note"] else ""
    lines = [
        f"## {(modelled(cell['evidence']) + cell['energy']).capitalize()} energy: {cell['decision']}",
        "",
        f"{place}; {cell['n_configurations']} configurations.{note}",
        "",
        "| question | answer | because |",
        "|---|---|---|",
    ]
    for level, question in _LEVELS.items():
        judged = cell["levels"][level]
        binding = " **(binding)**" if level == cell["binding"] else ""
        lines.append(f"| {question} | {judged['decision']}{binding} | {judged['reason'].replace('|', '/')} |")
    lines += ["", *_details(cell, found)]
    return lines


def _details(cell: Mapping[str, Any], found: Mapping[str, pd.DataFrame]) -> list[str]:
    joint, space = cell["levels"]["joint"], cell["levels"]["tradeoff"]
    if "spread" not in joint:
        return []
    told = []
    if joint["total_spread"]["value"] is not None:
        word = modelled(cell["evidence"])
        told.append(
            f"Over all configurations {word}energy varies by {percent(joint['total_spread'])}, of which the three "
            f"leave {percent(joint['unexplained']) or 'an unknown share'} of the variance unexplained."
        )
    if joint["cv_r2"] is not None and joint["noise_ceiling"] is not None:
        told.append(
            f"Predicted from the three, left-out configurations give R2 {joint['cv_r2']:.3f}; noise allows "
            f"{joint['noise_ceiling']:.3f}."
        )
    told += _knobs(cell, found["residual_knobs"])
    if space.get("delta"):
        deltas = [f"{name} {100 * d['value']:.0f} %" for name, d in space["delta"].items() if d["value"] is not None]
        told.append(f"Error of leaving out one objective, of its range: {', '.join(deltas)}.")
    if space.get("sufficient"):
        told.append(f"Smallest set of objectives that is enough: {' or '.join(space['sufficient'])}.")
    return [" ".join(told)] if told else []


def _knobs(cell: Mapping[str, Any], table: pd.DataFrame) -> list[str]:
    mine = table
    for name in (*CELL, "energy"):
        mine = mine[mine[name] == cell[name]]
    mine = mine[mine["omega2"].notna() & (mine["omega2"] > 0.01)].sort_values("omega2", ascending=False)
    rows = mine.head(_MOST_KNOBS).to_dict("records")
    if not rows:
        return []
    parts = [f"{row['knob']} {100 * row['omega2']:.0f} % (least at {row['favours']})" for row in rows]
    return [f"Of what is left over, these knobs carry: {', '.join(parts)}."]
