"""What happened around a window: readings of temperatures, clocks, throttling and processes, put together.

In: the readings that the recorder took at both ends of the window and about once a second within it. Out: for every GPU
its ranges and shares, as the record holds them, and what the quality gates look at.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

Readings = Sequence[tuple[float, Mapping[str, Any]]]
"""(time in s, readings by meter name), in order of time."""

FOREIGN_KINDS = ("compute_processes", "mps_processes")
GRAPHICS_KINDS = ("graphics_processes",)


def gpu_readings(environments: Readings) -> dict[str, list[Mapping[str, Any]]]:
    """The readings of each GPU by domain, in order of time; a reading that failed is left out."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for _, environment in environments:
        for domain, reading in environment.get("nvml", {}).items():
            if isinstance(reading, Mapping):  # else it is the text of an error
                found.setdefault(domain, []).append(reading)
    return found


def _numbers(readings: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    return [float(reading[key]) for reading in readings if reading.get(key) is not None]


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """First, last, smallest, median and largest of ``values``; None without any."""
    if not values:
        return None
    return {
        "first": values[0],
        "last": values[-1],
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
    }


def summary(readings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One GPU over a window: spreads of its figures, and the share of the readings with each clock event reason.

    A figure that no reading had is None.
    """
    reasons = [set(reading["event_reasons"]) for reading in readings if reading.get("event_reasons") is not None]
    count = Counter(reason for names in reasons for reason in names)
    return {
        "readings": len(readings),
        "temperature_c": spread(_numbers(readings, "temperature_c")),
        "sm_clock_mhz": spread(_numbers(readings, "sm_clock_mhz")),
        "event_reasons": {name: times / len(reasons) for name, times in sorted(count.items())} if reasons else None,
    }


def others(readings: Iterable[Mapping[str, Any]], kinds: Collection[str], own_pids: Collection[int]) -> list[str]:
    """Processes of other people that were on a GPU in any of the readings, as ``name (pid N)``, each once."""
    found: dict[int, str | None] = {}
    for reading in readings:
        for kind in kinds:
            found |= {process["pid"]: process["name"] for process in reading.get(kind) or ()}
    return [f"{name or 'unknown'} (pid {pid})" for pid, name in sorted(found.items()) if pid not in own_pids]


def relative_range(values: Sequence[float]) -> float | None:
    """Largest less smallest value, as a fraction of the median; None for fewer than two, or a median of 0."""
    if len(values) < 2 or not statistics.median(values):
        return None
    return (max(values) - min(values)) / statistics.median(values)


def clock_change(readings: Sequence[Mapping[str, Any]]) -> float | None:
    """Range of the SM clock over the readings, as a fraction of its median."""
    return relative_range(_numbers(readings, "sm_clock_mhz"))


def temperature_change_c(readings: Sequence[Mapping[str, Any]]) -> float | None:
    """Temperature at the end less that at the begin (°C); None for fewer than two readings."""
    values = _numbers(readings, "temperature_c")
    return values[-1] - values[0] if len(values) > 1 else None


def shows(gpus: Mapping[str, Sequence[Mapping[str, Any]]], own_pids: Collection[int]) -> bool:
    """Whether any of our processes is among those that the readings show on a GPU."""
    return any(
        process["pid"] in own_pids
        for readings in gpus.values()
        for reading in readings
        for kind in FOREIGN_KINDS
        for process in reading.get(kind) or ()
    )


def merged(many: Iterable[Mapping[str, Sequence[Mapping[str, Any]]]]) -> dict[str, list[Mapping[str, Any]]]:
    """The readings of several windows, by domain."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for gpus in many:
        for domain, readings in gpus.items():
            found.setdefault(domain, []).extend(readings)
    return found
