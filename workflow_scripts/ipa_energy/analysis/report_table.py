"""The pairwise table as one self-contained HTML page, for Snakemake's report, which shows CSV only as a download."""

from __future__ import annotations

import html
from typing import Any

import pandas as pd

_STYLE = """
body { font: 13px/1.4 sans-serif; margin: 1em; color: #111; }
table { border-collapse: collapse; }
th, td { padding: 3px 8px; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #555; }
"""


def pairwise_html(decided: pd.DataFrame, title: str) -> str:
    """The page for a pairwise table with decisions (:func:`ipa_energy.analysis.verdict.with_decisions`)."""
    rows = [_row(row) for row in decided.to_dict("records")]
    table = pd.DataFrame(rows).to_html(index=False, border=0, escape=True) if rows else "<p>No record to compare.</p>"
    heading = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{heading}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n<h3>{heading}</h3>\n{table}\n</body>\n</html>\n"
    )


def _row(row: dict[Any, Any]) -> dict[str, str]:
    evidence = _text(row["evidence"]) or "none"
    return {
        "workload": row["workload"],
        "host": row["host"],
        "weights": row["weights"],
        "meters": row["meters"],
        "energy": f"{row['energy']} ({evidence})",
        "metric": row["metric"],
        "configurations": str(row["n_configurations"]),
        "Kendall τ-b": _interval(row, "tau"),
        "p (Holm)": _number(row["tau_p_holm"], ".2g"),
        "Spearman ρ": _interval(row, "spearman"),
        "isotonic R²": _interval(row, "isotonic_r2"),
        "direction": _text(row["isotonic_direction"]),
        "R² of shuffled data": _number(row["isotonic_r2_chance"]),
        "R² less chance": _number(row["isotonic_r2_corrected"]),
        "decision": row["decision"] if pd.notna(row["family"]) else "(not used)",
        "because": row["decision_reason"],
    }


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def _number(value: Any, style: str = ".2f") -> str:
    return "" if pd.isna(value) else format(value, style)


def _interval(row: dict[Any, Any], name: str) -> str:
    value = _number(row[name])
    return f"{value} [{_number(row[f'{name}_lo'])}, {_number(row[f'{name}_hi'])}]" if value else ""
