"""What stands beside a verdict: how many records it rests on, and what a reader must know before leaning on it.

The measurements table and the judged cells go in; counts and plain sentences come out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ipa_energy.analysis.cells import PLACE, has_flag, left_out
from ipa_energy.analysis.host_notes import host_notes
from ipa_energy.analysis.joint import MAX_LEFT_OUT
from ipa_energy.analysis.panel import ENERGY, Panel, describe_balance
from ipa_energy.analysis.tables import knob_columns
from ipa_energy.analysis.wording import join_words
from ipa_energy.plan import GRID

NARROW_SPAN = 1.2
"""A metric whose largest value is less than this times its smallest says little about what a wider range would show."""


_CLEAR = 0.003
"""Chance below which a trend is told of: several metrics and cells are looked at."""

_SMALL_DRIFT = 0.01
_ROUNDING = 1e-12


def counts(
    measurements: pd.DataFrame, celled: pd.DataFrame, refused: pd.DataFrame, drop_flags: list[str]
) -> dict[str, Any]:
    """How many records there are of each kind, each counted once.

    ``dropped``, ``other_settings`` and ``usable`` are about the grid, without anchors. ``celled`` holds the records in
    their cells (:func:`ipa_energy.analysis.cells.in_cells`).
    """
    ok = measurements["state"] == "ok"
    in_grid = measurements["role"] == GRID
    flags = measurements.loc[ok, "flags"].dropna().str.split(";").explode().value_counts().sort_index()
    return {
        "recorded": len(measurements),
        "grid": int(in_grid.sum()),
        "anchors": int((~in_grid).sum()),
        "ok": int(ok.sum()),
        "failed": int((measurements["state"] == "failed").sum()),
        "not_run": int((measurements["state"] == "not_run").sum()),
        "refused": len(refused),
        "flagged": int((ok & measurements["flags"].notna()).sum()),
        "flags": {str(flag): int(count) for flag, count in flags.items()},
        "dropped": int((ok & in_grid & has_flag(measurements, drop_flags)).sum()),
        "dropped_by_flag": {f: int((ok & in_grid & has_flag(measurements, [f])).sum()) for f in drop_flags},
        "other_settings": len(left_out(celled)),
        "usable": celled.loc[celled["usable"], "record"].nunique(),
    }


def limitations(
    measurements: pd.DataFrame,
    celled: pd.DataFrame,
    chosen: pd.DataFrame,
    cells: list[dict[str, Any]],
    panels: Sequence[Panel],
) -> list[str]:
    """What a reader must know before leaning on the answer; ``chosen`` are the records that it rests on."""
    notes: list[str] = []
    narrow: dict[str, list[str]] = {}
    for cell in cells:
        for pair in cell["pairs"]:
            low, high = pair["metric_min"], pair["metric_max"]
            if low is not None and pair["family"] and 0 <= high < NARROW_SPAN * low:
                narrow.setdefault(f"{pair['metric']} spans only {low:.4g} to {high:.4g}", []).append(cell["workload"])
    for text, workloads in narrow.items():
        notes.append(
            f"Range restriction: {text} (workload {join_words(list(dict.fromkeys(workloads)))}), less than a factor of "
            f"{NARROW_SPAN:g}; a wider grid could show a coupling that this one hides."
        )
    if "random" in set(chosen["weights"]):
        notes.append(
            "Random weights ran: accuracies are the published figures of the trained models, not of the weights run."
        )
    if chosen["host"].nunique() == 1:
        notes.append(f"One host ({chosen['host'].iloc[0]}): nothing here shows that the answer holds on another.")
    notes += host_notes(measurements, celled)
    kinds = set(chosen["evidence"].dropna())
    if "mixed" in kinds or {"measured", "estimated"} <= kinds:
        notes.append("Some of the energy is estimated: the estimated part follows busy time by construction.")
    notes += _of_panels(panels)
    notes += _sets_of_meters(celled[celled["usable"]])
    notes += _measured_otherwise(left_out(celled))
    notes += _inconsistencies(chosen)
    lost = measurements[(measurements["role"] == GRID) & (measurements["state"] != "ok")]["configuration"].nunique()
    if lost:
        notes.append(
            f"{lost} of {measurements['configuration'].nunique()} configurations failed or did not run at least once."
        )
    return notes


def of_look(look: Mapping[str, Any] | None) -> list[str]:
    """What a reader must know of a study that was measured until a rule stopped it; ``look`` is its last."""
    if look is None:
        return []
    rule = look["rule"]
    rounds = math.ceil(rule["blocks"] / rule["a_round"])
    early = max(0, min(look["round"], rounds - 1) - rule["start"] + 1)
    added = early * rule["spend"] / max(1, rounds - rule["start"])
    return [
        f"Measured in rounds until a rule stopped it: {look['reason']}. The {early} look{'s' * (early != 1)} before "
        f"the last possible one added at most {added:.2g} to the probability of a wrong verdict."
    ]


def _of_panels(panels: Sequence[Panel]) -> list[str]:
    """What the data of single cells can't carry: constant metrics, holes in the grid, drift, lost records."""
    notes: dict[str, list[str]] = {}
    for panel in panels:
        told = notes_on(panel)
        place = f"{panel.cell[0]} under {panel.cell[1]} on {panel.cell[2]}"
        for text in told:
            notes.setdefault(text, []).append(place)
    return [f"{text[:1].upper()}{text[1:]} ({join_words(list(dict.fromkeys(p)))})." for text, p in notes.items()]


def notes_on(panel: Panel) -> list[str]:
    """What one panel can't carry, a clause each."""
    notes = [
        f"{name} is the same in all configurations, so nothing is known of energy where it differs"
        for name in ("accuracy", "latency_p99", "cost")
        if name in panel.names and len(panel.means) > 1 and not float(panel.mean_of(name).std()) > _ROUNDING
    ]
    balance = describe_balance(panel.knobs)
    if 1 < balance["present"] < balance["possible"]:
        notes.append(
            f"the grid is unbalanced: {balance['present']} of {balance['possible']} combinations of the knobs have "
            "figures; effects of knobs are adjusted for each other, and combinations that are missing could differ"
        )
    if panel.same_order:
        notes.append("every block ran in the same order, so that drift can't be told from configurations")
    if panel.repetitions.size and panel.repetitions.min() < panel.repetitions.max():
        notes.append(f"configurations have {panel.repetitions.min()} to {panel.repetitions.max()} repetitions")
    notes += [
        f"{panel.energy} energy drifts by {100 * trend.slope:+.1f} % over a block, which was taken out"
        for trend in panel.trends
        if trend.metric == ENERGY and trend.p < _CLEAR and abs(trend.slope) > _SMALL_DRIFT
    ]
    if panel.left_out:
        lost = panel.left_out / (panel.left_out + int(panel.repetitions.sum()))
        notes.append(
            f"{panel.left_out} records are left out for {panel.energy} energy ({panel.why_left_out})"
            f"{', too many for a verdict' * (lost > MAX_LEFT_OUT)}"
        )
    if panel.groups > 1:
        notes.append(
            f"{panel.groups} groups of blocks have no configuration in common, so that drift between them can't be "
            "told from configurations"
        )
    return notes


def _sets_of_meters(usable: pd.DataFrame) -> list[str]:
    """Where one load was measured with several sets of meters, so that its configurations are spread over cells."""
    notes = []
    for (pipeline, workload, host, weights), group in usable.groupby(PLACE, sort=True):
        numbers = group.groupby("meters")["configuration"].nunique()
        if len(numbers) > 1:
            names = "; ".join(f"{meters}: {number}" for meters, number in numbers.items())
            notes.append(
                f"Pipeline {pipeline} under {workload} on {host} with {weights} weights was measured with "
                f"{len(numbers)} sets of meters, whose totals hold different things and are never put together "
                f"(configurations of each: {names})."
            )
    return notes


def _measured_otherwise(rows: pd.DataFrame) -> list[str]:
    if rows.empty:
        return []
    reasons = join_words([f"{count} with other {way}" for way, count in rows["other_way"].value_counts().items()])
    number = f"{len(rows)} usable record{'s were' if len(rows) > 1 else ' was'}"
    return [
        f"{number} left out of the statistics: measured {reasons} than most of the cell "
        "(settings_digest and protocol_digest in measurements.csv tell them apart)."
    ]


def _inconsistencies(chosen: pd.DataFrame) -> list[str]:
    """Cells that stand side by side although they were not measured in the same way."""
    notes = []
    for workload, group in chosen.groupby("workload", sort=True):
        if (count := group["workload_settings"].nunique()) > 1:
            notes.append(f"Workload {workload} was measured with {count} different settings under one name.")
    if (count := chosen["protocol_digest"].nunique()) > 1:
        notes.append(f"The records were made by {count} versions of the measuring code.")
    if not chosen.empty and chosen[knob_columns(chosen)].nunique().max() < 2:
        notes.append("No knob varies: there is a single configuration.")
    return notes
