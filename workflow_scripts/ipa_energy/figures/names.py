"""Short names for what figures tell apart: cells by what differs between them, configurations by varying knobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.tables import varying_knobs
from ipa_energy.figures.style import name_meters

Cell = tuple[str, ...]

_SHORT = {"batch": "b", "replicas": "r", "threads": "t"}


def cell_names(frame: pd.DataFrame) -> dict[Cell, str]:
    """A name for every cell of ``frame``, in sorted order, of what differs between them; empty for a single cell.

    Sets of meters are named as by :func:`ipa_energy.figures.style.name_meters`.
    """
    cells = sorted(set(frame[CELL].astype(str).itertuples(index=False, name=None)))
    meters = name_meters(cell[CELL.index("meters")] for cell in cells)
    varying = [name for i, name in enumerate(CELL) if len({cell[i] for cell in cells}) > 1]
    return {cell: ", ".join(_part(name, cell[CELL.index(name)], meters) for name in varying) for cell in cells}


def rows_of(frame: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """The rows of one cell."""
    mask = pd.Series(data=True, index=frame.index)
    for name, value in zip(CELL, cell, strict=True):
        mask &= frame[name] == value
    return frame[mask]


def configuration_names(frame: pd.DataFrame) -> dict[str, str]:
    """A short name for every configuration of ``frame``, which has the knobs: variants, then those knobs that vary.

    ``ssd300_vgg16 b4, resnet18 b1, fp16``: b, r and t are batch, replicas and threads of the stage before them. The
    names of a single configuration hold its variants.
    """
    first = frame.drop_duplicates("configuration").set_index("configuration")
    varying = varying_knobs(first)
    stages = [str(name).removesuffix(".variant") for name in first.columns if str(name).endswith(".variant")]
    platform = [knob for knob in varying if "." not in knob]
    return {
        str(name): ", ".join(
            [_stage(row, stage, varying) for stage in stages if _is_known(row, f"{stage}.variant")]
            + [_level(knob, row[knob]) for knob in platform if _is_known(row, knob)]
        )
        or str(name)
        for name, row in zip(first.index, first.to_dict("records"), strict=True)
    }


def _part(name: str, value: str, meters: Mapping[str, str]) -> str:
    if name == "meters":
        return meters[value]
    return f"{value} weights" if name == "weights" else f"workload {value}" if name == "workload" else value


def _stage(row: Mapping[Any, Any], stage: str, varying: list[str]) -> str:
    words = [str(row[f"{stage}.variant"])]
    words += [
        f"{short}{row[f'{stage}.{knob}']}"
        for knob, short in _SHORT.items()
        if f"{stage}.{knob}" in varying and _is_known(row, f"{stage}.{knob}")
    ]
    return " ".join(words)


def _level(knob: str, value: object) -> str:
    return f"{value:g} W" if knob == "power_limit_w" and isinstance(value, int | float) else str(value)


def _is_known(row: Mapping[Any, Any], name: str) -> bool:
    return bool(pd.notna(row[name]))
