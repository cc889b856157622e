"""The clock of the day is set back by an hour while the workflow measures; see tests/stubs/clock_stub.c."""

from __future__ import annotations

import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from ipa_energy.record import read_record
from meter_fixtures import STUBS, compiler
from tiny import wait_for

from . import invariants
from .ground import Ground
from .outcome import Outcome, judged, told

BACK_S = 3600
NOTHING = "Nothing to be done"


def set_back(ground: Ground) -> Iterator[Outcome]:
    """Once one record is there, the clock goes back by an hour; the run ends, and another is started at that time.

    Once more with a kill of the workflow after the step.
    """
    library = _build(ground.folder)
    for killed in (False, True):
        control = ground.folder / "clock"
        control.write_bytes(bytes(16))
        ground.variables = {"LD_PRELOAD": str(library), "CLOCK_STUB": str(control)}
        ground.lay_out()
        run = ground.start()
        wait_for(ground.checkout.records, 300)
        with control.open("r+b") as file:  # not anew: it is mapped by those who run
            file.write(struct.pack("qq", time.time_ns(), BACK_S * 10**9))
        fell = "after the first record"
        if killed:
            fell += ", then SIGKILL of the workflow"
            wait_for(lambda: len(ground.checkout.records()) > 1, 300)
            run.process.kill()
        ended = run.wait()
        problems = invariants.at_once(ground)
        problems += [] if killed or ended.code == 0 else [f"the run ended with {ended.code}: {ended.output[-500:]}"]
        before = invariants.look_before(ground)
        outcome = judged("clock set back by an hour", fell, told(ended), ground, problems, before)
        again = ground.run("-n")
        late = [] if NOTHING in again.output else [f"another run would not be idle: {again.output[-800:]}"]
        yield Outcome(**vars(outcome) | {"problems": (*outcome.problems, *_times(ground), *late)})


def _build(folder: Path) -> Path:
    found = compiler()
    if found is None:
        raise RuntimeError("no C compiler (cc, gcc, clang) to build the clock stub")
    library = folder / "clock_stub.so"
    source = STUBS / "clock_stub.c"
    subprocess.run([found, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def _times(ground: Ground) -> list[str]:
    """Durations are those of a clock that was not set; the order is that of the plan; the time of day went back."""
    records = sorted(map(read_record, ground.checkout.records()), key=lambda r: r["window"]["start_monotonic_s"])
    windows = [record["window"] for record in records]
    problems = [f"a window of {w['duration_s']} s" for w in windows if not 0.4 < w["duration_s"] < 60]
    order = [record["identity"]["order"] for record in records]
    problems += [] if order == sorted(order) else [f"measured in the order {order}"]
    began = [window["start_utc"] for window in windows]
    return problems + ([] if began != sorted(began) else ["the clock was not seen to go back: nothing was tested"])
