"""Energy that one wrapping counter shows over one window, added up hop by hop, or the reason why it was lost.

In: a function that reads the counter, what a count is worth, its range, and a clock. Out: joules, the two edges of the
window, the wraps repaired. Nothing is ever guessed: a hop that could hide a second wrap, that would mean a power which
no processor draws, or a counter that stands still, loses the window and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ipa_energy.meters.base import Doubt
from ipa_energy.meters.counters import wrapped_delta
from ipa_energy.meters.powercap import MAX_ZONE_W, PERIOD_S

STILL_S = 1.0
"""Longest time without an increase. A step is some 60 µJ, and an idle package draws that in less than a millisecond."""
BURST_S = 0.005
"""Counters are updated every millisecond, now and then a few late: a hop may show this much more than its own time."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a reading was taken: between these two times (s)."""

    before_s: float
    after_s: float

    @property
    def time_s(self) -> float:
        """The middle."""
        return (self.before_s + self.after_s) / 2

    @property
    def width_s(self) -> float:
        """Length of the interval from which the value may stem: a counter is up to one update old when it is read."""
        return self.after_s - self.before_s + PERIOD_S


class _LostError(Exception):
    """The window can't be told any more. ``doubtful`` when the counter was read and what it said can't be true."""

    def __init__(self, reason: str, doubtful: bool = False) -> None:
        super().__init__(reason)
        self.doubtful = doubtful


class Tally:
    """One counter through one window after the other.

    ``lost`` says why the window has no figure, ``doubt`` is set beside it when the counter showed what can't be true.
    ``begin`` and ``now`` are the first and the last reading of the window; ``wraps`` were repaired since the start.
    """

    def __init__(
        self,
        read: Callable[[], int],
        joules_per_count: float,
        counter_range: int,
        max_hop_s: float,
        clock: Callable[[], float],
    ) -> None:
        """``read`` gives counts in 0..``counter_range`` and raises OSError or ValueError where it can't.

        ``max_hop_s`` is the longest time between two readings in which the counter wraps once at most.
        """
        self._read, self._clock = read, clock
        self._joules_per_count, self._range, self._max_hop_s = joules_per_count, counter_range, max_hop_s
        self._last = self._total = 0
        self._moved_s = 0.0
        self.wraps = 0
        self.lost: str | None = "no window was begun"
        self.doubt: Doubt | None = None
        self.begin = self.now = Moment(0.0, 0.0)

    def start(self) -> None:
        """Begin a window with a first reading."""
        self.lost = self.doubt = None
        self._total = 0
        now_s = self._clock()
        self.begin = self.now = Moment(now_s, now_s)
        try:
            self._last, self.begin = self._reading()
        except _LostError as error:
            self.lost = str(error)
        self.now, self._moved_s = self.begin, self.begin.time_s

    def hop(self) -> float | None:
        """Read on: joules since the last reading, None once the window is lost."""
        if self.lost:
            return None
        try:
            return self._advance()
        except _LostError as error:
            self.lost = str(error)
            self.doubt = Doubt("implausible_power", self.lost) if error.doubtful else None
            return None

    def energy(self) -> tuple[float | None, str | None]:
        """Joules of the window so far, or None and the reason."""
        if self.lost:
            return None, self.lost
        if not self._total:
            return None, f"the RAPL counter stood still for the whole window of {self.window_s:.3f} s"
        return self._total * self._joules_per_count, None

    @property
    def window_s(self) -> float:
        """Length of the window so far."""
        return self.now.time_s - self.begin.time_s

    def _reading(self) -> tuple[int, Moment]:
        before_s = self._clock()
        try:
            count = self._read()
        except (OSError, ValueError) as error:
            raise _LostError(f"a RAPL counter failed within the window: {error}") from error
        return count, Moment(before_s, self._clock())

    def _advance(self) -> float:
        count, moment = self._reading()
        hop_s = moment.after_s - self.now.before_s
        if hop_s > self._max_hop_s:
            raise _LostError(
                f"no RAPL reading for {hop_s:.0f} s: after {self._max_hop_s:.0f} s at {MAX_ZONE_W:g} W "
                "a wrap may go unseen"
            )
        try:
            counts = wrapped_delta(self._last, count, self._range)
        except ValueError as error:
            raise _LostError(f"a RAPL counter failed within the window: {error}") from error
        joules = counts * self._joules_per_count
        if joules > MAX_ZONE_W * (hop_s + PERIOD_S + BURST_S):
            as_wrap = f" (as a wrap of {self._range})" if count < self._last else ""
            raise _LostError(
                f"the RAPL counter went from {self._last} to {count} within {hop_s:.3f} s, which means {joules:.6g} J"
                f"{as_wrap}: no package draws more than {MAX_ZONE_W:g} W, so it was reset or misread",
                doubtful=True,
            )
        if counts:
            self._moved_s = moment.time_s
        elif moment.time_s - self._moved_s >= STILL_S:
            still = f"stood still at {count} for {moment.time_s - self._moved_s:.3f} s in the window"
            raise _LostError(f"the RAPL counter {still}", doubtful=True)
        self.wraps += count < self._last
        self._last, self.now = count, moment
        self._total += counts
        return joules
