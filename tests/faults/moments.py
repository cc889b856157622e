"""Kills at random moments: uniform over the length of a run, of each kind of process in turn."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil

from . import invariants
from .ground import Ground, Run
from .outcome import Outcome, judged, told
from .targets import Seen, look, phase

TURNS = (
    ("workflow", signal.SIGKILL),
    ("job", signal.SIGKILL),
    ("replica", signal.SIGKILL),
    ("workflow", signal.SIGKILL),
    ("measuring process", signal.SIGKILL),
    ("job", signal.SIGKILL),
    ("workflow", signal.SIGTERM),
    ("workflow", signal.SIGKILL),
    ("preload server", signal.SIGKILL),
    ("everything", signal.SIGINT),
)
"""Whom, with what: ``everything`` is what Ctrl-C sends it to, all of the terminal's process group."""


def kills(ground: Ground, moments: int, seed: int, part: int = 0, parts: int = 1) -> Iterator[Outcome]:
    """Kill ``moments`` runs, each at a moment of its own, and start each again; of these, every ``parts``-th.

    The first run, undisturbed, tells how long one takes.
    """
    ground.lay_out()
    usual = ground.run()
    if usual.code != 0:
        raise RuntimeError(f"an undisturbed run failed: {usual.output[-3000:]}")
    generator = random.Random(seed)
    for number in range(moments):
        target, signum = TURNS[number % len(TURNS)]
        moment_s = generator.uniform(0, usual.duration_s)
        if number % parts == part:
            yield kill_at(ground, target, signum, moment_s)


def kill_at(ground: Ground, target: str, signum: signal.Signals, moment_s: float, blocks: int = 3) -> Outcome:
    """Kill one ``target`` of a fresh run ``moment_s`` after it began, or the next one that comes."""
    ground.lay_out(blocks)
    run = ground.start()
    time.sleep(moment_s)
    victim, fell = _struck(ground, run, target, signum)
    before_end_s = time.monotonic()
    ended = run.wait()
    problems = invariants.at_once(ground)
    saw = f"code {ended.code} after {time.monotonic() - before_end_s:.0f} s; {told(ended)}" if victim else "run over"
    before = invariants.look_before(ground)
    return judged(f"{signum.name} of the {target}", fell, saw, ground, problems, before)


def _struck(ground: Ground, run: Run, target: str, signum: signal.Signals) -> tuple[int | None, str]:
    """Send the signal to the target as soon as there is one; its pid, and what the run was doing."""
    while not run.ended():
        seen = look(ground, run.process.pid)
        pids = _candidates(seen, target, run)
        doing = phase(run, seen)
        for pid in pids:
            with suppress(ProcessLookupError):
                if target == "everything":
                    os.killpg(pid, signum)
                else:
                    os.kill(pid, signum)
                return pid, doing
        time.sleep(0.02)
    return None, "after the end"


def _candidates(seen: Seen, target: str, run: Run) -> list[int]:
    if target in ("everything", "workflow"):
        return [run.process.pid]
    found: list[psutil.Process] = seen.by_kind[target]
    return [process.pid for process in found]
