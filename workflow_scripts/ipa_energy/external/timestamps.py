"""Time stamps of a log: from text to seconds since the epoch in UTC, by the log's own clock.

Text goes in, one value a row in the order of the file; seconds come out. A stamp that can't be read, does not exist in
its zone, or could mean two instants raises :class:`StampError` with its row; nothing is guessed.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ipa_energy.external.zones import RELATIVE, UNIX, zone_of

Floats = NDArray[np.float64]

# After the time of day, so that the day of a date alone is no offset.
_HAS_ZONE = r"[T ].*(?:[Zz]|[+-]\d\d(?::?\d\d)?)$"


class StampError(ValueError):
    """A time stamp can't be used: ``row`` counts from 0, the text says why and what to do."""

    def __init__(self, row: int, text: str) -> None:
        super().__init__(text)
        self.row = row


def to_seconds(text: pd.Series, pattern: str, zone: str | None, start_s: float | None) -> Floats:
    """Seconds since the epoch (UTC by the log's clock) of time stamps in the order of their file.

    ``pattern`` is one of :data:`UNIX`, :data:`RELATIVE` (counted from ``start_s``), ``iso`` or a strptime
    pattern; ``zone`` is that of stamps that name none themselves. Raises StampError.
    """
    if pattern in UNIX:
        return _numbers(text) * UNIX[pattern]
    if pattern in RELATIVE:
        if start_s is None:
            raise StampError(0, "relative times need a start; set time.start_utc")
        return _numbers(text) * RELATIVE[pattern] + start_s
    if pattern == "iso":
        aware = text.str.contains(_HAS_ZONE).to_numpy(dtype=bool)
    else:
        aware = np.full(len(text), "%z" in pattern)
    seconds = np.empty(len(text))
    fmt = "ISO8601" if pattern == "iso" else pattern
    if aware.any():
        instants = pd.to_datetime(text[aware], format=fmt, utc=True, errors="coerce")
        seconds[aware] = _epoch_s(instants)
    if not aware.all():
        naive = pd.to_datetime(text[~aware], format=fmt, errors="coerce")
        # What could not be read would else be taken for an instant that its zone lacks.
        _refuse_unread(naive.isna().to_numpy(), np.flatnonzero(~aware), text, pattern)
        if zone is None:
            row = int(np.flatnonzero(~aware)[0])
            raise StampError(row, f"the time {text.iloc[row]!r} names no zone; set time.zone to that of the log")
        seconds[~aware] = _localised_s(naive, zone, np.flatnonzero(~aware))
    _refuse_unread(np.isnan(seconds), np.arange(len(text)), text, pattern)
    return seconds


def _numbers(text: pd.Series) -> Floats:
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        row = int(bad[0])
        raise StampError(row, f"the time {text.iloc[row]!r} is no number; set time.format to what the log holds")
    return numbers


def _refuse_unread(unread: NDArray[np.bool_], rows: NDArray[np.intp], text: pd.Series, pattern: str) -> None:
    bad = np.flatnonzero(unread)
    if bad.size:
        row = int(rows[bad[0]])
        raise StampError(
            row, f"the time {text.iloc[row]!r} is not of format {pattern!r}; set time.format to what the log holds"
        )


def _epoch_s(instants: pd.Series) -> Floats:
    elapsed = instants - pd.Timestamp(0, tz="UTC")
    return np.asarray(elapsed / pd.Timedelta(seconds=1), dtype=np.float64)


def _localised_s(naive: pd.Series, zone: str, rows: NDArray[np.intp]) -> Floats:
    """Seconds since the epoch of local times; ``rows`` are their numbers for errors.

    When clocks are put back, an hour comes twice. Which pass a stamp belongs to follows from the jump between the
    passes, or else from the side on which the log goes on without a break.
    """
    where = zone_of(zone)
    if where is None:
        raise StampError(int(rows[0]), f"there is no time zone {zone!r}; set time.zone to an IANA name or an offset")
    first, second = (
        _epoch_s(
            naive.dt.tz_localize(where, ambiguous=np.full(len(naive), dst), nonexistent="NaT").dt.tz_convert("UTC")
        )
        for dst in (True, False)
    )
    missing = np.flatnonzero(np.isnan(first))
    if missing.size:
        at = int(missing[0])
        raise StampError(
            int(rows[at]),
            f"there is no local time {naive.iloc[at]} in {zone}, as clocks were put forward then; set time.zone",
        )
    seconds = first.copy()
    doubtful = np.flatnonzero(first != second)
    for group in np.split(doubtful, np.flatnonzero(np.diff(doubtful) > 1) + 1):
        if group.size:
            later = _second_pass(group, first, second, naive, zone, rows)
            seconds[later] = second[later]
    return seconds


def _second_pass(
    group: NDArray[np.intp],
    first: Floats,
    second: Floats,
    naive: pd.Series,
    zone: str,
    rows: NDArray[np.intp],
) -> NDArray[np.intp]:
    """Those of neighbouring stamps in a repeated hour that lie in its second pass."""
    repeated_s = float(second[group[0]] - first[group[0]])
    back = np.flatnonzero(np.diff(first[group]) < -repeated_s / 2)
    if back.size == 1:
        return group[back[0] + 1 :]
    begin, end = int(group[0]), int(group[-1])
    goes_on_before = begin > 0 and 0 <= first[begin] - first[begin - 1] < repeated_s / 2
    goes_on_after = end + 1 < len(first) and 0 <= first[end + 1] - second[end] < repeated_s / 2
    if back.size or goes_on_before == goes_on_after:
        raise StampError(
            int(rows[begin]),
            f"the local time {naive.iloc[begin]} in {zone} comes twice, as clocks were put back then, and the log does "
            "not show which is meant; give this part as a log of its own with time.zone as an offset, like +02:00",
        )
    return group[:0] if goes_on_before else group
