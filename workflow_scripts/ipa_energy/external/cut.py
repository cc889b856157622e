"""The energy of one record's window from a log, with idle powers, uncertainty and what is doubtful about it.

A series on the host's clock and a record go in; a :class:`Cut` comes out. Energy is the integral over the service
window; where the log has gaps, the mean power of the covered part stands for the whole. Idle power, net energy and the
way uncertainties combine are those of the records (:mod:`ipa_energy.energy`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipa_energy.energy import IDLE_PHASES, Idle, domain_section
from ipa_energy.external.align import Clock
from ipa_energy.external.series import Series
from ipa_energy.external.settings import LogSettings
from ipa_energy.external.timelines import idle_phases, window_of
from ipa_energy.meters.base import Domain, Energy
from ipa_energy.record import Record

Floats = NDArray[np.float64]

GAP, FEW, NO_OFFSET, NO_OVERLAP = "gap", "too_few_samples", "offset_unknown", "no_overlap"

PARTS = ("gain", "clock", "edges", "sampling", "gaps")
"""Parts of the uncertainty of a cut: gain of the meter, the clocks' offset, the window's edges within a reading's
interval, scatter of the readings, gaps."""

METHODS = {
    "instant": "trapezoidal integral of instantaneous power from a log",
    "mean_before": "integral of power from a log whose rows are means since the row before",
    "mean_after": "integral of power from a log whose rows hold until the next",
}

_MIN_IDLE_PIECES = 2
_SOUND = 1 - 1e-6


@dataclass(frozen=True)
class Cut:
    """What a log says of one record. ``energy`` is shaped like an entry of ``energy.domains`` in a record."""

    energy: Mapping[str, Any]
    samples: int = 0
    period_s: float | None = None
    coverage: float | None = None
    offset_s: float | None = None
    offset_uncertainty_s: float | None = None
    offset_method: str | None = None
    flags: tuple[str, ...] = ()
    window_s: float | None = None
    parts_j: Mapping[str, float] = field(default_factory=dict)


def _section(
    settings: LogSettings,
    energy: Energy,
    idle: Mapping[str, Idle],
    window_s: float,
    period_s: float | None,
) -> dict[str, Any]:
    domain = Domain(settings.covers, settings.covers, settings.boundary, METHODS[settings.value], "measured", period_s)
    phases = {name: idle.get(name, Idle()) for name in IDLE_PHASES}
    return domain_section(settings.meter, domain, energy, phases, window_s)


def nothing(settings: LogSettings, reason: str, *, window_s: float | None = None, **facts: Any) -> Cut:
    """A cut without figures, and why."""
    energy = Energy(settings.covers, None, 0.0, window_s or 0.0, reason=reason)
    section = _section(settings, energy, {}, window_s or 0.0, facts.get("period_s"))
    return Cut(energy=section, window_s=window_s, **facts)


def cut(settings: LogSettings, series: Series, clock: Clock, record: Record) -> Cut:
    """Cut ``series``, whose times are the host's, to the window of ``record``; ``clock`` tells how good they are."""
    begin_s, end_s = window_of(record)
    window_s = end_s - begin_s
    offset_s, offset_u_s = clock.at((begin_s + end_s) / 2)
    joules, covered_s = (float(value) for value in series.pieces.integral(begin_s, end_s))
    coverage = min(1.0, covered_s / window_s) if window_s > 0 else 0.0
    samples = _rows(series, begin_s, end_s)
    flags = []
    if coverage == 0:
        flags.append(NO_OVERLAP)
    elif coverage < _SOUND:
        flags.append(GAP)
    if len(samples) < settings.min_samples:
        flags.append(FEW)
    facts: dict[str, Any] = {
        "samples": len(samples),
        "period_s": series.period_s,
        "coverage": coverage,
        "offset_s": offset_s,
        "offset_uncertainty_s": offset_u_s,
        "offset_method": clock.method,
        "flags": tuple(flags),
    }
    reason = _unusable(settings, series, (begin_s, end_s), coverage, len(samples))
    if reason is not None:
        return nothing(settings, reason, window_s=window_s, **facts)
    # The covered part stands for the whole window.
    mean_w = joules / covered_s
    parts_j = _parts_j(settings, series, (begin_s, end_s), mean_w, coverage, samples, offset_u_s)
    guard_s = offset_u_s or 0.0
    idle = {
        name: _idle(series, phase_begin_s + guard_s, phase_end_s - guard_s)
        for name, (phase_begin_s, phase_end_s) in idle_phases(record).items()
    }
    caveat = None
    if idle.get("bare", Idle()).mean_w is None and idle.get("bare_after", Idle()).mean_w is None:
        caveat = (
            f"net energy is null: fewer than {_MIN_IDLE_PIECES} intervals of the log lie within a bare idle phase"
            if {"bare", "bare_after"} & idle.keys()
            else "net energy is null: the record has no bare idle phase"
        )
    energy = Energy(settings.covers, mean_w * window_s, begin_s, end_s, parts_j, reason=caveat)
    return Cut(
        energy=_section(settings, energy, idle, window_s, series.period_s),
        window_s=window_s,
        parts_j=parts_j,
        **facts,
    )


def _rows(series: Series, begin_s: float, end_s: float) -> Floats:
    """Powers of the rows whose time stamps lie between begin and end."""
    first = int(np.searchsorted(series.time_s, begin_s, side="left"))
    last = int(np.searchsorted(series.time_s, end_s, side="right"))
    return series.power_w[first : max(first, last)]


def _utc(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _unusable(
    settings: LogSettings, series: Series, window: tuple[float, float], coverage: float, samples: int
) -> str | None:
    if coverage == 0:
        return (
            f"the log has no power between {_utc(window[0])} and {_utc(window[1])}; it goes from "
            f"{_utc(series.time_s[0])} to {_utc(series.time_s[-1])} by the clock of the host"
        )
    if coverage < settings.min_coverage:
        return f"the log covers {coverage:.1%} of the window; min_coverage is {settings.min_coverage:.1%}"
    if samples < 2:
        return f"{samples} reading(s) of the log lie in the window; one every {series.period_s:g} s is too slow"
    return None


def _parts_j(
    settings: LogSettings,
    series: Series,
    window: tuple[float, float],
    mean_w: float,
    coverage: float,
    samples: Floats,
    offset_u_s: float | None,
) -> dict[str, float]:
    """Standard uncertainties of gross energy (J); parts that can't be known or do not apply are left out."""
    begin_s, end_s = window
    window_s = end_s - begin_s
    parts_j = {}
    if settings.gain_uncertainty is not None:
        parts_j["gain"] = settings.gain_uncertainty * mean_w * window_s
    if offset_u_s is not None:
        # The window moved by one standard uncertainty, both ways.
        shifts_s = np.array([-offset_u_s, offset_u_s])
        joules, covered_s = series.pieces.integral(begin_s + shifts_s, end_s + shifts_s)
        shifted_w = np.divide(joules, covered_s, out=np.full(2, mean_w), where=covered_s > 0)
        parts_j["clock"] = float(np.abs(shifted_w - mean_w).max()) * window_s
    # Within the interval of a reading power may have changed at any moment: rectangular, of one period either way.
    parts_j["edges"] = math.hypot(*(_step_w(series, edge_s) for edge_s in window)) * series.period_s / math.sqrt(3)
    # Power between instantaneous readings, and the noise of any. What power itself varied is in it for means, too.
    parts_j["sampling"] = (_standard_error_w(samples) or 0.0) * window_s
    if coverage < _SOUND:
        parts_j["gaps"] = (1 - coverage) * window_s * float(np.ptp(samples)) / math.sqrt(12)
    return parts_j


def _step_w(series: Series, edge_s: float) -> float:
    """Range of power within a period of an edge of the window."""
    near = _rows(series, edge_s - series.period_s, edge_s + series.period_s)
    return float(np.ptp(near)) if len(near) > 1 else 0.0


def _idle(series: Series, begin_s: float, end_s: float) -> Idle:
    """Mean power of the readings whose whole interval lies in an idle phase, and its standard error."""
    pieces = series.pieces
    inside = pieces.inside(begin_s, end_s)
    length_s = float((pieces.end_s[inside] - pieces.begin_s[inside]).sum())
    if inside.stop - inside.start < _MIN_IDLE_PIECES or length_s <= 0:
        return Idle()
    mean_w = float(pieces.energy_before_j[inside.stop] - pieces.energy_before_j[inside.start]) / length_s
    return Idle(mean_w, _standard_error_w(pieces.end_w[inside]))


def _standard_error_w(powers_w: Floats) -> float | None:
    """Standard error of the mean of some readings; None where they are all the same.

    A power that repeats counts once, because a meter that was not updated has said nothing new.
    """
    new_w = [power_w for power_w, _ in groupby(powers_w.tolist())]
    return statistics.stdev(new_w) / math.sqrt(len(new_w)) if len(new_w) > 1 else None


def best_series(parts: Sequence[tuple[Series, Clock]], record: Record) -> int:
    """Number of the series that covers most of the window of ``record``; of equals, the first."""
    begin_s, end_s = window_of(record)
    covered_s = [float(series.pieces.integral(begin_s, end_s)[1]) for series, _ in parts]
    return covered_s.index(max(covered_s))
