"""Logs and records to tables: ``external.csv``, a row per record and log, and ``external_clocks.csv``, one per clock.

Settings of the logs and records go in. A log belongs to one host; each of its clocks (one per log, or one per file
where times count from the start of a file) is set against that host's by the records, and every record of the host is
cut from the clock's series that covers it best.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ipa_energy.energy import IDLE_PHASES
from ipa_energy.external.align import Clock, estimate_clock, given_clock
from ipa_energy.external.cut import NO_OFFSET, PARTS, Cut, best_series, cut, nothing
from ipa_energy.external.formats import read_log
from ipa_energy.external.series import Series
from ipa_energy.external.settings import LogError, LogSettings
from ipa_energy.external.timelines import stretches_of
from ipa_energy.record import Record

KEY = ("experiment", "workload", "configuration", "repetition", "host")
"""What tells records apart, as in ``measurements.csv``."""

ENERGIES = (
    "gross_j",
    "net_j",
    "mean_w",
    *(f"idle_{phase}_w" for phase in IDLE_PHASES),
    "uncertainty_j",
    "net_uncertainty_j",
)
"""Figures of a cut, named as in the records."""

COLUMNS = (
    *("path", *KEY, "log", "covers", "window_s", "samples", "period_s", "coverage"),
    *ENERGIES,
    *(f"{part}_uncertainty_j" for part in PARTS),
    *("offset_s", "offset_uncertainty_s", "offset_method", "flags", "reason"),
)

CLOCK_COLUMNS = (
    *("log", "host", "series", "rows", "missing", "negative", "duplicates", "out_of_order"),
    *("first_utc", "last_utc", "period_s", "change_period_s", "records"),
    *("offset_s", "offset_uncertainty_s", "offset_method", "drift_ppm", "drift_uncertainty_ppm", "drift_corrected_ppm"),
    *("explained", "rival_offset_s", "margin", "boundary", "reason"),
)


def external_tables(
    logs: Sequence[LogSettings], records: Sequence[tuple[str | Path, Record]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables, with :data:`COLUMNS` and :data:`CLOCK_COLUMNS`. Raises LogError for a log that can't be used."""
    rows: list[dict[str, Any]] = []
    clocks: list[dict[str, Any]] = []
    for settings in logs:
        own = _of_host(settings, records)
        parts = [(series, _clock(settings, series, own)) for series in read_log(settings)]
        host = own[0][1]["provenance"]["host"] if own else settings.host
        clocks += [_clock_row(settings, host, series, clock) for series, clock in parts]
        known = [(s.moved(clock.to_host(s.time_s)), clock) for s, clock in parts if clock.offset_s is not None]
        reason = "; ".join(f"{s.name}: {clock.reason}" for s, clock in parts if clock.offset_s is None)
        rows += [_row(settings, path, record, _cut(settings, known, reason, record)) for path, record in own]
    return pd.DataFrame(rows, columns=list(COLUMNS)), pd.DataFrame(clocks, columns=list(CLOCK_COLUMNS))


def _of_host(settings: LogSettings, records: Sequence[tuple[str | Path, Record]]) -> list[tuple[str | Path, Record]]:
    """The records of the log's host. Without one in the settings there must be only one among the records."""
    hosts = sorted({record["provenance"]["host"] for _, record in records})
    if settings.host is None and len(hosts) > 1:
        raise LogError(
            f"external_logs.{settings.name}.host is missing, and the records come from {', '.join(hosts)}; name the "
            "host whose power the log holds"
        )
    if settings.host is not None and hosts and settings.host not in hosts:
        raise LogError(
            f"external_logs.{settings.name}.host is {settings.host!r}, and the records come from {', '.join(hosts)}; "
            "name the host as the records do (provenance.host)"
        )
    return [(path, record) for path, record in records if settings.host in (None, record["provenance"]["host"])]


def _clock(settings: LogSettings, series: Series, own: Sequence[tuple[str | Path, Record]]) -> Clock:
    if settings.offset_s is not None:
        return given_clock(settings.offset_s, settings.offset_uncertainty_s)
    stretches = stretches_of(record for _, record in own)
    return estimate_clock(series, stretches, settings.max_offset_s, settings.max_drift_ppm)


def _cut(settings: LogSettings, known: Sequence[tuple[Series, Clock]], reason: str, record: Record) -> Cut:
    if record["window"] is None:
        return nothing(settings, f"the record has no window: {record['status']['reason'] or record['status']['state']}")
    if not known:
        window_s = float(record["window"]["duration_s"])
        unknown = f"the offset of the log's clock is unknown: {reason}"
        return nothing(settings, unknown, window_s=window_s, flags=(NO_OFFSET,))
    series, clock = known[best_series(known, record)]
    found = cut(settings, series, clock, record)
    if found.coverage == 0 and reason:
        return nothing(
            settings,
            f"{found.energy['reason']}; other files of the log have an unknown offset: {reason}",
            window_s=found.window_s,
            flags=(*found.flags, NO_OFFSET),
        )
    return found


def _row(settings: LogSettings, path: str | Path, record: Record, found: Cut) -> dict[str, Any]:
    identity = record["identity"]
    return {
        "path": str(path),
        "experiment": identity["experiment"],
        "workload": identity["workload"],
        "configuration": identity["configuration_id"],
        "repetition": identity["repetition"],
        "host": record["provenance"]["host"],
        "log": settings.name,
        "covers": settings.covers,
        "window_s": found.window_s,
        "samples": found.samples,
        "period_s": found.period_s,
        "coverage": found.coverage,
        **{name: found.energy[name] for name in ENERGIES},
        **{f"{part}_uncertainty_j": found.parts_j.get(part) for part in PARTS},
        "offset_s": found.offset_s,
        "offset_uncertainty_s": found.offset_uncertainty_s,
        "offset_method": found.offset_method,
        "flags": ";".join(found.flags) or None,
        "reason": found.energy["reason"],
    }


def _ppm(fraction: float | None) -> float | None:
    return None if fraction is None else fraction * 1e6


def _clock_row(settings: LogSettings, host: str | None, series: Series, clock: Clock) -> dict[str, Any]:
    first_utc, last_utc = (
        datetime.fromtimestamp(float(series.time_s[at]), UTC).isoformat(timespec="milliseconds") for at in (0, -1)
    )
    return {
        "log": settings.name,
        "host": host,
        "series": series.name,
        "rows": series.counts.rows,
        "missing": series.counts.missing,
        "negative": series.counts.negative,
        "duplicates": series.counts.duplicates,
        "out_of_order": series.counts.out_of_order,
        "first_utc": first_utc,
        "last_utc": last_utc,
        "period_s": series.period_s,
        "change_period_s": series.change_period_s,
        "records": clock.records,
        "offset_s": clock.offset_s,
        "offset_uncertainty_s": clock.uncertainty_s,
        "offset_method": clock.method,
        "drift_ppm": _ppm(clock.seen_drift),
        "drift_uncertainty_ppm": _ppm(clock.drift_uncertainty),
        "drift_corrected_ppm": _ppm(clock.drift),
        "explained": clock.explained,
        "rival_offset_s": clock.rival_s,
        "margin": clock.margin,
        "boundary": settings.boundary,
        "reason": clock.reason,
    }
