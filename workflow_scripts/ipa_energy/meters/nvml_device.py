"""NVML as this project uses it: one GPU behind its handle, in joules, watts and words.

The one place that knows NVML's units, field ids and error codes. Power is always asked for as a *named* field where the
driver has it: the plain query means a 1 s average on some GPUs and drivers and an instant on others (Yang, Adámek and
Armour, "Accurate and Convenient Energy Measurements for GPUs", SC'24). ``pynvml`` is the module of nvidia-ml-py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any

import psutil

from ipa_energy.meters.base import MeterUnavailable

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

POWER_INSTANT, POWER_AVERAGE, POWER_USAGE = (
    "NVML_FI_DEV_POWER_INSTANT (field 186)",
    "NVML_FI_DEV_POWER_AVERAGE (field 185, 1 s average)",
    "nvmlDeviceGetPowerUsage (instant or 1 s average, by GPU generation)",
)


def load_pynvml() -> Any:
    """The module ``pynvml`` of nvidia-ml-py. Raises MeterUnavailable when it is absent or shadowed."""
    try:
        import pynvml  # noqa: PLC0415 - only where a GPU is asked for, so that its absence is a reason and not a crash
    except ImportError as error:
        raise MeterUnavailable(f"pynvml can't be imported ({error}); pip install nvidia-ml-py") from error
    # Up to 11.5 the deprecated distribution ships a package of its own, which wins over nvidia-ml-py's single module.
    if hasattr(pynvml, "__path__") or not hasattr(pynvml, "NVML_FI_DEV_POWER_INSTANT"):
        owners = metadata.packages_distributions().get("pynvml", [])
        others = sorted({owner for owner in owners if owner != "nvidia-ml-py"}) or ["nvidia-ml-py"]
        named = ", ".join(f"{name} {metadata.version(name)}" for name in others)
        raise MeterUnavailable(
            f"`import pynvml` finds {named} at {pynvml.__file__}, which is deprecated or too old and lacks the "
            f"named power fields; pip uninstall -y {' '.join(others)} && "
            "pip install --force-reinstall 'nvidia-ml-py>=12.535'"
        )
    return pynvml


class Gpu:
    """One physical GPU. Every reading raises ``pynvml.NVMLError`` where NVML fails."""

    def __init__(self, nvml: Any, index: int) -> None:
        """Take the handle of the GPU that NVML numbers ``index``."""
        self.nvml = nvml
        self.index = index
        self.handle = nvml.nvmlDeviceGetHandleByIndex(index)
        self.uuid = str(nvml.nvmlDeviceGetUUID(self.handle))
        self.name = str(nvml.nvmlDeviceGetName(self.handle))

    def energy_mj(self) -> int:
        """Millijoules since the driver was loaded (Volta and newer)."""
        return int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle))

    def has_counter(self) -> bool:
        """Whether the GPU has the energy counter."""
        try:
            self.energy_mj()
        except (self.nvml.NVMLError_NotSupported, self.nvml.NVMLError_FunctionNotFound):
            return False
        return True

    def mig_enabled(self) -> bool:
        """Whether the GPU is cut into MIG slices."""
        mode = self.maybe(lambda: self.nvml.nvmlDeviceGetMigMode(self.handle)[0])
        return bool(mode == self.nvml.NVML_DEVICE_MIG_ENABLE)

    def power_source(self) -> str | None:
        """The best power reading that this GPU answers with a positive value; None when there is none."""
        for source in (POWER_INSTANT, POWER_AVERAGE, POWER_USAGE):
            if self.maybe(partial(self.power_w, source)):  # unsupported fields are known to answer success and 0
                return source
        return None

    def power_w(self, source: str) -> float:
        """Board power in watts by the named source."""
        if source == POWER_USAGE:
            return float(self.nvml.nvmlDeviceGetPowerUsage(self.handle)) / 1e3
        nvml = self.nvml
        field = nvml.NVML_FI_DEV_POWER_INSTANT if source == POWER_INSTANT else nvml.NVML_FI_DEV_POWER_AVERAGE
        answer = nvml.nvmlDeviceGetFieldValues(self.handle, [(field, 0)])[0]
        # The call succeeds as a whole although a field failed: each carries a return code of its own.
        if answer.nvmlReturn != nvml.NVML_SUCCESS:
            raise nvml.NVMLError(answer.nvmlReturn)
        member = {
            nvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
            nvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
            nvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
            nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
            nvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
            nvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
            nvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: "usVal",
        }[answer.valueType]
        return float(getattr(answer.value, member)) / 1e3

    def maybe(self, reading: Callable[[], Any]) -> Any:
        """``reading()``, or None where this GPU, driver or user can't have it."""
        try:
            return reading()
        except self.nvml.NVMLError:
            return None

    def environment(self) -> dict[str, Any]:
        """Temperature (°C), SM clock (MHz), clock event reasons and compute processes; None where not supported."""
        nvml, handle = self.nvml, self.handle
        reasons = self.maybe(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        if reasons is None:  # drivers before 535 know the same bits under the older name
            reasons = self.maybe(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        processes = self.maybe(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        return {
            "temperature_c": self.maybe(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            "sm_clock_mhz": self.maybe(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            "event_reasons": None
            if reasons is None
            else [name for bit, name in EVENT_REASONS.items() if reasons & bit]
            + [f"bit_{bit}" for bit in range(9, 64) if reasons >> bit & 1],
            "compute_processes": None
            if processes is None
            else [{"pid": int(process.pid), "name": _process_name(process.pid)} for process in processes],
        }

    def identity(self) -> dict[str, Any]:
        """Name, UUID, firmware and power limits (W); None where not supported."""
        nvml, handle = self.nvml, self.handle

        def watts(reading: Callable[[Any], int]) -> float | None:
            milliwatts = self.maybe(lambda: reading(handle))
            return None if milliwatts is None else milliwatts / 1e3

        persistence = self.maybe(lambda: nvml.nvmlDeviceGetPersistenceMode(handle))
        return {
            "nvml_index": self.index,
            "name": self.name,
            "uuid": self.uuid,
            "vbios": self.maybe(lambda: nvml.nvmlDeviceGetVbiosVersion(handle)),
            "power_limit_enforced_w": watts(nvml.nvmlDeviceGetEnforcedPowerLimit),
            "power_limit_requested_w": watts(nvml.nvmlDeviceGetPowerManagementLimit),
            "power_limit_default_w": watts(nvml.nvmlDeviceGetPowerManagementDefaultLimit),
            "persistence_mode": None if persistence is None else bool(persistence),
        }


def _process_name(pid: int) -> str | None:
    # None also inside a container, where NVML gives the pid of another pid namespace.
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return None
