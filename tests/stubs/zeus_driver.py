"""Drives the real Zeus beside the real meters of GPUs and CPUs, in a process of its own; prints JSON.

``zeus_driver.py nvml SECONDS`` runs over the stub library; ``zeus_driver.py rapl SECONDS BELOW`` over powercap counters
of its own, ``BELOW`` joules below their wrap when the window begins, and so wants a mount namespace (``unshare -m``).
"""

import json
import logging
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from ipa_energy.meters.base import Meter, MeterUnavailable
from ipa_energy.meters.nvml import NvmlMeter
from ipa_energy.meters.rapl import RaplMeter
from ipa_energy.meters.recorder import Recorder
from ipa_energy.meters.zeus import ZeusMeter
from meter_fixtures import FakePowercap, fake_cpus

WATTS = 80


def report(other: Meter, window_s: float, tree: FakePowercap | None = None, below_j: float = 0.0) -> None:
    try:
        zeus = ZeusMeter([other])
    except MeterUnavailable as error:
        print(json.dumps({"unavailable": str(error)}))
        return
    if tree:
        tree.set_below_wrap(below_j)
        time.sleep(1.2)  # Zeus's helpers see that the wrap is near
    with Recorder([other, zeus], 0.05) as recorder:
        reading = recorder.measure_for(window_s)
    provenance = zeus.provenance()
    zeus.close()
    zeus.close()
    number = len(other.domains)
    answer = {
        "domains": [asdict(domain) for domain in zeus.domains],
        "others": [asdict(energy) for energy in reading.energies[:number]],
        "energies": [asdict(energy) for energy in reading.energies[number:]],
        "provenance": provenance,
        "pids": zeus.process_ids,
        "left": [pid for pid in zeus.process_ids if Path(f"/proc/{pid}").exists()],
        "imported": "zeus" in sys.modules,
        "root_handlers": len(logging.getLogger().handlers),
    }
    print(json.dumps(answer))


def main() -> None:
    kind, window_s = sys.argv[1], float(sys.argv[2])
    if kind == "nvml":
        report(NvmlMeter(), window_s)
        return
    for folder in ("/sys/class", "/sys/devices/system/cpu"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    fake_cpus(Path("/sys/devices/system/cpu"), sockets=(0, 0, 1, 1))
    tree = FakePowercap(Path("/sys/class/powercap"))
    tree.add_package("psys", watts=200)
    tree.add_package("package-0", dram=True, watts=WATTS)
    tree.add_package("package-1", watts=WATTS / 2)
    with ExitStack() as stack:
        stack.enter_context(tree.running())
        meter = RaplMeter()
        stack.callback(meter.close)
        report(meter, window_s, tree, float(sys.argv[3]))


if __name__ == "__main__":
    main()
