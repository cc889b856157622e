"""Words that all texts of the analysis share: what stands before an energy that is not measured, and lists."""

from __future__ import annotations


def modelled(evidence: str | None) -> str:
    """``estimated`` or ``partly estimated`` with a space behind it; empty for an energy that is measured."""
    return {"estimated": "estimated ", "mixed": "partly estimated "}.get(evidence or "", "")


def join_words(names: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
