"""What was measured is kept, and is measured once, whatever Snakemake has seen of it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from ipa_energy.history import Output, circumstances, forget, once
from ipa_energy.owner import OWNER_VARIABLE


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An output of a job whose folder is there, as Snakemake makes it; by the job's parameters."""
    monkeypatch.setenv(OWNER_VARIABLE, "1:1")

    def output(params="a"):
        for name in ("records", "traces"):
            (tmp_path / name).mkdir(exist_ok=True)
        return Output(
            str(tmp_path / "records" / "block1.json"),
            str(tmp_path / "traces" / "block1.parquet"),
            lambda stamp: str(tmp_path / "history" / f"block1.{stamp}"),
            str(tmp_path / "history" / "unseen"),
            circumstances("host", params, []),
        )

    return output


def measuring(text):
    def measure(kept):
        Path(kept.trace).parent.mkdir(parents=True, exist_ok=True)
        Path(kept.trace).write_text(f"trace of {text}")
        Path(kept.result).write_text(text)

    return measure


def never(kept):
    raise AssertionError("it was measured again")


def delete(output):
    """What Snakemake does with the output of a job that it did not see end."""
    Path(output.result).unlink()
    Path(output.trace).unlink()


def history(output):
    return sorted(path.read_text() for path in Path(output.path_at("")).parent.glob("*.json"))


def test_a_result_is_in_its_place_and_in_the_history(place):
    once(place(), measuring("first"), print, anew=False)
    assert Path(place().result).read_text() == "first"
    assert Path(place().trace).read_text() == "trace of first"
    assert history(place()) == ["first"]


def test_what_snakemake_did_not_see_is_taken_over_once_and_said(place, monkeypatch):
    once(place(), measuring("first"), print, anew=False)
    delete(place())
    monkeypatch.setenv(OWNER_VARIABLE, "2:2")
    said = []
    once(place(), never, said.append, anew=False)
    assert Path(place().result).read_text() == "first"
    assert "taken over from an interrupted run" in said[0]
    assert history(place()) == ["first"]


@pytest.mark.parametrize("change", ["another parameter", "forced", "seen by the same workflow", "seen in the end"])
def test_what_is_wanted_again_is_measured_again(place, change):
    once(place(), measuring("first"), print, anew=False)
    if change == "seen by the same workflow":
        forget(place().notes, "1:1")
    if change == "seen in the end":
        forget(place().notes)
    delete(place())
    once(place("b" if change == "another parameter" else "a"), measuring("second"), print, anew=change == "forced")
    assert Path(place().result).read_text() == "second"
    assert history(place()) == ["first", "second"]


def test_the_note_of_a_result_that_snakemake_deleted_is_not_forgotten(place):
    once(place(), measuring("first"), print, anew=False)
    delete(place())
    forget(place().notes)
    once(place(), never, print, anew=False)
    assert Path(place().result).read_text() == "first" and history(place()) == ["first"]


def test_another_workflow_of_the_same_folder_does_not_forget_notes(place):
    once(place(), measuring("first"), print, anew=False)
    forget(place().notes, "2:2")
    delete(place())
    once(place(), never, print, anew=False)
    assert Path(place().result).read_text() == "first" and history(place()) == ["first"]


def test_what_an_orphan_put_in_place_meanwhile_is_replaced_and_kept(place, monkeypatch):
    def while_the_orphan_ends(kept):
        with monkeypatch.context() as another_process:
            another_process.setattr(os, "getpid", lambda: 99)
            once(place(), measuring("of the orphan"), print, anew=False)
        measuring("ours")(kept)

    once(place(), while_the_orphan_ends, print, anew=False)
    assert Path(place().result).read_text() == "ours"
    assert history(place()) == ["of the orphan", "ours"]


def test_two_results_of_one_moment_are_both_kept(place, monkeypatch):
    for text in ("first", "second", "third"):
        once(place(), measuring(text), print, anew=True)
        delete(place())
    assert history(place()) == ["first", "second", "third"]


def test_halves_of_killed_jobs_of_this_host_go_and_nothing_else(place):
    once(place(), measuring("first"), print, anew=False)
    delete(place())
    folder = Path(place().path_at("")).parent
    (whole,) = folder.glob("*.parquet")
    gone = subprocess.Popen(["true"])
    gone.wait()
    other = re.sub(r"\d+$", str(gone.pid), whole.stem)  # of a process that is dead
    killed, half = folder / f"{other}.parquet", folder / f".{other}.json.xyz.part"
    others = [whole, folder / f"block11{other.removeprefix('block1')}.parquet", folder / f"{whole.stem}-7.parquet"]
    others.append(folder / f"block1.20200101T000000Z-otherhost-{gone.pid}.parquet")
    for path in (killed, half, *others[1:]):
        path.write_text("left")
    once(place(), measuring("second"), print, anew=True)
    assert not killed.exists()
    assert not half.exists()
    assert all(path.exists() for path in others)


def test_a_note_that_can_not_be_read_is_no_note(place):
    once(place(), measuring("first"), print, anew=False)
    (note,) = Path(place().notes).iterdir()
    note.write_text("{half")
    delete(place())
    once(place(), measuring("second"), print, anew=False)
    assert Path(place().result).read_text() == "second"


def test_circumstances_hold_the_files_content(tmp_path):
    (tmp_path / "f").write_text("one")
    before = circumstances("host", "a", [str(tmp_path / "f")])
    assert before == circumstances("host", "a", [str(tmp_path / "f")])
    (tmp_path / "f").write_text("two")
    assert before != circumstances("host", "a", [str(tmp_path / "f")])
    assert before != circumstances("other", "a", [str(tmp_path / "f")])
