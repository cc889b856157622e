"""Disks that fill up or turn read-only while the workflow measures. Needs a mount namespace of its own, and root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import invariants
from .ground import Ground
from .outcome import Outcome, judged, told

SIZE = "8m"
LEFT_BYTES = {"the trace does not fit": 0, "the record does not fit": 8192}
"""A trace of the tiny plan takes one page of 4 KiB, a record several."""


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


@contextmanager
def _mounted(folder: Path, *arguments: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    _mount(*arguments, str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(folder: Path, left_bytes: int) -> Path:
    """A file that takes all of a disk but ``left_bytes``."""
    disk = os.statvfs(folder)
    filler = folder / "filler"
    filler.write_bytes(bytes(disk.f_bavail * disk.f_frsize - left_bytes))
    return filler


def full_disk(ground: Ground) -> Iterator[Outcome]:
    """The disk of the results fills up once one record is there, and has room again for the restart."""
    for what, left_bytes in LEFT_BYTES.items():
        ground.lay_out()
        with _mounted(ground.folder / "results", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs"):
            run = ground.start()
            run.wait_for_record()
            filler = _fill(ground.folder / "results", left_bytes)
            ended = run.wait()
            problems = _failed_as_promised(ended.code, "No space left on device", ended.output)
            problems += invariants.at_once(ground)
            before = invariants.look_before(ground)
            filler.unlink()
            yield judged("disk full", what, told(ended), ground, problems, before)


def read_only_results(ground: Ground) -> Iterator[Outcome]:
    """The results turn read-only once one record is there."""
    ground.lay_out()
    results = ground.folder / "results"
    with _mounted(results, "--bind", str(results)):
        run = ground.start()
        run.wait_for_record()
        _mount("-o", "remount,ro,bind", str(results))
        ended = run.wait()
        problems = _failed_as_promised(ended.code, "Read-only file system", ended.output)
        problems += invariants.at_once(ground)
        before = invariants.look_before(ground)
        _mount("-o", "remount,rw,bind", str(results))
        yield judged("results read-only", "after the first record", told(ended), ground, problems, before)
        if not problems:
            # What the namespace sees goes with it: leave the files for whoever looks.
            return


def _failed_as_promised(code: int, words: str, output: str) -> list[str]:
    problems = [] if code else ["a run that could not write ended as if all were well"]
    return problems if words in output else [*problems, f"the run did not say: {words}"]
