"""Locks, other workflows and nodes: what others hold, and what goes away."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ipa_energy.record import read_record
from tiny import wait_for

from . import invariants
from .ground import MARK, Ground, make_ground
from .outcome import Outcome, judged, told
from .targets import look

HOLDER = """
import sys, time
from ipa_energy.lock import measurement_lock
with measurement_lock("somebody's study", print, lambda: None):
    print("held", flush=True)
    time.sleep(600)
"""


def stale_locks(ground: Ground) -> Iterator[Outcome]:
    """A lock file that names a dead process; and a lock that a stopped process holds."""
    ground.lay_out()
    gone = subprocess.Popen(["true"])
    gone.wait()
    facts = {"pid": gone.pid, "what": "a study of yesterday", "since_unix_s": time.time() - 86400}
    ground.checkout.lock.write_text(json.dumps(facts))
    ended = ground.run()
    problems = ["it waited for a dead process"] if "waiting for the measurement lock" in ended.output else []
    problems += [] if ended.code == 0 else [f"the run ended with {ended.code}"]
    before = invariants.look_before(ground)
    yield judged("stale lock", "its holder is dead", told(ended), ground, problems, before)

    ground.lay_out()
    environment = ground.environment | {MARK: "the holder"}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.send_signal(signal.SIGSTOP)
        run = ground.start()
        wait_for(lambda: "waiting for the measurement lock" in run.output() or run.ended(), 200)
        named = f"process {holder.pid} (somebody's study)" in run.output()
        problems = [] if named else ["it did not say for whom it waits"]
        problems += [] if "stopped" in run.output() else ["it did not say that the holder is stopped"]
        problems += ["it did not wait"] if ground.checkout.records() else []
    finally:
        holder.kill()
        holder.communicate()
    ended = run.wait()
    problems += [] if ended.code == 0 else [f"the run ended with {ended.code}"]
    before = invariants.look_before(ground)
    yield judged("stale lock", "its holder is stopped, then killed", told(ended), ground, problems, before)


def two_workflows(ground: Ground) -> Iterator[Outcome]:
    """A second workflow in the same folder, and one in another folder of the same host."""
    ground.lay_out()
    first = ground.start()
    wait_for(lambda: any((ground.folder / ".snakemake" / "locks").glob("*")) or first.ended(), 100)
    log = first.log.rename(ground.folder / "first.log")
    first.log = log
    second = ground.run()
    problems = [] if second.code != 0 and "unlock" in second.output else ["the second one was not refused"]
    ended = first.wait()
    problems += [] if ended.code == 0 else [f"the first one ended with {ended.code}: {ended.output[-500:]}"]
    problems += invariants.at_once(ground)
    before = invariants.look_before(ground)
    yield judged("two workflows at once", "in one folder", told(second), ground, problems, before)

    other = make_ground(ground.folder.with_name("other"), IPA_ENERGY_LOCK=str(ground.checkout.lock))
    grounds = (ground, other)
    for each in grounds:
        each.lay_out()
    runs = [each.start() for each in grounds]
    ends = [run.wait() for run in runs]
    problems = [f"one ended with {ended.code}" for ended in ends if ended.code != 0]
    windows = sorted(_window(path) for each in grounds for path in each.checkout.records())
    problems += ["two measured at once" for one, two in itertools.pairwise(windows) if one[1] > two[0]]
    waited = [ended for ended in ends if "waiting for the measurement lock" in ended.output]
    problems += [] if waited else ["none said that it waits"]
    before = invariants.look_before(ground)
    problems += [f"in the other folder: {problem}" for problem in invariants.records_are_those_of_the_plan(other)]
    saw = told(waited[0]) if waited else "nothing"
    yield judged("two workflows at once", "in two folders of one host", saw, ground, problems, before)


def _window(path: Path) -> tuple[float, float]:
    window = read_record(path)["window"]
    return window["start_monotonic_s"], window["end_monotonic_s"]


SUBMIT = '#!/bin/bash\nsetsid bash "$1" >"$1.out" 2>&1 &\necho $!\n'
STATUS = """#!/bin/bash
# As a scheduler that knows of its lost nodes.
if kill -0 "$1" 2>/dev/null; then echo running
elif [ -e .lost ]; then echo failed
else echo success; fi
"""


def lost_nodes(ground: Ground) -> Iterator[Outcome]:
    """A job on a cluster vanishes with its whole node; with a scheduler that never tells of it, and one that does."""
    yield _lost_node(ground, "the scheduler never tells; Ctrl-C", told_of=False)
    yield _lost_node(ground, "the scheduler tells", told_of=True)


def _lost_node(ground: Ground, fell: str, *, told_of: bool) -> Outcome:
    ground.lay_out()
    for name, text in (("submit.sh", SUBMIT), ("status.sh", STATUS)):
        (ground.folder / name).write_text(text)
        (ground.folder / name).chmod(0o755)
    arguments = ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", str(ground.folder / "submit.sh")]
    arguments += ["--jobs", "1", "--seconds-between-status-checks", "1"]
    if told_of:
        arguments += ["--cluster-generic-status-cmd", str(ground.folder / "status.sh")]
    run = ground.start(*arguments)
    run.wait_for_record()
    wait_for(lambda: look(ground, run.process.pid).by_kind["measuring process"], 100)
    _lose_node(ground, run.process.pid)
    problems = []
    if not told_of:
        time.sleep(5)
        problems += ["it ended although nobody told of the lost job"] if run.ended() else []
        os.killpg(run.process.pid, signal.SIGINT)
    ended = run.wait()
    problems += ["a run that lost a job ended as if all were well"] if ended.code == 0 else []
    problems += invariants.at_once(ground)
    before = invariants.look_before(ground)
    return judged("node lost", fell, told(ended), ground, problems, before)


def _lose_node(ground: Ground, workflow: int) -> None:
    """Kill every process of the submitted jobs: all that are not of the workflow's own session."""
    (ground.folder / ".lost").touch()
    for process in ground.processes():
        try:
            if os.getsid(process.pid) != workflow:
                process.kill()
        except (ProcessLookupError, OSError):
            continue
