"""The GPU meter: NVML's energy counter between two of its ticks, and beside it the integrals of power as checks.

Here the GPUs are chosen and opened, and windows begun and ended; :mod:`.nvml_energy` makes the figures and says how
uncertain they are. A GPU whose counter can't be used has the integral of power as its figure, and its method says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ipa_energy.meters.base import Domain, Energy, MeterUnavailable, PowerSample
from ipa_energy.meters.nvml_channel import Channel
from ipa_energy.meters.nvml_coverage import known_coverage
from ipa_energy.meters.nvml_detection import detect_updates
from ipa_energy.meters.nvml_device import MODULE_SCOPE, Gpu
from ipa_energy.meters.nvml_edges import begin_window, end_window, sample
from ipa_energy.meters.nvml_energy import counter_energy, integral_energy
from ipa_energy.meters.nvml_environment import Surroundings
from ipa_energy.meters.nvml_library import load_pynvml, versions
from ipa_energy.meters.nvml_power import PowerSeries, probe, superchip
from ipa_energy.meters.visible_devices import visible_gpus

COUNTER_METHOD = "NVML energy counter (nvmlDeviceGetTotalEnergyConsumption), window edges on counter ticks"


class NvmlMeter:
    """NVIDIA GPUs, one domain ``gpu_0``, ``gpu_1``... each: those that CUDA would show this process, in CUDA's order.

    With ``all_gpus`` all GPUs of the host, in NVML's order, whatever CUDA_VISIBLE_DEVICES says: for configurations on
    the CPU of a host whose idle GPUs belong to the node.
    """

    name = "nvml"

    def __init__(self, environ: Mapping[str, str] = os.environ, *, all_gpus: bool = False) -> None:
        """Open NVML, find the GPUs, detect update periods (up to 1.5 s). Raises MeterUnavailable."""
        self._nvml = load_pynvml()
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise MeterUnavailable(f"no NVIDIA GPU can be read: NVML says {error}") from error
        self._open = True
        try:
            self._channels = [self._channel(n, gpu) for n, gpu in enumerate(self._chosen(environ, all_gpus))]
            detect_updates(self._channels)
            for channel in self._channels:
                if channel.lost:
                    raise MeterUnavailable(f"GPU {channel.gpu.index} ({channel.gpu.name}): {channel.lost}")
        except self._nvml.NVMLError as error:
            self.close()
            raise MeterUnavailable(f"NVML failed while looking for GPUs: {error}") from error
        except MeterUnavailable:
            self.close()
            raise
        self._surroundings = {
            channel.name: Surroundings(channel.gpu, channel.fields.memory) for channel in self._channels
        }
        self.domains = tuple(_domain(channel) for channel in self._channels)

    def _chosen(self, environ: Mapping[str, str], all_gpus: bool) -> list[Gpu]:
        gpus: list[Gpu | None] = []
        faults: list[str] = []
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                gpus.append(Gpu(self._nvml, index))
            except self._nvml.NVMLError as error:  # a GPU that nobody asked for may be broken
                gpus.append(None)
                faults.append(f"GPU {index} can't be opened: {error}")
        if all_gpus and gpus:
            if faults:
                raise MeterUnavailable(f"all GPUs of the host are to be measured, but {'; '.join(faults)}")
            return [gpu for gpu in gpus if gpu]
        chosen = visible_gpus(
            environ.get("CUDA_VISIBLE_DEVICES"),
            environ.get("CUDA_DEVICE_ORDER"),
            [gpu.uuid if gpu else None for gpu in gpus],
            [gpu.name for gpu in gpus if gpu],
            "; ".join(faults),
        )
        return [gpu for index in chosen if (gpu := gpus[index]) is not None]

    def _channel(self, number: int, gpu: Gpu) -> Channel:
        if gpu.mig_enabled():
            raise MeterUnavailable(
                f"GPU {gpu.index} ({gpu.name}) has MIG enabled: NVML has no power of a slice, only of the whole "
                "GPU, which others may share; an administrator can switch it off with nvidia-smi -mig 0"
            )
        fields, fault = probe(gpu), gpu.counter_fault()
        if fault and not fields.used:
            refused = "; ".join(f"{label}: {why}" for label, why in fields.refused.items())
            raise MeterUnavailable(
                f"GPU {gpu.index} ({gpu.name}) reports neither an energy counter nor power ({fault}; {refused})"
            )
        if fault and fields.used[0].scope == MODULE_SCOPE and superchip(gpu.name):
            raise MeterUnavailable(
                f"GPU {gpu.index} ({gpu.name}) has no energy counter ({fault}) and power of its whole module only: "
                "that holds the CPU, too, which other meters count"
            )
        return Channel(gpu, f"gpu_{number}", fields, fault, powers=[PowerSeries(power) for power in fields.used])

    def begin(self) -> None:
        """Open a window at the next tick of each counter."""
        begin_window(self._channels)

    def sample(self) -> list[PowerSample]:
        """Power of every GPU, by the first of its fields; the counters and the other fields are read too."""
        return sample(self._channels)

    def end(self) -> list[Energy]:
        """Close the window at the next tick of each counter."""
        end_window(self._channels)
        return [
            counter_energy(channel) if channel.fault is None else integral_energy(channel) for channel in self._channels
        ]

    def environment(self) -> dict[str, Any]:
        """Per domain: temperature, clocks, power state, clock event reasons, all processes (the caller's own too)."""
        return {name: surroundings.read() for name, surroundings in self._surroundings.items()}

    def provenance(self) -> dict[str, Any]:
        """Versions of driver, NVML and bindings; per GPU its identity and what was found out about its readings.

        ``failed_readings`` says of :meth:`environment`'s readings so far which ones failed, and why.
        """
        nvml, gpu = self._nvml, self._channels[0].gpu
        return {
            "driver": gpu.maybe(nvml.nvmlSystemGetDriverVersion),
            "nvml": gpu.maybe(nvml.nvmlSystemGetNVMLVersion),
            **versions(),
            "gpus": {
                channel.name: {
                    **channel.gpu.identity(),
                    "energy_counter": channel.fault is None,
                    "counter_fault": channel.fault,
                    "counter_updates": asdict(channel.updates) if channel.updates else None,
                    "power_fields": {
                        series.power.label: asdict(series.updates) if series.updates else None
                        for series in channel.powers
                    },
                    "refused_power_fields": channel.fields.refused,
                    "memory_power_field": channel.fields.memory.label if channel.fields.memory else None,
                    "known_coverage": known_coverage(channel.gpu.name),
                    "failed_readings": self._surroundings[channel.name].failures,
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
    if channel.fault is None:
        return Domain(channel.name, "gpu", boundary, COUNTER_METHOD, "measured", channel.period_s)
    main = channel.powers[0]
    if main.power.scope == MODULE_SCOPE:
        boundary = (
            f"whole module of {channel.gpu.name} (on superchips CPU, GPU and memory), without the rest of the host"
        )
    return Domain(channel.name, "gpu", boundary, f"{main.method}; {channel.fault}", "measured", main.period_s)
