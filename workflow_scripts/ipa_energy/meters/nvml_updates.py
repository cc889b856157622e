"""How often a reading is updated, from the instants at which it was seen to change.

In: changes, each known to lie between two polls. Out: the update period, its jitter and what it rests on. No devices.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

IRREGULAR = 0.25
"""Gaps that lie farther than this part of the period from their middle, beyond what polls can do, are irregular."""
LEAST_VALUE_GAPS = 3
"""Fewer gaps between changes of a *value*, which may repeat from update to update, prove no period."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A change that happened within ``width_s``, the time between two polls; ``time_s`` is the middle of it."""

    time_s: float
    width_s: float


@dataclass(slots=True)
class ChangeWatch:
    """Polls of one reading, and the ticks seen between them."""

    ticks: list[Tick] = field(default_factory=list)
    polls: int = 0
    _value: Any = None
    _since_s: float = 0.0

    def see(self, value: Any, asked_s: float, answered_s: float) -> Tick | None:
        """Take a poll that was asked and answered at these times; gives the tick if the value is a new one."""
        tick = None
        if self.polls and value != self._value:
            width_s = answered_s - self._since_s
            tick = Tick(self._since_s + width_s / 2, width_s)
            self.ticks.append(tick)
        self.polls += 1
        self._value, self._since_s = value, asked_s
        return tick


@dataclass(frozen=True, slots=True)
class Updates:
    """Update period of a reading as seen at opening.

    ``jitter_s`` is the root mean square deviation of the gaps between ticks from the nearest multiple of the median
    gap, blur by the polls included; None below two gaps. ``poll_s`` is the median time between the two polls around a
    tick: nothing faster than that could be seen.
    """

    period_s: float | None
    ticks: int
    jitter_s: float | None
    irregular: bool
    poll_s: float | None
    basis: str


def update_period(ticks: Sequence[Tick], basis: str, values_repeat: bool = False) -> Updates:
    """The update period behind ``ticks`` (ascending): the median gap, refined over the whole span where it is regular.

    A host that was busy may have missed ticks, so a gap counts as the number of periods that comes nearest.
    ``values_repeat`` says that an update may leave the value as it was: then the gaps are multiples of the period, the
    shortest ones come nearest to it, and it is given only where most gaps agree.
    """
    gaps = [_Gap.between(earlier, later) for earlier, later in pairwise(ticks)]
    poll_s = statistics.median(tick.width_s for tick in ticks) if ticks else None
    unknown = Updates(None, len(ticks), None, False, poll_s, basis)
    if not gaps or (values_repeat and len(gaps) < LEAST_VALUE_GAPS):
        return unknown
    shortest_s = min(gap.length_s for gap in gaps)
    base_s = statistics.median(gap.length_s for gap in gaps if not values_repeat or gap.length_s < 1.5 * shortest_s)
    counts = [max(1, round(gap.length_s / base_s)) for gap in gaps]
    deviations_s = [gap.length_s - count * base_s for gap, count in zip(gaps, counts, strict=True)]
    if values_repeat:
        odd = [abs(d) - gap.polls_s > IRREGULAR * base_s for d, gap in zip(deviations_s, gaps, strict=True)]
        if sum(odd) > len(gaps) / 2:
            return unknown
        irregular = any(odd)
    else:
        # One period explains all gaps, given what the polls can have done, if their bounds have a point in common.
        above_s = max(gap.length_s - gap.polls_s for gap in gaps)
        below_s = min(gap.length_s + gap.polls_s for gap in gaps)
        irregular = (above_s - below_s) / 2 > IRREGULAR * base_s
    period_s = base_s if irregular else sum(gap.length_s for gap in gaps) / sum(counts)
    jitter_s = statistics.fmean(d**2 for d in deviations_s) ** 0.5 if len(gaps) > 1 else None
    return Updates(period_s, len(ticks), jitter_s, irregular, poll_s, basis)


@dataclass(frozen=True, slots=True)
class _Gap:
    """Time between two ticks, and how far the polls can have put it wrong."""

    length_s: float
    polls_s: float

    @classmethod
    def between(cls, earlier: Tick, later: Tick) -> _Gap:
        return cls(later.time_s - earlier.time_s, (earlier.width_s + later.width_s) / 2)
