"""Names of time formats and zones in the settings of a log, and what they stand for."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

UNIX = {"unix_s": 1.0, "unix_ms": 1e-3, "unix_us": 1e-6, "unix_ns": 1e-9}
"""Formats that count from the epoch, and the seconds of one unit."""
RELATIVE = {"relative_s": 1.0, "relative_ms": 1e-3}
"""Formats that count from the start of a file, and the seconds of one unit."""

_OFFSET = re.compile(r"(?:UTC)?([+-])(\d{1,2}):?(\d\d)")


def zone_of(name: str) -> tzinfo | None:
    """The time zone of an IANA name, ``UTC`` or an offset as ``+02:00``; None when there is none of that name."""
    offset = _OFFSET.fullmatch(name)
    if offset:
        hours, minutes = int(offset[2]), int(offset[3])
        delta = timedelta(hours=hours, minutes=minutes)
        return timezone(-delta if offset[1] == "-" else delta) if hours < 24 and minutes < 60 else None
    if name in ("UTC", "Z"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def utc_s(text: str) -> float | None:
    """Seconds since the epoch of an ISO 8601 text, without a zone taken as UTC; None when it is none."""
    try:
        instant = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
