"""A GPU's power fields: which of them it has, what they said in a window, and the integral of that.

Every value is held until the next one was read, never joined by ramps (a sensor that updates in steps keeps its last
value), and put in its place in time, as Yang, Adámek and Armour (SC'24) do: what a field reports is of the time
*before* its update, so an instant field is shifted back by one update; of a field that is or may be a 1 s average, the
first 1.2 s after the window's begin are left out, because they still show what was before.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

from ipa_energy.meters.base import Check
from ipa_energy.meters.counters import hold_integral
from ipa_energy.meters.nvml_device import (
    GPU_SCOPE,
    MEMORY_SCOPE,
    MODULE_SCOPE,
    POWER_USAGE,
    Gpu,
    PowerField,
    PowerReading,
    power_average,
    power_instant,
)
from ipa_energy.meters.nvml_updates import Updates

RISE_S = 1.2
"""What is left out of a 1 s average: the averaging time and two updates of 100 ms (Yang et al.)."""
LEAST_AVERAGED_S = 1.0
"""A 1 s average over less than this says more about what was before than about the window."""
SLOWEST_UPDATE_S = 1.0
"""The slowest update that NVIDIA's driver can be set to (RMRusdPollingInterval); stands in for an unknown period."""


@dataclass(frozen=True, slots=True)
class PowerFields:
    """Fields that a GPU answers: ``used`` in order of preference, ``memory`` beside them; and why not the others."""

    used: tuple[PowerField, ...]
    memory: PowerField | None
    refused: dict[str, str]


def probe(gpu: Gpu) -> PowerFields:
    """Ask ``gpu`` for instant and average power, of the GPU or else of its module, and of its memory; never raises.

    The plain query is used only where neither is there. A field that answers 0 W isn't supported: drivers are known to
    report success then.
    """
    refused: dict[str, str] = {}

    def first(*fields: PowerField) -> list[PowerField]:
        for candidate in fields:
            (reading,) = gpu.read_powers([candidate])
            if reading.power_w:
                return [candidate]
            refused[candidate.label] = reading.error or "answers success with 0 W"
        return []

    used = [
        *first(power_instant(GPU_SCOPE), power_instant(MODULE_SCOPE)),
        *first(power_average(GPU_SCOPE), power_average(MODULE_SCOPE)),
    ] or first(POWER_USAGE)
    memory = first(power_average(MEMORY_SCOPE), power_instant(MEMORY_SCOPE))
    return PowerFields(tuple(used), memory[0] if memory else None, refused)


@dataclass(slots=True)
class PowerSeries:
    """One power field within the current window.

    ``stamped`` says that the driver's time stamps are those of the updates. ``update_powers_w`` holds one value per
    update that was seen, ``lost`` why the series is of no use in this window.
    """

    power: PowerField
    updates: Updates | None = None
    stamped: bool = False
    times_s: list[float] = field(default_factory=list)
    powers_w: list[float] = field(default_factory=list)
    update_powers_w: list[float] = field(default_factory=list)
    lost: str | None = None
    _last: tuple[float | None, int | None] | None = None

    def clear(self) -> None:
        """Forget the last window."""
        self.times_s, self.powers_w, self.update_powers_w = [], [], []
        self.lost, self._last = None, None

    def see(self, reading: PowerReading, time_s: float) -> None:
        """Take a reading; a failed one spoils this series for the window."""
        if reading.power_w is None:
            self.lost = self.lost or f"{self.power.label} failed within the window: {reading.error}"
            return
        self.times_s.append(time_s)
        self.powers_w.append(reading.power_w)
        update = (reading.power_w, reading.stamp_us if self.stamped else None)
        if update != self._last:
            self.update_powers_w.append(reading.power_w)
            self._last = update

    @property
    def method(self) -> str:
        """How :meth:`integral` gets its figure, for domains and checks."""
        return f"sample-and-hold integral of {self.power.label}"

    @property
    def period_s(self) -> float | None:
        """The detected update period; None where it is unknown."""
        return self.updates.period_s if self.updates else None

    def integral(self, begin_s: float, end_s: float) -> Check:
        """Energy over the window, or over its part that the field can tell about; else None with the reason."""
        if self.lost:
            return Check(self.method, None, reason=self.lost)
        if not self.power.averaged_s:
            shift_s = self.period_s or 0.0
            times_s = [time_s - shift_s for time_s in self.times_s]
            energy_j = hold_integral(times_s, self.powers_w, begin_s, end_s) if end_s > begin_s else None
            reason = f"{self.power.label} was not read within the window" if energy_j is None else None
            return Check(self.method, energy_j, reason=reason)
        fresh_s = next((time_s for time_s in self.times_s if time_s >= begin_s + RISE_S), math.inf)
        if end_s - fresh_s < LEAST_AVERAGED_S:
            return Check(
                self.method,
                None,
                reason=f"the window of {end_s - begin_s:.2f} s is too short for a reading that may be a 1 s average: "
                f"its first {RISE_S:g} s show what was before",
            )
        return Check(self.method, hold_integral(self.times_s, self.powers_w, fresh_s, end_s), end_s - fresh_s)

    def sampling_w(self, window_s: float) -> float | None:
        """Standard error of the mean power from the scatter of independent updates (W); None below two of them.

        Polls that found the same update again count once, and of a 1 s average one update in each second.
        """
        if len(self.update_powers_w) < 2:
            return None
        independent = len(self.update_powers_w)
        if self.power.averaged_s:
            independent = min(independent, max(1, int(window_s / self.power.averaged_s)))
        return statistics.stdev(self.update_powers_w) / math.sqrt(independent)

    @property
    def edge_s(self) -> float:
        """How much of the time at an edge one update stands for."""
        return max(self.period_s or SLOWEST_UPDATE_S, self.power.averaged_s)


def superchip(board: str) -> bool:
    """Whether a board's name is that of a module with a CPU on it (Grace)."""
    return any(word in board for word in ("GH200", "GB200", "GB300", "Grace"))
