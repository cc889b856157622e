"""A short campaign of faults, and the proof that its checks can fail. The long one: `make faults`."""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest

from faults import invariants, report
from faults.ground import MARK, Ended, Ground
from faults.moments import kill_at
from faults.outcome import Outcome, judged
from synthetic_records import synthetic_study, video_grid

CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def ground(checkout):
    return Ground(checkout)


# --- a few kills, each followed by a restart of the real workflow ---


@pytest.mark.skipif(CORES < 2, reason="a detector and a classifier want a core each")
@pytest.mark.parametrize(("target", "seed"), [("workflow", 7), ("job", 11)])
def test_a_run_killed_at_a_random_moment_goes_on_and_keeps_every_promise(ground, target, seed):
    moment_s = random.Random(seed).uniform(2, 10)
    outcome = kill_at(ground, target, signal.SIGKILL, moment_s, blocks=2)
    assert outcome.saw != "run over", "nothing was killed: the moment is after the end of the run"
    assert not outcome.problems, outcome


# --- every check can fail ---


@pytest.fixture
def finished(ground):
    """A folder as a finished run leaves it, of made-up records."""
    ground.lay_out(blocks=1)
    records = ground.planned()
    record = synthetic_study("coupled", video_grid(classifiers=("resnet18",), batches=(1,)), blocks=1)[0]
    for path in records:
        trace = ground.results / "traces" / path.relative_to(ground.results / "records").with_suffix(".parquet")
        kept = ground.results / "history" / path.relative_to(ground.results / "records")
        for file in (path, trace, kept):
            file.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
        trace.write_text("a trace")
        shutil.copy(path, kept.with_name(f"{path.stem}.20260101T000000Z.json"))
    return ground


def problems_of(ground, before, code=0):
    return invariants.after_restart(ground, before, Ended(code, "its output", 1.0))


def test_a_finished_run_breaks_no_promise(finished):
    assert problems_of(finished, invariants.look_before(finished)) == []


def _half_written(ground, record):
    record.write_text(record.read_text()[:200])


def _temporary(ground, record):
    (record.parent / ".block1.json.x.part").write_text("half")


def _without_trace(ground, record):
    shutil.rmtree(ground.results / "traces")


def _lost(ground, record):
    record.unlink()


def _more(ground, record):
    shutil.copy(record, record.with_name("block9.json"))


def _measured_twice(ground, record):
    (kept,) = (ground.results / "history").rglob("*.json")
    shutil.copy(kept, kept.with_name("block1.20260102T000000Z.json"))


def _measured_again(ground, record):
    record.write_text(json.dumps(json.loads(record.read_text())))
    record.write_text(record.read_text() + " ")


def _temporary_folder(ground, record):
    (ground.temporary / "ipa-energy.abc").mkdir()


def _cap(ground, record):
    ground.journal.mkdir()
    (ground.journal / "power_limit.GPU-1.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_half_written, "half-written"),
        (_temporary, "a temporary file is left"),
        (_without_trace, "without its trace"),
        (_lost, "no record"),
        (_more, "not planned"),
        (_measured_twice, "2 entries in the history"),
        (_measured_again, "another one now"),
        (_temporary_folder, "folder of temporary files"),
        (_cap, "the platform's journal still holds"),
    ],
)
def test_each_broken_promise_is_noticed(finished, damage, words):
    before = invariants.look_before(finished)
    damage(finished, finished.checkout.records()[0])
    assert any(words in problem for problem in problems_of(finished, before))


def test_a_restart_that_fails_is_noticed(finished):
    (problem,) = problems_of(finished, invariants.look_before(finished), code=1)
    assert "the restart ended with 1: its output" in problem


def test_a_process_that_is_left_is_found_although_it_detached_itself(ground, monkeypatch):
    code = "import os, time; os.setsid(); print('there', flush=True); time.sleep(60)"
    environment = os.environ | {MARK: ground.mark}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        process.stdout.readline()
        assert [p.pid for p in ground.processes()] == [process.pid]
        (left,) = ground.wait_until_quiet(0.2)
        assert str(process.pid) in left
    finally:
        process.kill()
        process.communicate()
    assert ground.wait_until_quiet(5) == []


def test_a_lock_that_is_held_is_noticed(ground):
    assert invariants.lock_is_free(ground) == []
    with ground.checkout.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert invariants.lock_is_free(ground) == ["the measurement lock is held"]
    assert invariants.lock_is_free(ground) == []


# --- the table ---


def test_the_table_counts_and_shows_broken_promises(tmp_path):
    outcomes = [
        Outcome("a", "here", "process 17 (x), for 3 s", "at once", ()),
        Outcome("a", "here", "process 18 (x), for 9 s", "at once", ()),
        Outcome("b", "there", "a | b", "after `--unlock`", ("the lock is held",)),
    ]
    head, _, first, second = report.table(outcomes).splitlines()
    assert head == report.HEAD
    assert first == "| a | 2 | here (2) | … (x), … (2) | at once (2) | none |"
    assert second == "| b | 1 | there | a / b | after --unlock | the lock is held |"
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write("new", page)
    assert page.read_text() == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"


def test_a_restart_unlocks_only_where_snakemake_left_its_lock(ground, monkeypatch):
    ground.lay_out(blocks=1)
    given = []

    def run(*arguments, **_):
        given.append(arguments)
        return Ended(0, "", 1.0)

    monkeypatch.setattr(ground, "run", run)
    before = invariants.look_before(ground)
    assert judged("a", "b", "c", ground, [], before).restart == "at once"
    locks = ground.folder / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").touch()
    assert judged("a", "b", "c", ground, [], before).restart == "after `--unlock`"
    assert given == [(), ("--unlock",), ()]
