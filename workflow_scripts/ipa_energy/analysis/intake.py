"""Many record files to one measurements table, in several processes and without holding the records.

Paths go in; out come the table of :func:`ipa_energy.analysis.tables.assembled` and a line on each file that was
refused. A record is gone once its row is made, so that memory follows the table and not the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd
from joblib import Parallel, delayed

from ipa_energy.analysis.tables import Part, assembled, part_of
from ipa_energy.record import Record, RecordError, read_record

_CHUNK = 500
"""Files of a task: some seconds of work at most, and a frame long enough for its columns to pay."""

_SPREAD_FROM = 2000
"""Fewer files are read before other processes have started."""


def read_measurements(
    paths: Sequence[str], prices: Mapping[str, float], processes: int = 1
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The measurements table of record files, and the lines that :func:`.tables.accept` would leave on the others.

    ``prices`` are today's (``core_hour_usd``, ``gpu_hour_usd``). Neither result depends on ``processes``.
    """
    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    if processes < 2 or len(paths) < _SPREAD_FROM:
        return assembled([_read_part(chunk, prices) for chunk in chunks])
    return assembled(Parallel(n_jobs=processes)(delayed(_read_part)(chunk, prices) for chunk in chunks))


def _read_part(paths: Sequence[str], prices: Mapping[str, float]) -> Part:
    refused: dict[str, str] = {}
    part = part_of(_readable(paths, refused), prices)
    refused |= part.refused
    return replace(part, refused={path: refused[path] for path in paths if path in refused})


def _readable(paths: Iterable[str], refused: dict[str, str]) -> Iterator[tuple[str, Record]]:
    """The valid records one by one; a line on each other file goes to ``refused``."""
    for path in paths:
        try:
            yield path, read_record(path)
        except RecordError as error:
            refused[path] = str(error)
