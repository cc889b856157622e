"""The released Zeus, unchanged, beside our meters: over the stub library and over powercap counters of our own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib import util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_energy.meters import zeus
from ipa_energy.meters.base import Domain, MeterUnavailable
from ipa_energy.meters.zeus import WRAP_LAG_S, ZeusMeter, fault
from meter_fixtures import STUBS, build_nvml_stub, run_python, unshare_mount

needs_zeus = pytest.mark.skipif(util.find_spec("zeus") is None, reason="Zeus (the extra `zeus`) is not installed")


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return build_nvml_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def stub(library, tmp_path, monkeypatch):
    """Write a script of the stub for processes that are started from now on."""

    def stub(script: str = "") -> None:
        file = tmp_path / "nvml.txt"
        file.write_text(f"period_ms 20\n{script}\n")
        monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
        monkeypatch.setenv("NVML_STUB", str(file))

    return stub


class Board:
    """Stands for the NVML meter of one board where that meter's figures don't matter."""

    def __init__(self, index: int = 0) -> None:
        self.domains = (Domain("gpu_0", "gpu", "board", "method", "measured", 0.02),)
        self.index = index

    def provenance(self):
        return {"gpus": {"gpu_0": {"nvml_index": self.index}}}


@pytest.fixture
def opened():
    meters = []

    def opened(*others) -> ZeusMeter:
        meters.append(ZeusMeter(others))
        return meters[-1]

    yield opened
    for meter in meters:
        meter.close()


def ended(pids, limit_s=5.0) -> bool:
    give_up_s = time.monotonic() + limit_s
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < give_up_s:
        time.sleep(0.02)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@needs_zeus
def test_zeus_gives_its_figure_of_the_same_gpus_in_the_same_window(library, tmp_path):
    script = tmp_path / "nvml.txt"
    script.write_text("gpus 3\nperiod_ms 100\nsegment 1 300\n")
    # Zeus itself refuses UUIDs here; it is shown what CUDA would show.
    env = {"LD_LIBRARY_PATH": str(library), "NVML_STUB": str(script), "CUDA_VISIBLE_DEVICES": "GPU-3,0"}
    answer = run_python(STUBS / "zeus_driver.py", "nvml", 1.5, env=env)
    assert [(d["name"], d["counted"], d["covers"]) for d in answer["domains"]] == [
        ("gpu_0", False, "gpu"),
        ("gpu_1", False, "gpu"),
    ]
    assert "Zeus 0.16.0" in answer["domains"][0]["method"]
    for watts, energy, counted in zip((400, 300), answer["energies"], answer["others"], strict=True):
        window_s = energy["end_s"] - energy["begin_s"]
        # The edges fall anywhere between two updates of the counter.
        assert energy["energy_j"] == pytest.approx(watts * window_s, abs=watts * 0.11)
        assert energy["uncertainty"]["edges"] == pytest.approx(watts * 0.1 / 6**0.5, rel=0.15)
        assert abs(energy["begin_s"] - counted["begin_s"]) < 0.2
    assert answer["provenance"] == {
        "version": "0.16.0",
        "gpu_indices": {"gpu_0": 0, "gpu_1": 1},
        "nvml_indices": {"gpu_0": 2, "gpu_1": 0},
        "cpu_indices": {},
        "left_out": {},
        "messages": None,
    }
    assert answer["left"] == []
    assert not answer["imported"]
    assert answer["root_handlers"] == 0


@pytest.fixture
def drive_rapl():
    def drive(window_s: float, below_j: float):
        command = unshare_mount()
        if isinstance(command, str):
            pytest.skip(f"no mount namespace of our own for Zeus's fixed paths: {command}")
        return run_python(STUBS / "zeus_driver.py", "rapl", window_s, below_j, prefix=command)

    return drive


@needs_zeus
def test_zeus_gives_its_figure_of_the_same_packages_over_a_wrap_long_past(drive_rapl):
    answer = drive_rapl(6.5, 1.3 * 20 + 5)
    assert [d["name"] for d in answer["domains"]] == ["cpu_package_0", "dram_0", "cpu_package_1"]
    assert answer["provenance"]["cpu_indices"] == {"cpu_package_0": 1, "dram_0": 1, "cpu_package_1": 2}
    assert len(answer["pids"]) > 1
    assert answer["left"] == []
    package, *_ = answer["others"]
    assert package["energy_j"] == pytest.approx(80 * (package["end_s"] - package["begin_s"]), rel=0.02)
    for energy, counted in zip(answer["energies"], answer["others"], strict=True):
        if energy["energy_j"] is None:
            assert "may lag" in energy["reason"]
        else:
            assert energy["energy_j"] == pytest.approx(counted["energy_j"], rel=0.02)


@needs_zeus
def test_a_wrap_that_zeus_may_not_have_counted_gives_null_and_a_reason(drive_rapl):
    answer = drive_rapl(0.6, 80 * 1.5)
    package = answer["energies"][0]
    assert package["energy_j"] is None
    assert "may lag" in package["reason"] or "less than nothing" in package["reason"]
    assert answer["others"][0]["energy_j"] > 0


@given(
    watts=st.floats(1, 900),
    window_s=st.floats(0.5, 900),
    range_j=st.floats(16_000, 262_143),
    start=st.floats(0, 1),
    lags_s=st.tuples(st.floats(0, 1.2), st.floats(0, 1.2)),
)
def test_a_lagging_count_of_wraps_never_passes(watts, window_s, range_j, start, lags_s):
    begin_j = start * range_j

    def as_zeus_has_it(true_j: float, lag_s: float) -> float:
        counted = max(true_j - watts * lag_s, 0) // range_j  # wraps that its helper has seen
        return counted * range_j + true_j % range_j

    seen_begin_j = as_zeus_has_it(begin_j, 0)  # below the range, so there is nothing to lag
    after_wrap_j = begin_j + range_j  # the same with a wrap in the past, which may not be counted yet
    for begin, seen in ((begin_j, seen_begin_j), (after_wrap_j, as_zeus_has_it(after_wrap_j, lags_s[0]))):
        true_j = watts * window_s
        energy_j = as_zeus_has_it(begin + true_j, lags_s[1]) - seen
        if fault(energy_j, seen, range_j, window_s) is None:
            assert energy_j == pytest.approx(true_j, abs=1e-3)


def test_figures_that_cannot_be_are_named():
    assert "no figure" in fault(None, None, None, 1.0)
    assert "0 J" in fault(0.0, None, None, 1.0)
    assert "restarted" in fault(-3.0, None, None, 1.0)
    assert "missed a wrap" in fault(-262_138.0, 262_140.0, 262_143.0, 1.0)
    assert "at the begin" in fault(262_243.0, 1.0, 262_143.0, 60.0)
    assert fault(300.0, None, None, 1.0) is None
    assert fault(300.0, 10_000.0, 262_143.0, 1.0) is None
    assert "at the end" in fault(100.0, 262_043.0 + WRAP_LAG_S, 262_143.0, 1.0)


@needs_zeus
@pytest.mark.parametrize(
    ("event", "reason"), [("lost", "GPU is lost"), ("reset", "the counter restarted"), ("frozen", "Zeus gave 0 J")]
)
def test_what_zeus_can_not_tell_in_a_window_gives_null_and_a_reason(stub, opened, tmp_path, event, reason):
    stub(f"{event} {tmp_path / event}")
    meter = opened(Board())
    meter.begin()
    time.sleep(0.05)
    if event == "frozen":
        (tmp_path / event).touch()
        meter.end()
        meter.begin()
    else:
        (tmp_path / event).touch()
    time.sleep(0.05)
    (energy,) = meter.end()
    assert energy.energy_j is None
    assert reason in energy.reason
    assert energy.end_s > energy.begin_s
    meter.begin()
    time.sleep(0.05)
    (again,) = meter.end()
    assert (again.energy_j is None) == (event != "reset")
    assert (again.reason is None) == (event == "reset")


@needs_zeus
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("gpus 0", "no GPU"),
        ("init_error 9", "NVML and AMDSMI unavailable"),
        ("architecture 4\nno_counter 1", "older than Volta"),
        ("error counter 4", "ZeusGPUNoPermissionError"),
    ],
)
def test_a_gpu_that_zeus_can_not_read_is_a_reason(stub, opened, script, reason):
    stub(script)
    with pytest.raises(MeterUnavailable, match=reason):
        opened(Board())


def test_without_a_counter_to_compare_zeus_is_not_started(opened, monkeypatch):
    monkeypatch.setattr(zeus.util, "find_spec", lambda name: object())
    monkeypatch.setattr(zeus.subprocess, "Popen", None)
    with pytest.raises(MeterUnavailable, match="no GPU and no CPU counter"):
        opened()


def test_without_zeus_the_command_that_installs_it_is_named(opened, monkeypatch):
    monkeypatch.setattr(zeus.util, "find_spec", lambda name: None)
    with pytest.raises(MeterUnavailable, match=r"pip install 'ipa-energy\[zeus\]'"):
        opened(Board())


def test_a_zeus_that_can_not_be_imported_is_a_reason(opened, tmp_path, monkeypatch):
    (tmp_path / "zeus.py").write_text("raise ImportError('a part of it is missing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MeterUnavailable, match="ImportError: a part of it is missing"):
        opened(Board())


@needs_zeus
def test_a_zeus_that_is_killed_in_the_window_gives_null_and_a_reason(stub, opened):
    stub()
    meter = opened(Board())
    meter.begin()
    os.kill(meter.process_ids[0], signal.SIGKILL)
    (energy,) = meter.end()
    assert energy.energy_j is None
    assert "ended unasked" in energy.reason


@needs_zeus
def test_a_zeus_that_hangs_gives_null_and_a_reason_and_is_ended(stub, opened, monkeypatch):
    stub()
    monkeypatch.setattr(zeus, "CLOSE_LIMIT_S", 0.2)
    meter = opened(Board())
    meter.begin()
    os.kill(meter.process_ids[0], signal.SIGSTOP)
    monkeypatch.setattr(zeus, "CALL_LIMIT_S", 0.2)
    (energy,) = meter.end()
    assert energy.energy_j is None
    assert "did not answer within 0.2 s" in energy.reason
    assert ended(meter.process_ids)
    meter.begin()
    assert "has been closed" in meter.end()[0].reason


@needs_zeus
def test_zeus_ends_when_its_measurement_is_killed(stub, tmp_path):
    stub()
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from test_meters_zeus import Board, ZeusMeter\n"
        "meter = ZeusMeter([Board()]); print(*meter.process_ids, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(STUBS.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as measurement:
        pids = [int(pid) for pid in measurement.stdout.readline().split()]
        measurement.kill()
    assert pids
    assert ended(pids)
