"""The measurements behind each configuration, in the order of the configurations table, with links to their records."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ipa_energy.analysis.boards import with_boards
from ipa_energy.analysis.cells import PLACE
from ipa_energy.explorer.packing import numbers, packed, texts

TEXTS = ("repetition", "state", "reason", "flags", "evidence", "experiment")
FIGURES = (
    *("gross_j_per_request", "net_j_per_request", "mean_w", "latency_p99_s", "latency_mean_s", "throughput_rps"),
    *("window_s", "foreign_cores"),
)


def measurements_json(measurements: pd.DataFrame, configurations: pd.DataFrame, folder: str | Path) -> dict[str, Any]:
    """Columns of all measurements, those of the i-th configuration from ``starts[i]`` to ``starts[i + 1]``.

    A measurement without any energy has no meters: it stands with every row of its configuration in that place.
    """
    rows = configurations[["configuration", *PLACE, "meters"]].reset_index(drop=True).rename_axis("of").reset_index()
    found = with_boards(measurements).reset_index(drop=True)
    has_meters = found["meters"].notna()
    key = ["configuration", *PLACE]
    joined = pd.concat(
        [
            found[has_meters].merge(rows, on=[*key, "meters"]),
            found[~has_meters].drop(columns="meters").merge(rows.drop(columns="meters"), on=key),
        ],
        ignore_index=True,
    )
    joined = joined.sort_values(["of", "order"], kind="stable").reset_index(drop=True)
    starts = np.searchsorted(joined["of"].to_numpy(), np.arange(len(configurations) + 1))
    return {
        "starts": packed(starts, "i4"),
        "texts": {name: texts(joined[name]) for name in TEXTS if name in joined and joined[name].notna().any()},
        "figures": {name: numbers(joined[name]) for name in FIGURES if name in joined and joined[name].notna().any()},
        "start": _times(joined),
        "path": _paths(joined, folder),
    }


def _times(joined: pd.DataFrame) -> dict[str, Any]:
    """When each window began, in seconds since 1970."""
    started = pd.to_datetime(joined["start_utc"], utc=True, format="ISO8601", errors="coerce")
    return numbers((started - pd.Timestamp(0, tz="UTC")).dt.total_seconds(), exact=True)


def _paths(joined: pd.DataFrame, folder: str | Path) -> dict[str, Any] | None:
    """What stands before and after the configuration's id in each path, so that ids aren't repeated.

    Paths below ``folder`` are relative to it and marked as links; others stay as they are. None without any path.
    """
    if "path" not in joined or joined["path"].isna().all():
        return None
    below = os.path.abspath(folder) + os.sep  # noqa: PTH100 - links must not be resolved, as the page is not either
    parts = [
        _split(path, configuration, below)
        for path, configuration in zip(joined["path"], joined["configuration"], strict=True)
    ]
    before, after, has_id, link = zip(*parts, strict=True)
    return {"before": _codes(before), "after": _codes(after), "id": _flags(has_id), "link": _flags(link)}


def _split(path: object, configuration: str, below: str) -> tuple[str | None, str | None, bool, bool]:
    if not isinstance(path, str):
        return None, None, False, False
    whole = os.path.abspath(path)  # noqa: PTH100
    link = whole.startswith(below)
    told = whole[len(below) :] if link else path
    before, has_id, after = told.partition(configuration)
    return before, after, bool(has_id), link


def _codes(parts: Iterable[str | None]) -> dict[str, Any]:
    return texts(pd.Series(list(parts), dtype="object"))


def _flags(values: Iterable[bool]) -> dict[str, Any]:
    return packed(np.array(list(values), dtype=np.int32), "i4")
