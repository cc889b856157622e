"""The channels of a GPU: its energy counter and every power field that it answers, and how they are polled."""

from __future__ import annotations

import gc
import random
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ipa_energy.characterise.updates import Readings
from ipa_energy.meters.nvml_device import (
    GPU_SCOPE,
    MEMORY_SCOPE,
    MODULE_SCOPE,
    POWER_USAGE,
    Gpu,
    PowerField,
    power_average,
    power_instant,
)

COUNTER = "counter"
DITHER = 0.3
COUNTER_LABEL = "NVML energy counter (nvmlDeviceGetTotalEnergyConsumption)"
FIELDS: dict[str, PowerField] = {
    "instant": power_instant(GPU_SCOPE),
    "average": power_average(GPU_SCOPE),
    "usage": POWER_USAGE,
    "module_instant": power_instant(MODULE_SCOPE),
    "module_average": power_average(MODULE_SCOPE),
    "memory_instant": power_instant(MEMORY_SCOPE),
    "memory_average": power_average(MEMORY_SCOPE),
}
"""The power fields by the names of their channels."""


@dataclass
class Channel:
    """One reading of the GPU, and what was read; times in ns of the monotonic clock, values in mJ or mW."""

    name: str
    label: str
    unit: str
    asked_ns: array[int] = field(default_factory=lambda: array("q"))
    answered_ns: array[int] = field(default_factory=lambda: array("q"))
    values: array[int] = field(default_factory=lambda: array("q"))
    failed: int = 0
    failure: str | None = None

    def add(self, asked_ns: int, answered_ns: int, value: int) -> None:
        """Take a poll."""
        self.asked_ns.append(asked_ns)
        self.answered_ns.append(answered_ns)
        self.values.append(value)

    def fail(self, reason: str) -> None:
        """Take a poll that failed."""
        self.failed += 1
        self.failure = self.failure or reason

    def readings(self, origin_s: float) -> Readings:
        """What was read, in seconds since ``origin_s``."""
        asked, answered, values = (
            np.frombuffer(buffer, dtype=np.int64) for buffer in (self.asked_ns, self.answered_ns, self.values)
        )
        return Readings(asked / 1e9 - origin_s, answered / 1e9 - origin_s, values.copy())


class Poller:
    """Polls all channels of a GPU: the counter, then all power fields in one call."""

    def __init__(self, gpu: Gpu) -> None:
        """``refused`` says why the other fields can't be had. A field that answers 0 W isn't supported."""
        self.gpu = gpu
        self.channels: dict[str, Channel] = {}
        self.refused: dict[str, str] = {}
        self._random = random.Random(0)
        fault = gpu.counter_fault()
        if fault:
            self.refused[COUNTER] = fault
        else:
            self.channels[COUNTER] = Channel(COUNTER, COUNTER_LABEL, "mJ")
        for name, reading in zip(FIELDS, gpu.read_powers(list(FIELDS.values())), strict=True):
            if reading.power_w:
                self.channels[name] = Channel(name, FIELDS[name].label, "mW")
            else:
                self.refused[name] = reading.error or "answers success with 0 W"
        self._fields = [FIELDS[name] for name in self.channels if name != COUNTER]
        self._powers = [channel for name, channel in self.channels.items() if name != COUNTER]

    def poll(self) -> None:
        """Read every channel once."""
        counter = self.channels.get(COUNTER)
        if counter is not None:
            asked_ns = time.monotonic_ns()
            try:
                energy_mj = self.gpu.energy_mj()
            except self.gpu.nvml.NVMLError as error:
                counter.fail(str(error))
            else:
                counter.add(asked_ns, time.monotonic_ns(), energy_mj)
        if self._powers:
            asked_ns = time.monotonic_ns()
            readings = self.gpu.read_powers(self._fields)
            answered_ns = time.monotonic_ns()
            for channel, reading in zip(self._powers, readings, strict=True):
                if reading.power_w is None:
                    channel.fail(reading.error or "no value")
                else:
                    channel.add(asked_ns, answered_ns, round(reading.power_w * 1e3))

    def poll_until(self, done: Callable[[], bool], poll_s: float) -> None:
        """Poll about every ``poll_s`` until ``done()``, which is asked after each poll.

        The time between polls varies by :data:`DITHER`: polls in step with the updates would always find them equally
        late.
        """
        collecting = gc.isenabled()
        gc.disable()  # a collection would stretch the time between two polls
        try:
            due_s = time.monotonic()
            while True:
                self.poll()
                if done():
                    return
                # What was missed is not made up for in a burst.
                due_s = max(due_s + poll_s * self._random.uniform(1 - DITHER, 1 + DITHER), time.monotonic())
                time.sleep(max(due_s - time.monotonic(), 0.0))
        finally:
            if collecting:
                gc.enable()
