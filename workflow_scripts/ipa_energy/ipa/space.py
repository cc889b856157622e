"""IPA's adaptation configuration space for an input: every configuration, its figures, and whether it is feasible.

The space is the product of the options of all stages. It is made in blocks of a bounded number of rows, so that ten
million rows go to a Parquet or CSV file within the memory of one block. A row that isn't feasible says which
constraints it violates; a row that was measured is marked.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ipa_energy.configuration import Configuration
from ipa_energy.files import atomic_path
from ipa_energy.ipa.objective import Objective
from ipa_energy.ipa.options import Options, sufficient
from ipa_energy.ipa.space_summary import SpaceSummary, Tally
from ipa_energy.ipa.ticks import Ints
from ipa_energy.ipa.totals import COLUMNS, sla_ticks, totals

BLOCK_ROWS = 1 << 18
"""Rows of a block: some tens of MB with all columns of a few stages."""

MAX_STAGES = 60
"""Violations are a bit each: one of the SLA, and one of every stage's throughput."""


def blocks(
    options: Options,
    objective: Objective,
    *,
    only_feasible: bool = False,
    measured: Collection[Configuration] = (),
    rows: int = BLOCK_ROWS,
) -> Iterator[pa.Table]:
    """The space as Arrow tables of at most ``rows`` rows, the last stage varying fastest.

    Columns are, for each stage, ``{stage}.variant``, ``.batch``, ``.replicas`` and ``.threads``; those of
    :data:`.totals.COLUMNS`; ``feasible``; ``violates``, the failing constraints as ``latency`` and ``throughput of
    {stage}``, empty where there is none; ``measured``, and ``configuration_id`` where it is true. Rows are marked by
    the configurations ``measured``; those with other knobs than any row (see :func:`row_of`) mark none.
    ``only_feasible`` leaves the other rows out; options that can't sustain the rate are then never combined.
    """
    if len(options.stages) > MAX_STAGES:
        raise ValueError(f"the space has {len(options.stages)} stages: at most {MAX_STAGES} can be enumerated")
    if only_feasible:
        options = sufficient(options)
    last, before = len(options.stages[-1]), math.prod(len(stage) for stage in options.stages[:-1])
    marks = _marks(options, measured)
    step = max(1, rows // max(1, last))
    for start in range(0, before if last else 0, step):
        stop = min(start + step, before)
        chosen = _chosen(start, stop, options)
        columns = _knob_columns(options, chosen) | _figure_columns(options, chosen, objective)
        made = pa.table(columns | _mark_columns(marks, start * last, stop * last))
        yield made.filter(made["feasible"]) if only_feasible else made


def row_of(options: Options, configuration: Configuration) -> int | None:
    """Row of a configuration in the space, None when its knobs are not among the options.

    Raises ValueError where the options hold its knobs twice, with different shares of a GPU.
    """
    if [s.stage for s in configuration.stages] != [stage.stage for stage in options.stages]:
        return None
    row = 0
    for stage, knobs in zip(options.stages, configuration.stages, strict=True):
        same = (stage.batch == knobs.batch) & (stage.replicas == knobs.replicas) & (stage.cores == knobs.threads)
        found = np.flatnonzero(same & (np.asarray(stage.variants)[stage.variant] == knobs.variant))
        if len(found) == 0:
            return None
        if len(found) > 1:
            raise ValueError(
                f"{configuration.id} names {len(found)} options of {stage.stage}, which differ in GPU share"
            )
        row = row * len(stage) + int(found[0])
    return row


def _marks(options: Options, measured: Collection[Configuration]) -> tuple[Ints, list[str]]:
    """Rows of the measured configurations, ascending, and their ids."""
    found: dict[int, str] = {}
    for configuration in measured:
        row = row_of(options, configuration)
        if row is not None and found.setdefault(row, configuration.id) != configuration.id:
            raise ValueError(
                f"{found[row]} and {configuration.id} are one configuration of the space: give those of one platform"
            )
    rows = sorted(found)
    return np.array(rows, dtype=np.int64), [found[row] for row in rows]


def _mark_columns(marks: tuple[Ints, list[str]], start: int, stop: int) -> dict[str, Any]:
    rows, ids = marks
    first, last = np.searchsorted(rows, [start, stop])
    place = np.full(stop - start, -1, dtype=np.int32)
    place[rows[first:last] - start] = np.arange(last - first)
    is_measured = place >= 0
    codes = pa.array(place, mask=~is_measured)
    names = pa.DictionaryArray.from_arrays(codes, pa.array(ids[first:last], type=pa.string()))
    return {"measured": is_measured, "configuration_id": names}


def _chosen(start: int, stop: int, options: Options) -> list[Ints]:
    """Options of a block: of the last stage as a row, of those before as columns, start .. stop - 1 of their product.

    These broadcast against each other, so that what the stages before add up to is computed once for all of the last.
    """
    flat = np.arange(start, stop, dtype=np.int64)[:, None]
    chosen: list[Ints] = [np.arange(len(options.stages[-1]), dtype=np.int64)[None, :]]
    for stage in options.stages[-2:0:-1]:
        flat, option = np.divmod(flat, len(stage))
        chosen.append(option)
    return [flat, *chosen[::-1]] if len(options.stages) > 1 else [chosen[0] + 0 * flat]


def _rows(values: NDArray[Any], chosen: Sequence[Ints]) -> NDArray[Any]:
    """Values of a block, or of a column or row of it, as one value for each of its rows."""
    return np.broadcast_to(values, (len(chosen[0]), chosen[-1].shape[1])).reshape(-1)


def _knob_columns(options: Options, chosen: Sequence[Ints]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for stage, i in zip(options.stages, chosen, strict=True):
        codes = pa.array(_rows(stage.variant.astype(np.int32)[i], chosen))
        columns[f"{stage.stage}.variant"] = pa.DictionaryArray.from_arrays(codes, pa.array(stage.variants))
        for name, values in (("batch", stage.batch), ("replicas", stage.replicas), ("threads", stage.cores)):
            columns[f"{stage.stage}.{name}"] = _rows(values.astype(np.int32)[i], chosen)
    return columns


def _figure_columns(options: Options, chosen: Sequence[Ints], objective: Objective) -> dict[str, Any]:
    figures = totals(options, chosen)
    columns: dict[str, Any] = {
        name: pa.array(_rows(values, chosen), from_pandas=True) for name, values in figures.columns(objective).items()
    }
    bits = (figures.latency > sla_ticks(options.given)).astype(np.int64)
    for s, (stage, i) in enumerate(zip(options.stages, chosen, strict=True)):
        bits |= (~stage.sufficient[i]).astype(np.int64) << (s + 1)
    bits = _rows(bits, chosen)
    columns["feasible"] = bits == 0
    columns["violates"] = _violations(bits, [stage.stage for stage in options.stages])
    return columns


def _violations(bits: NDArray[np.int64], stages: Sequence[str]) -> Any:
    if len(stages) < 16:  # few enough kinds of violation to count them, which beats sorting the rows
        occurs = np.bincount(bits) > 0
        found, place = np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[bits]
    else:
        found, place = np.unique(bits, return_inverse=True)
    names = ["latency", *(f"throughput of {stage}" for stage in stages)]
    words = ["; ".join(name for s, name in enumerate(names) if int(code) >> s & 1) for code in found]
    return pa.DictionaryArray.from_arrays(pa.array(place.astype(np.int32)), pa.array(words, type=pa.string()))


def space_table(
    options: Options,
    objective: Objective,
    *,
    only_feasible: bool = False,
    measured: Collection[Configuration] = (),
) -> pd.DataFrame:
    """The whole space in memory: for spaces that fit it, some 300 bytes a row."""
    made = list(blocks(options, objective, only_feasible=only_feasible, measured=measured))
    return cast("pd.DataFrame", pa.concat_tables([_no_rows(options, objective), *made]).to_pandas())


def _no_rows(options: Options, objective: Objective) -> Any:
    """The columns of the space without a row."""
    chosen = _chosen(0, 0, options)
    columns = _knob_columns(options, chosen) | _figure_columns(options, chosen, objective)
    return pa.table(columns | _mark_columns(_marks(options, ()), 0, 0))


def write_space(
    path: str | Path,
    options: Options,
    objective: Objective,
    *,
    only_feasible: bool = False,
    measured: Collection[Configuration] = (),
) -> SpaceSummary:
    """Write the space to a Parquet file, or CSV where the name ends in .csv, block by block and atomically."""
    tally = Tally()
    schema = _no_rows(options, objective).schema
    with atomic_path(path) as temporary:
        if Path(path).suffix == ".csv":
            writer: Any = pa.csv.CSVWriter(temporary, schema)
        else:  # a dictionary of figures that are nearly all different would only cost time
            repeated = [name for name in schema.names if name not in COLUMNS]
            writer = pq.ParquetWriter(temporary, schema, compression="zstd", use_dictionary=repeated)
        with writer:
            for block in blocks(options, objective, only_feasible=only_feasible, measured=measured):
                writer.write_table(block)
                tally.add(block)
    return tally.summary(options)


def summarise(options: Options, objective: Objective) -> SpaceSummary:
    """The summary alone, without a file."""
    tally = Tally()
    for block in blocks(options, objective):
        tally.add(block)
    return tally.summary(options)
