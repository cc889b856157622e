"""The word that must stand before an energy that is not, or not all, measured."""

from __future__ import annotations


def modelled(evidence: str | None) -> str:
    """``estimated`` or ``partly estimated`` with a space behind it; empty for an energy that is measured."""
    return {"estimated": "estimated ", "mixed": "partly estimated "}.get(evidence or "", "")
