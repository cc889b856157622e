"""Drives the real pyRAPL and RaplMeter over a powercap tree of our own; prints JSON.

Runs in a private mount namespace (``unshare -m``), because pyRAPL reads nothing but /sys/class/powercap. The machine
that the tree shows has the sockets of this one: pyRAPL counts them.
"""

import json
import logging
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from ipa_energy.meters import open_meters
from ipa_energy.meters.base import MeterUnavailable
from ipa_energy.meters.rapl import RaplMeter
from meter_fixtures import FakePowercap, host_sockets

ESTIMATE = {"idle_w": 1.0, "watts_per_core": 1.0, "relative_uncertainty": 0.5}


def main(scenario: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/sys/class"], check=True)
    tree = FakePowercap(Path("/sys/class/powercap"))
    for socket in host_sockets() if scenario != "absent" else ():
        if scenario == "dies":
            tree.add_package(f"package-{socket}-die-0")
            tree.add_package(f"package-{socket}-die-1")
        else:
            tree.add_package(f"package-{socket}", dram=scenario != "no_dram")
    with tree.running():
        opened = open_meters({"use": ["rapl", "estimate"], "estimate": ESTIMATE}, gpu_needed=False)
        answer: dict = {"opened": [meter.name for meter in opened.meters], "unavailable": opened.unavailable}
        opened.close()
        try:
            meter = RaplMeter()
        except MeterUnavailable as error:
            print(json.dumps(answer | {"error": str(error)}))
            return
    # The tree stands still now and moves by known steps: the truth of the window is exact.
    tree.set_below_wrap(3e6)
    meter.begin()
    truth_uj = dict.fromkeys(tree.zones, 0)
    for _ in range(4):
        for number, zone in enumerate(tree.zones):
            truth_uj[zone] += tree.advance(zone, 1_500_000 + 10_000 * number)
        meter.sample()
    energies = meter.end()
    answer |= {
        "domains": [asdict(domain) for domain in meter.domains],
        "energies": [asdict(energy) for energy in energies],
        "truth_j": [truth / 1e6 for truth in truth_uj.values()],
        "step_j": tree.unit_uj / 1e6,
        "wraps": meter.environment()["wraps_repaired"],
        "provenance": meter.provenance(),
        "root_handlers": len(logging.getLogger().handlers),
        "root_filters": len(logging.getLogger().filters),
    }
    meter.close()
    meter.close()
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
