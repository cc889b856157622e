"""Columns of a table as compact JSON values: numbers as base64 of little-endian arrays, texts as levels and codes.

The page's ``data.js`` is the reader. Null is NaN in numbers and code -1 in texts, so the JSON itself never holds a NaN.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SINGLE_ABOVE = 5000
"""Rows above which figures that decide nothing are packed in single precision (7 digits), to keep the page small."""


def packed(array: NDArray[Any], kind: str) -> dict[str, Any]:
    """``array`` as ``kind``: ``f8``, ``f4`` or ``i4``; one value where all are the same and none is null."""
    values = np.asarray(array).astype(f"<{kind}")
    if len(values) and (values == values[0]).all() and np.isfinite(values[0]):
        return {"same": values[0].item(), "n": len(values)}
    return {"type": kind, "b64": base64.b64encode(values.tobytes()).decode("ascii")}


def numbers(column: pd.Series, *, exact: bool = False) -> dict[str, Any]:
    """A column of numbers; what is null or infinite becomes NaN. ``exact`` keeps double precision in large tables."""
    values = pd.to_numeric(column).to_numpy(dtype=float, na_value=np.nan)
    values = np.where(np.isfinite(values), values, np.nan)
    return packed(values, "f8" if exact or len(values) <= SINGLE_ABOVE else "f4")


def texts(column: pd.Series) -> dict[str, Any]:
    """A column of texts or whole numbers: its levels in ascending order, as texts, and each row's place among them."""
    known = column.dropna()
    levels: Sequence[Any] = sorted(known.unique().tolist())
    place = {level: i for i, level in enumerate(levels)}
    codes = column.map(place).fillna(-1).to_numpy(dtype=np.int32)
    return {"levels": [str(level) for level in levels], "codes": packed(codes, "i4")}
