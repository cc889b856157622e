"""Cells: what must be equal for joules to be put together. Which record enters the statistics of which cell.

The measurements table goes in; out comes the grid with each record in its cells, marked as usable or not and why. A
cell is one pipeline under one workload on one host with one kind of weights and one set of meters; its records were
measured alike. A host with several GPUs that measured is several hosts here (:mod:`.boards`).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from ipa_energy.analysis.boards import with_boards
from ipa_energy.plan import GRID

PLACE = ["pipeline", "workload", "host", "weights"]
CELL = [*PLACE, "meters"]
"""What must be equal for energies to be compared: pipeline, load, machine, weights that ran, what the total holds."""

NO_METERS = "none"
"""The ``meters`` of a cell in which no record has any energy."""

SETTINGS = ["settings_digest", "workload_settings"]
WAY = [*SETTINGS, "protocol_digest"]
"""How a record was measured; records that differ in it are not put together."""


def has_flag(measurements: pd.DataFrame, flags: Collection[str]) -> pd.Series:
    """Whether each record carries at least one of ``flags``; boolean, one value per row."""
    wanted = set(flags)
    return (
        measurements["flags"]
        .map(lambda text: isinstance(text, str) and not wanted.isdisjoint(text.split(";")))
        .astype(bool)
    )


def in_cells(measurements: pd.DataFrame, drop_flags: Collection[str]) -> pd.DataFrame:
    """The records of the grid (anchors repeat one configuration), each in its cells; ``meters`` is never null.

    A record without any energy, as of a failed measurement, holds no joule that could be mixed up: it stands in the
    cell of every set of meters that its configuration was measured with there, else that anything was measured with
    there, else in one of :data:`NO_METERS`. Columns added: ``record``, its row in ``measurements``; ``dropping``, it
    has a flag of ``drop_flags``; ``usable``, it enters the statistics of this cell; ``other_way``, null or how it was
    measured unlike most records of the cell (:data:`WAY`), which alone keeps it out.
    """
    grid = with_boards(measurements)
    grid = grid[grid["role"] == GRID]
    own = grid["meters"].notna()
    of_configuration = _sets(grid[own], ["configuration", *PLACE])
    of_place = _sets(grid[own], PLACE)
    choices: list[object] = grid["meters"].tolist()
    for at in np.flatnonzero(~own):
        configuration, *place = grid.iloc[at][["configuration", *PLACE]]
        sets = of_configuration.get((configuration, *place)) or of_place.get(tuple(place)) or [NO_METERS]
        choices[at] = sets
    celled = grid.assign(meters=pd.Series(choices, index=grid.index, dtype="object"), own_meters=own)
    celled = celled.explode("meters").rename_axis("record").reset_index().astype({"meters": "str"})
    celled["dropping"] = has_flag(celled, drop_flags)
    candidates = (celled["state"] == "ok") & ~celled["dropping"]
    celled["other_way"] = _other_ways(celled[candidates]).reindex(celled.index).astype("str")
    celled["usable"] = candidates & celled["other_way"].isna()
    return celled


def used(measurements: pd.DataFrame, celled: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``measurements`` that enter the statistics of at least one cell, each once."""
    return measurements.loc[sorted(set(celled.loc[celled["usable"], "record"]))]


def left_out(celled: pd.DataFrame) -> pd.DataFrame:
    """The records, each once, that enter no statistics because they were measured unlike the rest of their cell."""
    entering = set(celled.loc[celled["usable"], "record"])
    rows = celled[celled["other_way"].notna() & ~celled["record"].isin(entering)]
    return rows.drop_duplicates("record")


def _sets(records: pd.DataFrame, by: list[str]) -> dict[tuple[str, ...], list[str]]:
    found: dict[tuple[str, ...], list[str]] = {}
    for *key, meters in sorted(records[[*by, "meters"]].drop_duplicates().itertuples(index=False, name=None)):
        found.setdefault(tuple(key), []).append(meters)
    return found


def _other_ways(candidates: pd.DataFrame) -> pd.Series:
    """In what each record differs from the way most of its cell was measured, of equals the way used last; or null."""
    ways = candidates[WAY].fillna("")
    started = pd.to_datetime(candidates["start_utc"], utc=True, format="ISO8601", errors="coerce")
    voting = ways.assign(started=started.fillna(pd.Timestamp(0, tz="UTC")))
    found = pd.Series(index=candidates.index, dtype="object")
    for rows in candidates.groupby(CELL).indices.values():
        cell = ways.iloc[rows]
        own = candidates["own_meters"].iloc[rows].to_numpy()
        # Records without energy stand here only as guests.
        votes = voting.iloc[rows[own] if own.any() else rows].groupby(WAY)["started"].agg(["size", "max"]).reset_index()
        common = votes.sort_values(["size", "max", *WAY]).iloc[-1]
        settings = (cell[SETTINGS] != common[SETTINGS]).any(axis=1)
        code = cell["protocol_digest"] != common["protocol_digest"]
        found.iloc[rows] = np.select(
            [settings & code, settings, code], ["settings and measuring code", "settings", "measuring code"], ""
        )
    return found.replace("", None)
