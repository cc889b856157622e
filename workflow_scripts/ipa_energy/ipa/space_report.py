"""What is told of the space of one input: its summary, the exact Pareto front, and what every method would choose.

A profile, the section ``ipa`` of the config and one of its inputs go in; plain tables and plain data come out, which
the workflow writes beside the space itself (:mod:`.space`). Figures of energy are those of the profile, so they are as
measured, or as estimated, as that is: ``evidence`` says which.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ipa_energy.configuration import STAGE_KNOBS, Configuration
from ipa_energy.ipa.front import Metric, metrics_of, pareto_mask, significant, space_front
from ipa_energy.ipa.measured_marks import ids_by_knobs, knobs_of_rows
from ipa_energy.ipa.objective import Objective
from ipa_energy.ipa.options import Options, energy_is_known
from ipa_energy.ipa.profile import Profile
from ipa_energy.ipa.settings import (
    METHOD_NAMES,
    WITH_ENERGY,
    Ipa,
    inputs,
    method,
    objective_for,
    options_for,
    usable_methods,
)
from ipa_energy.ipa.solver import Choice
from ipa_energy.ipa.space import blocks, write_space
from ipa_energy.ipa.space_summary import SpaceSummary, Tally
from ipa_energy.ipa.ticks import Floats
from ipa_energy.ipa.totals import COLUMNS

OPTIMA_COLUMNS = {
    "input": "Name of the input.",
    "method": "Way to choose, as in the config.",
    "chosen": "Whether there is a choice.",
    "objective": "Its value, by this method's own objective: that of ipa_energy does not compare with the others.",
    "ties": "Configurations of the same objective, this one included.",
    "ties_truncated": "Whether there are more than were listed.",
    "solve_s": "Time of the solver in s, options already made; differs from run to run.",
    "constraint": "What leaves nothing: latency, throughput, or latency and throughput.",
    "reason": "Why there is no choice, in words.",
}
"""Columns of the optima beside knobs and figures of the space, its marks, and the evidence of its energies."""


class SpaceTooLargeError(ValueError):
    """The space has more configurations than the config allows: how many, and what to reduce."""


@dataclass(frozen=True, slots=True)
class Space:
    """The space of one input, still without a row: its options, its objective, and the method that this is of."""

    profile: Profile
    ipa: Ipa
    usd: Mapping[str, float]
    options: Options
    objective: Objective
    of_method: str
    measured: Sequence[Configuration]

    @property
    def energy_known(self) -> bool:
        """Whether every option has an energy per request at the input's rate."""
        return energy_is_known(self.options)

    @property
    def evidence(self) -> str:
        """What stands behind the energies of the space; ``none`` where there are none."""
        return self.profile.evidence if self.energy_known else "none"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Objectives of the front, with the accuracy that the config names, and energy where it is known."""
        accuracy: Metric = "accuracy_pas" if self.ipa["accuracy"] == "pas" else "accuracy_rank_sum"
        return (accuracy, *metrics_of(self.options)[1:])


def space_of(
    name: str, profile: Profile, ipa: Ipa, usd: Mapping[str, float], measured: Sequence[Configuration] = ()
) -> Space:
    """The space of the input ``name``. The column ``objective`` is that of IPA with energy where energy is known.

    Raises KeyError for an input that the config lacks, and SpaceTooLargeError for more than ``ipa.max_space_rows``.
    """
    options = options_for(profile, inputs(profile, ipa, usd)[name], ipa, usd)
    if options.size > ipa["max_space_rows"]:
        of_stages = ", ".join(f"{len(stage)} of {stage.stage}" for stage in options.stages)
        raise SpaceTooLargeError(
            f"the space of input {name} has {options.size} configurations ({of_stages}), more than "
            f"ipa.max_space_rows, {ipa['max_space_rows']}: lower ipa.replicas, take fewer batch sizes or variants, set "
            f"ipa.threshold_rps to keep one allocation of each variant, or raise ipa.max_space_rows"
        )
    known = energy_is_known(options)
    return Space(
        profile, ipa, usd, options, objective_for(options, ipa, known), WITH_ENERGY if known else "ipa", tuple(measured)
    )


def write_rows(path: str | Path, space: Space) -> SpaceSummary:
    """Write the rows that ``ipa.space_rows`` asks for; the summary counts all configurations whichever are written."""
    feasible_only = space.ipa["space_rows"] == "feasible"
    summary = write_space(path, space.options, space.objective, only_feasible=feasible_only, measured=space.measured)
    if not feasible_only:
        return summary
    tally = Tally()
    for block in blocks(space.options, space.objective, measured=space.measured):
        tally.add(block)
    return tally.summary(space.options)


def front_table(space: Space) -> pd.DataFrame:
    """The exact Pareto front, best accuracy first, with marks and the evidence of its energies.

    ``optimal_without_energy`` marks what is on the front of accuracy, cost and latency too: whatever beats a row there
    is itself beaten or equalled by a row of this front, so comparing the rows with each other is enough. Where energy
    isn't known, the front is that of the three and all of it is marked.
    """
    front = space_front(space.options, space.objective, space.metrics)
    without = [metric for metric in space.metrics if metric != "energy_j_per_request"]
    front["optimal_without_energy"] = pareto_mask(_to_minimise(front, without))
    front = _marked(front, space).assign(evidence=space.evidence)
    accuracy = without[0]
    return front.sort_values([accuracy, "cost", "latency_s"], ascending=[False, True, True], kind="stable").reset_index(
        drop=True
    )


def _to_minimise(front: pd.DataFrame, metrics: Sequence[str]) -> Floats:
    first, *others = (front[metric].to_numpy(dtype=float) for metric in metrics)
    return np.column_stack([-significant(first), *others])


def _marked(table: pd.DataFrame, space: Space) -> pd.DataFrame:
    known = ids_by_knobs(space.measured)
    rows = knobs_of_rows(table, [stage.stage for stage in space.options.stages])
    ids = [known.get(row) for row in rows]
    marks = pd.DataFrame(
        {
            "measured": [one is not None for one in ids],
            "configuration_id": pd.Series(ids, dtype="str", index=table.index),
        },
        index=table.index,
    )
    return pd.concat([table, marks.astype({"measured": bool})], axis=1)


def optima_table(space: Space, methods: Sequence[str] = tuple(METHOD_NAMES)) -> pd.DataFrame:
    """A row for each method: its choice with all figures, or what leaves it none, or why it can't run."""
    usable, reasons = usable_methods(list(methods), space.options, space.ipa)
    ids = ids_by_knobs(space.measured)
    rows = []
    for name in methods:
        row: dict[str, Any] = {"input": space.options.given.name, "method": name, "chosen": False}
        row["evidence"] = space.evidence
        if name not in usable:
            rows.append(row | {"reason": reasons[name]})
            continue
        choose = method(name, space.ipa)
        begin_s = time.perf_counter()
        solution = choose(space.options)
        row["solve_s"] = time.perf_counter() - begin_s
        if solution.best is None:
            assert solution.binding is not None  # a solution without a choice says why
            rows.append(row | {"constraint": solution.binding.constraint, "reason": solution.binding.reason})
            continue
        best = solution.best
        row |= {"chosen": True, "ties": len(solution.ties), "ties_truncated": solution.truncated}
        row |= _figures(best) | {"measured": best.stages in ids, "configuration_id": ids.get(best.stages)}
        rows.append(row)
    knobs = [f"{stage.stage}.{knob}" for stage in space.options.stages for knob in STAGE_KNOBS]
    told = list(OPTIMA_COLUMNS)
    figures = [column for column in COLUMNS if column != "objective"]
    columns = [*told[:3], *knobs, told[3], *figures, *told[4:], "measured", "configuration_id", "evidence"]
    whole = [name for name in knobs if not name.endswith(".variant")]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype(
        dict.fromkeys([*whole, "batch_sum", "ties"], "Int64")
        | dict.fromkeys(figures, "float64")
        | {
            "batch_sum": "Int64",
            "objective": "float64",
            "ties_truncated": "boolean",
            "measured": "boolean",
        }
    )


def _figures(choice: Choice) -> dict[str, Any]:
    row: dict[str, Any] = {f"{k.stage}.{knob}": getattr(k, knob) for k in choice.stages for knob in STAGE_KNOBS}
    return row | {name: getattr(choice, name) for name in COLUMNS}
