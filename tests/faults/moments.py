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
from .invariants import Before, digest
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


def unseen(ground: Ground) -> Iterator[Outcome]:
    """Kills in the very instant in which a record appears, before Snakemake has seen that its job ended well."""
    for target in ("workflow", "job"):
        ground.lay_out()
        run = ground.start()
        job: list[psutil.Process] = []
        while not (ground.checkout.records() or run.ended()):
            if target == "job" and not job:
                job = look(ground, run.process.pid).by_kind["measuring process"]
                job = [process.parent() or process for process in job]
            time.sleep(0.001)
        with suppress(psutil.NoSuchProcess):
            (psutil.Process(run.process.pid) if target == "workflow" else job[0]).kill()
        ended = run.wait()
        problems = invariants.at_once(ground)
        before = Before({}, invariants.look_before(ground).shared_memory)
        kept = {digest(path) for path in (ground.results / "history").rglob("*.json")}
        fell = "as the first record appeared"
        outcome = judged(f"SIGKILL of the {target}", fell, told(ended), ground, problems, before)
        now = {digest(path) for path in ground.checkout.records()}
        lost = [] if kept and kept <= now else ["what had been measured before is not among the records"]
        took = "taken over" in (ground.folder / "run.log").read_text()
        restart = f"{outcome.restart}, and {'taken over' if took else 'seen by Snakemake after all'}"
        yield Outcome(**vars(outcome) | {"problems": (*outcome.problems, *lost), "restart": restart})


def importing(ground: Ground) -> Iterator[Outcome]:
    """Kill the workflow in the instant in which its preload server appears, which then imports for seconds."""
    ground.lay_out()
    run = ground.start()
    while not (run.ended() or look(ground, run.process.pid).by_kind["preload server"]):
        time.sleep(0.01)
    run.process.kill()
    ended = run.wait()
    problems = invariants.at_once(ground)
    before = invariants.look_before(ground)
    yield judged("SIGKILL of the workflow", "as the preload server began", told(ended), ground, problems, before)
