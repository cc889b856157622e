"""Boards: which GPU a record measured, so that several of one host are never averaged as one.

The measurements table goes in; out comes the same with a name in ``host`` for every host and board that stand for
themselves. Boards of one kind differ by several per cent in the energy of the same work, as hosts do. A host whose
records all measured the same GPUs, or none, keeps its name; one with several is told apart by the GPU's UUID.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

SEPARATOR = ","
"""Between the UUIDs of GPUs that were measured together."""

_SHORT = len("GPU-") + 8
"""Characters of a UUID that tell boards apart for people; more where they don't."""


def boards_of(provenance: Mapping[str, Any]) -> str | None:
    """The UUIDs of the GPUs that were measured, in the order of their domains; None without any."""
    gpus = ((provenance.get("meters") or {}).get("nvml") or {}).get("gpus") or {}
    return SEPARATOR.join(str(gpu["uuid"]) for _, gpu in sorted(gpus.items()) if gpu.get("uuid")) or None


def with_boards(measurements: pd.DataFrame) -> pd.DataFrame:
    """``measurements`` with ``host`` as ``node01 GPU-5f3c1a2b`` where that host has records of several boards.

    A record that measured no GPU, because it failed, stands with the board that the rest of its block ran on, if that
    is one; a good one without a GPU keeps the host's name. Nothing changes without a column ``gpu_uuid``.
    """
    if "gpu_uuid" not in measurements or measurements["gpu_uuid"].isna().all():
        return measurements
    boards = measurements.groupby("host")["gpu_uuid"].nunique()
    several = measurements["host"].isin(boards.index[boards > 1])
    if not several.any():
        return measurements
    rows = measurements[several]
    uuid = rows["gpu_uuid"].where(rows["gpu_uuid"].notna() | (rows["state"] == "ok"), _board_of_block(rows))
    label = _labels(uuid.dropna().unique())
    named = rows["host"].where(uuid.isna(), rows["host"] + " " + uuid.map(label).fillna(""))
    return measurements.assign(host=measurements["host"].where(~several, named.reindex(measurements.index)))


def _board_of_block(rows: pd.DataFrame) -> pd.Series:
    """The one board that the records of each record's block measured; null where there are several or none."""
    of_block = rows.groupby(["experiment", "host", "block"])["gpu_uuid"]
    return of_block.transform("first").where(of_block.transform("nunique") == 1)


def _labels(uuids: Iterable[str]) -> dict[str, str]:
    """A short name of each set of boards, unlike all others."""
    whole = {uuid: uuid.split(SEPARATOR) for uuid in uuids}
    short = {uuid: SEPARATOR.join(board[:_SHORT] for board in boards) for uuid, boards in whole.items()}
    return short if len(set(short.values())) == len(short) else {uuid: uuid for uuid in whole}
