"""What IPA's steps came to, in lines for the summary of a run: spaces, and how far simulation and reality are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

MAX_LINES_OF_A_FILE = 8


def lines_of(paths: Sequence[str | Path]) -> list[str]:
    """Lines of every file, in order: the first paragraph of a text, or what a known table says."""
    lines: list[str] = []
    for path in map(Path, paths):
        if path.suffix == ".txt":
            found = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        elif path.name == "summary.csv":
            found = [_space(row) for row in pd.read_csv(path).to_dict("records")]
        else:
            found = _check(pd.read_csv(path))
        more = len(found) - MAX_LINES_OF_A_FILE
        lines += found[:MAX_LINES_OF_A_FILE] + [f"  ... and {more} more lines in {path}"] * (more > 0)
    return lines


def _space(row: Mapping[Any, Any]) -> str:
    text = (
        f"Space {row['input']} ({row['rate_rps']:g} requests/s, SLA {row['sla_s']:.3g} s): "
        f"{row['feasible']} of {row['configurations']} configurations feasible"
    )
    reason = row.get("empty_because")
    return text if pd.isna(reason) else f"{text}, because {reason}"


def _check(errors: pd.DataFrame) -> list[str]:
    """The simulation against the records of open loops, by their mean latency."""
    chosen = errors[(errors["metric"] == "latency_mean_s") & errors["bias"].notna()]
    return [
        f"Simulation against {row['n']} records of {row['workload']}: mean latency is off by "
        f"{row['mean_absolute_error']:.1%} on average (bias {row['bias']:+.1%})"
        for row in chosen.to_dict("records")
    ]
