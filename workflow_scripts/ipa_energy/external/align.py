"""The clock of a log against that of the host, from the steps of power that the load makes.

A series of readings and the stretches of load of the records go in; a :class:`Clock` comes out: offset and drift with
their uncertainties, or the reason why they can't be known. The search over all offsets (:mod:`.search`) finds the best
and what speaks for it; the edges (:mod:`.steps`) tell it exactly. Linear drift is the difference between the offsets of
the earlier and the later half of the edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ipa_energy.external.readings import Readings
from ipa_energy.external.search import Candidate, Search
from ipa_energy.external.series import Series
from ipa_energy.external.steps import Offset, edges_of, offset_near
from ipa_energy.external.timelines import Stretches

Floats = NDArray[np.float64]

MIN_EXPLAINED = 0.5
"""The load must explain at least this share of the variance of power within the records, or its steps are too small."""
MIN_MARGIN = 20.0
"""Twice the log-likelihood by which the best offset must beat any other (a likelihood ratio of exp(10))."""
DRIFT_SIGMAS = 4.0
"""Drift counts as seen when the halves differ by more than this many standard uncertainties."""
DELAY_S = 0.1
"""Power is taken to follow the begin of the load by an unknown time of up to this: first requests, regulators, the
filter of the meter. Chosen, not measured; as a rectangular distribution it is part of every estimated uncertainty."""
MIN_DRIFT_RECORDS = 10
"""Fewer records than this say nothing about drift."""


@dataclass(frozen=True, slots=True)
class Clock:
    """How to turn a time of the log (s) into the host's: ``time + offset_s + drift * (time + offset_s - centre_s)``.

    ``offset_s`` is None, with a ``reason``, when it is unknown. ``fit_uncertainty_s`` is the part of ``uncertainty_s``
    that the fit itself states, without :data:`DELAY_S`. Uncertainties are standard ones (k = 1), None where
    unknown; that of the offset holds at ``centre_s`` and grows away from it with ``drift_uncertainty``. ``drift`` is
    what is corrected; ``seen_drift`` what the records show, significant or not. ``records`` were used; ``explained``
    is the share of the variance of power within them that the load explains, ``margin`` twice the log-likelihood by
    which the offset beats the next best, ``rival_s``.
    """

    method: str
    offset_s: float | None
    uncertainty_s: float | None = None
    fit_uncertainty_s: float | None = None
    centre_s: float = 0.0
    drift: float = 0.0
    drift_uncertainty: float | None = None
    seen_drift: float | None = None
    records: int = 0
    explained: float | None = None
    rival_s: float | None = None
    margin: float | None = None
    reason: str | None = None

    def to_host(self, time_s: Floats) -> Floats:
        """Times of the log (s since the epoch by its clock) by the clock of the host."""
        if self.offset_s is None:
            raise ValueError(f"the offset is unknown: {self.reason}")
        shifted_s = time_s + self.offset_s
        return np.asarray(shifted_s + self.drift * (shifted_s - self.centre_s))

    def at(self, host_s: float) -> tuple[float | None, float | None]:
        """Offset (host less log, s) and its standard uncertainty at an instant of the host's clock."""
        if self.offset_s is None:
            return None, None
        away_s = host_s - self.centre_s
        offset_s = self.offset_s + self.drift / (1 + self.drift) * away_s
        if self.uncertainty_s is None:
            return offset_s, None
        return offset_s, math.hypot(self.uncertainty_s, (self.drift_uncertainty or 0.0) * away_s)


def given_clock(offset_s: float, uncertainty_s: float | None) -> Clock:
    """The clock of a log whose offset the user knows."""
    return Clock("given", offset_s, uncertainty_s)


def estimate_clock(series: Series, stretches: Stretches, max_offset_s: float, max_drift_ppm: float) -> Clock:
    """Estimate offset and drift of the log's clock within ``±max_offset_s`` and ``±max_drift_ppm``.

    The offset is unknown, with the reason, when no record shows a step, when the best is not unique
    (:data:`MIN_MARGIN`), lies at the edge of the range, explains too little (:data:`MIN_EXPLAINED`) or is known to half
    the shortest phase only.
    """
    first_s, last_s = series.time_s[0] - max_offset_s, series.time_s[-1] + max_offset_s
    near = np.flatnonzero((stretches.centre_s >= first_s) & (stretches.centre_s <= last_s))
    if not near.size:
        return _unknown(
            0,
            "no record with an idle and a busy phase lies within max_offset_s of the log; check time.zone and "
            "time.format",
        )
    used = stretches.of(near)
    search = Search(Readings(series), used, float(used.centre_s.mean()))
    max_drift = max_drift_ppm * 1e-6 if _drifts(search) else 0.0
    drift = search.coarse_drift(max_offset_s, max_drift)
    candidates = search.candidates(max_offset_s, drift)
    if not candidates:
        return _unknown(
            len(used),
            "power shows no step where the records have one; check host, columns, value, time.zone and max_offset_s",
        )
    clock = _fitted(search, candidates[0], drift, max_drift)
    return _checked(search, clock, candidates, max_offset_s, max_drift)


def _drifts(search: Search) -> bool:
    """Whether there are records enough to compare their halves."""
    return len(search.stretches) >= MIN_DRIFT_RECORDS


def _unknown(records: int, reason: str) -> Clock:
    return Clock("unknown", None, records=records, reason=f"{reason}; or give offset_s")


def _offset(search: Search, near_s: float, drift: float, weight: float) -> Offset:
    """The offset near ``near_s``: from the edges, or where these do not tell it, from the search.

    In the latter case it is the middle of the offsets that fit not clearly worse than the best; its uncertainty is half
    their width and, in quadrature, that of a reading's place in its period.
    """
    readings = search.readings
    exact = offset_near(readings, edges_of(search.stretches), near_s, weight, search.centre_s, drift)
    if exact is not None:
        return exact
    best = search.refined(near_s, drift)
    low_s, high_s = search.within(best, MIN_MARGIN / weight, drift, search.shortest_s)
    return Offset((low_s + high_s) / 2, math.hypot((high_s - low_s) / 2, readings.period_s / math.sqrt(12)))


def _fitted(search: Search, best: Candidate, drift: float, max_drift: float) -> Clock:
    """The clock at the best candidate, as exactly as the records tell it."""
    weight = search.weight(best.offset_s, drift)
    found = _offset(search, best.offset_s, drift, weight)
    if max_drift == 0:
        return _estimated(found, search)
    halves = search.halves()
    apart_s = float(halves[1].stretches.centre_s.mean() - halves[0].stretches.centre_s.mean())
    for _ in range(3):
        near_s = (half.refined(found.offset_s, drift, search.shortest_s).offset_s for half in halves)
        early, late = (_offset(half, at_s, drift, weight) for half, at_s in zip(halves, near_s, strict=True))
        more_s = late.offset_s - early.offset_s
        drift += more_s / apart_s
        uncertainty = math.hypot(early.uncertainty_s, late.uncertainty_s) / apart_s
        if abs(more_s) < search.readings.period_s / 100 or abs(drift) > max_drift + 2 * uncertainty:
            break
    seen = abs(drift) > DRIFT_SIGMAS * uncertainty
    corrected = drift if seen else 0.0
    found = _offset(search, found.offset_s, corrected, weight)
    return replace(
        _estimated(found, search),
        method="estimated with drift" if seen else "estimated",
        drift=corrected,
        # What was seen and not corrected may be there all the same.
        drift_uncertainty=uncertainty if seen else max(uncertainty, abs(drift)),
        seen_drift=drift,
    )


def _estimated(found: Offset, search: Search) -> Clock:
    return Clock(
        "estimated",
        found.offset_s,
        math.hypot(found.uncertainty_s, DELAY_S / math.sqrt(3)),
        found.uncertainty_s,
        search.centre_s,
        records=len(search.stretches),
    )


def _checked(search: Search, clock: Clock, candidates: list[Candidate], max_offset_s: float, max_drift: float) -> Clock:
    """The clock with what speaks for it, or without an offset when that is not enough."""
    offset_s, uncertainty_s = clock.offset_s, clock.uncertainty_s
    assert offset_s is not None
    assert uncertainty_s is not None
    explained = search.explained(offset_s, clock.drift)
    apart_s = 2 * search.step_s(max_offset_s)
    rival = next((other for other in candidates if abs(other.offset_s - offset_s) > apart_s), None)
    scores = [other.score for other in candidates if abs(other.offset_s - offset_s) <= apart_s]
    score = min([*scores, float(search.score(np.array([offset_s]), clock.drift)[0])])
    margin = ((rival.score if rival else 0.0) - score) * search.weight(offset_s, clock.drift)
    clock = replace(clock, explained=explained, rival_s=rival.offset_s if rival else None, margin=margin)
    # A clock that was set by much in between fits half of the records only.
    halves = search.halves() if _drifts(search) else ()
    least = min([explained, *(half.explained(offset_s, clock.drift) for half in halves)])
    reason = None
    if abs(clock.drift) > max_drift + 2 * (clock.drift_uncertainty or 0.0):
        reason = (
            f"the offset changes by {clock.drift * 1e6:+.0f} ppm from the first half of the records to the second, "
            "more than max_drift_ppm: a clock was set in between. Give the log in parts, each of its own name"
        )
    elif least < MIN_EXPLAINED:
        reason = (
            f"the steps of the load are too small against the rest: they explain {explained:.0%} of the variance of "
            f"power within the records, and {least:.0%} in one half of them; {MIN_EXPLAINED:.0%} are needed"
        )
    elif margin < MIN_MARGIN:
        other = f"an offset of {rival.offset_s:+.2f} s" if rival else "no step at all"
        reason = (
            f"the offset is not unique: {offset_s:+.2f} s fits hardly better than {other} (twice the "
            f"log-likelihood differs by {margin:.1f}, and {MIN_MARGIN:g} are needed)"
        )
    elif abs(offset_s) > max_offset_s - apart_s / 2:
        reason = f"the best offset, {offset_s:+.2f} s, lies at the edge of ±max_offset_s; raise it"
    elif uncertainty_s > search.shortest_s / 2:
        reason = f"the offset is known to ±{uncertainty_s:.2f} s only, half the shortest phase of the records"
    if reason is None:
        return clock
    return replace(
        clock,
        method="unknown",
        offset_s=None,
        uncertainty_s=None,
        fit_uncertainty_s=None,
        reason=f"{reason}; or give offset_s",
    )
