"""A process that holds a power limit on a GPU, the stub of the tests, is killed; the next run puts the limit back."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from meter_fixtures import build_nvml_stub
from platform_fixtures import GPUS, Platform

from . import invariants
from .ground import Ground
from .outcome import Outcome, judged, told

USUAL_W, CAPPED_W = 400.0, 300.0
KILLS = 10
CYCLES = """
import sys, time
from ipa_energy.platforms.power_limit import power_limit
print("begins", flush=True)
while True:
    with power_limit([sys.argv[1]], float(sys.argv[2]), "a measurement", print):
        time.sleep(0.01)
"""


def killed_with_a_cap(ground: Ground) -> Iterator[Outcome]:
    """Kill within the limit, then run the workflow; and at random moments of setting and putting back."""
    folder = Path(ground.folder / "gpu")
    folder.mkdir()
    platform = Platform(folder, build_nvml_stub(folder))
    ground.lay_out()
    platform.killed(caps=[[GPUS[:1], CAPPED_W]])
    problems = [] if platform.limits_w() == [CAPPED_W] else ["there was no limit to put back: nothing was tested"]
    wanted = ("LD_LIBRARY_PATH", "NVML_STUB", "IPA_ENERGY_JOURNAL")
    ground.variables = {name: platform.environment[name] for name in wanted}
    before = invariants.look_before(ground)
    ended = ground.run()
    problems += [] if "put back" in ended.output else ["the run did not say that it put the limit back"]
    outcome = judged("killed with a power limit set", "within the limit", told(ended), ground, problems, before)
    yield Outcome(**vars(outcome) | {"problems": (*outcome.problems, *_left(platform))})

    generator = random.Random(1)
    for _ in range(KILLS):
        yield _killed_at(platform, generator.uniform(0, 0.3))


def _killed_at(platform: Platform, moment_s: float) -> Outcome:
    """Kill a process that sets and puts back the limit again and again; ``moment_s`` after it did so first."""
    driver = subprocess.Popen(
        [sys.executable, "-c", CYCLES, GPUS[0], str(CAPPED_W)], env=platform.environment, stdout=subprocess.PIPE
    )
    assert driver.stdout is not None
    driver.stdout.readline()
    time.sleep(moment_s)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    fell = "the limit set" if platform.limits_w() == [CAPPED_W] else "the limit not set"
    fell += ", a journal entry" if platform.entries() else ", no journal entry"
    said = platform.command("restore")[0]
    return Outcome("killed with a power limit set", fell, said[:200], "`platforms restore`", tuple(_left(platform)))


def _left(platform: Platform) -> list[str]:
    limits = platform.limits_w()
    problems = [] if limits in ([], [USUAL_W]) else [f"the power limit is {limits} W"]
    return problems + [f"the journal still holds {name}" for name in platform.entries()]
