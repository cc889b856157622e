"""The summary of a space as plain data for JSON, and the summaries of all inputs as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from ipa_energy.ipa.settings import cost_unit
from ipa_energy.ipa.space_report import Space
from ipa_energy.ipa.space_summary import SpaceSummary


def summary_json(space: Space, summary: SpaceSummary, front: pd.DataFrame) -> dict[str, Any]:
    """The summary as plain data, with what the figures rest on: SLA, objective, scales, energy and its evidence."""
    given = space.options.given
    by_rule = space.ipa["inputs"][given.name]["sla_s"] is None
    alone = int((~front["optimal_without_energy"]).sum())
    return {
        "input": given.name,
        "rate_rps": given.rate_rps,
        "sla_s": given.sla_s,
        "sla_from": f"{space.ipa['sla_factor']:g} x the mean latency at the smallest batch, summed over the stages"
        if by_rule
        else "config",
        "latency": space.ipa["latency"],
        "cost_unit": cost_unit(space.ipa),
        "configurations": space.options.size,
        "feasible": summary.feasible,
        "measured": summary.measured,
        "measured_feasible": summary.measured_feasible,
        "violations": dict(sorted(summary.violations.items())),
        "ranges": {name: {"min": found.least, "max": found.most} for name, found in summary.ranges.items()},
        "empty_because": summary.empty_because,
        "rows_written": space.ipa["space_rows"],
        "objective": {
            "method": space.of_method,
            "accuracy": space.objective.accuracy,
            "weights": asdict(space.objective.weights),
            "scales": asdict(space.objective.scales),
            "scaled": space.ipa["scales"],
        },
        "energy": {
            "known": space.energy_known,
            "evidence": space.evidence,
            "boundary": space.profile.energy_boundary,
            "reason": None if space.energy_known else _why_no_energy(space),
        },
        "front": {
            "configurations": len(front),
            "optimal_without_energy": len(front) - alone,
            "optimal_only_with_energy": alone if space.energy_known else None,
        },
    }


def _why_no_energy(space: Space) -> str:
    if space.options.given.rate_rps == 0:
        return "the rate is 0: without requests there is no energy per request"
    return "the profile has no energy_j for some option"


def summaries_table(summaries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each input, in the order given, flat: nested fields as ``energy.evidence``, ranges as ``cost.min``."""
    rows = []
    for summary in summaries:
        row: dict[str, Any] = {}
        for key, value in summary.items():
            if key == "violations":
                row["violating"] = sum(value.values())
            elif key == "ranges":
                row |= {f"{name}.{end}": found[end] for name, found in value.items() for end in ("min", "max")}
            elif isinstance(value, Mapping):
                row |= {f"{key}.{inner}": one for inner, one in value.items() if not isinstance(one, Mapping)}
            else:
                row[key] = value
        rows.append(row)
    return pd.DataFrame(rows)
