"""Quality gates: what makes a measurement doubtful. A gate raises a flag; it never removes a record.

Thresholds are config (``gates``); the meaning of each flag is the text beside it, which also stands in the record.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ipa_energy.meters.base import Doubt

MEANING = {
    "short_window": "the window is too short for its figures: in seconds, in batches, or in updates of the meter",
    "unsteady_warm_up": "the service times had not become steady when the window was opened",
    "unsteady": "throughput (open loop: service time) changed between the halves of the window",
    "foreign_cpu": "other processes used the CPU during the window",
    "foreign_gpu": "compute processes that are not ours were on the GPU",
    "gpu_processes_hidden": "our own processes do not show on the GPU, so others can't be told (a container)",
    "graphics_gpu": "a graphics process was on the GPU, whose work is inside the figure",
    "idle_drift": "idle power differed before and after the window",
    "missed_deadline": "power samples came late",
    "throttled": "the processor was slowed down by heat or power during the window",
    "clock_drift": "the processor's clock changed during the window",
    "temperature_drift": "the processor's temperature changed during the window",
    "overloaded": "the open loop completed less than arrived: its latencies depend on how long it ran",
    "oversubscribed": "the replicas have more threads than the host has cores",
    "meters_disagree": "a meter and its check differ",
    "check_lost": "a second figure that was being taken was lost within the window",
    "aliasing": "batches kept step with the updates of the power sensor, which then may see one part of them only",
    "edge_off_tick": "a window edge lies on no update of the energy counter, whose step is in the uncertainty",
    "irregular_updates": "the energy counter is updated at irregular intervals, or at none that could be detected",
    "implausible_power": "a counter rose by more than the hardware can draw, or stood still: it restarted or froze",
    "figure_lost": "a meter lost its figure in the window, or in an idle phase that net energy needs",
}
"""Every flag that a record can carry. From ``check_lost`` on they are doubts of a meter itself, except ``aliasing``."""


BUSY = 0.95
"""Utilisation of the busiest stage above which a shortfall of an open loop means overload. Below it the shortfall is
the chance of where the window cuts the arrivals: a stage with time to spare is not behind."""


@dataclass(frozen=True)
class Flag:
    """A raised gate with what was seen and what would have passed."""

    name: str
    value: float | str | None
    threshold: float | str | None

    def as_dict(self) -> dict[str, Any]:
        """The form the record holds."""
        return {"flag": self.name, "value": self.value, "threshold": self.threshold, "meaning": MEANING[self.name]}


@dataclass(frozen=True)
class Observations:
    """What the gates look at. Rates and fractions are None where they could not be had, which raises no flag."""

    window_s: float
    fewest_batches: int
    coarsest_period_s: float | None
    steady_before: bool
    drift: float | None
    foreign_cores: float
    idle_before_and_after_w: tuple[tuple[str, float | None, float | None], ...]
    samples: int
    late_samples: int
    served_fraction: float | None
    busiest_utilisation: float
    cores_wanted: int
    cores_available: int
    throttle_counts: tuple[int | None, int | None]
    gpu_throttle_reasons: tuple[str, ...]
    foreign_gpu_processes: tuple[str, ...]
    gpu_processes_hidden: bool
    graphics_processes: tuple[str, ...]
    clock_changes: tuple[tuple[str, float | None], ...]
    temperature_changes_c: tuple[tuple[str, float | None], ...]
    check_ratios: tuple[tuple[str, float], ...]
    phase_locking: tuple[tuple[str, float | None], ...]
    doubts: tuple[Doubt, ...]


def _window_flags(seen: Observations, gates: Mapping[str, Any]) -> list[Flag]:
    flags = []
    if seen.window_s < gates["min_window_s"]:
        flags.append(Flag("short_window", f"{seen.window_s:.3g} s", f"{gates['min_window_s']:g} s"))
    if seen.fewest_batches < gates["min_batches"]:
        flags.append(Flag("short_window", f"{seen.fewest_batches} batches", f"{gates['min_batches']} batches"))
    if seen.coarsest_period_s:
        periods = seen.window_s / seen.coarsest_period_s
        if periods < gates["min_meter_periods"]:
            flags.append(Flag("short_window", f"{periods:.3g} updates", f"{gates['min_meter_periods']} updates"))
    return flags


def _load_flags(seen: Observations, gates: Mapping[str, Any]) -> list[Flag]:
    flags = []
    if not seen.steady_before:
        flags.append(Flag("unsteady_warm_up", None, None))
    if seen.drift is not None and seen.drift > gates["max_drift"]:
        flags.append(Flag("unsteady", seen.drift, gates["max_drift"]))
    behind = seen.served_fraction is not None and seen.served_fraction < gates["min_rate_served"]
    if behind and seen.busiest_utilisation > BUSY:
        flags.append(Flag("overloaded", seen.served_fraction, gates["min_rate_served"]))
    if seen.cores_wanted > seen.cores_available:
        flags.append(Flag("oversubscribed", seen.cores_wanted, seen.cores_available))
    return flags


def _machine_flags(seen: Observations, gates: Mapping[str, Any]) -> list[Flag]:
    flags = []
    if seen.foreign_cores > gates["max_foreign_cores"]:
        flags.append(Flag("foreign_cpu", seen.foreign_cores, gates["max_foreign_cores"]))
    if seen.foreign_gpu_processes:
        flags.append(Flag("foreign_gpu", ", ".join(seen.foreign_gpu_processes), "none"))
    if seen.gpu_processes_hidden:
        flags.append(Flag("gpu_processes_hidden", None, None))
    if seen.graphics_processes:
        flags.append(Flag("graphics_gpu", ", ".join(seen.graphics_processes), "none"))
    before, after = seen.throttle_counts
    if before is not None and after is not None and after > before:
        flags.append(Flag("throttled", after - before, 0))
    if seen.gpu_throttle_reasons:
        flags.append(Flag("throttled", ", ".join(seen.gpu_throttle_reasons), "none"))
    flags += [
        Flag("clock_drift", f"{change:.3g} ({what})", gates["max_clock_change"])
        for what, change in seen.clock_changes
        if change is not None and change > gates["max_clock_change"]
    ]
    flags += [
        Flag("temperature_drift", f"{change_c:+.3g} °C ({what})", f"{gates['max_temperature_change_c']:g} °C")
        for what, change_c in seen.temperature_changes_c
        if change_c is not None and abs(change_c) > gates["max_temperature_change_c"]
    ]
    return flags


def _meter_flags(seen: Observations, gates: Mapping[str, Any]) -> list[Flag]:
    flags = []
    for which, before_w, after_w in seen.idle_before_and_after_w:
        if before_w and after_w is not None:
            change = abs(after_w - before_w) / before_w
            if change > gates["max_idle_change"]:
                flags.append(Flag("idle_drift", f"{change:.3g} ({which})", gates["max_idle_change"]))
    if seen.samples and seen.late_samples / seen.samples > gates["max_late_samples"]:
        flags.append(Flag("missed_deadline", seen.late_samples / seen.samples, gates["max_late_samples"]))
    flags += [
        Flag("meters_disagree", f"{ratio:.4g} ({which})", gates["max_counter_disagreement"])
        for which, ratio in seen.check_ratios
        if abs(ratio - 1.0) > gates["max_counter_disagreement"]
    ]
    flags += [
        Flag("aliasing", f"{locking:.3g} ({which})", gates["max_phase_locking"])
        for which, locking in seen.phase_locking
        if locking is not None and locking > gates["max_phase_locking"]
    ]
    return flags + [Flag(doubt.flag, doubt.detail, None) for doubt in seen.doubts]


def raised(seen: Observations, gates: Mapping[str, Any]) -> list[Flag]:
    """The flags that ``seen`` raises under the thresholds ``gates`` (the config's section)."""
    return (
        _window_flags(seen, gates) + _load_flags(seen, gates) + _machine_flags(seen, gates) + _meter_flags(seen, gates)
    )


SLOWED_GPU = frozenset(
    {"sw_power_cap", "hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"}
)
"""Those of NVML's clock event reasons that mean less speed than the GPU could give; the others are no disturbance."""

PASSING = (
    *("foreign_cpu", "foreign_gpu", "missed_deadline", "unsteady_warm_up", "unsteady"),
    *("check_lost", "edge_off_tick", "implausible_power", "figure_lost"),
)
"""Flags of what may pass, after which trying again makes sense: the default of ``protocol.retry_flags``. The others
(too short a window, too much load for the host, a desktop on the GPU, sensors that disagree, heat and clocks that
idling brings back) would only come again."""


def disturbances(record: Mapping[str, Any], retry_flags: Collection[str]) -> list[str]:
    """The flags of a record after which it is worth another try."""
    flags = (record["quality"] or {"flags": []})["flags"]
    return list(dict.fromkeys(flag["flag"] for flag in flags if flag["flag"] in retry_flags))
