"""The small interface behind which every meter stands, and the figures it gives.

A meter is opened once per measurement (:class:`MeterUnavailable` with a reason when it can't be) and then asked for any
number of windows, one after the other: ``begin``, ``sample`` at every period, ``end``. Calls come from one thread. All
times are ``time.monotonic()`` seconds, energies joules, powers watts. A figure that can't be had is None with a reason,
never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

Evidence = Literal["measured", "estimated"]


class MeterUnavailable(Exception):  # noqa: N818 - a state of the host, not a fault
    """A meter can't be used here. The text says why, and what would make it usable."""


@dataclass(frozen=True, slots=True)
class Domain:
    """What a meter covers: a name unique among all meters, and the boundary in words.

    ``covers`` names the parts of the machine inside the boundary (``cpu``, ``dram``, ``gpu``): an estimate steps in
    only for parts that no other meter covers.
    """

    name: str
    covers: str
    boundary: str
    method: str
    evidence: Evidence
    period_s: float | None


@dataclass(frozen=True, slots=True)
class Check:
    """A second figure for the same domain and window, by another method."""

    method: str
    energy_j: float | None


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of one domain over the meter's own window ``[begin_s, end_s]``.

    ``uncertainty_j`` is the standard uncertainty (k = 1) that the meter can state by itself. ``energy_j`` is None with
    a ``reason`` when the meter lost it; a ``reason`` beside a figure is a caveat that ``uncertainty_j`` covers.
    """

    domain: str
    energy_j: float | None
    begin_s: float
    end_s: float
    uncertainty_j: float | None
    check: Check | None = None
    reason: str | None = None

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
        """Readings for the quality gates (temperatures, clocks, throttling, processes), JSON-ready; may be empty."""

    def provenance(self) -> dict[str, Any]:
        """What identifies device and driver, JSON-ready."""

    def close(self) -> None:
        """Release the device. Safe to call twice."""
