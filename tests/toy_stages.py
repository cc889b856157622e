"""Stages that do almost nothing, so that tests see the engine and not a model: real processes, real shared memory."""

import os
import time

import numpy as np


class _Runner:
    def __init__(self, setup, inputs, outputs, work):
        self.setup, self.inputs, self.outputs, self.work = setup, inputs, outputs, work

    def describe(self):
        return {"pid": os.getpid(), "cpus": sorted(os.sched_getaffinity(0))}

    def __call__(self, sources, slots):
        self.work(self, sources)
        self.outputs[slots] = self.inputs[sources] + self.setup.get("add", 0)
        return int(self.setup.get("filled", 0)) * len(slots)


def sleeper(setup, inputs, outputs):
    """Takes ``service_s`` a batch, whatever its size."""
    return _Runner(setup, inputs, outputs, lambda runner, sources: time.sleep(setup["service_s"]))


def raiser(setup, inputs, outputs):
    """Raises at its n-th batch."""
    seen = []

    def work(runner, sources):
        seen.append(1)
        if len(seen) >= setup["at"]:
            raise MemoryError("no room for 7 GiB")

    return _Runner(setup, inputs, outputs, work)


def unloadable(setup, inputs, outputs):
    raise RuntimeError("weights file is broken")


def checker(setup, inputs, outputs):
    """Writes twice its input, so that a test can follow every request through shared memory."""
    return _Runner(setup, inputs, outputs, lambda runner, sources: np.multiply(inputs[sources], 1))


def burner(setup, inputs, outputs):
    """Uses ``burn_s`` core seconds while it loads, and none afterwards."""
    until_s = time.process_time() + setup["burn_s"]
    while time.process_time() < until_s:
        pass
    return _Runner(setup, inputs, outputs, lambda runner, sources: None)


def model(setup, inputs, outputs):
    """Loads for ``load_s``, or fails in it when it is ``broken``; then takes ``service_s`` a batch."""
    time.sleep(setup["load_s"])
    if setup.get("broken"):
        raise RuntimeError("weights file is broken")
    return _Runner(setup, inputs, outputs, lambda runner, sources: time.sleep(setup["service_s"]))
