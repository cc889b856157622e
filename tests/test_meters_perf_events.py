"""perf events as a check of RAPL: real counters of the kernel's software PMU, under a PMU folder of our own.

``cpu-clock`` counts the nanoseconds that pass on one CPU. At 1e-8 J a count it is an energy counter of exactly 10 W.
"""

from __future__ import annotations

import os
import platform
import re
import time

import pytest

from ipa_energy.meters.perf_events import (
    PARANOID,
    EnergyEvent,
    PerfCounter,
    PerfEventsUnusableError,
    counting_cpu,
    find_event,
)
from ipa_energy.meters.rapl import RaplMeter
from meter_fixtures import CAP_PERFMON, CAP_SYS_ADMIN, FakeClock, FakePowercap, fake_cpus, without_capabilities

WATTS = 10.0
NANOSECONDS_OF_A_CPU = EnergyEvent("software/cpu-clock/", pmu_type=1, config=0, joules_per_count=1e-8, cpus=(0,))
CPU = min(os.sched_getaffinity(0))


@pytest.fixture
def permitted():
    try:
        PerfCounter(NANOSECONDS_OF_A_CPU, CPU).close()
    except PerfEventsUnusableError as error:
        pytest.skip(str(error))


@pytest.fixture
def pmu(tmp_path):
    """A PMU folder as the kernel's rapl driver makes it, over the software PMU's clock of one CPU."""
    folder = tmp_path / "power"
    (folder / "events").mkdir(parents=True)
    (folder / "format").mkdir()
    (folder / "type").write_text("1\n")
    (folder / "cpumask").write_text(f"{CPU}\n")
    (folder / "format" / "event").write_text("config:0-7\n")
    for event in ("energy-pkg", "energy-ram"):
        (folder / "events" / event).write_text("event=0x00\n")
        (folder / "events" / f"{event}.scale").write_text("1e-8\n")
        (folder / "events" / f"{event}.unit").write_text("Joules\n")
    return folder


@pytest.fixture
def cpus(tmp_path):
    return fake_cpus(tmp_path / "cpu", sockets=[0] * (CPU + 1))


def test_counts_are_the_kernels_to_the_edges_of_the_reading(permitted, pmu):
    counter = PerfCounter(find_event("cpu", pmu), CPU)
    before = (time.monotonic_ns(), counter.read(), time.monotonic_ns())
    time.sleep(0.2)
    after = (time.monotonic_ns(), counter.read(), time.monotonic_ns())
    joules = (after[1] - before[1]) * counter.joules_per_count
    counter.close()
    # The readings lie within the times taken around them; the kernel's two clocks may run apart by 1e-3 at most.
    assert WATTS * (after[0] - before[2]) / 1e9 * 0.999 <= joules <= WATTS * (after[2] - before[0]) / 1e9 * 1.001


def test_a_closed_counter_gives_an_error_and_no_number(permitted, pmu):
    counter = PerfCounter(find_event("cpu", pmu), CPU)
    counter.close()
    counter.close()
    with pytest.raises(ValueError, match="was closed"):
        counter.read()


def test_a_counter_that_the_kernel_stopped_is_an_error(permitted, pmu, tmp_path):
    counter = PerfCounter(find_event("cpu", pmu), CPU)
    # What the kernel gives for an event in an error state is the end of a file.
    with (tmp_path / "empty").open("w+b") as empty:
        os.dup2(empty.fileno(), counter._file)
        with pytest.raises(OSError, match="no longer counted"):
            counter.read()
    counter.close()


def test_the_meter_checks_its_package_and_memory_with_the_events(permitted, tmp_path, pmu, cpus):
    tree = FakePowercap(tmp_path / "powercap")
    tree.add_package("package-0", dram=True, watts=WATTS)
    with tree.running():
        meter = RaplMeter(tree.root, pmu, cpus)
        for _ in range(2):
            meter.begin()
            for _ in range(5):
                time.sleep(0.05)
                meter.sample()
            for energy in meter.end():
                (check,) = energy.checks
                event = {"cpu_package_0": "energy-pkg", "dram_0": "energy-ram"}[energy.domain]
                assert check.method == f"the kernel's perf event power/{event}/ on CPU {CPU}"
                (tally,) = next(c for c in meter._channels if c.zone.domain == energy.domain).checks.values()
                edges_j = WATTS * (tally.begin.width_s + tally.now.width_s)
                assert check.energy_j == pytest.approx(WATTS * check.window_s, rel=1e-3, abs=edges_j)
                assert check.window_s >= 0.25
                assert energy.doubts == ()
    zone = meter.provenance()["zones"]["cpu_package_0"]
    assert zone["perf"] == f"power/energy-pkg/ on CPU {CPU}"
    assert zone["perf_reason"] is None
    meter.close()
    meter.close()
    tree.close()


def test_events_that_stop_within_the_window_cost_the_check_and_not_the_figure(permitted, tmp_path, pmu, cpus):
    tree = FakePowercap(tmp_path / "powercap")
    tree.add_package("package-0", watts=WATTS)
    with tree.running():
        meter = RaplMeter(tree.root, pmu, cpus)
        meter.begin()
        time.sleep(0.05)
        meter._channels[0].perf.close()
        (energy,) = meter.end()
    assert energy.energy_j > 0
    (check,), (doubt,) = energy.checks, energy.doubts
    assert check.energy_j is None
    assert doubt.flag == "check_lost"
    assert "was closed" in doubt.detail
    meter.close()
    tree.close()


def test_a_stall_in_which_the_kernel_may_lose_a_wrap_costs_the_check_alone(permitted, tmp_path, pmu, cpus):
    tree, clock = FakePowercap(tmp_path / "powercap"), FakeClock()
    tree.add_package("package-0", watts=WATTS)
    with tree.running():
        meter = RaplMeter(tree.root, pmu, cpus, clock)
    # The counter itself lasts 262 s at 1000 W, the kernel's sum half of that.
    meter.begin()
    tree.run_for(200)
    clock.now_s += 200
    (energy,) = meter.end()
    assert energy.energy_j == pytest.approx(WATTS * 200)
    (check,), (doubt,) = energy.checks, energy.doubts
    assert check.energy_j is None
    assert (doubt.flag, "after 131 s" in doubt.detail) == ("check_lost", True)
    meter.close()
    tree.close()


def test_without_the_pmu_the_meter_goes_on_and_says_why(tmp_path, cpus):
    tree = FakePowercap(tmp_path / "powercap")
    tree.add_package("package-0", watts=WATTS)
    with tree.running():
        meter = RaplMeter(tree.root, tmp_path / "power", cpus)
        meter.begin()
        time.sleep(0.02)
        (energy,) = meter.end()
    assert energy.energy_j > 0
    assert energy.checks == energy.doubts == ()
    zone = meter.provenance()["zones"]["cpu_package_0"]
    assert zone["perf"] is None
    assert "no perf PMU" in zone["perf_reason"]
    tree.close()


def test_a_refusal_names_the_kernels_setting_and_what_helps():
    with without_capabilities(CAP_PERFMON, CAP_SYS_ADMIN):
        try:
            PerfCounter(NANOSECONDS_OF_A_CPU, CPU).close()
        except PerfEventsUnusableError as error:
            text = str(error)
        else:
            pytest.skip(f"this kernel refuses nobody: {PARANOID} is {PARANOID.read_text().strip()}")
    assert re.search(r"software/cpu-clock/ on CPU \d+: (EACCES|EPERM)", text)
    assert f"kernel.perf_event_paranoid is {PARANOID.read_text().strip()}" in text
    assert "sudo sysctl kernel.perf_event_paranoid=0" in text
    assert "CAP_PERFMON" in text


@pytest.mark.parametrize(("pmu_type", "cpu", "code"), [(999_999, CPU, "ENOENT"), (1, 999_999, "ENODEV|EINVAL")])
def test_an_event_that_the_kernel_does_not_have_is_named(permitted, pmu_type, cpu, code):
    event = EnergyEvent("power/energy-pkg/", pmu_type, config=2, joules_per_count=1e-8, cpus=(cpu,))
    with pytest.raises(PerfEventsUnusableError, match=rf"power/energy-pkg/ on CPU {cpu}: ({code})"):
        PerfCounter(event, cpu)


def test_another_processor_is_named(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(PerfEventsUnusableError, match="'riscv64'"):
        PerfCounter(NANOSECONDS_OF_A_CPU, CPU)


def test_an_event_is_read_as_the_kernel_writes_it(pmu):
    (pmu / "type").write_text("29\n")
    (pmu / "cpumask").write_text("0,8-9\n")
    (pmu / "format" / "source").write_text("config:12-15\n")
    (pmu / "events" / "energy-ram").write_text("event=0x03,source=2\n")
    (pmu / "events" / "energy-ram.scale").write_text("2.3283064365386962890625e-10\n")
    event = find_event("dram", pmu)
    assert event == EnergyEvent("power/energy-ram/", 29, 0x2003, 2**-32, (0, 8, 9))


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("events/energy-pkg", None, "has no event energy-pkg"),
        ("events/energy-pkg", "event=what\n", "can't be understood"),
        ("events/energy-pkg", "umask=0x01\n", "umask can't be read"),
        ("events/energy-pkg.unit", "Watts\n", "'Watts', not in Joules"),
        ("events/energy-pkg.unit", None, "energy-pkg.unit can't be read"),
        ("events/energy-pkg.scale", "0\n", "must be positive"),
        ("events/energy-pkg.scale", "?\n", "can't be understood"),
        ("format/event", "config1:0-7\n", "not a range of bits of config"),
        ("cpumask", "\n", "can't be understood"),
        ("cpumask", None, "cpumask can't be read"),
        ("type", "power\n", "can't be understood"),
    ],
)
def test_a_pmu_that_is_not_as_it_should_be_is_refused(pmu, file, text, said):
    (pmu / file).unlink()
    if text is not None:
        (pmu / file).write_text(text)
    with pytest.raises(PerfEventsUnusableError, match=said):
        find_event("cpu", pmu)


def test_each_package_or_die_has_its_own_counting_cpu(tmp_path):
    def event(*cpus):
        return EnergyEvent("power/energy-pkg/", 29, 2, 1e-8, cpus)

    sockets = fake_cpus(tmp_path / "sockets", sockets=[0, 0, 1, 1])
    assert [counting_cpu(event(0, 2), socket, None, sockets) for socket in (0, 1)] == [0, 2]
    dies = fake_cpus(tmp_path / "dies", sockets=[0, 0, 1, 1], dies=[0, 1, 0, 1])
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [counting_cpu(event(0, 1, 2, 3), socket, die, dies) for socket, die in places] == [0, 1, 2, 3]
    # One zone, two counters: neither is the zone's, and their sum may count the same energy twice.
    with pytest.raises(PerfEventsUnusableError, match="2 of them in package 0; exactly one"):
        counting_cpu(event(0, 1, 2, 3), 0, None, dies)
    # A kernel that does not number dies, and packages that the mask leaves out.
    for socket, die in ((0, 1), (2, None)):
        with pytest.raises(PerfEventsUnusableError, match=f"0 of them in package {socket}"):
            counting_cpu(event(0, 2), socket, die, sockets)
    with pytest.raises(PerfEventsUnusableError, match="cpu7/topology/physical_package_id can't be read"):
        counting_cpu(event(7), 0, None, sockets)
