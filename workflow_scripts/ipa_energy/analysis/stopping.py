"""When a sequential study stops: after a round of whole blocks, when nothing more has to be measured, or may be.

What a look found in every cell that counts and what was spent go in; *go on* or *stop* with a reason comes out. A study
stops when

- every cell is **decided**: the verdict's rule says coupled or decoupled of it, by intervals of the look's confidence;
- or every cell is decided or **narrow**: the interval of the spread of energy at equal metrics, and that of what a
  choice saves where there is one, are no wider than +- ``half_width``. What then stays open stays so for another reason
  than a lack of repetitions. The front has no such width: its bounds hold for all configurations at once and hardly
  ever narrow to a tenth;
- or the **minutes** or **joules** are spent: the next round, if it costs what the last did, would exceed them;
- or all **rounds** that the config allows are measured.

Looking several times gives chance several chances. The looks before the last therefore share the probability ``spend``
equally (Bonferroni): each judges with the confidence 1 - ``spend`` / (number of these looks), so that together they add
at most ``spend`` to the errors of the verdict, which itself is judged once and as always, on what was measured when the
study stopped. Strict interim looks before a final one at the usual level are the rule of Haybittle (1971, Br. J.
Radiol. 44, 793) and Peto et al. (1976, Br. J. Cancer 34, 585). Stopping by a width follows Chow and Robbins (1965, Ann.
Math. Statist. 36, 457): widths tell next to nothing of where an interval lies, and neither does what a block costs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_energy.analysis.outcomes import INCONCLUSIVE

DECIDED, NARROW, MINUTES, JOULES, ROUNDS = "decided", "narrow", "minutes", "joules", "rounds"
BECAUSE = (DECIDED, NARROW, MINUTES, JOULES, ROUNDS)
"""Why a study stopped."""

_IN_A_TAIL = 10
"""Resamples that should lie beyond a bound of a bootstrap interval, lest the bound is the luck of a few."""

_MOST_RESAMPLES = 5000
"""More than this many resamples of 2 000 configurations would take more than some 250 MB."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """The rule of a study. A round adds ``a_round`` blocks, one for each host; the first look follows ``start`` rounds.

    ``half_width`` is a fraction of the energy; None for never stopping by width. ``minutes`` and ``joules`` are
    budgets, None for none. Raises ValueError for numbers that no study can have.
    """

    start: int
    blocks: int
    spend: float
    half_width: float | None = None
    minutes: float | None = None
    joules: float | None = None
    a_round: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.start <= self.rounds or not 0 < self.spend < 1:
            raise ValueError(
                f"start {self.start} and spend {self.spend}: give a start from 1 to the {self.rounds} rounds, and "
                "a spend between 0 and 1"
            )

    @property
    def rounds(self) -> int:
        """The most rounds that there can be."""
        return math.ceil(self.blocks / self.a_round)

    def blocks_after(self, number: int) -> int:
        """Blocks that are measured after so many rounds."""
        return min(number * self.a_round, self.blocks)

    def confidence_of(self, number: int, verdict: float) -> float:
        """Confidence of the look after round ``number``; that of the last is the verdict's own."""
        if number >= self.rounds:
            return verdict
        return max(verdict, 1 - self.spend / (self.rounds - self.start))


def stopping_of(settings: Mapping[str, Any]) -> Stopping | None:
    """The rule that a whole config asks for; None where it is measured, or not, without looks."""
    wanted = settings["sequential"]
    if wanted is None or settings["records"] is not None or settings["measure"] == "none":
        return None
    return Stopping(**wanted, blocks=settings["blocks"], a_round=len(settings["hosts"] or {}) or 1)


def stops(look: str | Path) -> bool:
    """Whether a look says that the study ends with it; reads no more of its file than a rule of the workflow needs."""
    return bool(json.loads(Path(look).read_text(encoding="utf-8"))["stop"])


def rule_of_look(rule: Mapping[str, Any], confidence: float) -> dict[str, Any]:
    """The section ``analysis`` with a look's confidence, and with resamples enough for bounds so far out."""
    wanted = min(_MOST_RESAMPLES, math.ceil(_IN_A_TAIL / ((1 - confidence) / 2)))
    return dict(rule) | {"confidence": confidence, "bootstrap": max(int(rule["bootstrap"]), wanted), "draws": 0}


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its bounds; ``half_width`` is half the distance between these."""

    value: float
    lo: float
    hi: float

    @property
    def half_width(self) -> float:
        """Half the distance between the bounds."""
        return (self.hi - self.lo) / 2


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look saw of a cell: its decision, and the intervals of spread and saving where there are any."""

    name: str
    decision: str
    reason: str
    spread: Interval | None
    saving: Interval | None


def settled(cell: Seen, half_width: float | None) -> tuple[str | None, str]:
    """Whether nothing more has to be measured for a cell: :data:`DECIDED`, :data:`NARROW` or None, and why."""
    if cell.decision != INCONCLUSIVE:
        return DECIDED, f"{cell.decision}: {cell.reason}"
    if cell.spread is None:
        return None, f"open, without an interval: {cell.reason}"
    widths = {"spread": cell.spread.half_width} | ({"saving": cell.saving.half_width} if cell.saving else {})
    told = " and ".join(f"{name} +-{width:.2%}" for name, width in widths.items())
    if half_width is not None and max(widths.values()) <= half_width:
        return NARROW, f"{told} are within +-{half_width:.2%}, yet open: {cell.reason}"
    return None, f"open, {told}: {cell.reason}"


@dataclass(frozen=True, slots=True)
class Spent:
    """What measurements took, each from the begin of its first phase to the end of its last, tries included.

    ``window_j`` is the gross energy of the windows, ``outside_j`` what the rest of the time took, *estimated* with the
    mean power of the window, which is rather too much. ``without_minutes`` and ``without_joules`` count records that
    have no such figure and so add nothing.
    """

    records: int
    minutes: float
    window_j: float
    outside_j: float
    without_minutes: int
    without_joules: int

    @property
    def joules(self) -> float:
        """All joules."""
        return self.window_j + self.outside_j


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether the study stops, because of which of :data:`BECAUSE` (None where it goes on), and the reason in words."""

    stop: bool
    because: str | None
    reason: str


def outcome(stopping: Stopping, number: int, cells: Sequence[Seen], spent: Spent, last: Spent) -> Outcome:
    """What follows from the look after round ``number``; ``last`` is what that round alone took.

    A study whose cells are settled stops for that, whatever it spent. Without a cell there is nothing to settle.
    """
    kinds = [settled(cell, stopping.half_width)[0] for cell in cells]
    after = f"after {number} of at most {stopping.rounds} rounds"
    left = f"{kinds.count(None)} of {len(kinds)} cells that count are open" if cells else "no cell has energy to judge"
    if cells and None not in kinds:
        narrow = kinds.count(NARROW)
        told = f"{len(kinds) - narrow} of {len(kinds)} cells that count are decided"
        told += f", and the intervals of the rest are within +-{stopping.half_width:.2%}" if narrow else ""
        return Outcome(True, NARROW if narrow else DECIDED, f"stopped {after}: {told}")
    if number >= stopping.rounds:
        return Outcome(True, ROUNDS, f"all {stopping.rounds} rounds are measured; {left}")
    for because, budget, used, next_one in (
        (MINUTES, stopping.minutes, spent.minutes, last.minutes),
        (JOULES, stopping.joules, spent.joules, last.joules),
    ):
        if budget is not None and used + next_one > budget:
            told = f"{used:.4g} of {budget:g} {because} are spent, and another round would take about {next_one:.3g}"
            return Outcome(True, because, f"stopped {after}: {told}; {left}")
    return Outcome(False, None, f"goes on {after}: {left}")
