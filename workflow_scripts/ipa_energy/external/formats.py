"""Reading logs: from CSV files to series of power over time, one for each clock.

Settings of a log go in; out come :class:`ipa_energy.external.series.Series`: one for all files when their time stamps
are absolute, one for each file when they count from its own start. Readings that are missing or negative are left out
and counted; what can't be understood raises LogError with file, line and value.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ipa_energy.external.series import PERIODS_BRIDGED, Counts, Series, typical_period_s
from ipa_energy.external.settings import Column, LogError, LogSettings, matching_files
from ipa_energy.external.timestamps import StampError, to_seconds
from ipa_energy.external.zones import utc_s

Floats = NDArray[np.float64]

MISSING = ("", "na", "n/a", "nan", "null", "none", "-", "inf", "-inf", "[n/a]", "[not supported]")
"""What loggers write, in any case, where they have no reading."""

_HEAD_ROWS = 1000
_MANY_COLUMNS = 16


def read_log(settings: LogSettings, files: Sequence[str] | None = None) -> list[Series]:
    """All readings of a log. Raises LogError.

    ``files`` are those that :attr:`LogSettings.files` match, when the caller knows them already.
    """
    paths = matching_files(settings.files) if files is None else list(files)
    if not paths:
        raise LogError(f"external_logs.{settings.name}.files is {list(settings.files)}, which names no file")
    read = [(path, *_read_file(path, settings)) for path in paths]
    if settings.relative:
        return [_series(path, [time_s], [power_w], [counts], settings) for path, time_s, power_w, counts in read]
    _, times, powers, counts = zip(*read, strict=True)
    return [_series(settings.name, times, powers, counts, settings)]


def _read_file(path: str, settings: LogSettings) -> tuple[Floats, Floats, Counts]:
    table = _table(path, settings)
    first_line = settings.skip_rows + (2 if settings.header else 1)
    time_column = _find(path, table, settings.time, "time")
    power_column = _find(path, table, settings.power, "power")
    lines = np.arange(len(table)) + first_line
    if settings.only is not None and settings.only[0] in table:
        wanted = (table[settings.only[0]].str.strip() == settings.only[1]).to_numpy(dtype=bool)
        table, lines = table[wanted], lines[wanted]
    time, power = (table[name].fillna("").str.strip() for name in (time_column, power_column))
    empty = ((time == "") & (power == "")).to_numpy(dtype=bool)
    missing = (power.str.lower().isin(MISSING) | time.str.lower().isin(MISSING)).to_numpy(dtype=bool)
    kept = ~missing
    power_w = _powers(path, power[kept], lines[kept], str(power_column), settings)
    try:
        time_s = to_seconds(time[kept], settings.time_format, settings.zone, _start_s(path, settings))
    except StampError as error:
        line = lines[kept][error.row] if kept.any() else first_line
        raise LogError(f"{path}, line {line}, column {time_column!r}: {error}") from None
    positive = power_w >= 0
    counts = Counts(
        rows=int(len(table) - empty.sum()),
        missing=int((missing & ~empty).sum()),
        negative=int((~positive).sum()),
        out_of_order=int((np.diff(time_s[positive]) < 0).sum()),
    )
    return time_s[positive], power_w[positive], counts


def _table(path: str, settings: LogSettings) -> pd.DataFrame:
    """The file as text; columns by their names without spaces around them, or by their numbers from 1.

    Of a wide file only the columns that are used are kept, as a hundred columns of text would fill the memory.
    """
    head = _parsed(path, settings, nrows=_HEAD_ROWS)
    if head.shape[1] <= _MANY_COLUMNS:
        return _parsed(path, settings)
    wanted = [_find(path, head, settings.time, "time"), _find(path, head, settings.power, "power")]
    if settings.only is not None and settings.only[0] in head:
        wanted.append(settings.only[0])
    names: list[Column] = list(head.columns)
    return _parsed(path, settings, usecols=sorted({names.index(name) for name in wanted}))


def _parsed(path: str, settings: LogSettings, **part: Any) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            # Fields beyond the header's would be cut off with a warning, as those behind a decimal comma.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table: pd.DataFrame = pd.read_csv(
                path,
                sep=settings.separator,
                header=0 if settings.header else None,
                skiprows=settings.skip_rows,
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,
                index_col=False,
                encoding="utf-8-sig",
                **part,
            )
    except (OSError, ValueError, pd.errors.ParserWarning) as error:  # pandas' and the encoding's are ValueErrors
        reason = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        raise LogError(
            f"{path} can't be read as a table with separator {settings.separator!r}: {reason}. "
            "Set separator and skip_rows (lines before the header) to what the file has, and save it as UTF-8"
        ) from None
    names = [str(name).strip() for name in table.columns] if settings.header else [int(n) + 1 for n in table.columns]
    table.columns = pd.Index(names, dtype=object)
    return table


def _find(path: str, table: pd.DataFrame, wanted: Sequence[Column], role: str) -> Column:
    for name in wanted:
        if name in table.columns:
            return name
    names = " or ".join(repr(name) for name in wanted)
    there = ", ".join(repr(name) for name in table.columns)
    raise LogError(f"{path} has no {role} column {names}; it has {there}. Set columns.{role} to one of them")


def _powers(path: str, text: pd.Series, lines: NDArray[np.intp], column: str, settings: LogSettings) -> Floats:
    if settings.decimal != ".":
        text = text.str.replace(settings.decimal, ".", regex=False)
    power = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(power))
    if bad.size:
        at = int(bad[0])
        raise LogError(
            f"{path}, line {lines[at]}, column {column!r}: the power {text.iloc[at]!r} is no number; set "
            "columns.power, separator and decimal to what the file has, and take units out of the values"
        )
    return power * settings.to_watts


def _start_s(path: str, settings: LogSettings) -> float | None:
    start = settings.start_utc
    if isinstance(start, Mapping):
        if Path(path).name not in start:
            raise LogError(
                f"external_logs.{settings.name}.time.start_utc names no start for {Path(path).name}; it has "
                f"{', '.join(start)}. Give the start of each file"
            )
        start = start[Path(path).name]
    return None if start is None else utc_s(start)


def _series(
    name: str, times: Sequence[Floats], powers: Sequence[Floats], counts: Sequence[Counts], settings: LogSettings
) -> Series:
    time_s, power_w = np.concatenate(times), np.concatenate(powers)
    order = np.argsort(time_s, kind="stable")
    time_s, where = np.unique(time_s[order], return_inverse=True)
    if len(time_s) < 2:
        lost = sum(c.missing + c.negative for c in counts)
        raise LogError(
            f"{name}: {len(time_s)} usable reading(s) in {sum(c.rows for c in counts)} rows, {lost} of them missing or "
            f"negative, in column {settings.power[0]!r}. Set columns.power to the one that holds power"
        )
    # Of readings with one time stamp there is no first and last: their mean stands for that instant.
    power_w = np.bincount(where, weights=power_w[order]) / np.bincount(where)
    period_s = settings.period_s or typical_period_s(time_s)
    return Series(
        name=name,
        time_s=time_s,
        power_w=power_w,
        value=settings.value,
        period_s=period_s,
        gap_s=settings.max_gap_s or PERIODS_BRIDGED * max(period_s, typical_period_s(time_s)),
        counts=Counts(
            rows=sum(c.rows for c in counts),
            missing=sum(c.missing for c in counts),
            negative=sum(c.negative for c in counts),
            duplicates=len(order) - len(time_s),
            out_of_order=sum(c.out_of_order for c in counts),
        ),
    )
