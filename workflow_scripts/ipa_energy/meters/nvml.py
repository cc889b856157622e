"""The GPU meter: NVML's energy counter between two of its ticks, and beside it the integral of power as a check.

The check is the sample-and-hold integral of a *named* power field over the same window. Which part of the signal either
figure sees is not documented, so their ratio is a result, not a correction. A GPU without the counter (before Volta)
has the integral as its figure, and its method says so.

Standard uncertainty (k = 1), combined in quadrature:

- gain, 5 %/√3 of the energy: boards of one model differ by about ±5 % (Yang, Adámek and Armour, SC'24, results for more
  than 70 GPUs). It is common to all windows on one board: it belongs to absolute joules and drops out of contrasts
  within one board.
- edges: a tick lies between two polls, whose distance/√12 counts at mean power, for each edge. An edge without a tick
  counts the whole update period instead.
- where the integral is the figure: scatter of the power samples, s/√n over the window.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Mapping
from typing import Any

from ipa_energy.meters.base import Check, Domain, Energy, MeterUnavailable, PowerSample
from ipa_energy.meters.counters import hold_integral
from ipa_energy.meters.nvml_device import Gpu, load_pynvml
from ipa_energy.meters.nvml_edges import Channel, Edge, align, detect_periods
from ipa_energy.meters.visible_devices import visible_gpus

GAIN = 0.05 / math.sqrt(3)
COUNTER_METHOD = "NVML energy counter (nvmlDeviceGetTotalEnergyConsumption), window edges on counter ticks"


class NvmlMeter:
    """NVIDIA GPUs that CUDA would show this process, one domain ``gpu_0``, ``gpu_1``... each, in CUDA's order."""

    name = "nvml"

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Open NVML, find the visible GPUs, detect the counters' period (up to 1.2 s). Raises MeterUnavailable."""
        self._nvml = load_pynvml()
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise MeterUnavailable(f"no NVIDIA GPU can be read: NVML says {error}") from error
        self._open = True
        try:
            self._channels = self._find(environ)
            detect_periods(self._counted())
            for channel in self._channels:
                if channel.lost:
                    raise MeterUnavailable(f"GPU {channel.gpu.index} ({channel.gpu.name}): {channel.lost}")
        except self._nvml.NVMLError as error:
            self.close()
            raise MeterUnavailable(f"NVML failed while looking for GPUs: {error}") from error
        except MeterUnavailable:
            self.close()
            raise
        self.domains = tuple(_domain(channel) for channel in self._channels)

    def _find(self, environ: Mapping[str, str]) -> list[Channel]:
        gpus = [Gpu(self._nvml, index) for index in range(self._nvml.nvmlDeviceGetCount())]
        chosen = visible_gpus(
            environ.get("CUDA_VISIBLE_DEVICES"),
            environ.get("CUDA_DEVICE_ORDER"),
            [gpu.uuid for gpu in gpus],
            [gpu.name for gpu in gpus],
        )
        channels = []
        for number, gpu in enumerate(gpus[index] for index in chosen):
            if gpu.mig_enabled():
                raise MeterUnavailable(
                    f"GPU {gpu.index} ({gpu.name}) has MIG enabled: NVML has no power of a slice, only of the whole "
                    "GPU, which others may share; an administrator can switch it off with nvidia-smi -mig 0"
                )
            channel = Channel(gpu, f"gpu_{number}", gpu.has_counter(), gpu.power_source())
            if not channel.counter and channel.source is None:
                raise MeterUnavailable(f"GPU {gpu.index} ({gpu.name}) reports neither an energy counter nor power")
            channels.append(channel)
        return channels

    def _counted(self) -> list[Channel]:
        return [channel for channel in self._channels if channel.counter and not channel.lost]

    def begin(self) -> None:
        """Open a window at the next tick of each counter."""
        for channel in self._channels:
            channel.clear()
        edges = align(self._counted())
        for channel in self._channels:
            channel.begin = edges.get(channel.name) if channel.counter else Edge(time.monotonic(), 0, 0.0)
            channel.read_power()

    def sample(self) -> list[PowerSample]:
        """Power of every GPU; reads the counters too, so that a reset inside the window is seen."""
        for channel in self._counted():
            channel.read_counter()
        return [sample for channel in self._channels if (sample := channel.read_power()) is not None]

    def end(self) -> list[Energy]:
        """Close the window at the next tick of each counter."""
        call_s = time.monotonic()
        self.sample()
        ends = align(self._counted())
        return [
            _counter_energy(channel, ends.get(channel.name), call_s)
            if channel.counter
            else _integral_energy(channel, time.monotonic())
            for channel in self._channels
        ]

    def environment(self) -> dict[str, Any]:
        """Per domain: temperature, SM clock, clock event reasons, all compute processes (the caller's own too)."""
        return {channel.name: channel.gpu.environment() for channel in self._channels}

    def provenance(self) -> dict[str, Any]:
        """Versions of driver and NVML; identity, power limits, detected period and power source of every GPU."""
        nvml, gpu = self._nvml, self._channels[0].gpu
        return {
            "driver": gpu.maybe(nvml.nvmlSystemGetDriverVersion),
            "nvml": gpu.maybe(nvml.nvmlSystemGetNVMLVersion),
            "gpus": {
                channel.name: {
                    **channel.gpu.identity(),
                    "energy_counter": channel.counter,
                    "counter_period_s": channel.period_s,
                    "power_source": channel.source,
                }
                for channel in self._channels
            },
        }

    def close(self) -> None:
        """Shut NVML down. Safe to call twice."""
        if self._open:
            self._open = False
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError:
                return  # the driver is gone already: nothing is left to release


def _domain(channel: Channel) -> Domain:
    boundary = f"whole board of {channel.gpu.name} as its sensor sees it (chip, memory, regulators), without the host"
    method = COUNTER_METHOD if channel.counter else f"{_integral_method(channel)}; this GPU has no energy counter"
    return Domain(channel.name, "gpu", boundary, method, "measured", channel.period_s)


def _integral_method(channel: Channel) -> str:
    return f"sample-and-hold integral of {channel.source}"


def _integral_j(channel: Channel, begin_s: float, end_s: float) -> float | None:
    if channel.power_lost or end_s <= begin_s:
        return None
    return hold_integral(channel.times_s, channel.powers_w, begin_s, end_s)


def _counter_energy(channel: Channel, end: Edge | None, call_s: float) -> Energy:
    begin = channel.begin
    if begin is None or end is None:
        begin_s = begin.time_s if begin else call_s
        return Energy(channel.name, None, begin_s, call_s, reason=channel.lost or "no window was begun")
    window_s = end.time_s - begin.time_s
    checks: tuple[Check, ...] = ()
    if channel.source is not None:
        checks = (Check(_integral_method(channel), _integral_j(channel, begin.time_s, end.time_s)),)
    if end.counter_mj == begin.counter_mj or window_s <= 0:
        reason = f"NVML energy counter stood still for the whole window of {window_s:.3f} s"
        return Energy(channel.name, None, begin.time_s, end.time_s, checks=checks, reason=reason)
    energy_j = (end.counter_mj - begin.counter_mj) / 1e3
    edges_j = energy_j / window_s * math.hypot(begin.width_s, end.width_s) / math.sqrt(12)
    notes = "; ".join(f"{name}: {edge.note}" for name, edge in (("begin", begin), ("end", end)) if edge.note)
    uncertainty = {"gain": GAIN * energy_j, "edges": edges_j}
    return Energy(channel.name, energy_j, begin.time_s, end.time_s, uncertainty, checks, notes or None)


def _integral_energy(channel: Channel, end_s: float) -> Energy:
    begin_s = channel.begin.time_s if channel.begin else end_s
    energy_j = _integral_j(channel, begin_s, end_s)
    if energy_j is None:
        reason = channel.power_lost or "no window was begun"
        return Energy(channel.name, None, begin_s, end_s, reason=reason)
    powers_w = channel.powers_w
    scatter_w = statistics.stdev(powers_w) / math.sqrt(len(powers_w)) if len(powers_w) > 1 else 0.0
    uncertainty = {"gain": GAIN * energy_j, "sampling": scatter_w * (end_s - begin_s)}
    return Energy(channel.name, energy_j, begin_s, end_s, uncertainty)
