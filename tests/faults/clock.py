"""The clock of the day is set back while the workflow measures; see tests/stubs/clock_stub.c."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from ipa_energy.record import read_record
from meter_fixtures import STUBS, compiler

from . import invariants
from .ground import Ground
from .outcome import Outcome, judged, told

NOTHING = "Nothing to be done"
LITTLE_S, MUCH_S = 1, 3600
"""Less, and more, than a measurement takes."""


def set_back(ground: Ground) -> Iterator[Outcome]:
    """Once one record is there, the clock goes back: by little, which goes unnoticed, and by much.

    Then Snakemake refuses what is older than its inputs, until somebody sets the times of the files right.
    """
    library = _build(ground.folder)
    for back_s in (LITTLE_S, MUCH_S):
        control = ground.folder / "clock"
        control.write_bytes(bytes(16))
        ground.variables = {"LD_PRELOAD": str(library), "CLOCK_STUB": str(control)}
        ground.lay_out()
        run = ground.start()
        run.wait_for_record()
        step_ns = time.time_ns()
        with control.open("r+b") as file:  # not anew: it is mapped by those who run
            file.write(struct.pack("qq", step_ns, back_s * 10**9))
        ended = run.wait()
        problems = invariants.at_once(ground)
        if back_s == LITTLE_S:
            problems += [] if ended.code == 0 else [f"the run ended with {ended.code}: {ended.output[-500:]}"]
        else:
            said = "the clock was set back" in ended.output
            problems += [] if ended.code and said else [f"it did not say what is wrong: {ended.output[-500:]}"]
            _touch(ground, step_ns)
        before = invariants.look_before(ground)
        fell = f"by {back_s} s, after the first record"
        outcome = judged("clock set back", fell, told(ended), ground, problems, before)
        again = ground.run("-n")
        late = [] if NOTHING in again.output else [f"another run would not be idle: {again.output[-800:]}"]
        times = _times(ground, seen=back_s == MUCH_S)
        yield Outcome(**vars(outcome) | {"problems": (*outcome.problems, *times, *late)})


def _touch(ground: Ground, step_ns: int) -> None:
    """What the message says: files from before the step, which lie in the future now, get the present time."""
    for path in (ground.folder / "results").rglob("*"):
        if path.is_file() and path.stat().st_mtime_ns < step_ns:
            os.utime(path)


def _build(folder: Path) -> Path:
    found = compiler()
    if found is None:
        raise RuntimeError("no C compiler (cc, gcc, clang) to build the clock stub")
    library = folder / "clock_stub.so"
    source = STUBS / "clock_stub.c"
    subprocess.run([found, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def _times(ground: Ground, *, seen: bool) -> list[str]:
    """Durations are those of a clock that was not set; the order is that of the plan; the time of day went back."""
    records = sorted(map(read_record, ground.checkout.records()), key=lambda r: r["window"]["start_monotonic_s"])
    windows = [record["window"] for record in records]
    problems = [f"a window of {w['duration_s']} s" for w in windows if not 0.4 < w["duration_s"] < 60]
    order = [record["identity"]["order"] for record in records]
    problems += [] if order == sorted(order) else [f"measured in the order {order}"]
    began = [window["start_utc"] for window in windows]
    blind = seen and began == sorted(began)
    return [*problems, "the clock was not seen to go back: nothing was tested"] if blind else problems
