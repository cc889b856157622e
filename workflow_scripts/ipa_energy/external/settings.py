"""Settings of external logs: the config's ``external_logs``, presets of known formats, and what is wrong with them."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from ipa_energy.external.zones import RELATIVE, UNIX, utc_s, zone_of

Value = Literal["instant", "mean_before", "mean_after"]
"""What a row's power is: at its time stamp, or the mean from the last stamp to it, or from it to the next."""

Column = str | int

RECORD = "record"
"""The ``analysis.energy_from`` that takes the energies of the records; no log may be called so."""

WATTS = {"W": 1.0, "mW": 1e-3, "kW": 1e3}

_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,40}"
_DATE = re.compile(r"%[Yy].*%[dj]|%[dj].*%[Yy]|%s|%[DFc]")


class LogError(ValueError):
    """A log or its settings can't be used. The text names what is wrong, the value, and what to do."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A known format: names of its columns in order of preference, and the defaults that go with it.

    ``only`` names a column and the value that marks a row as a reading; ``source`` says where the format is described.
    """

    time: tuple[Column, ...]
    power: tuple[Column, ...]
    unit: str = "W"
    time_format: str = "iso"
    value: Value = "instant"
    covers: str = "node"
    boundary: str = ""
    separator: str = ","
    only: tuple[str, str] | None = None
    source: str = ""


_BMC = (
    "whole node as its baseboard management controller sees it, power supplies included where it measures their input"
)

PRESETS: Mapping[str, Preset] = {
    "frameview": Preset(
        time=("TimeInSeconds",),
        power=("PCAT Power Total(W)",),
        time_format="relative_s",
        covers="gpu",
        boundary="whole GPU board: slot and cable power by NVIDIA PCAT",
        source="column list that NVIDIA ships with FrameView (log of one application, a row per frame)",
    ),
    "ipmi": Preset(
        time=("timestamp", "time"),
        power=("watts", "power_w", "Instantaneous power reading", "Instantaneous_power_reading(W)"),
        value="mean_before",
        boundary=_BMC,
        source="no standard: the reading of `ipmitool dcmi power reading` with a time stamp, as scripts write it",
    ),
    "redfish": Preset(
        time=("timestamp", "Timestamp"),
        power=("PowerConsumedWatts", "PowerWatts", "watts", "power_w"),
        value="mean_before",
        boundary=_BMC,
        source="no standard CSV: property names of the Redfish schemas Power and EnvironmentMetrics (DMTF)",
    ),
    "powersensor3": Preset(
        time=("time",),
        power=("power_total", "Total"),
        time_format="relative_s",
        covers="gpu",
        boundary="all sensor pairs of a PowerSensor3: slot and cable power of the card",
        separator=r"\s+",
        only=("marker", "S"),
        source="dump file of the host library (`PowerSensor::dump`), seconds since the library was started",
    ),
}


@dataclass(frozen=True, slots=True)
class LogSettings:
    """One entry of ``external_logs`` with its preset filled in; docs/external.md describes each key."""

    name: str
    files: tuple[str, ...]
    time: tuple[Column, ...]
    power: tuple[Column, ...]
    to_watts: float
    time_format: str
    zone: str | None
    start_utc: str | Mapping[str, str] | None
    value: Value
    covers: str
    boundary: str
    separator: str = ","
    decimal: str = "."
    skip_rows: int = 0
    only: tuple[str, str] | None = None
    offset_s: float | None = None
    offset_uncertainty_s: float | None = None
    max_offset_s: float = 120.0
    max_drift_ppm: float = 100.0
    max_gap_s: float | None = None
    period_s: float | None = None
    gain_uncertainty: float | None = None
    host: str | None = None
    min_samples: int = 10
    min_coverage: float = 0.95

    @property
    def relative(self) -> bool:
        """Whether times count from the start of each file, so that each file has a clock of its own."""
        return self.time_format in RELATIVE

    @property
    def header(self) -> bool:
        """Whether the first line names the columns; columns given by number say that it does not."""
        return not isinstance(self.time[0], int)

    @property
    def domain(self) -> str:
        """What a total of this log holds, as it stands in ``meters``: ``node:external(wall)``."""
        return f"{self.covers}:{self.meter}"

    @property
    def meter(self) -> str:
        """Name of the log as a meter."""
        return f"external({self.name})"


def _column(given: Column | None, preset: tuple[Column, ...]) -> tuple[Column, ...]:
    return preset if given is None else (given,)


def log_settings(name: str, settings: Mapping[str, Any]) -> LogSettings:
    """The settings of one log. Raises LogError, naming every fault of :func:`faults`, when they can't be used."""
    wrong = _faults(name, settings)
    if wrong:
        raise LogError("; ".join(wrong))
    preset = _preset(settings)
    columns, time = settings.get("columns") or {}, settings.get("time") or {}
    files = settings["files"]
    start = time.get("start_utc")
    chosen = {
        key: settings[key]
        for key in (
            *("decimal", "skip_rows", "offset_s", "offset_uncertainty_s", "max_offset_s", "max_drift_ppm"),
            *("max_gap_s", "period_s", "gain_uncertainty", "host", "min_samples", "min_coverage"),
        )
        if settings.get(key) is not None
    }
    value = settings.get("value") or preset.value
    return LogSettings(
        name=name,
        files=(files,) if isinstance(files, str) else tuple(files),
        time=_column(columns.get("time"), preset.time),
        power=_column(columns.get("power"), preset.power),
        to_watts=WATTS[settings.get("unit") or preset.unit],
        time_format=time.get("format") or preset.time_format,
        zone=time.get("zone"),
        start_utc=dict(start) if isinstance(start, Mapping) else start,
        value=value,
        covers=settings.get("covers") or preset.covers,
        boundary=settings.get("boundary") or preset.boundary or f"whatever the meter of log {name} measures",
        separator=settings.get("separator") or preset.separator,
        only=preset.only,
        **chosen,
    )


def all_settings(external_logs: Mapping[str, Mapping[str, Any]]) -> list[LogSettings]:
    """Settings of every log, in the order of the config."""
    return [log_settings(name, settings) for name, settings in external_logs.items()]


def _preset(settings: Mapping[str, Any]) -> Preset:
    name = settings.get("preset")
    return PRESETS[name] if name else Preset(time=(), power=())


def matching_files(files: str | Sequence[str]) -> list[str]:
    """The files that a path or glob names, or a list of these, each once and in order."""
    found: dict[str, None] = {}
    for pattern in [files] if isinstance(files, str) else files:
        # Path.glob takes no absolute patterns.
        found |= dict.fromkeys(sorted(glob.glob(pattern, recursive=True)))  # noqa: PTH207
    return list(found)


def faults(external_logs: Mapping[str, Mapping[str, Any]], energy_from: str = RECORD) -> list[str]:
    """What is wrong with the config beyond what its schema can say; a line for each fault, none for usable settings."""
    found = [fault for name, settings in external_logs.items() for fault in _faults(name, settings)]
    if energy_from != RECORD and energy_from not in external_logs:
        known = ", ".join([RECORD, *external_logs])
        found.append(f"analysis.energy_from is {energy_from!r}; allowed: one of {known}")
    return found


def _faults(name: str, settings: Mapping[str, Any]) -> list[str]:
    key = f"external_logs.{name}"
    found = []
    if not re.fullmatch(_NAME, name) or name == RECORD:
        found.append(f"{key}: the name must match {_NAME} and not be {RECORD!r}, because it names columns")
    preset = settings.get("preset")
    if preset is not None and preset not in PRESETS:
        return [*found, f"{key}.preset is {preset!r}; allowed: null or one of {', '.join(PRESETS)}"]
    if not matching_files(settings["files"]):
        found.append(
            f"{key}.files is {settings['files']!r}, which names no file; allowed: paths or globs of existing files. "
            "Logs are cut after measuring: leave external_logs out until the log is there"
        )
    columns = settings.get("columns") or {}
    given = _preset(settings)
    found += [
        f"{key}.columns.{which} is missing; without a preset it is needed: the name of the column, or its number from 1"
        for which in ("time", "power")
        if not _column(columns.get(which), getattr(given, which))
    ]
    chosen = [_column(columns.get(which), getattr(given, which)) for which in ("time", "power")]
    if all(chosen) and len({isinstance(column[0], int) for column in chosen}) > 1:
        found.append(
            f"{key}.columns mixes a name and a number; allowed: two names, or two numbers for a file without header"
        )
    found += _time_faults(key, settings, given)
    if settings.get("unit") not in (None, *WATTS):
        found.append(f"{key}.unit is {settings['unit']!r}; allowed: one of {', '.join(WATTS)}")
    return found


def _time_faults(key: str, settings: Mapping[str, Any], preset: Preset) -> list[str]:
    time = settings.get("time") or {}
    pattern = cast("str", time.get("format") or preset.time_format)
    found = []
    if "%" in pattern:
        if not _DATE.search(pattern):
            found.append(f"{key}.time.format is {pattern!r}; a pattern must hold the date (year and day), too")
    elif pattern not in ("iso", *UNIX, *RELATIVE):
        known = ", ".join(("iso", *UNIX, *RELATIVE))
        found.append(
            f"{key}.time.format is {pattern!r}; allowed: one of {known}, or a pattern of strptime (%Y-%m-%d ...)"
        )
    if time.get("zone") is not None and zone_of(time["zone"]) is None:
        found.append(f"{key}.time.zone is {time['zone']!r}; allowed: an IANA name (Europe/Berlin), UTC, or +02:00")
    start = time.get("start_utc")
    if pattern in RELATIVE and not start:
        found.append(
            f"{key}.time.start_utc is missing; times of format {pattern} count from it. A rough one will do "
            "within max_offset_s, as the offset is estimated"
        )
    files = len(matching_files(settings["files"]))
    if pattern in RELATIVE and isinstance(start, str) and files > 1:
        found.append(
            f"{key}.time.start_utc is {start!r} for {files} files, each of which counts from its own start; allowed: a "
            "mapping of file names to starts"
        )
    for text in start.values() if isinstance(start, Mapping) else [start] if start else []:
        if utc_s(text) is None:
            found.append(f"{key}.time.start_utc is {text!r}; allowed: ISO 8601, as 2026-05-01T12:00:00Z")
    return found
