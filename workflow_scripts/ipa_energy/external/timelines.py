"""What the records know of the load on their host: when it was busy and when idle, in UTC.

Records go in; out come the stretches of time in which a step of power can be expected between them. What a machine
draws while models load or stop, while a pipeline runs empty, and between records is not known and left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipa_energy.record import Record

Floats = NDArray[np.float64]

IDLE = {
    "idle_bare": "bare",
    "idle_resident": "resident",
    "idle_after": "after",
    "idle_bare_after": "bare_after",
}
"""Phases of a record in which nothing runs, and their names in the arithmetic of energy."""
BUSY = ("warm_up", "window")

JOINED_S = 0.1
"""Phases closer than this follow each other: what lies between is bookkeeping."""


def utc_of(window: Mapping[str, Any], monotonic_s: float) -> float:
    """Seconds since the epoch, by the host's clock at the begin of the window, of an instant on its monotonic clock."""
    return datetime.fromisoformat(window["start_utc"]).timestamp() + monotonic_s - float(window["start_monotonic_s"])


def window_of(record: Record) -> tuple[float, float]:
    """Begin and end of the service window (s since the epoch, host's clock); the record must have one."""
    begin_s = utc_of(record["window"], record["window"]["start_monotonic_s"])
    return begin_s, begin_s + float(record["window"]["duration_s"])


def idle_phases(record: Record) -> dict[str, tuple[float, float]]:
    """Begin and end of each idle phase that the record has (s since the epoch), by its name in :data:`IDLE`."""
    window = record["window"]
    return {
        IDLE[phase["phase"]]: (utc_of(window, phase["begin_s"]), utc_of(window, phase["end_s"]))
        for phase in window["timeline"]
        if phase["phase"] in IDLE and phase["end_s"] > phase["begin_s"]
    }


@dataclass(frozen=True)
class Stretches:
    """Stretches of constant load, in order and grouped by record: begin and end (s since the epoch) and what they are.

    ``joined`` tells that a stretch begins where the one before it ends. ``first`` is the number of the first stretch
    of each record, ``centre_s`` the middle of its busy stretch.
    """

    begin_s: Floats
    end_s: Floats
    busy: NDArray[np.bool_]
    joined: NDArray[np.bool_]
    first: NDArray[np.intp]
    centre_s: Floats

    def __len__(self) -> int:
        return len(self.first)

    def of(self, records: Sequence[int] | NDArray[np.intp]) -> Stretches:
        """The stretches of some of the records, by their numbers."""
        ends = np.append(self.first[1:], len(self.begin_s))
        parts = [np.arange(self.first[record], ends[record]) for record in records]
        rows = np.concatenate(parts) if parts else np.empty(0, dtype=np.intp)
        first = np.cumsum([0, *(len(part) for part in parts)])[:-1].astype(np.intp)
        return Stretches(
            self.begin_s[rows],
            self.end_s[rows],
            self.busy[rows],
            self.joined[rows],
            first,
            self.centre_s[np.asarray(records, dtype=np.intp)],
        )


def _stretches(record: Record) -> list[tuple[float, float, bool]]:
    """(begin, end, busy) of one record in order, busy phases that follow each other as one."""
    found: list[tuple[float, float, bool]] = []
    window = record["window"]
    for phase in sorted(window["timeline"], key=lambda phase: float(phase["begin_s"])):
        name = phase["phase"]
        if (name not in IDLE and name not in BUSY) or phase["end_s"] <= phase["begin_s"]:
            continue
        begin_s, end_s, busy = utc_of(window, phase["begin_s"]), utc_of(window, phase["end_s"]), name in BUSY
        if found and busy and found[-1][2] and begin_s - found[-1][1] < JOINED_S:
            begin_s = found.pop()[0]
        elif found and begin_s - found[-1][1] < JOINED_S:
            # The load begins with the busy phase and ends with it.
            edge_s = begin_s if busy else found[-1][1]
            found[-1] = (found[-1][0], edge_s, found[-1][2])
            begin_s = edge_s
        found.append((begin_s, end_s, busy))
    return found


def stretches_of(records: Iterable[Record]) -> Stretches:
    """The stretches of all records that hold a busy and an idle one, in order of time."""
    kept = []
    for record in records:
        if record["window"] is None:
            continue
        stretches = _stretches(record)
        if {busy for _, _, busy in stretches} == {True, False}:
            kept.append(stretches)
    kept.sort(key=lambda stretches: stretches[0][0])
    rows = [row for stretches in kept for row in stretches]
    begin_s, end_s = (np.array([row[edge] for row in rows], dtype=np.float64) for edge in (0, 1))
    busy = np.array([row[2] for row in rows], dtype=bool)
    first = np.cumsum([0, *(len(stretches) for stretches in kept)])[:-1].astype(np.intp)
    joined = np.zeros(len(rows), dtype=bool)
    joined[1:] = begin_s[1:] == end_s[:-1]
    joined[first] = False
    centre_s = np.array(
        [np.mean([(begin + end) / 2 for begin, end, busy in stretches if busy]) for stretches in kept],
        dtype=np.float64,
    )
    return Stretches(begin_s, end_s, busy, joined, first, centre_s)
