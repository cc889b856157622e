"""The real bindings over a stub library: what is checked is the whole way from the counter to the energy."""

from __future__ import annotations

import ctypes
import math
import os
import time

import pytest

from ipa_energy.meters.base import MeterUnavailable
from ipa_energy.meters.visible_devices import visible_gpus
from meter_fixtures import STUBS, build_nvml_stub, run_python


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return build_nvml_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def drive(library, tmp_path):
    def drive(script: str = "", *arguments: object, **env: str):
        file = tmp_path / "nvml.txt"
        file.write_text(f"period_ms 20\npower_period_ms 20\n{script}\n")  # quick, where a test says nothing else
        env |= {"LD_LIBRARY_PATH": str(library), "NVML_STUB": str(file)}
        return run_python(STUBS / "nvml_driver.py", *arguments, env=env)

    return drive


def energies(answer, window=0):
    return answer["windows"][window]["energies"]


@pytest.mark.parametrize(("period_ms", "windows"), [(100, 2), (500, 1)])
def test_counter_energy_is_within_half_a_percent_of_the_truth(drive, period_ms, windows):
    answer = drive(f"segment 1 300\nperiod_ms {period_ms}", "--windows", windows, "--window-s", 1)
    assert answer["domains"][0]["period_s"] == pytest.approx(period_ms / 1e3, rel=0.1)
    for window in range(windows):
        (energy,) = energies(answer, window)
        length_s = energy["end_s"] - energy["begin_s"]
        assert length_s >= 1
        assert energy["energy_j"] == pytest.approx(300 * length_s, rel=0.005)
        assert energy["checks"][0]["energy_j"] == pytest.approx(300 * length_s, rel=1e-6)
        # Whole steps of the counter: both edges are ticks.
        steps = energy["energy_j"] / (300 * period_ms / 1e3)
        assert steps == pytest.approx(round(steps), abs=1e-6)
        assert energy["reason"] is None
        gain_j = energy["energy_j"] * 0.05 / math.sqrt(3)
        assert gain_j <= math.hypot(*energy["uncertainty"].values()) <= 1.02 * gain_j


def test_counter_follows_a_power_that_steps_within_the_window(drive):
    epoch_s = time.monotonic()
    answer = drive(
        f"period_ms 100\npower_period_ms 100\nepoch {epoch_s}\nsegment 0.31 100\nsegment 0.23 400",
        "--windows",
        1,
        "--window-s",
        1.5,
    )
    (energy,) = energies(answer)

    def joules_until(time_s: float) -> float:
        cycles, left_s = divmod(time_s - epoch_s, 0.54)
        return cycles * (31 + 92) + 100 * min(left_s, 0.31) + 400 * max(left_s - 0.31, 0)

    truth_j = joules_until(energy["end_s"]) - joules_until(energy["begin_s"])
    # An edge is known to about 1 ms, in which at most 400 W are drawn.
    assert energy["energy_j"] == pytest.approx(truth_j, abs=2 * 0.002 * 400)
    # The check sees the power one update late at most, so it is off by less than two updates of the step's height.
    assert energy["checks"][0]["energy_j"] == pytest.approx(truth_j, abs=2 * 0.12 * 300)


def test_without_a_counter_the_integral_is_the_figure_and_the_method_says_so(drive):
    answer = drive("no_counter 1\nsegment 1 250", "--windows", 1)
    (energy,) = energies(answer)
    assert energy["energy_j"] == pytest.approx(250 * (energy["end_s"] - energy["begin_s"]), rel=1e-6)
    assert energy["checks"] == []
    assert "integral of NVML_FI_DEV_POWER_INSTANT" in answer["domains"][0]["method"]
    assert "no energy counter" in answer["domains"][0]["method"]


def test_visible_gpus_are_measured_in_cudas_order_with_their_own_edges(drive):
    answer = drive("gpus 3", "--windows", 1, CUDA_VISIBLE_DEVICES="GPU-3,0")
    assert [domain["name"] for domain in answer["domains"]] == ["gpu_0", "gpu_1"]
    assert [gpu["nvml_index"] for gpu in answer["provenance"]["gpus"].values()] == [2, 0]
    third, first = energies(answer)
    for energy, watts in ((third, 400), (first, 300)):
        assert energy["energy_j"] == pytest.approx(watts * (energy["end_s"] - energy["begin_s"]), rel=0.02)
    assert third["begin_s"] != first["begin_s"]


@pytest.mark.parametrize("counter", [True, False])
def test_a_gpu_lost_within_the_window_gives_null_and_a_reason(drive, tmp_path, counter):
    script = f"lost {tmp_path / 'lost'}\nno_counter {int(not counter)}"
    answer = drive(script, "--windows", 2, "--touch", tmp_path / "lost")
    for window in range(2):
        (energy,) = energies(answer, window)
        assert energy["energy_j"] is None
        assert energy["uncertainty"] == {}
        assert "GPU is lost" in energy["reason"]


def test_a_counter_that_restarts_gives_null_and_the_next_window_is_good(drive, tmp_path):
    answer = drive(f"reset {tmp_path / 'reset'}", "--windows", 2, "--touch", tmp_path / "reset")
    (broken,), (good,) = energies(answer, 0), energies(answer, 1)
    assert broken["energy_j"] is None
    assert "went backwards" in broken["reason"]
    assert good["energy_j"] == pytest.approx(300 * (good["end_s"] - good["begin_s"]), rel=0.02)


def test_a_counter_that_stops_ticking_is_told_and_widens_the_uncertainty(drive, tmp_path):
    answer = drive(f"frozen {tmp_path / 'frozen'}", "--windows", 2, "--touch", tmp_path / "frozen")
    (stopped,), (still,) = energies(answer, 0), energies(answer, 1)
    assert stopped["energy_j"] is not None
    assert "end: no tick" in stopped["reason"]
    mean_w = stopped["energy_j"] / (stopped["end_s"] - stopped["begin_s"])
    assert stopped["uncertainty"]["edges"] >= mean_w * 0.018 / math.sqrt(12)
    assert still["energy_j"] is None
    assert "stood still" in still["reason"]
    assert still["checks"][0]["energy_j"] == pytest.approx(300 * (still["end_s"] - still["begin_s"]), rel=1e-6)


@pytest.mark.parametrize(
    ("script", "watts", "source"),
    [
        ("average_scale 0.5", 300, "field 186"),
        ("average_scale 0.5\nno_field 186", 150, "field 185"),
        ("no_field 186\nno_field 185", 300, "nvmlDeviceGetPowerUsage"),
    ],
)
def test_the_best_supported_power_reading_is_the_check_and_is_named(drive, script, watts, source):
    answer = drive(script, "--windows", 1, "--window-s", 0.2)
    (energy,) = energies(answer)
    assert source in energy["checks"][0]["method"]
    assert energy["checks"][0]["energy_j"] == pytest.approx(watts * (energy["end_s"] - energy["begin_s"]), rel=1e-6)
    assert answer["windows"][0]["samples"] > 0


def test_without_any_power_reading_there_is_no_check(drive):
    answer = drive("no_field 186\nno_field 185\nno_power 1", "--windows", 1, "--window-s", 0.2)
    (energy,) = energies(answer)
    assert energy["energy_j"] > 0
    assert energy["checks"] == []
    assert answer["windows"][0]["samples"] == 0


def test_environment_names_processes_and_event_reasons(drive):
    answer = drive(f"pid {os.getpid()}\npid 4194304\nreasons 0x8024")
    reading = answer["environment"]["gpu_0"]
    assert (reading["temperature_c"], reading["sm_clock_mhz"]) == (55, 1755)
    assert reading["event_reasons"] == ["sw_power_cap", "sw_thermal_slowdown", "bit_15"]
    mine, alien = reading["compute_processes"]
    assert mine["pid"] == os.getpid()
    assert mine["name"]
    assert alien == {"pid": 4194304, "name": None}  # beyond the kernel's largest pid


def test_environment_is_null_where_not_supported(drive):
    assert set(drive("no_environment 1")["environment"]["gpu_0"].values()) == {None}


def test_provenance_identifies_board_and_driver(drive):
    provenance = drive()["provenance"]
    gpu = provenance["gpus"]["gpu_0"]
    assert provenance["driver"] == "999.1"
    assert provenance["nvml"] == "13.999.1"
    assert gpu["uuid"].startswith("GPU-1")
    assert (gpu["power_limit_enforced_w"], gpu["power_limit_requested_w"]) == (350.0, 400.0)
    assert gpu["persistence_mode"] is True
    assert gpu["counter_period_s"] == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(
    ("script", "visible", "reason"),
    [
        ("mig 1", "0", "MIG enabled"),
        ("", "MIG-5c4f", "NVML has no power of a slice"),
        ("", "", "leaves no GPU visible"),
        ("gpus 0", "0", "no GPU"),
        ("init_error 9", "0", "Driver Not Loaded"),
        ("no_counter 1\nno_field 185\nno_field 186\nno_power 1", "0", "neither an energy counter nor power"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_reason(drive, script, visible, reason):
    assert reason in drive(script, CUDA_VISIBLE_DEVICES=visible)["unavailable"]


def test_without_the_nvidia_library_the_meter_is_unavailable():
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        assert "NVML Shared Library Not Found" in run_python(STUBS / "nvml_driver.py")["unavailable"]
    else:
        pytest.skip("this host has the NVIDIA library")


def test_the_deprecated_pynvml_package_is_named(tmp_path):
    package = tmp_path / "pynvml"
    package.mkdir()
    (package / "__init__.py").write_text("")
    info = tmp_path / "pynvml-11.5.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pynvml\nVersion: 11.5.0\n")
    (info / "top_level.txt").write_text("pynvml\n")
    path = os.pathsep.join([str(STUBS.parent), str(tmp_path)])
    reason = run_python(STUBS / "nvml_driver.py", env={"PYTHONPATH": path})["unavailable"]
    assert "pynvml 11.5.0" in reason
    assert "pip uninstall -y pynvml" in reason


UUIDS = ["GPU-aaaa1", "GPU-aaaa2", "GPU-bbbb3"]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, (0, 1, 2)),
        ("2,0", (2, 0)),
        ("GPU-aaaa2, GPU-b", (1, 2)),
        ("1,-1,0", (1,)),  # CUDA stops at the first invalid entry
        ("1,7,0", (1,)),
        ("0,GPU-aaaa", (0,)),  # not unambiguous
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(visible, expected):
    assert visible_gpus(visible, None, UUIDS, ["A100"] * 3) == expected


def test_indices_among_different_boards_need_the_bus_order():
    names = ["A100", "T4", "T4"]
    with pytest.raises(MeterUnavailable, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        visible_gpus("0", None, UUIDS, names)
    assert visible_gpus("1", "PCI_BUS_ID", UUIDS, names) == (1,)
    assert visible_gpus("GPU-aaaa1", None, UUIDS, names) == (0,)


@pytest.mark.parametrize("visible", ["", "-1", "9", "0,0"])
def test_a_selection_of_no_gpu_is_refused(visible):
    with pytest.raises(MeterUnavailable, match="CUDA_VISIBLE_DEVICES"):
        visible_gpus(visible, None, UUIDS, ["A100"] * 3)
