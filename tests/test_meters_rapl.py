"""RAPL over powercap trees of our own: by the files alone, and through the real pyRAPL in a mount namespace."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ipa_energy.meters.base import MeterUnavailable
from ipa_energy.meters.powercap import find_zones
from ipa_energy.meters.rapl import RaplMeter
from meter_fixtures import STUBS, TESTS, FakePowercap, host_sockets, run_python, unshare_mount


@pytest.fixture
def tree(tmp_path):
    return FakePowercap(tmp_path / "powercap")


def opened(tree: FakePowercap) -> RaplMeter:
    with tree.running():
        return RaplMeter(tree.root)


def test_energy_is_exact_to_one_counter_step_over_a_wrap(tree):
    package = tree.add_package("package-0")
    meter = opened(tree)
    tree.set_below_wrap(2e6)
    meter.begin()
    truth_uj = 0.0
    for _ in range(5):
        truth_uj += tree.advance(package, 1_234_567)
        meter.sample()
    truth_uj += tree.advance(package, 1_000)
    (energy,) = meter.end()
    assert energy.energy_j == pytest.approx(
        truth_uj / 1e6, abs=tree.unit_uj / 1e6 + 2e-6
    )  # two readings cut to whole µJ
    assert energy.reason is None
    assert meter.environment() == {"wraps_repaired": 1}


def test_power_samples_are_the_mean_since_the_last_one(tree):
    tree.add_package("package-0", watts=120)
    meter = opened(tree)
    with tree.running():
        meter.begin()
        samples = []
        for _ in range(10):
            time.sleep(0.05)
            samples += meter.sample()
        (energy,) = meter.end()
    assert len(samples) == 10
    assert energy.mean_w == pytest.approx(120, rel=0.1)
    assert sum(sample.power_w for sample in samples) / 10 == pytest.approx(energy.mean_w, rel=0.1)
    # The edges of the stated window are off by an update or so: at most a few milliseconds of 120 W here.
    assert 0 < energy.uncertainty_j < 120 * 0.01


def test_packages_dies_and_dram_are_domains_and_what_lies_inside_them_is_not(tree):
    tree.add_package("package-0-die-0", dram=True, other=("core", "uncore"))
    tree.add_package("package-0-die-1", dram=True)
    tree.add_package("psys")
    meter = opened(tree)
    assert [(domain.name, domain.covers) for domain in meter.domains] == [
        ("cpu_package_0_die_0", "cpu"),
        ("dram_0_die_0", "dram"),
        ("cpu_package_0_die_1", "cpu"),
        ("dram_0_die_1", "dram"),
    ]
    assert all(domain.evidence == "measured" for domain in meter.domains)


def test_zones_of_one_name_stay_apart(tree):
    tree.add_package("package-0")
    tree.add_package("package-0")
    assert [zone.domain for zone in find_zones(tree.root)] == ["cpu_package_0", "cpu_package_0_die_1"]


def test_a_mirrored_counter_is_counted_once(tree):
    real = tree.add_package("package-0-die-0")
    mirror = tree.add_package("package-0-die-1")
    (mirror / "energy_uj").unlink()
    (mirror / "energy_uj").symlink_to(real / "energy_uj")
    del tree.zones[mirror], tree.watts[mirror]
    meter = opened(tree)
    assert [domain.name for domain in meter.domains] == ["cpu_package_0_die_0"]
    assert "mirrors" in meter.provenance()["left_out"]["cpu_package_0_die_1"]


def test_a_tree_with_flat_links_only_is_read(tree, tmp_path):
    package = tree.add_package("package-0", dram=True)
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (package, *package.glob("intel-rapl:*")):
        (flat / path.name).symlink_to(path)
    assert [zone.domain for zone in find_zones(flat)] == ["cpu_package_0", "dram_0"]


def test_a_counter_that_vanishes_gives_null_and_the_next_window_is_good(tree):
    package = tree.add_package("package-0", dram=True)
    meter = opened(tree)
    meter.begin()
    (package / "energy_uj").rename(package / "gone")
    assert meter.sample() == []
    for energy in meter.end():
        assert energy.energy_j is None
        assert "failed within the window" in energy.reason
    (package / "gone").rename(package / "energy_uj")
    meter.begin()
    for zone in tree.zones:
        tree.advance(zone, 5e5)
    assert [energy.energy_j for energy in meter.end()] == pytest.approx([0.5, 0.5], abs=1e-4)


def test_a_counter_that_stands_still_is_null_and_not_zero(tree):
    tree.add_package("package-0")
    meter = opened(tree)
    meter.begin()
    (energy,) = meter.end()
    assert energy.energy_j is None
    assert "stood still" in energy.reason


def test_a_stall_in_which_a_second_wrap_could_hide_gives_null(tree):
    package = tree.add_package("package-0")
    (package / "max_energy_range_uj").write_text("20000\n")  # 20 mJ: 20 µs at the most that a package can draw
    tree.modulus = 256
    tree.zones[package] = 0
    meter = opened(tree)
    meter.begin()
    meter.sample()
    (energy,) = meter.end()
    assert energy.energy_j is None
    assert "more than once" in energy.reason


def test_counters_that_never_move_and_machines_without_rapl_are_refused(tree, tmp_path):
    with pytest.raises(MeterUnavailable, match="no RAPL package"):
        RaplMeter(tmp_path / "nothing")
    tree.add_package("package-0")
    with pytest.raises(MeterUnavailable, match="stands still"):
        RaplMeter(tree.root)


@pytest.mark.parametrize(("file", "text"), [("energy_uj", "?\n"), ("max_energy_range_uj", "0\n")])
def test_a_file_with_nonsense_is_named(tree, file, text):
    package = tree.add_package("package-0")
    (package / file).write_text(text)
    with pytest.raises(MeterUnavailable, match=file):
        RaplMeter(tree.root)


def test_unreadable_counters_name_the_file_and_the_command_that_helps():
    # Not under tmp_path: the process that gives up root must be able to walk there.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        tree = FakePowercap(Path(folder) / "powercap")
        package = tree.add_package("package-0")
        (package / "energy_uj").chmod(0o400 if os.geteuid() == 0 else 0)
        code = (
            "import os, sys; from pathlib import Path; from ipa_energy.meters import rapl\n"
            "if os.geteuid() == 0: os.seteuid(65534)\n"
            "try: rapl.RaplMeter(Path(sys.argv[1]))\n"
            "except rapl.MeterUnavailable as error: print(error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, tree.root], capture_output=True, text=True, check=True, cwd=TESTS
        )
    assert f"{package / 'energy_uj'} can't be read: permission denied" in done.stdout
    assert f"sudo chmod a+r {tree.root}/intel-rapl:*/energy_uj" in done.stdout
    assert "after every boot" in done.stdout


@pytest.fixture
def drive():
    def drive(scenario: str):
        command = unshare_mount()
        if isinstance(command, str):
            pytest.skip(f"no mount namespace of our own for pyRAPL's fixed paths: {command}")
        return run_python(STUBS / "rapl_driver.py", scenario, prefix=command)

    return drive


@pytest.mark.parametrize("scenario", ["dram", "no_dram", "dies"])
def test_the_real_pyrapl_reads_the_counters_and_wraps_are_repaired(drive, scenario):
    answer = drive(scenario)
    sockets = host_sockets()
    expected = {
        "dram": [name for n in sockets for name in (f"cpu_package_{n}", f"dram_{n}")],
        "no_dram": [f"cpu_package_{n}" for n in sockets],
        "dies": [f"cpu_package_{n}_die_{die}" for n in sockets for die in (0, 1)],
    }[scenario]
    assert [domain["name"] for domain in answer["domains"]] == expected
    # The readings are cut to whole microjoules, and the stated range is one step short of the modulus.
    slack_j = answer["step_j"] + 2e-6
    assert [energy["energy_j"] for energy in answer["energies"]] == pytest.approx(answer["truth_j"], abs=slack_j)
    assert answer["wraps"] == len(expected)
    for domain, energy in zip(answer["domains"], answer["energies"], strict=True):
        if scenario == "dies":
            assert (
                "read from powercap (pyRAPL can't set itself up: PyRAPLCantRecordEnergyConsumption" in domain["method"]
            )
            assert energy["checks"] == []
        else:
            assert "read by pyRAPL 0.2.3.1" in domain["method"]
            assert energy["checks"][0]["energy_j"] == pytest.approx(energy["energy_j"], abs=1e-9)
    assert answer["opened"] == ["rapl"]  # and no estimate beside a measured CPU


def test_importing_pyrapl_leaves_the_root_logger_alone(drive):
    # run_python also asserts that nothing was written to stderr.
    answer = drive("dram")
    assert (answer["root_handlers"], answer["root_filters"]) == (0, 0)


def test_without_rapl_the_estimate_steps_in(drive):
    answer = drive("absent")
    assert answer["opened"] == ["estimate"]
    assert answer["unavailable"][0][0] == "rapl"
    assert "no RAPL package under /sys/class/powercap" in answer["error"]
