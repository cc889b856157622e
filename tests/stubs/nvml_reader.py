"""Polls the real pynvml over the stub library, in a process of its own; prints every reading, as JSON.

The argument is JSON: ``seconds`` to poll for, or ``until_s`` on the monotonic clock, once at least; ``gpu``; ``fields``
as [id, scope] pairs; ``set_limits_w`` to try one after the other before; and ``append``, a load file to which a pair of
(now, watts) is added every 40 ms. A reading that fails is {"code": the NVML error}.
"""

import json
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml as nvml

LOAD_W = (350.0, 90.0, 700.0, 250.0)


def reading(call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except nvml.NVMLError as error:
        return {"code": error.value}


def read_fields(handle: Any, wanted: list[list[int]]) -> list[dict[str, Any]]:
    answers = nvml.nvmlDeviceGetFieldValues(handle, [tuple(pair) for pair in wanted]) if wanted else ()
    member = {nvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal", nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal"}
    return [
        {"value": getattr(answer.value, member[answer.valueType]), "timestamp_us": answer.timestamp}
        if answer.nvmlReturn == nvml.NVML_SUCCESS
        else {"code": answer.nvmlReturn}
        for answer in answers
    ]


def pids(call: Callable[..., Any], handle: Any) -> Any:
    processes = reading(call, handle)
    return processes if isinstance(processes, dict) else [process.pid for process in processes]


def poll(handle: Any, wanted: list[list[int]]) -> dict[str, Any]:
    before_s = time.monotonic()
    answer = {
        "counter_mj": reading(nvml.nvmlDeviceGetTotalEnergyConsumption, handle),
        "usage_mw": reading(nvml.nvmlDeviceGetPowerUsage, handle),
        "fields": read_fields(handle, wanted),
        "clock_mhz": reading(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
        "reasons": reading(nvml.nvmlDeviceGetCurrentClocksEventReasons, handle),
        "temperature_c": reading(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
        "compute": pids(nvml.nvmlDeviceGetComputeRunningProcesses, handle),
        "graphics": pids(nvml.nvmlDeviceGetGraphicsRunningProcesses, handle),
        "mps": pids(nvml.nvmlDeviceGetMPSComputeRunningProcesses, handle),
    }
    after_s = time.monotonic()
    return answer | {"before_s": before_s, "after_s": after_s, "wall_s": time.time() - after_s}


def limits(handle: Any) -> dict[str, Any]:
    return {
        "constraints_mw": reading(nvml.nvmlDeviceGetPowerManagementLimitConstraints, handle),
        "default_mw": reading(nvml.nvmlDeviceGetPowerManagementDefaultLimit, handle),
        "requested_mw": reading(nvml.nvmlDeviceGetPowerManagementLimit, handle),
        "enforced_mw": reading(nvml.nvmlDeviceGetEnforcedPowerLimit, handle),
    }


def main() -> None:
    wanted = json.loads(sys.argv[1])
    nvml.nvmlInit()
    nvml.nvmlInit()  # as two users of the library in one process do: the second must not start it anew
    nvml.nvmlShutdown()
    handle = nvml.nvmlDeviceGetHandleByIndex(wanted.get("gpu", 0))
    tried = [
        reading(nvml.nvmlDeviceSetPowerManagementLimit, handle, round(watts * 1e3))
        for watts in wanted.get("set_limits_w", ())
    ]
    polls, pairs = [], []
    end_s = wanted.get("until_s", time.monotonic() + wanted.get("seconds", 0))
    while True:
        polls.append(poll(handle, wanted.get("fields", [])))
        now_s = time.monotonic()
        if "append" in wanted and (not pairs or now_s >= pairs[-1][0] + 0.04):
            pairs.append((now_s, LOAD_W[len(pairs) % len(LOAD_W)]))
            with Path(wanted["append"]).open("ab") as file:
                file.write(struct.pack("<dd", *pairs[-1]))
        if now_s >= end_s:
            break
        time.sleep(0.002)
    uuid = nvml.nvmlDeviceGetUUID(handle)
    identity = {
        "uuid": uuid,
        "index": nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByUUID(uuid)),
        "no_such_uuid": reading(nvml.nvmlDeviceGetHandleByUUID, "GPU-none"),
        "architecture": nvml.nvmlDeviceGetArchitecture(handle),
        "bus_id": nvml.nvmlDeviceGetPciInfo(handle).busId,
        "serial": nvml.nvmlDeviceGetSerial(handle),
        "memory_bytes": nvml.nvmlDeviceGetMemoryInfo(handle).total,
        "utilisation_percent": nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        "compute_mode": nvml.nvmlDeviceGetComputeMode(handle),
        "temperature_v": nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU),
    }
    print(json.dumps({"polls": polls, "pairs": pairs, "tried": tried, "limits": limits(handle), "identity": identity}))


if __name__ == "__main__":
    main()
