"""RAPL on machines of our own making, against the energy that was really fed into the counters.

Most tests ask for a scenario of stubs/rapl_driver.py, once through the real pyRAPL, in a mount namespace of its own,
and once through the powercap files alone.
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa_energy.meters.base import MeterUnavailable
from ipa_energy.meters.powercap import MAX_ZONE_W, find_zones
from ipa_energy.meters.rapl import RaplMeter
from ipa_energy.meters.rapl_tally import BURST_S, Tally
from meter_fixtures import STUBS, FakeClock, FakePowercap, run_python, unshare_mount


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The driver's answers to come, by pyRAPL and by the files: both mostly wait, so they run at the same time."""
    command, driver = unshare_mount(), STUBS / "rapl_driver.py"
    # Compiled anew, pyRAPL's regular expressions give warnings, which must not reach stderr.
    env = {"PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("pycache")), "PYTHONWARNINGS": "default"}
    with ThreadPoolExecutor() as threads:
        by_files = threads.submit(run_python, driver, tmp_path_factory.mktemp("machines"))
        by_pyrapl = None
        if not isinstance(command, str):
            by_pyrapl = threads.submit(run_python, driver, "pyrapl", env=env, prefix=command)
        yield by_pyrapl, by_files


@pytest.fixture(scope="module")
def by_pyrapl(runs):
    if runs[0] is None:
        pytest.skip(f"no mount namespace of our own for pyRAPL's fixed paths: {unshare_mount()}")
    return runs[0].result()


@pytest.fixture(scope="module")
def by_files(runs):
    return runs[1].result()


@pytest.fixture(params=["pyrapl", "files"])
def machines(request):
    return request.getfixturevalue(f"by_{request.param}")


def assert_exact(window, domain, wraps=0):
    """The figure is the truth, less a step for each repaired wrap: the range that the kernel states is the counter's
    highest reading. Two readings are cut to whole µJ."""
    energy, step_j = window["energies"][domain], window["step_j"][domain]
    expected_j = window["truth_j"][domain] - wraps * step_j
    assert energy["reason"] is None
    assert energy["energy_j"] == pytest.approx(expected_j, abs=2e-6 + wraps * 1e-6)
    for check in energy["checks"]:
        assert check["energy_j"] == pytest.approx(energy["energy_j"], abs=1e-9)
        assert check["window_s"] == pytest.approx(energy["end_s"] - energy["begin_s"])
    assert energy["doubts"] == []


def assert_lost(window, domain, reason, *flags):
    energy = window["energies"][domain]
    assert energy["energy_j"] is None
    assert reason in energy["reason"]
    assert energy["uncertainty"] == {}
    assert {doubt["flag"] for doubt in energy["doubts"]} - {"check_lost"} == set(flags)
    # A check that is lost with the figure says so, too.
    lost = [check for check in energy["checks"] if check["energy_j"] is None]
    assert all(check["reason"] for check in lost)
    assert len(lost) == sum(doubt["flag"] == "check_lost" for doubt in energy["doubts"])


@pytest.mark.parametrize(
    ("scenario", "wraps"),
    [
        ("wrap_in_the_window", {"cpu_package_0": 1, "dram_0": 1}),
        ("two_wraps_in_one_window", {"cpu_package_0": 2}),
        ("wrap_just_before_the_end", {"cpu_package_0": 1}),
        ("wrap_in_the_first_hop", {"cpu_package_0": 1}),
        ("wrap_in_a_window_without_samples", {"cpu_package_0": 1}),
        ("wrap_on_one_of_two_sockets", {"cpu_package_0": 1, "dram_0": 0, "cpu_package_1": 0, "dram_1": 0}),
        ("wrap_of_memory_on_its_own_range", {"cpu_package_0": 0, "dram_0": 1}),
        ("amd", {"cpu_package_0": 1}),
        (
            "dies_with_counters_of_their_own",
            dict.fromkeys(("cpu_package_0_die_0", "dram_0_die_0", "cpu_package_0_die_1", "dram_0_die_1"), 1),
        ),
        ("dies_that_mirror_one_counter", {"cpu_package_0_die_0": 1, "dram_0_die_0": 1}),
        ("zones_that_are_never_added", {"cpu_package_0": 0, "dram_0": 0}),
        ("memory_after_a_gap", {"cpu_package_0": 0, "dram_0": 0}),
        ("memory_in_two_zones", {"cpu_package_0": 0, "dram_0": 0, "dram_0_die_1": 0}),
        ("a_socket_that_the_topology_lacks", {"cpu_package_0": 0, "cpu_package_7": 0}),
        ("a_cpu_without_topology", {"cpu_package_0": 0}),
        ("a_cpu_in_no_package", {"cpu_package_0": 0}),
        ("memory_that_may_not_be_read", {"cpu_package_0": 0}),
    ],
)
def test_every_joule_is_counted_once(machines, scenario, wraps):
    answer = machines[scenario]
    (window,) = answer["windows"]
    assert [domain["name"] for domain in answer["domains"]] == list(wraps)
    assert list(window["energies"]) == list(wraps)
    for domain, count in wraps.items():
        assert_exact(window, domain, count)
    assert window["wraps"] == sum(wraps.values())


def test_a_wrap_between_two_windows_is_in_neither(machines):
    windows = machines["wrap_between_two_windows"]["windows"]
    assert [window["truth_j"]["cpu_package_0"] for window in windows] == pytest.approx([600, 600])
    for window in windows:
        assert_exact(window, "cpu_package_0")
        assert window["wraps"] == 0


def test_pyrapl_itself_loses_these_wraps(by_pyrapl):
    # The reason why only its sensors are used: one socket gives nothing, two give -262 kJ where 80 J were drawn.
    answer = by_pyrapl["pyrapl_alone_over_a_wrap"]
    assert answer["one_socket_uj"] is None
    wrapped_uj, other_uj = answer["two_sockets_uj"]
    assert wrapped_uj < -262e9
    assert other_uj == pytest.approx(80e6, abs=100)


def test_a_counter_that_goes_backwards_is_refused_and_not_taken_for_a_wrap(machines):
    first, second = machines["a_step_backwards"]["windows"]
    assert_lost(first, "cpu_package_0", "reset or misread", "implausible_power")
    assert first["wraps"] == 0
    assert_exact(first, "dram_0")
    assert_exact(second, "cpu_package_0")
    (window,) = machines["a_reset_to_zero"]["windows"]
    assert_lost(window, "cpu_package_0", "201", "implausible_power")


def test_a_counter_that_freezes_in_the_window_gives_no_figure(machines):
    (window,) = machines["a_counter_that_freezes"]["windows"]
    assert_lost(window, "cpu_package_0", "stood still", "implausible_power")
    assert_exact(window, "dram_0")


def test_a_stall_loses_only_the_counters_that_could_have_wrapped_twice(machines):
    answer = machines["a_stall_too_long_for_memory"]
    assert answer["max_hop_s"] == pytest.approx(65.713)
    (window,) = answer["windows"]
    assert window["truth_j"]["cpu_package_0"] == pytest.approx(80 * 102)
    assert_exact(window, "cpu_package_0")
    assert_lost(window, "dram_0", "a wrap may go unseen")


def test_a_wrong_range_never_becomes_energy(machines):
    (window,) = machines["a_range_that_is_too_small"]["windows"]
    assert_lost(window, "cpu_package_0", "outside 0..65712999613")
    (window,) = machines["a_range_that_is_too_large"]["windows"]
    assert_lost(window, "cpu_package_0", "as a wrap of 262143328850", "implausible_power")


def test_the_reader_of_each_domain_is_named_and_why_it_is_not_pyrapl(by_pyrapl):
    def methods(scenario):
        return {domain["name"]: domain["method"] for domain in by_pyrapl[scenario]["domains"]}

    both, packages_only = ("cpu_package_0", "dram_0"), ("cpu_package_0",)
    for scenario, names in (
        ("wrap_in_the_window", both),
        ("amd", packages_only),
        ("memory_after_a_gap", packages_only),
        ("a_socket_that_the_topology_lacks", packages_only),
        ("a_cpu_in_no_package", packages_only),
        ("memory_that_may_not_be_read", packages_only),
        ("memory_in_two_zones", both),
    ):
        for name in names:
            assert "read by pyRAPL 0.2.3.1" in methods(scenario)[name]
            (check,) = by_pyrapl[scenario]["windows"][0]["energies"][name]["checks"]
            assert check["method"] == "the same counter read from powercap"
    for scenario, name, fault in (
        ("dies_with_counters_of_their_own", "cpu_package_0_die_1", "PyRAPLCantRecordEnergyConsumption"),
        ("memory_after_a_gap", "dram_0", "PyRAPLCantRecordEnergyConsumption"),
        ("a_socket_that_the_topology_lacks", "cpu_package_7", "PyRAPLBadSocketIdException"),
        ("a_cpu_without_topology", "cpu_package_0", "FileNotFoundError"),
    ):
        assert f"read from powercap (pyRAPL can't set itself up: {fault}" in methods(scenario)[name]
        assert by_pyrapl[scenario]["windows"][0]["energies"][name]["checks"] == []
    assert "read from powercap (pyRAPL gives " in methods("memory_in_two_zones")["dram_0_die_1"]


def test_mirrors_are_left_out_with_the_reason(machines):
    left_out = machines["dies_that_mirror_one_counter"]["left_out"]
    assert set(left_out) == {"cpu_package_0_die_1", "dram_0_die_1"}
    assert all("mirrors" in reason for reason in left_out.values())


def test_the_boundary_says_whether_memory_is_inside(machines):
    (package, memory) = machines["wrap_in_the_window"]["domains"]
    assert (package["covers"], memory["covers"]) == ("cpu", "dram")
    assert "not fans" in package["boundary"]
    assert "its memory modules" in memory["boundary"]
    (package,) = machines["amd"]["domains"]
    assert "not its memory modules" in package["boundary"]


def test_the_boundary_is_that_of_each_socket(tree, opened):
    tree.add_package("package-0")
    tree.add_package("package-1", dram=True)
    boundaries = [domain.boundary for domain in opened().domains]
    assert ["not its memory modules" in boundary for boundary in boundaries] == [True, False, False]


def test_memory_that_may_not_be_read_is_left_out_with_the_command_that_helps(machines):
    reason = machines["memory_that_may_not_be_read"]["left_out"]["dram_0"]
    assert "intel-rapl:0:1/energy_uj can't be read: permission denied" in reason
    assert "sudo chmod a+r" in reason


@pytest.mark.parametrize(
    ("scenario", "file"),
    [
        ("a_package_that_may_not_be_read", "intel-rapl:1/energy_uj"),
        ("a_range_that_may_not_be_read", "intel-rapl:0/max_energy_range_uj"),
    ],
)
def test_a_package_that_may_not_be_read_makes_the_meter_unavailable(machines, scenario, file):
    error = machines[scenario]["error"]
    assert f"{file} can't be read: permission denied" in error
    assert "sudo chmod a+r" in error
    assert "after every boot" in error


def test_a_reading_that_fails_loses_its_own_domain_alone(machines):
    (window,) = machines["a_file_that_fails_in_the_window"]["windows"]
    assert_exact(window, "cpu_package_0")
    assert_lost(window, "dram_0", "failed within the window")


def test_a_check_that_is_lost_is_a_doubt_about_a_figure_that_stands(by_pyrapl, by_files):
    lost, good = by_pyrapl["a_file_that_is_moved_in_the_window"]["windows"]
    energy = lost["energies"]["cpu_package_0"]
    assert energy["energy_j"] == pytest.approx(lost["truth_j"]["cpu_package_0"], abs=2e-6)
    (check,), (doubt,) = energy["checks"], energy["doubts"]
    assert check["energy_j"] is None
    assert doubt["flag"] == "check_lost"
    assert check["reason"] in doubt["detail"]
    assert_exact(good, "cpu_package_0")
    # Without pyRAPL, that file is the figure.
    lost, good = by_files["a_file_that_is_moved_in_the_window"]["windows"]
    assert_lost(lost, "cpu_package_0", "failed within the window")
    assert_exact(good, "cpu_package_0")


def test_a_check_outlives_the_figure(by_pyrapl):
    (window,) = by_pyrapl["a_file_that_is_replaced_in_the_window"]["windows"]
    assert_lost(window, "cpu_package_0", "failed within the window")
    (check,) = window["energies"]["cpu_package_0"]["checks"]
    assert check["energy_j"] == pytest.approx(window["truth_j"]["cpu_package_0"], abs=2e-6)


def test_pyrapl_leaves_nothing_behind(by_pyrapl):
    # run_python also asserts that nothing was written to stderr.
    assert by_pyrapl["root_logger"] == {"handlers": 0, "filters": 0}
    assert {name: answer["left_open"] for name, answer in by_pyrapl.items() if answer.get("left_open")} == {}


def test_importing_pyrapl_logs_nothing_through_the_handlers_of_others():
    def logged(line):
        code = "import logging; from pathlib import Path; logging.basicConfig(); " + line
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr

    if "WARNING" not in logged("import pyRAPL"):
        pytest.skip("pyRAPL has nothing to say: pandas and pymongo are installed")
    zone = "Zone(Path('/nowhere'), 'cpu', 0, None, 1)"
    ours = "from ipa_energy.meters.powercap import Zone; from ipa_energy.meters.pyrapl_reader import *"
    assert logged(f"{ours}\ntry: PyRaplReader({zone})\nexcept (PyRaplUnusableError, OSError): pass") == ""


def test_the_estimate_steps_in_only_where_rapl_can_not_be_had(by_pyrapl):
    assert by_pyrapl["all_meters"]["opened"] == ["rapl"]
    for scenario, reason in (("no_rapl_at_all", "no RAPL package under"), ("hidden_by_a_container", "hidden here")):
        answer = by_pyrapl[scenario]
        assert answer["opened"] == ["estimate"]
        assert answer["unavailable"][0][0] == "rapl"
        assert reason in answer["error"]


@pytest.fixture
def tree(tmp_path):
    tree = FakePowercap(tmp_path / "powercap")
    yield tree
    tree.close()


@pytest.fixture
def opened(tree, tmp_path):
    def opened(clock=time.monotonic):
        with tree.running():
            return RaplMeter(tree.root, pmu=tmp_path / "no-pmu", clock=clock)

    return opened


def test_power_samples_are_the_mean_since_the_last_one(tree, opened):
    package = tree.add_package("package-0")
    clock = FakeClock()
    meter = opened(clock)
    meter.begin()
    powers_w = (120, 30, 400)
    for watts in powers_w:
        tree.zones[package].watts = watts
        tree.run_for(0.05)
        clock.now_s += 0.05
        (sample,) = meter.sample()
        assert sample.power_w == pytest.approx(watts, rel=1e-3)
        assert (sample.domain, sample.time_s) == ("cpu_package_0", clock.now_s)
    # A hop too short for the counter's steps gives no sample, and its energy is counted all the same.
    tree.run_for(0.002)
    clock.now_s += 0.002
    assert meter.sample() == []
    (energy,) = meter.end()
    assert energy.energy_j == pytest.approx(0.05 * sum(powers_w) + 0.002 * 400, abs=1e-4)


def test_uncertainty_is_that_of_the_two_edges(tree, opened):
    tree.add_package("package-0", watts=120)
    clock = FakeClock()
    meter = opened(clock)
    meter.begin()
    tree.run_for(10)
    clock.now_s += 10
    (energy,) = meter.end()
    # Readings that take no time stem from an update of 1 ms: uniform at both edges, at 120 W.
    assert energy.uncertainty == pytest.approx({"edges": 120 * 0.001 * (2 / 12) ** 0.5}, rel=1e-6)


def test_a_counter_that_stands_still_is_null_and_not_zero(tree, opened):
    tree.add_package("package-0")
    meter = opened()
    meter.begin()
    (energy,) = meter.end()
    assert energy.energy_j is None
    assert "stood still" in energy.reason


def test_a_meter_that_was_closed_gives_null(tree, opened):
    tree.add_package("package-0")
    meter = opened()
    assert [energy.reason for energy in meter.end()] == ["no window was begun"]
    meter.close()
    meter.close()


def test_a_tree_with_flat_links_only_is_read(tree, tmp_path):
    package = tree.add_package("package-0", dram=True)
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (package, *package.glob("intel-rapl:*")):
        (flat / path.name).symlink_to(path)
    zones, left_out = find_zones(flat)
    assert [zone.domain for zone in zones] == ["cpu_package_0", "dram_0"]
    assert left_out == {}


def test_zones_of_one_name_stay_apart(tree):
    tree.add_package("package-0")
    tree.add_package("package-0", dram=True)
    zones, _ = find_zones(tree.root)
    assert [zone.domain for zone in zones] == ["cpu_package_0", "cpu_package_0_die_1", "dram_0_die_1"]


def test_machines_without_rapl_and_counters_that_never_move_are_refused(tree, tmp_path):
    with pytest.raises(MeterUnavailable, match="no RAPL package"):
        RaplMeter(tmp_path / "nothing")
    tree.add_package("package-0")
    with pytest.raises(MeterUnavailable, match="stands still"):
        RaplMeter(tree.root)


def test_a_sum_with_one_package_standing_still_is_refused_but_memory_is_only_left_out(tree, opened):
    package = tree.add_package("package-0", dram=True)
    tree.zones[tree.dram(package)].watts = 0
    meter = opened()
    assert [domain.name for domain in meter.domains] == ["cpu_package_0"]
    assert "stands still" in meter.provenance()["left_out"]["dram_0"]
    second = tree.add_package("package-1")
    tree.zones[second].watts = 0
    with pytest.raises(MeterUnavailable, match="intel-rapl:1 stands still"):
        opened()


def test_a_range_that_a_package_can_draw_within_a_sample_period_is_refused(tree):
    package = tree.add_package("package-0")
    tree.zones[package].count = 0
    tree.run_for(1)
    (package / "max_energy_range_uj").write_text("99000000\n")
    with pytest.raises(MeterUnavailable, match=r"max_energy_range_uj is 99000000.* within 0.099 s"):
        find_zones(tree.root)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("energy_uj", "?\n", "not a number"),
        ("energy_uj", "262143999939\n", "a wrap could not be repaired"),
        ("max_energy_range_uj", "0\n", "a wrap could not be repaired"),
        ("max_energy_range_uj", "1000\n", "a wrap could not be repaired"),
        ("max_energy_range_uj", None, "No such file"),
    ],
)
def test_a_file_with_nonsense_is_named_and_costs_memory_only_itself(tree, file, text, said):
    package = tree.add_package("package-0", dram=True)

    def spoil(zone):
        (zone / file).unlink()
        if text is not None:
            (zone / file).write_text(text)

    spoil(tree.dram(package))
    zones, left_out = find_zones(tree.root)
    assert [zone.domain for zone in zones] == ["cpu_package_0"]
    assert file in left_out["dram_0"]
    assert said in left_out["dram_0"]
    spoil(package)
    with pytest.raises(MeterUnavailable, match=f"{file}.*{said}"):
        find_zones(tree.root)


MODULUS = 1_000_000
JOULES_PER_COUNT = 0.07  # a range of 70 kJ: 70 s at the highest power
hops = st.lists(st.tuples(st.floats(0.01, 60), st.floats(0, MAX_ZONE_W)), min_size=1, max_size=20)


def tally_over(readings, times_s):
    clock, values = FakeClock(), iter(readings)
    tally = Tally(lambda: next(values), JOULES_PER_COUNT, MODULUS - 1, MODULUS * JOULES_PER_COUNT / MAX_ZONE_W, clock)
    tally.start()
    hops = []
    for time_s in times_s:
        clock.now_s += time_s
        hops.append(tally.hop())
    return tally, hops


@settings(deadline=None)
@given(st.integers(0, MODULUS - 1), hops)
def test_any_power_that_a_package_can_draw_is_counted_to_the_step(start, trace):
    counts = [int(seconds * watts / JOULES_PER_COUNT) for seconds, watts in trace]
    truth = list(accumulate(counts, initial=start))
    readings = [count % MODULUS for count in truth]
    tally, _ = tally_over(readings, [seconds for seconds, _ in trace])
    energy_j, reason = tally.energy()
    wraps = sum(later < earlier for earlier, later in pairwise(readings))
    if energy_j is None:
        assert "stood still" in reason
        assert any(seconds >= 0.01 and not count for (seconds, _), count in zip(trace, counts, strict=True))
    else:
        assert energy_j == pytest.approx((sum(counts) - wraps) * JOULES_PER_COUNT)
        assert tally.wraps == wraps


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 60), st.integers(0, MODULUS + 5)), min_size=1, max_size=20))
def test_no_reading_whatever_becomes_more_energy_than_a_package_can_draw(trace):
    tally, hops_j = tally_over([500, *(reading for _, reading in trace)], [seconds for seconds, _ in trace])
    for (seconds, _), joules in zip(trace, hops_j, strict=True):
        assert joules is None or 0 <= joules <= MAX_ZONE_W * (seconds + 0.001 + BURST_S)
    energy_j, reason = tally.energy()
    assert (energy_j is None) == (reason is not None)
    if None in hops_j:
        assert energy_j is None
