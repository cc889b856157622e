"""Which configurations of a space were measured: from the configurations table to the knobs that the space knows.

The table is that of :mod:`ipa_energy.analysis.aggregate`: a configuration was measured when some row of it has usable
repetitions (``n`` above 0). A profile describes one platform, so configurations of another device or precision are
none of its space.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ipa_energy.configuration import STAGE_KNOBS, Configuration, Platform, StageKnobs
from ipa_energy.ipa.options import Options


def measured_configurations(
    configurations: pd.DataFrame, stages: Sequence[str], platform: Platform
) -> list[Configuration]:
    """The measured configurations of a platform with exactly these stages, in the order of the table, each once."""
    found: dict[str, Configuration] = {}
    for row in configurations[configurations["n"] > 0].to_dict("records"):
        have = {str(name).rpartition(".")[0] for name in row if str(name).endswith(".variant") and pd.notna(row[name])}
        if have != set(stages) or Platform(row["device"], row["precision"]) != platform:
            continue
        knobs = tuple(
            StageKnobs(stage, row[f"{stage}.variant"], *(int(row[f"{stage}.{k}"]) for k in STAGE_KNOBS[1:]))
            for stage in stages
        )
        configuration = Configuration(row["pipeline"], knobs, platform)
        found.setdefault(configuration.id, configuration)
    return list(found.values())


def ids_by_knobs(measured: Sequence[Configuration]) -> dict[tuple[StageKnobs, ...], str]:
    """Id of each measured configuration by its knobs."""
    return {configuration.stages: configuration.id for configuration in measured}


def knobs_of_rows(table: pd.DataFrame, stages: Sequence[str]) -> list[tuple[StageKnobs, ...]]:
    """The knobs of every row of a table of the space (:func:`.totals.table`)."""
    columns = [
        list(zip(table[f"{stage}.variant"].astype(str), *(table[f"{stage}.{k}"] for k in STAGE_KNOBS[1:]), strict=True))
        for stage in stages
    ]
    return [
        tuple(StageKnobs(s, v, *map(int, numbers)) for s, (v, *numbers) in zip(stages, row, strict=True))
        for row in zip(*columns, strict=True)
    ]


def places(options: Options, configuration: Configuration) -> list[int] | str:
    """Option of each stage with the configuration's knobs, or in words why there is none.

    Raises ValueError where the options hold its knobs twice, with different shares of a GPU.
    """
    given, wanted = [knobs.stage for knobs in configuration.stages], [stage.stage for stage in options.stages]
    if given != wanted:
        return f"its stages are {', '.join(given)}, those of the profile {', '.join(wanted)}"
    found = []
    for stage, knobs in zip(options.stages, configuration.stages, strict=True):
        same = np.asarray(stage.variants)[stage.variant] == knobs.variant
        for name, has, value in (
            ("variant", same, knobs.variant),
            ("cores", stage.cores == knobs.threads, knobs.threads),
            ("batch", stage.batch == knobs.batch, knobs.batch),
            ("replicas", stage.replicas == knobs.replicas, knobs.replicas),
        ):
            if not (same & has).any():
                of = "" if name == "variant" else f" with {knobs.variant}"
                return f"no option of {stage.stage}{of} has {name} {value}"
            same = same & has
        rows = np.flatnonzero(same)
        if len(rows) > 1:
            raise ValueError(
                f"{configuration.id} names {len(rows)} options of {stage.stage}, which differ in GPU share: "
                f"give a profile with one share"
            )
        found.append(int(rows[0]))
    return found
