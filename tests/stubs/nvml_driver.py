"""Drives the real pynvml, NvmlMeter and Recorder over the stub library, in a process of its own; prints JSON.

A process of its own, because the loader reads LD_LIBRARY_PATH only when one starts.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from ipa_energy.meters.base import MeterUnavailable
from ipa_energy.meters.nvml import NvmlMeter
from ipa_energy.meters.recorder import Recorder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--windows", type=int, default=0)
    parser.add_argument("--window-s", type=float, default=0.3)
    parser.add_argument("--sample-s", type=float, default=0.02)
    parser.add_argument("--touch", type=Path, help="file to make in the middle of the first window")
    arguments = parser.parse_args()
    try:
        meter = NvmlMeter()
    except MeterUnavailable as error:
        print(json.dumps({"unavailable": str(error)}))
        return
    windows = []
    with Recorder([meter], arguments.sample_s) as recorder:
        for number in range(arguments.windows):
            recorder.open()
            assert recorder.opened_event.wait(10)
            time.sleep(arguments.window_s / 2)
            if arguments.touch and number == 0:
                arguments.touch.touch()
            time.sleep(arguments.window_s / 2)
            recorder.close()
            reading = recorder.result(10)
            windows.append(
                {"energies": [asdict(energy) for energy in reading.energies], "samples": len(reading.samples)}
            )
    answer = {
        "domains": [asdict(domain) for domain in meter.domains],
        "windows": windows,
        "environment": meter.environment(),
        "provenance": meter.provenance(),
    }
    meter.close()
    meter.close()
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
