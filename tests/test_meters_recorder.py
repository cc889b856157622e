from __future__ import annotations

import threading
import time
from itertools import pairwise
from typing import Any

import pytest

from ipa_energy.meters.base import Domain, Energy, PowerSample
from ipa_energy.meters.estimate import EstimateMeter
from ipa_energy.meters.recorder import Recorder


class SteadyMeter:
    """A meter of a constant power, whose calls can be made to wait or to fail."""

    def __init__(self, name: str = "steady", watts: float = 10.0) -> None:
        self.name = name
        self.watts = watts
        self.domains = tuple(Domain(f"{name}_{i}", "cpu", "", "constant", "measured", None) for i in range(2))
        self.gate: dict[str, threading.Event] = {}
        self.fails: set[str] = set()
        self.sleeps_s: list[float] = []
        self.threads: set[int] = set()
        self.calls: list[str] = []
        self.begin_s = 0.0

    def _enter(self, call: str) -> None:
        self.calls.append(call)
        self.threads.add(threading.get_ident())
        if call in self.gate:
            assert self.gate[call].wait(10)
        if call in self.fails:
            raise OSError(f"{call} broke")

    def begin(self) -> None:
        self._enter("begin")
        self.begin_s = time.monotonic()

    def sample(self) -> list[PowerSample]:
        self._enter("sample")
        if self.sleeps_s:
            time.sleep(self.sleeps_s.pop(0))
        return [PowerSample(time.monotonic(), domain.name, self.watts) for domain in self.domains]

    def end(self) -> list[Energy]:
        self._enter("end")
        end_s = time.monotonic()
        return [Energy(d.name, self.watts * (end_s - self.begin_s), self.begin_s, end_s) for d in self.domains]

    def environment(self) -> dict[str, Any]:
        self._enter("environment")
        return {"calls": len(self.calls)}

    def provenance(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


@pytest.fixture
def meter():
    return SteadyMeter()


def test_opening_and_closing_never_wait_for_the_meters(meter):
    meter.gate = {"begin": threading.Event(), "end": threading.Event()}
    with Recorder([meter], 0.01) as recorder:
        recorder.open()  # would wait for the gate, which only this thread opens
        assert not recorder.opened_event.is_set()
        meter.gate["begin"].set()
        assert recorder.opened_event.wait(10)
        recorder.close()
        assert not recorder.finished.is_set()
        meter.gate["end"].set()
        assert recorder.result(10).energies[0].energy_j >= 0
        assert recorder.finished.is_set()
    assert threading.get_ident() not in meter.threads
    assert len(meter.threads) == 1


def test_a_window_has_the_energies_samples_and_environments_of_all_meters():
    meters = [SteadyMeter("one", 10), SteadyMeter("two", 20)]
    with Recorder(meters, 0.02) as recorder:
        reading = recorder.measure_for(0.3)
    assert [energy.domain for energy in reading.energies] == ["one_0", "one_1", "two_0", "two_1"]
    assert [energy.mean_w for energy in reading.energies] == pytest.approx([10, 10, 20, 20])
    assert all(energy.end_s - energy.begin_s >= 0.3 for energy in reading.energies)
    assert len(reading.samples) == 4 * reading.sample_count
    assert reading.sample_count + reading.late_samples >= 15
    assert 0 < reading.sampler_cpu_s < 0.3
    (first_s, first), (last_s, last) = reading.environments  # too short a window for one within
    assert first["one"]["calls"] == 1
    assert last["two"]["calls"] == len(meters[1].calls)
    assert last_s - first_s >= 0.3
    for meter in meters:  # sampling stays inside the window, the environments outside
        assert meter.calls[:2] == ["environment", "begin"]
        assert meter.calls[-2:] == ["end", "environment"]
        assert set(meter.calls[2:-2]) == {"sample"}


def test_the_environment_is_looked_at_about_once_a_second_within_the_window(meter, monkeypatch):
    monkeypatch.setattr("ipa_energy.meters.recorder.ENVIRONMENT_PERIOD_S", 0.1)
    with Recorder([meter], 0.02) as recorder:
        reading = recorder.measure_for(0.55)
    times_s = [time_s for time_s, _ in reading.environments]
    assert 4 <= len(times_s) <= 8
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(times_s[:-1]))


def test_windows_follow_each_other(meter):
    with Recorder([meter], 0.01) as recorder:
        idle = recorder.measure_for(0.05)
        recorder.open()
        with pytest.raises(RuntimeError, match="open already"):
            recorder.open()
        recorder.close()
        window = recorder.result(10)
    assert window.energies[0].begin_s >= idle.energies[0].end_s


@pytest.mark.parametrize("call", ["begin", "sample", "end"])
def test_a_meter_that_fails_gives_null_and_a_reason_and_the_others_go_on(call):
    bad, good = SteadyMeter("bad"), SteadyMeter("good")
    bad.fails = {call}
    with Recorder([bad, good], 0.01) as recorder:
        reading = recorder.measure_for(0.05)
        assert [energy.domain for energy in reading.energies] == ["bad_0", "bad_1", "good_0", "good_1"]
        for energy in reading.energies[:2]:
            assert energy.energy_j is None
            assert energy.reason == f"bad failed in {call}(): OSError: {call} broke"
            assert energy.begin_s <= energy.end_s
        assert all(energy.mean_w == pytest.approx(10) for energy in reading.energies[2:])
        bad.fails = set()
        assert recorder.measure_for(0.05).energies[0].energy_j is not None


def test_an_environment_that_fails_is_told_and_costs_no_energy(meter):
    meter.fails = {"environment"}
    with Recorder([meter], 0.01) as recorder:
        reading = recorder.measure_for(0.05)
    assert reading.environments[0][1] == {"steady": {"error": "OSError: environment broke"}}
    assert reading.energies[0].energy_j is not None


def test_a_stalled_sample_makes_the_missed_ones_late_and_does_not_bunch_them(meter):
    meter.sleeps_s = [0.0, 0.5]
    with Recorder([meter], 0.1) as recorder:
        reading = recorder.measure_for(0.8)
    assert reading.late_samples >= 3
    assert reading.sample_count <= 6
    times_s = [sample.time_s for sample in reading.samples[::2]]
    assert len(times_s) == reading.sample_count


def test_a_meter_that_hangs_is_a_timeout_and_not_a_hang(meter):
    meter.gate = {"end": threading.Event()}
    recorder = Recorder([meter], 0.01)
    recorder.open()
    with pytest.raises(TimeoutError, match="nobody closed"):
        recorder.result(0.01)
    recorder.close()
    with pytest.raises(TimeoutError, match="did not end"):
        recorder.result(0.05)
    meter.gate["end"].set()
    recorder.shutdown()


def test_shutdown_ends_an_open_window_and_can_be_repeated(meter):
    recorder = Recorder([meter], 0.01)
    recorder.open()
    recorder.shutdown()
    recorder.shutdown()
    assert recorder.finished.is_set()
    assert meter.calls[-2:] == ["end", "environment"]
    with pytest.raises(RuntimeError, match="shut down"):
        recorder.open()


def test_an_abandoned_window_makes_room_for_another(meter):
    with Recorder([meter], 0.01) as recorder:
        recorder.abandon()
        recorder.open()
        recorder.abandon()
        recorder.abandon()
        assert recorder.finished.is_set()
        assert recorder.measure_for(0.05).energies[0].energy_j == pytest.approx(0.5, rel=0.8)


def test_misuse_is_refused(meter):
    with pytest.raises(ValueError, match="sample_period_s is 0"):
        Recorder([meter], 0)
    with Recorder([meter], 0.1) as recorder, pytest.raises(RuntimeError, match="no window"):
        recorder.close()


def test_a_real_meter_runs_behind_the_recorder():
    meter = EstimateMeter(idle_w=10, watts_per_core=5, relative_uncertainty=0.5)
    with Recorder([meter], 0.05) as recorder:
        reading = recorder.measure_for(0.4)
    (energy,) = reading.energies
    assert energy.energy_j >= 10 * 0.4
    assert all(sample.power_w >= 10 for sample in reading.samples)
    assert len(reading.samples) >= 3
