"""Drives the real pynvml, NvmlMeter and Recorder over the stub library, in a process of its own; prints JSON.

A process of its own, because the loader reads LD_LIBRARY_PATH only when one starts.
"""

import argparse
import ctypes
import json
import struct
import threading
import time
from dataclasses import asdict
from pathlib import Path

from ipa_energy.meters.base import MeterUnavailable
from ipa_energy.meters.nvml import NvmlMeter
from ipa_energy.meters.recorder import Recorder


def step_load(path: Path, watts: float) -> None:
    """Let the stub's load go to ``watts`` from now on."""
    with path.open("ab") as file:
        file.write(struct.pack("<2d", time.monotonic(), watts))


def stall(period_s: float) -> None:
    """Let every other thread of this process run only once in a while, as a busy host may."""
    sleeper = ctypes.PyDLL(None)  # unlike CDLL it holds on to the interpreter's lock within the call

    def run() -> None:
        while True:
            sleeper.usleep(int(period_s * 1e6))

    threading.Thread(target=run, daemon=True).start()


def measure(meter: NvmlMeter, arguments: argparse.Namespace) -> list[dict[str, object]]:
    windows: list[dict[str, object]] = []
    with Recorder([meter], arguments.sample_s) as recorder:
        for number in range(arguments.windows):
            recorder.open()
            assert recorder.opened_event.wait(10)
            if arguments.step and number == 0:
                step_load(arguments.step, arguments.step_w)
            if arguments.remove and number == 1:
                time.sleep(0.005)
                arguments.remove.unlink()
            time.sleep(arguments.window_s / 2)
            if arguments.touch and number == 0:
                arguments.touch.touch()
            time.sleep(arguments.window_s / 2)
            recorder.close()
            reading = recorder.result(10)
            energies = [asdict(energy) for energy in reading.energies]
            windows.append({"energies": energies, "samples": len(reading.samples)})
    return windows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--windows", type=int, default=0)
    parser.add_argument("--window-s", type=float, default=0.3)
    parser.add_argument("--sample-s", type=float, default=0.02)
    parser.add_argument("--touch", type=Path, help="file to make in the middle of the first window")
    parser.add_argument("--remove", type=Path, help="file to remove 5 ms after the second window has begun")
    parser.add_argument("--step", type=Path, help="load file: power steps up as soon as the first window has begun")
    parser.add_argument("--step-w", type=float, default=400)
    parser.add_argument("--stall-s", type=float, help="hold all threads up for this long, again and again")
    parser.add_argument("--all-gpus", action="store_true")
    arguments = parser.parse_args()
    try:
        meter = NvmlMeter(all_gpus=arguments.all_gpus)
    except MeterUnavailable as error:
        print(json.dumps({"unavailable": str(error)}))
        return
    if arguments.stall_s:
        stall(arguments.stall_s)
    answer = {
        "domains": [asdict(domain) for domain in meter.domains],
        "windows": measure(meter, arguments),
        "environment": meter.environment(),
        "provenance": meter.provenance(),
    }
    meter.close()
    meter.close()
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
