"""A GPU by its UUID, through the NVML bindings, for those who change something on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ipa_energy.meters.base import MeterUnavailable
from ipa_energy.meters.nvml_library import load_pynvml


class GpuUnavailable(Exception):  # noqa: N818 - a state of the host, not a fault
    """NVML or the GPU can't be reached. The text says why."""


@contextmanager
def opened_nvml() -> Iterator[Any]:
    """The NVML bindings, initialised for the block. Raises GpuUnavailable."""
    try:
        nvml = load_pynvml()
    except MeterUnavailable as error:
        raise GpuUnavailable(str(error)) from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise GpuUnavailable(f"NVML says {error}") from error
    try:
        yield nvml
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def handle_of(nvml: Any, uuid: str) -> Any:
    """NVML's handle of a GPU. Raises GpuUnavailable, naming the GPUs that there are."""
    try:
        return nvml.nvmlDeviceGetHandleByUUID(uuid)
    except nvml.NVMLError as error:
        there = ", ".join(uuids(nvml)) or "none"
        raise GpuUnavailable(f"GPU {uuid} can't be found ({error}); the GPUs of this host: {there}") from error


def uuids(nvml: Any) -> list[str]:
    """The UUIDs of all GPUs of the host that answer, in NVML's order."""
    found = []
    with suppress(nvml.NVMLError):
        for index in range(nvml.nvmlDeviceGetCount()):
            found.append(str(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index))))
    return found


def mig_enabled(nvml: Any, handle: Any) -> bool:
    """Whether the GPU is cut into MIG slices; False too where it can't be."""
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE)
    except nvml.NVMLError:
        return False
