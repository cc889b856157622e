"""NVML as this project uses it: one GPU behind its handle, in joules, watts and words.

The place that knows NVML's units, field ids, scopes and error codes. Power is asked for as a *named* field where the
driver has it: the plain query means a 1 s average on some GPUs and drivers and an instant on others (Yang, Adámek and
Armour, "Accurate and Convenient Energy Measurements for GPUs", SC'24). ``pynvml`` is the module of nvidia-ml-py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

GPU_SCOPE, MODULE_SCOPE, MEMORY_SCOPE = 0, 1, 2
SCOPES = {
    GPU_SCOPE: "GPU scope",
    MODULE_SCOPE: "module scope: the whole module, which on superchips is CPU and GPU",
    MEMORY_SCOPE: "memory scope",
}
"""Scopes of the power fields, numbered as in nvml.h."""
AVERAGE_S = 1.0
"""What the averaged power looks back on (nvml.h)."""


@dataclass(frozen=True, slots=True)
class PowerField:
    """One of NVML's power readings. Without ``field_id`` it is the plain query nvmlDeviceGetPowerUsage.

    ``averaged_s`` is how far its value looks back: 0 where that is one update at most.
    """

    name: str
    field_id: int | None
    scope: int
    averaged_s: float

    @property
    def label(self) -> str:
        """The field in words, as methods and provenance name it."""
        if self.field_id is None:
            return f"{self.name} (instant or 1 s average, by GPU generation and driver)"
        average = f", {self.averaged_s:g} s average" if self.averaged_s else ""
        return f"{self.name} (field {self.field_id}{average}, {SCOPES[self.scope]})"


def power_instant(scope: int) -> PowerField:
    """Power of the last update; part of it or all of it, by GPU."""
    return PowerField("NVML_FI_DEV_POWER_INSTANT", 186, scope, 0.0)


def power_average(scope: int) -> PowerField:
    """Power averaged over the last second."""
    return PowerField("NVML_FI_DEV_POWER_AVERAGE", 185, scope, AVERAGE_S)


POWER_USAGE = PowerField("nvmlDeviceGetPowerUsage", None, GPU_SCOPE, AVERAGE_S)


@dataclass(frozen=True, slots=True)
class PowerReading:
    """Power in watts, the driver's time stamp of it (µs, if it gives any), or why there is none."""

    power_w: float | None
    stamp_us: int | None = None
    error: str | None = None


class Gpu:
    """One physical GPU. Methods raise ``pynvml.NVMLError`` where NVML fails, unless they say otherwise."""

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

    def counter_fault(self) -> str | None:
        """Why the energy counter can't be read; None where it can."""
        try:
            self.energy_mj()
        except (self.nvml.NVMLError_NotSupported, self.nvml.NVMLError_FunctionNotFound) as error:
            return f"this GPU has no energy counter ({error})"
        except self.nvml.NVMLError as error:
            return f"the energy counter can't be read ({error})"
        return None

    def mig_enabled(self) -> bool:
        """Whether the GPU is cut into MIG slices."""
        mode = self.maybe(lambda: self.nvml.nvmlDeviceGetMigMode(self.handle)[0])
        return bool(mode == self.nvml.NVML_DEVICE_MIG_ENABLE)

    def read_powers(self, fields: Sequence[PowerField]) -> list[PowerReading]:
        """All ``fields`` now, the named ones in one call; never raises, each reading has its own error."""
        named = [(field.field_id, field.scope) for field in fields if field.field_id is not None]
        try:
            answers = iter(self.nvml.nvmlDeviceGetFieldValues(self.handle, named) if named else ())
        except self.nvml.NVMLError as error:
            failed = PowerReading(None, error=str(error))
            return [self._usage() if field.field_id is None else failed for field in fields]
        return [self._usage() if field.field_id is None else self._reading(next(answers)) for field in fields]

    def _usage(self) -> PowerReading:
        try:
            return PowerReading(float(self.nvml.nvmlDeviceGetPowerUsage(self.handle)) / 1e3)
        except self.nvml.NVMLError as error:
            return PowerReading(None, error=str(error))

    def _reading(self, answer: Any) -> PowerReading:
        nvml = self.nvml
        # The call succeeds as a whole although a field failed: each carries a return code of its own.
        if answer.nvmlReturn != nvml.NVML_SUCCESS:
            return PowerReading(None, error=str(nvml.NVMLError(answer.nvmlReturn)))
        member = {
            nvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
            nvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
            nvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
            nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
            nvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
            nvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
        }.get(answer.valueType)
        if member is None:
            return PowerReading(None, error=f"NVML gave a value of the unknown type {answer.valueType}")
        return PowerReading(float(getattr(answer.value, member)) / 1e3, int(answer.timestamp) or None)

    def maybe(self, reading: Callable[[], Any]) -> Any:
        """``reading()``, or None where this GPU, driver or user can't have it."""
        try:
            return reading()
        except self.nvml.NVMLError:
            return None

    def identity(self) -> dict[str, Any]:
        """Name, UUID, firmware, modes and power limits (W); None where not supported."""
        nvml, handle = self.nvml, self.handle

        def watts(reading: Callable[[Any], int]) -> float | None:
            milliwatts = self.maybe(lambda: reading(handle))
            return None if milliwatts is None else milliwatts / 1e3

        persistence = self.maybe(lambda: nvml.nvmlDeviceGetPersistenceMode(handle))
        compute_mode = self.maybe(lambda: nvml.nvmlDeviceGetComputeMode(handle))
        return {
            "nvml_index": self.index,
            "name": self.name,
            "uuid": self.uuid,
            "vbios": self.maybe(lambda: nvml.nvmlDeviceGetVbiosVersion(handle)),
            "power_limit_enforced_w": watts(nvml.nvmlDeviceGetEnforcedPowerLimit),
            "power_limit_requested_w": watts(nvml.nvmlDeviceGetPowerManagementLimit),
            "power_limit_default_w": watts(nvml.nvmlDeviceGetPowerManagementDefaultLimit),
            "persistence_mode": None if persistence is None else bool(persistence),
            "compute_mode": COMPUTE_MODES.get(compute_mode),
        }


COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}
"""Values of nvmlDeviceGetComputeMode, named as in nvml.h."""
