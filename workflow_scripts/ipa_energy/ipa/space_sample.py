"""Rows of a written space to draw: all feasible ones where they are few, else a seeded sample of them.

The file is read one row group after the other, so that a space of twenty million rows needs the memory of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ipa_energy.ipa.random_streams import stream

MOST_POINTS = 15_000
"""More points than this make a figure slow to show and no clearer."""


def feasible_sample(
    path: str | Path, columns: Sequence[str], feasible: int, seed: int, most: int = MOST_POINTS
) -> pd.DataFrame:
    """Up to ``most`` of the ``feasible`` rows that the Parquet file has, in its order, and every measured one of them.

    ``columns`` are read, and ``measured``. All rows alike are as likely to be drawn; the same seed draws the same.
    """
    wanted = np.arange(feasible)
    if feasible > most:
        wanted = np.sort(stream(seed, "space sample").choice(feasible, size=most, replace=False))
    file, seen = pq.ParquetFile(path), 0
    parts: list[pd.DataFrame] = []
    read = list(dict.fromkeys([*columns, "measured", "feasible"]))
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group, columns=read).to_pandas()
        rows = rows[rows["feasible"]]
        first, last = np.searchsorted(wanted, [seen, seen + len(rows)])
        keep = rows["measured"].to_numpy(copy=True)
        keep[wanted[first:last] - seen] = True
        parts.append(rows[keep])
        seen += len(rows)
    if not parts:
        return pd.DataFrame(columns=read)
    return pd.concat(parts, ignore_index=True)
