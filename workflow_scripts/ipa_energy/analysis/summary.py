"""The short summary that a run prints when it ends: what was measured, what is missing, the answer, where things are.

The verdict goes in, at most :data:`MAX_LINES` lines of text come out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipa_energy.analysis.sentences import percent

MAX_LINES = 14

_MAX_CELLS = 4
_MAX_NAMES = 3


def summary(verdict: Mapping[str, Any], folder: str) -> str:
    """Text of the summary, without a newline at its end; ``folder`` is where the results lie."""
    counts = verdict["counts"]
    lines = [
        f"Experiment {verdict['experiment']}: {counts['recorded']} records, {counts['ok']} measured, "
        f"{counts['failed']} failed, {counts['not_run']} not run, {counts['refused']} files refused",
        f"Flagged: {counts['flagged']}{_by_flag(counts['flags'])}; left out of the statistics: {counts['dropped']}"
        f"{_measured_otherwise(counts)}",
    ]
    if verdict["refused"]:
        names = [entry["path"] or entry["reason"] for entry in verdict["refused"]]
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        lines.append(f"Refused: {', '.join(names[:_MAX_NAMES])}{more} (reasons: {folder}/refused.csv)")
    lines += [
        f"Energy: {_evidence(verdict)}; weights: {', '.join(verdict['weights']) or 'unknown'}",
        f"Answer: {verdict['answer']}",
    ]
    if verdict.get("sequential"):
        lines.append(f"Sequential: {verdict['sequential']['reason']}")
    cells = verdict["cells"]
    lines += [
        f"  {cell['workload']}, {cell['host']}, {cell['energy']}{_estimated(cell)}"
        f"{_meters(verdict, cell)}: {cell['decision']}"
        f"{_no_evidence(cell)} ({_short(cell)})"
        for cell in cells[:_MAX_CELLS]
    ]
    if len(cells) > _MAX_CELLS:
        lines.append(f"  ... and {len(cells) - _MAX_CELLS} more in {folder}/verdict.json")
    lines += [
        f"Limitations: {len(verdict['limitations'])}, listed in {folder}/verdict.json",
        f"Tables: {folder}/measurements.csv, configurations.csv, anchors.csv, coupling/",
        f"Answer on one page: {folder}/answer.md; to look at: {folder}/explorer.html, {folder}/figures/",
    ]
    return "\n".join(lines)


def _by_flag(flags: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{flag} {count}' for flag, count in flags.items())})" if flags else ""


def _measured_otherwise(counts: Mapping[str, Any]) -> str:
    number = counts["other_settings"]
    return f" for a flag, {number} for other settings or measuring code" if number else ""


def _meters(verdict: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
    """Named only where there is something to tell apart."""
    return f", meters {cell['meters']}" if len(verdict["meters"]) > 1 else ""


def _evidence(verdict: Mapping[str, Any]) -> str:
    match verdict["evidence"]:
        case "estimated":
            return "estimated, not measured"
        case "mixed":
            return "partly measured, partly estimated"
        case "measured":
            return "measured"
        case _:
            return "none"


def _no_evidence(part: Mapping[str, Any]) -> str:
    return " - no evidence" if part["no_evidence"] else ""


def _estimated(cell: Mapping[str, Any]) -> str:
    match cell["evidence"]:
        case "estimated":
            return " energy (estimated)"
        case "mixed":
            return " energy (partly estimated)"
        case _:
            return " energy"


def _short(cell: Mapping[str, Any]) -> str:
    """Decision of each level, with the spread of energy at equal metrics."""
    levels = cell["levels"]
    spread = percent(levels["joint"]["spread"]) if "spread" in levels["joint"] else ""
    found = [
        f"at equal accuracy, latency and cost {levels['joint']['decision']}{f' ({spread})' if spread else ''}",
        f"front {levels['tradeoff']['decision']}",
        f"choice {levels['decision']['decision']}",
        f"pairs {levels['pairwise']['decision']}",
    ]
    return ", ".join(found)
