"""Puts RaplMeter before machines of our own making, with the truth beside every window; prints JSON.

``rapl_driver.py pyrapl`` shows them to the real pyRAPL, at the fixed paths that it reads, and so wants a mount
namespace of its own (``unshare -m``); ``rapl_driver.py FOLDER`` builds them there, for the powercap files alone.
Counters are real files, fed by known steps; only the clock that times windows and hops is ours. Each machine has two
sockets of two CPUs each.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ipa_energy.meters import open_meters
from ipa_energy.meters.base import MeterUnavailable
from ipa_energy.meters.rapl import RaplMeter
from meter_fixtures import (
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    FakeClock,
    FakePowercap,
    fake_cpus,
    without_capabilities,
)

FIXED = Path("/sys/class/powercap"), Path("/sys/devices/system/cpu")
METERS = {
    "use": ["rapl", "estimate"],
    "gpus": "used",
    "estimate": {"idle_w": 1.0, "watts_per_core": 1.0, "relative_uncertainty": 0.5},
}


class Machine:
    """A powercap tree, the meter before it, and what was true in each of its windows."""

    def __init__(self, powercap: Path, cpus: Path) -> None:
        self.powercap, self.cpus = powercap, cpus
        self.tree = FakePowercap(powercap)
        self.clock = FakeClock()
        self.answer: dict[str, Any] = {"windows": []}

    def open(self) -> None:
        """Open the meter on running counters, which stand from then on."""
        no_pmu = self.powercap / "no-pmu"
        with self.tree.running():
            self.meter = RaplMeter(self.powercap, no_pmu, self.cpus, clock=self.clock)
        self.answer |= {"domains": [asdict(domain) for domain in self.meter.domains], **self.meter.provenance()}

    def begin(self) -> None:
        self.samples = 0
        self.wraps = self.meter.environment()["wraps_repaired"]
        for zone in self.tree.zones.values():
            zone.fed_uj = 0.0
        self.meter.begin()

    def idle(self, seconds: float) -> None:
        """Let time pass and energy flow, without a look."""
        self.tree.run_for(seconds)
        self.clock.now_s += seconds

    def run(self, seconds: float, hop_s: float = 0.1) -> None:
        """Let time pass, with a sample at the end of each hop."""
        for _ in range(round(seconds / hop_s)):
            self.idle(hop_s)
            self.samples += len(self.meter.sample())

    def end(self) -> None:
        energies = self.meter.end()
        zones = self.meter.provenance()["zones"]
        truths = {domain: self.tree.zones[Path(zone["path"])] for domain, zone in zones.items()}
        self.answer["windows"].append(
            {
                "energies": {energy.domain: asdict(energy) for energy in energies},
                "truth_j": {domain: zone.fed_uj / 1e6 for domain, zone in truths.items()},
                "step_j": {domain: zone.unit_uj / 1e6 for domain, zone in truths.items()},
                "wraps": self.meter.environment()["wraps_repaired"] - self.wraps,
                "samples": self.samples,
            }
        )

    def window(self, seconds: float = 2.0, hop_s: float = 0.1) -> None:
        self.begin()
        self.run(seconds, hop_s)
        self.end()


def wrap_in_the_window(machine: Machine) -> None:
    machine.tree.add_package("package-0", dram=True)
    machine.open()
    machine.tree.set_below_wrap(40)
    machine.window()


def two_wraps_in_one_window(machine: Machine) -> None:
    machine.tree.add_package("package-0", watts=900, unit_uj=FakePowercap.fine_uj)
    machine.open()
    machine.tree.set_below_wrap(500)
    machine.window(80, hop_s=1)


def wrap_just_before_the_end(machine: Machine) -> None:
    machine.tree.add_package("package-0")
    machine.open()
    machine.tree.set_below_wrap(80 * 2.04)
    machine.begin()
    machine.run(2)
    machine.idle(0.09)
    machine.end()


def wrap_in_the_first_hop(machine: Machine) -> None:
    machine.tree.add_package("package-0")
    machine.open()
    machine.tree.set_below_wrap(1)
    machine.window()


def wrap_in_a_window_without_samples(machine: Machine) -> None:
    machine.tree.add_package("package-0")
    machine.open()
    machine.tree.set_below_wrap(1)
    machine.begin()
    machine.idle(0.05)
    machine.end()


def wrap_between_two_windows(machine: Machine) -> None:
    machine.tree.add_package("package-0", watts=300)
    machine.open()
    machine.tree.set_below_wrap(1000)
    machine.window()
    machine.idle(900)
    machine.window()


def wrap_on_one_of_two_sockets(machine: Machine) -> None:
    first = machine.tree.add_package("package-0", dram=True)
    machine.tree.add_package("package-1", dram=True)
    machine.open()
    machine.tree.set_below_wrap(40, first)
    machine.window()


def wrap_of_memory_on_its_own_range(machine: Machine) -> None:
    package = machine.tree.add_package("package-0", dram=True)
    machine.open()
    machine.tree.set_below_wrap(10, machine.tree.dram(package))
    machine.window()


def amd(machine: Machine) -> None:
    machine.tree.add_package("package-0", watts=400, unit_uj=1e6 / 2**16)
    machine.open()
    machine.window(200, hop_s=0.5)


def a_step_backwards(machine: Machine) -> None:
    package = machine.tree.add_package("package-0", dram=True)
    machine.open()
    machine.begin()
    machine.run(1)
    machine.tree.advance(package, -20e6)
    machine.run(1)
    machine.end()
    machine.window()


def a_reset_to_zero(machine: Machine) -> None:
    package = machine.tree.add_package("package-0")
    machine.open()
    machine.begin()
    machine.run(1)
    machine.tree.zones[package].count = 0
    machine.run(1)
    machine.end()


def a_counter_that_freezes(machine: Machine) -> None:
    package = machine.tree.add_package("package-0", dram=True)
    machine.open()
    machine.begin()
    machine.run(1)
    machine.tree.zones[package].watts = 0
    machine.run(1.5)
    machine.tree.zones[package].watts = 80
    machine.run(1)
    machine.end()


def a_stall_too_long_for_memory(machine: Machine) -> None:
    machine.tree.add_package("package-0", dram=True)
    machine.open()
    machine.begin()
    machine.run(1)
    machine.idle(100)
    machine.run(1)
    machine.end()


def a_range_that_is_too_small(machine: Machine) -> None:
    package = machine.tree.add_package("package-0")
    (package / "max_energy_range_uj").write_text("65712999613\n")  # it wraps after 262 kJ all the same
    machine.tree.zones[package].count = 10**9
    machine.open()
    machine.tree.zones[package].count = int(65_712e6 / FakePowercap.server_uj)
    machine.window()


def a_range_that_is_too_large(machine: Machine) -> None:
    package = machine.tree.add_package("package-0", unit_uj=FakePowercap.fine_uj)
    (package / "max_energy_range_uj").write_text("262143328850\n")  # it wraps after 65.7 kJ all the same
    machine.open()
    machine.tree.set_below_wrap(40)
    machine.window()


def dies_with_counters_of_their_own(machine: Machine) -> None:
    machine.tree.add_package("package-0-die-0", dram=True)
    machine.tree.add_package("package-0-die-1", dram=True)
    machine.open()
    machine.tree.set_below_wrap(30)
    machine.window()


def dies_that_mirror_one_counter(machine: Machine) -> None:
    real, mirror = [machine.tree.add_package(f"package-0-die-{die}", dram=True) for die in (0, 1)]
    machine.tree.mirror(machine.tree.dram(mirror), machine.tree.dram(real))
    machine.tree.mirror(mirror, real)
    machine.open()
    machine.tree.set_below_wrap(40)
    machine.window()


def zones_that_are_never_added(machine: Machine) -> None:
    machine.tree.add_package("package-0", dram=True, other=("core", "uncore"))
    machine.tree.add_package("psys")
    mmio = machine.powercap / "intel-rapl-mmio" / "intel-rapl-mmio:0"
    machine.tree.add_zone(mmio, "package-0", 80, FakePowercap.server_uj)
    for path in [*machine.powercap.glob("intel-rapl/intel-rapl:*"), mmio]:
        (machine.powercap / path.name).symlink_to(path)
    machine.open()
    machine.window()


def memory_after_a_gap(machine: Machine) -> None:
    """pyRAPL stops at the first number that is missing among a package's children."""
    package = machine.tree.add_package("package-0", dram=True, other=("core", "uncore"))
    machine.tree.remove(package / f"{package.name}:1")
    machine.open()
    machine.window()


def memory_in_two_zones(machine: Machine) -> None:
    """pyRAPL sees the first one only."""
    machine.tree.add_package("package-0", dram=True, other=("core", "dram"))
    machine.open()
    machine.window()


def a_socket_that_the_topology_lacks(machine: Machine) -> None:
    machine.tree.add_package("package-0")
    machine.tree.add_package("package-7")
    machine.open()
    machine.window()


def a_cpu_without_topology(machine: Machine) -> None:
    (machine.cpus / "present").write_text("0-8\n")
    machine.tree.add_package("package-0")
    machine.open()
    machine.window()


def a_cpu_in_no_package(machine: Machine) -> None:
    (machine.cpus / "cpu1" / "topology" / "physical_package_id").write_text("-1\n")
    machine.tree.add_package("package-0")
    machine.open()
    machine.window()


def memory_that_may_not_be_read(machine: Machine) -> None:
    package = machine.tree.add_package("package-0", dram=True)
    (machine.tree.dram(package) / "energy_uj").chmod(0)
    with without_capabilities(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        machine.open()
        machine.window()


def a_package_that_may_not_be_read(machine: Machine) -> None:
    machine.tree.add_package("package-0")
    package = machine.tree.add_package("package-1")
    (package / "energy_uj").chmod(0)
    with without_capabilities(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        machine.open()


def a_range_that_may_not_be_read(machine: Machine) -> None:
    package = machine.tree.add_package("package-0")
    (package / "max_energy_range_uj").chmod(0)
    with without_capabilities(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        machine.open()


def a_file_that_fails_in_the_window(machine: Machine) -> None:
    package = machine.tree.add_package("package-0", dram=True)
    machine.open()
    machine.begin()
    machine.run(1)
    machine.tree.unplug(machine.tree.dram(package))
    machine.run(1)
    machine.end()


def a_file_that_is_moved_in_the_window(machine: Machine) -> None:
    """Who keeps it open reads on."""
    package = machine.tree.add_package("package-0")
    machine.open()
    machine.begin()
    machine.run(1)
    (package / "energy_uj").rename(package / "moved")
    machine.run(1)
    machine.end()
    (package / "moved").rename(package / "energy_uj")
    machine.window()


def a_file_that_is_replaced_in_the_window(machine: Machine) -> None:
    """Who keeps it open gets nothing more."""
    package = machine.tree.add_package("package-0")
    machine.open()
    machine.begin()
    machine.run(1)
    machine.tree.unplug(package)
    (package / "energy_uj").unlink()
    machine.tree.plug_in(package)
    machine.run(1)
    machine.end()


def pyrapl_alone_over_a_wrap(machine: Machine) -> None:
    """What pyRAPL's own measurements make of the windows that are repaired here."""
    import pyRAPL

    first = machine.tree.add_package("package-0")
    machine.tree.add_package("package-1")
    for sockets, key in (([0], "one_socket_uj"), ([0, 1], "two_sockets_uj")):
        machine.tree.set_below_wrap(1, first)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves files open
            pyRAPL.setup(devices=[pyRAPL.Device.PKG], socket_ids=sockets)
            measurement = pyRAPL.Measurement("wrap")
            measurement.begin()
            machine.idle(1)
            measurement.end()
            machine.answer[key] = measurement.result.pkg
            pyRAPL._sensor = measurement = None


def all_meters(machine: Machine) -> None:
    machine.tree.add_package("package-0", dram=True)
    with machine.tree.running():
        _open_all(machine)


def no_rapl_at_all(machine: Machine) -> None:
    (machine.powercap / "intel-rapl").rmdir()
    _open_all(machine)
    machine.open()


def hidden_by_a_container(machine: Machine) -> None:
    (machine.powercap / "intel-rapl").rmdir()
    (machine.powercap / "intel-rapl").symlink_to("../../devices/virtual/powercap/intel-rapl-hidden")
    _open_all(machine)
    machine.open()


def _open_all(machine: Machine) -> None:
    opened = open_meters(METERS, gpu_needed=False)
    machine.answer |= {"opened": [meter.name for meter in opened.meters], "unavailable": opened.unavailable}
    opened.close()


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """An empty file system over ``folder``."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def play(scenario: Callable[[Machine], None], powercap: Path, cpus: Path) -> dict[str, Any]:
    """What the meter said and what was true, or why it could not be opened."""
    fake_cpus(cpus, sockets=(0, 0, 1, 1))
    machine = Machine(powercap, cpus)
    meter = None
    try:
        scenario(machine)
        meter = getattr(machine, "meter", None)
    except MeterUnavailable as error:
        machine.answer["error"] = str(error)
    if meter:
        meter.close()
        meter.close()
    ours = {zone.file for zone in machine.tree.zones.values()}
    files = [file for file in Path("/proc/self/fd").iterdir() if int(file.name) not in ours and file.is_symlink()]
    machine.answer["left_open"] = sum("energy_uj" in str(file.readlink()) for file in files)
    machine.tree.close()
    return machine.answer


FIXED_PATHS_ONLY = (pyrapl_alone_over_a_wrap, all_meters, no_rapl_at_all, hidden_by_a_container)
EVERYWHERE = (
    wrap_in_the_window,
    two_wraps_in_one_window,
    wrap_just_before_the_end,
    wrap_in_the_first_hop,
    wrap_in_a_window_without_samples,
    wrap_between_two_windows,
    wrap_on_one_of_two_sockets,
    wrap_of_memory_on_its_own_range,
    amd,
    a_step_backwards,
    a_reset_to_zero,
    a_counter_that_freezes,
    a_stall_too_long_for_memory,
    a_range_that_is_too_small,
    a_range_that_is_too_large,
    dies_with_counters_of_their_own,
    dies_that_mirror_one_counter,
    zones_that_are_never_added,
    memory_after_a_gap,
    memory_in_two_zones,
    a_socket_that_the_topology_lacks,
    a_cpu_without_topology,
    a_cpu_in_no_package,
    memory_that_may_not_be_read,
    a_package_that_may_not_be_read,
    a_range_that_may_not_be_read,
    a_file_that_fails_in_the_window,
    a_file_that_is_moved_in_the_window,
    a_file_that_is_replaced_in_the_window,
)


def main(place: str) -> None:
    answers: dict[str, Any] = {}
    for scenario in EVERYWHERE:
        if place == "pyrapl":
            with mounted(FIXED[0].parent), mounted(FIXED[1]):
                answers[scenario.__name__] = play(scenario, *FIXED)
        else:
            folder = Path(place) / scenario.__name__
            answers[scenario.__name__] = play(scenario, folder / "powercap", folder / "cpu")
    for scenario in FIXED_PATHS_ONLY if place == "pyrapl" else ():
        with mounted(FIXED[0].parent), mounted(FIXED[1]):
            answers[scenario.__name__] = play(scenario, *FIXED)
    root = logging.getLogger()
    answers["root_logger"] = {"handlers": len(root.handlers), "filters": len(root.filters)}
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1])
