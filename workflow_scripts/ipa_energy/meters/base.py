"""The small interface behind which every meter stands, and the figures it gives.

A meter is opened once per measurement (:class:`MeterUnavailable` with a reason when it can't be) and then asked for any
number of windows, one after the other: ``begin``, ``sample`` at every period, ``end``. Calls come from one thread. All
times are ``time.monotonic()`` seconds, energies joules, powers watts. A figure that can't be had is None with a reason,
never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Evidence = Literal["measured", "estimated"]


class MeterUnavailable(Exception):  # noqa: N818 - a state of the host, not a fault
    """A meter can't be used here. The text says why, and what would make it usable."""


@dataclass(frozen=True, slots=True)
class Domain:
    """What a meter covers: a name unique among all meters, and the boundary in words.

    ``covers`` names the part of the machine inside the boundary (``cpu``, ``dram``, ``gpu``): an estimate steps in
    only for parts that no other meter covers. ``counted`` is False for a second opinion on a domain of another meter:
    it is named like that domain, and its energy becomes a check there and never a part of a total.
    """

    name: str
    covers: str
    boundary: str
    method: str
    evidence: Evidence
    period_s: float | None
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Check:
    """A second figure for the same domain, by another method or another tool.

    ``energy_j`` covers ``window_s`` seconds; None means the same window as the figure that is checked. A check that was
    meant to be and could not be had has ``energy_j`` None and a ``reason``.
    """

    method: str
    energy_j: float | None
    window_s: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Doubt:
    """A meter's own doubt about one of its figures: the name of a flag of the quality gates, and what was seen."""

    flag: str
    detail: str


PARTS = ("gain", "offset", "edges", "sampling", "disagreement", "model")
"""Parts of the uncertainty of one figure that a meter may state, see :class:`Energy`."""


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of one domain over the meter's own window ``[begin_s, end_s]``.

    ``uncertainty`` maps parts (:data:`PARTS`) to standard uncertainties (k = 1) in joules: ``gain`` and ``offset`` of
    the sensor, common to all windows on one device; ``edges``, where the window begins and ends; ``sampling``, scatter
    of a power that was seen only now and then; ``disagreement`` between the figure and its checks; ``model``. A part
    that the meter can't know is left out. ``energy_j`` is None with a ``reason`` when the meter lost it; a ``reason``
    beside a figure is a caveat that the uncertainty covers.
    """

    domain: str
    energy_j: float | None
    begin_s: float
    end_s: float
    uncertainty: Mapping[str, float] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    reason: str | None = None
    doubts: tuple[Doubt, ...] = ()

    @property
    def uncertainty_j(self) -> float | None:
        """All parts in quadrature; None without a figure or without any part."""
        if self.energy_j is None or not self.uncertainty:
            return None
        return math.hypot(*self.uncertainty.values())

    @property
    def mean_w(self) -> float | None:
        """Mean power over the meter's own window."""
        if self.energy_j is None or self.end_s <= self.begin_s:
            return None
        return self.energy_j / (self.end_s - self.begin_s)


@dataclass(frozen=True, slots=True)
class PowerSample:
    """Power of one domain at one instant, for the trace."""

    time_s: float
    domain: str
    power_w: float


class Meter(Protocol):
    """A source of energy figures for one or more domains."""

    name: str
    domains: tuple[Domain, ...]

    def begin(self) -> None:
        """Open a window; returns once its first reading is taken, at most one update period after the call."""

    def sample(self) -> list[PowerSample]:
        """Take the readings due inside a window (power for the trace, counters against wrap)."""

    def end(self) -> list[Energy]:
        """Close the window and give the energy of every domain, in the order of ``domains``."""

    def environment(self) -> dict[str, Any]:
        """Readings for the quality gates (temperatures, clocks, throttling, processes), JSON-ready; may be empty.

        Taken at both ends of a window and about once a second in it.
        """

    def provenance(self) -> dict[str, Any]:
        """What identifies device and driver, JSON-ready."""

    def close(self) -> None:
        """Release the device. Safe to call twice."""
