"""What happens around a GPU's energy: temperature, clocks, slow-downs and the processes on it.

In: an open GPU. Out: JSON-ready readings, None for each that this GPU, driver or user can't have, and why. A reading
that isn't supported is asked for once and then left alone, because this runs every second beside the measured load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import psutil

from ipa_energy.meters.nvml_device import Gpu, PowerField

EVENT_REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons, named as in nvml.h."""
UNKNOWN_POWER_STATE = 32


class Surroundings:
    """Readings around one GPU. ``failures`` says for each reading that ever failed why it first did."""

    def __init__(self, gpu: Gpu, memory: PowerField | None = None) -> None:
        """``memory`` is the power field of the GPU's memory, where it has one."""
        self._gpu = gpu
        self._memory = memory
        self._unsupported: set[str] = set()
        self.failures: dict[str, str] = {}

    def read(self) -> dict[str, Any]:
        """Temperature (°C), clocks (MHz), power state, clock event reasons, processes, memory power (W). Never raises.

        Processes are all there are, the caller's own too: compute, graphics, and clients of MPS.
        """
        nvml, handle = self._gpu.nvml, self._gpu.handle
        readings: dict[str, Callable[[], Any]] = {
            "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "sm_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "power_state": lambda: _power_state(nvml.nvmlDeviceGetPerformanceState(handle)),
            "event_reasons": lambda: _reason_names(self._event_reasons()),
            "compute_processes": lambda: _named(nvml.nvmlDeviceGetComputeRunningProcesses(handle)),
            "graphics_processes": lambda: _named(nvml.nvmlDeviceGetGraphicsRunningProcesses(handle)),
            "mps_processes": lambda: _named(nvml.nvmlDeviceGetMPSComputeRunningProcesses(handle)),
        }
        if self._memory is not None:
            readings["memory_power_w"] = self._memory_power_w
        return {name: self._attempt(name, reading) for name, reading in readings.items()}

    def _attempt(self, name: str, reading: Callable[[], Any]) -> Any:
        if name in self._unsupported:
            return None
        nvml = self._gpu.nvml
        try:
            return reading()
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound) as error:
            self._unsupported.add(name)
            self.failures.setdefault(name, str(error))
        except nvml.NVMLError as error:
            self.failures.setdefault(name, str(error))
        except Exception as error:  # one odd answer must not cost the other readings
            self.failures.setdefault(name, f"{type(error).__name__}: {error}")
        return None

    def _event_reasons(self) -> int:
        nvml, handle = self._gpu.nvml, self._gpu.handle
        try:
            return int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        except nvml.NVMLError_FunctionNotFound:  # drivers before 535 know the same bits under the older name
            return int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))

    def _memory_power_w(self) -> float:
        assert self._memory is not None
        (reading,) = self._gpu.read_powers([self._memory])
        if reading.power_w is None:
            raise RuntimeError(reading.error)
        return reading.power_w


def _power_state(state: int) -> str | None:
    return None if state == UNKNOWN_POWER_STATE else f"P{state}"


def _reason_names(mask: int) -> list[str]:
    known = [name for bit, name in EVENT_REASONS.items() if mask & bit]
    return known + [f"bit_{bit}" for bit in range(len(EVENT_REASONS), 64) if mask >> bit & 1]


def _named(processes: Iterable[Any]) -> list[dict[str, Any]]:
    return [
        {
            "pid": int(process.pid),
            "name": _process_name(process.pid),
            # None where the driver does not tell, as on Windows' display driver model and in some containers.
            "memory_bytes": None if process.usedGpuMemory is None else int(process.usedGpuMemory),
        }
        for process in processes
    ]


def _process_name(pid: int) -> str | None:
    # None also inside a container, where NVML gives the pid of another pid namespace.
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return None
