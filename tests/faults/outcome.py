"""What came of one fault."""

from __future__ import annotations

import re
from dataclasses import dataclass

from . import invariants
from .ground import Ended, Ground
from .invariants import Before

_TOLD = (
    re.compile(r"No space left|Read-only file system|waiting for the measurement lock|put back|taken over|refused: "),
    re.compile(r"Error locking|LockException|failed:|WorkflowGoneError"),
    re.compile(r"Error in rule|Error|did not finish"),
)
"""What says most about a fault, first."""


@dataclass(frozen=True)
class Outcome:
    """``fault`` is the row of the table it belongs to, ``fell`` where it fell, ``problems`` the broken promises."""

    fault: str
    fell: str
    saw: str
    restart: str
    problems: tuple[str, ...]


def told(ended: Ended) -> str:
    """The line of a run's output that says most about the fault."""
    lines = [" ".join(line.split()) for line in ended.output.splitlines()]
    return next((line[:200] for telling in _TOLD for line in lines if telling.search(line)), "nothing")


def restarted(ground: Ground) -> tuple[Ended, str]:
    """Give the same command again, after ``--unlock`` where Snakemake asks for it; and how that went, in words."""
    if not any((ground.folder / ".snakemake" / "locks").glob("*")):
        return ground.run(), "at once"
    ground.unlock()
    return ground.run(), "after `--unlock`"


def judged(fault: str, fell: str, saw: str, ground: Ground, problems: list[str], before: Before) -> Outcome:
    """Restart, check everything, and say how it went."""
    ended, how = restarted(ground)
    return Outcome(fault, fell, saw, how, (*problems, *invariants.after_restart(ground, before, ended)))
