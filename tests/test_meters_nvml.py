"""The real bindings over a stub library: what is checked is the whole way from the counter to the energy.

The truth in joules is the integral of the power in the stub's script between the edges that the meter states.
"""

from __future__ import annotations

import ctypes
import math
import os
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_energy.meters.base import MeterUnavailable
from ipa_energy.meters.nvml_channel import Channel, Edge
from ipa_energy.meters.nvml_coverage import known_coverage
from ipa_energy.meters.nvml_energy import counter_energy
from ipa_energy.meters.nvml_power import PowerFields
from ipa_energy.meters.nvml_updates import ChangeWatch, Tick, Updates, update_period
from ipa_energy.meters.visible_devices import visible_gpus
from meter_fixtures import STUBS, build_nvml_stub, run_python

GAIN = 0.05 / math.sqrt(3)
OFFSET_W = 5 / math.sqrt(3)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return build_nvml_stub(tmp_path_factory.mktemp("nvml"))


def run_all(library, folder, runs):
    """Drive the stub with each of ``runs`` (script, arguments..., environment), at once: they mostly sleep."""

    def run(number: int, script: str, *arguments: object):
        file = folder / f"nvml-{number}.txt"
        file.write_text(f"period_ms 20\npower_period_ms 20\n{script}\n")  # quick, where a test says nothing else
        env = {"LD_LIBRARY_PATH": str(library), "NVML_STUB": str(file)}
        for argument in arguments:
            env |= argument if isinstance(argument, dict) else {}
        words = [argument for argument in arguments if not isinstance(argument, dict)]
        return run_python(STUBS / "nvml_driver.py", *words, env=env)

    with ThreadPoolExecutor(max(1, len(runs))) as pool:
        return list(pool.map(lambda numbered: run(numbered[0], *numbered[1]), enumerate(runs)))


@pytest.fixture
def drive_all(library, tmp_path):
    return lambda *runs: run_all(library, tmp_path, runs)


@pytest.fixture
def drive(drive_all):
    return lambda script="", *arguments, **env: drive_all((script, *arguments, env))[0]


WITHOUT_INSTANT = [
    ("zero_field 186\naverage_scale 0.5", 150, "field 185", "answers success with 0 W"),
    ("no_field 186\nno_field 185", 300, "nvmlDeviceGetPowerUsage", "Not Supported"),
    ("error fields 4", 300, "nvmlDeviceGetPowerUsage", "Insufficient Permissions"),
]


@pytest.fixture(scope="module")
def long_runs(library, tmp_path_factory):
    """Windows long enough for a 1 s average: with a step at the begin (two runs), and with fields missing."""
    folder = tmp_path_factory.mktemp("long")
    loads = [folder / "load0", folder / "load1"]
    for load in loads:
        load.write_bytes(struct.pack("<2d", time.monotonic(), 100))
    script = f"period_ms 100\npower_period_ms 100\naverage_ms 1000\nepoch {time.monotonic()}\nload"
    window = ("--windows", 1, "--window-s", 2.5)
    runs = [
        *(
            (f"{script} {load}{absent}", *window, "--step", load, "--step-w", 400)
            for load, absent in zip(loads, ("", "\nno_counter 1\nno_field 186"), strict=True)
        ),
        *((script, *window, "--sample-s", 0.05) for script, *_ in WITHOUT_INSTANT),
    ]
    answers = run_all(library, folder, runs)
    (_, _), (stepped_s, _) = struct.iter_unpack("<2d", loads[0].read_bytes())
    return {"step": answers[0], "stepped_s": stepped_s, "average_only": answers[1], "without_instant": answers[2:]}


@dataclass(frozen=True)
class Load:
    """A power that follows (seconds, watts) again and again from ``epoch_s`` on."""

    segments: tuple[tuple[float, float], ...]
    epoch_s: float

    @property
    def script(self) -> str:
        return "\n".join([f"epoch {self.epoch_s}", *(f"segment {s} {w}" for s, w in self.segments)])

    def joules(self, energy) -> float:
        return self._until(energy["end_s"]) - self._until(energy["begin_s"])

    def _until(self, time_s: float) -> float:
        cycles, left_s = divmod(time_s - self.epoch_s, sum(s for s, _ in self.segments))
        joules = cycles * sum(s * w for s, w in self.segments)
        for length_s, watts in self.segments:
            joules += watts * min(max(left_s, 0), length_s)
            left_s -= length_s
        return joules


def energies(answer, window=0):
    return answer["windows"][window]["energies"]


def length_s(energy) -> float:
    return energy["end_s"] - energy["begin_s"]


def mean_w(energy) -> float:
    return energy["energy_j"] / length_s(energy)


def edge_bound_s(energy) -> float:
    """Most that both edges together can be off, from what the meter says: two intervals, each half its width off."""
    return energy["uncertainty"]["edges"] / mean_w(energy) * math.sqrt(12 / 2)


def flags(energy) -> list[str]:
    return [doubt["flag"] for doubt in energy["doubts"]]


def gpu(answer):
    return answer["provenance"]["gpus"]["gpu_0"]


ALTERNATING = ((0.31, 100.0), (0.23, 400.0))


def test_counter_energy_is_as_near_the_truth_as_its_edges_are_known(drive_all):
    load = Load(ALTERNATING, time.monotonic())
    cases = [(100, 0, 0.005), (100, 20, 0.005), (500, 0, 0.01), (500, 100, 0.01)]
    answers = drive_all(
        *(
            (
                f"{load.script}\nperiod_ms {period}\npower_period_ms {100 + jitter}\njitter_ms {jitter}",
                *("--windows", 1, "--window-s", 1),
            )
            for period, jitter, _ in cases
        )
    )
    for (period, jitter, tolerance), answer in zip(cases, answers, strict=True):
        updates = gpu(answer)["counter_updates"]
        assert updates["period_s"] == answer["domains"][0]["period_s"]
        assert updates["period_s"] == pytest.approx(period / 1e3, rel=0.1 + jitter / period)
        # 1.5 s of detection see that many updates: more at 100 ms, and at 500 ms three at most.
        assert updates["ticks"] in (range(2, 5) if period == 500 else range(6, 13))
        (energy,) = energies(answer)
        truth_j = load.joules(energy)
        assert length_s(energy) > 0.95
        off_j = abs(energy["energy_j"] - truth_j)
        assert off_j <= max(tolerance * truth_j, 400 * edge_bound_s(energy))
        # On a host too busy to catch a tick well the error may be larger, but then the figure says so.
        assert off_j <= tolerance * truth_j or "edge_off_tick" in flags(energy)
        # The instant power is seen one update late at most, at each step of 300 W and at each edge.
        instant_j = energy["checks"][0]["energy_j"]
        assert instant_j == pytest.approx(truth_j, abs=4 * 0.25 * 300)
        assert energy["uncertainty"]["disagreement"] == pytest.approx(
            abs(energy["energy_j"] - instant_j) / math.sqrt(3)
        )
        assert energy["uncertainty"]["gain"] == pytest.approx(GAIN * energy["energy_j"])
        assert energy["uncertainty"]["offset"] == pytest.approx(OFFSET_W * length_s(energy))
        assert energy["uncertainty"]["edges"] >= mean_w(energy) * (updates["jitter_s"] or 0)


def test_edges_lie_on_whole_updates_of_the_counter(drive):
    answer = drive("segment 1 300\nperiod_ms 50\npower_period_ms 50", "--windows", 2, "--window-s", 0.2)
    for window in range(2):
        (energy,) = energies(answer, window)
        steps = energy["energy_j"] / 15
        assert steps == pytest.approx(round(steps), abs=1e-6)
        instant, average = energy["checks"]
        assert instant["method"] == "sample-and-hold integral of NVML_FI_DEV_POWER_INSTANT (field 186, GPU scope)"
        assert instant["energy_j"] == pytest.approx(300 * length_s(energy), rel=1e-6)
        assert "field 185" in average["method"]
        assert average["energy_j"] is None
        assert "too short for a reading that may be a 1 s average" in average["reason"]


def test_a_busy_host_widens_the_uncertainty_and_is_told(drive):
    load = Load(ALTERNATING, time.monotonic())
    script = f"{load.script}\nperiod_ms 50\npower_period_ms 50"
    answer = drive(script, "--windows", 1, "--window-s", 0.6, "--stall-s", 0.04)
    (energy,) = energies(answer)
    assert abs(energy["energy_j"] - load.joules(energy)) <= 400 * edge_bound_s(energy)
    assert edge_bound_s(energy) > 0.03
    assert "edge_off_tick" in flags(energy)
    assert "the tick is known to" in energy["reason"]


def test_a_step_at_the_begin_reaches_neither_an_averaged_check_nor_an_averaged_figure(long_runs):
    (energy,) = energies(long_runs["step"])
    stepped_s = long_runs["stepped_s"]
    truth_j = 100 * (stepped_s - energy["begin_s"]) + 400 * (energy["end_s"] - stepped_s)
    assert energy["energy_j"] == pytest.approx(truth_j, abs=400 * edge_bound_s(energy) + 0.005 * truth_j)
    average = energy["checks"][1]
    assert "field 185" in average["method"]
    # The first 1.2 s are left out: the rest shows the new power alone.
    assert average["window_s"] < length_s(energy) - 1.19
    assert average["energy_j"] == pytest.approx(400 * average["window_s"], rel=0.01)
    (energy,) = energies(long_runs["average_only"])
    assert 1 <= length_s(energy) <= 1.5
    assert energy["energy_j"] == pytest.approx(400 * length_s(energy), rel=0.01)
    assert "field 185, 1 s average" in long_runs["average_only"]["domains"][0]["method"]


def test_a_window_too_short_for_the_only_power_there_is_has_no_figure(drive):
    (energy,) = energies(drive("no_counter 1\nno_field 186", "--windows", 1))
    assert energy["energy_j"] is None
    assert "too short" in energy["reason"]


@pytest.mark.parametrize(
    ("period_s", "ticks", "irregular"),
    [
        (0.1, [0.0, 0.1, 0.2, 0.3, 0.4], False),
        (0.1, [0.0, 0.12, 0.2, 0.31, 0.4], False),
        (0.1, [0.0, 0.1, 0.2, 0.23, 0.33, 0.46], True),
        (0.5, [0.0, 0.5], False),
    ],
)
def test_the_period_of_a_counter_is_the_median_gap_and_its_spread_is_judged(period_s, ticks, irregular):
    found = update_period([Tick(t, 0.001) for t in ticks], "changes of the counter")
    assert found.period_s == pytest.approx(period_s)
    assert found.irregular is irregular
    assert found.ticks == len(ticks)
    assert (found.jitter_s is None) == (len(ticks) == 2)


@given(st.floats(0.02, 0.5), st.lists(st.floats(0.001, 0.8), min_size=20, max_size=60))
def test_slow_polls_never_make_a_regular_counter_look_irregular(period_s, polls_s):
    watch, now_s = ChangeWatch(), 0.0
    for poll_s in polls_s:
        watch.see(math.floor(now_s / period_s), now_s, now_s)
        now_s += poll_s
    assert not update_period(watch.ticks, "").irregular


@given(st.floats(0.02, 0.5), st.lists(st.floats(0.0005, 0.009), min_size=10, max_size=50))
def test_the_period_is_found_to_within_the_polls(period_s, polls_s):
    watch, now_s = ChangeWatch(), 0.0
    while now_s < 4 * period_s:
        for poll_s in polls_s:
            watch.see(math.floor(now_s / period_s), now_s, now_s)
            now_s += poll_s
    assert update_period(watch.ticks, "").period_s == pytest.approx(period_s, abs=0.009)


@given(
    st.floats(0.01, 0.5), st.lists(st.integers(1, 4), min_size=4, max_size=12).filter(lambda gaps: gaps.count(1) > 1)
)
def test_values_that_repeat_do_not_lengthen_the_period(period_s, gaps):
    ticks = [Tick(0.0, 0.001)]
    for count in gaps:
        ticks.append(Tick(ticks[-1].time_s + count * period_s, 0.001))
    assert update_period(ticks, "", values_repeat=True).period_s == pytest.approx(period_s)


def test_few_or_disagreeing_changes_of_a_value_prove_no_period():
    assert update_period([Tick(t, 0.001) for t in (0.0, 0.1, 0.2)], "", values_repeat=True).period_s is None
    ticks = [Tick(t, 0.001) for t in (0.0, 0.1, 0.255, 0.415, 0.58)]
    assert update_period(ticks, "", values_repeat=True).period_s is None
    assert update_period([], "").period_s is None


def test_periods_of_power_fields_rest_on_stamps_else_on_changes_else_are_unknown(drive_all):
    wave = "\n".join(f"segment 0.04 {watts}" for watts in (100, 200, 300, 400, 250))
    stamped, changing, constant = drive_all(
        ("segment 1 300\npower_period_ms 40",),
        (f"{wave}\npower_period_ms 40\nstamp_calls 1",),
        ("segment 1 300\npower_period_ms 40\nstamp_calls 1",),
    )
    for answer, basis in ((stamped, "the driver's time stamps"), (changing, "changes of the value")):
        for field in gpu(answer)["power_fields"].values():
            assert field["basis"] == basis
            assert field["period_s"] == pytest.approx(0.04, rel=0.15)
            assert field["ticks"] >= 4
    assert {field["period_s"] for field in gpu(constant)["power_fields"].values()} == {None}


def watched(**known) -> Channel:
    """A GPU of 300 W over 10 s as the meter sees it, with ``known`` put in its place."""
    regular = Updates(0.1, 11, 0.0005, False, 0.0011, "changes of the counter")
    usual = {
        "updates": regular,
        "begin": Edge(100, 0, 0.001),
        "end": Edge(110, 3_000_000, 0.001),
        "asked_s": (100, 110),
    }
    return Channel(SimpleNamespace(name="Stub"), "gpu_0", PowerFields((), None, {}), None, **(usual | known))


@pytest.mark.parametrize(
    ("known", "flag", "detail"),
    [
        ({"updates": Updates(0.1, 11, 0.04, True, 0.0011, "")}, "irregular_updates", "more than ±25%"),
        ({"updates": Updates(None, 1, None, False, None, "")}, "irregular_updates", "from 1 ticks"),
        ({"end": Edge(110, 3_000_000, 0.12)}, "edge_off_tick", "end: the tick is known to 120 ms only"),
        ({"off_tick": {"begin": "no tick"}, "asked_s": (99.5, 110)}, "edge_off_tick", "begin: no tick"),
        ({"end": Edge(110, 3_000_000, 0.09)}, None, None),  # less than 0.5 % off
        ({}, None, None),
    ],
)
def test_what_is_odd_about_the_ticks_is_a_doubt_beside_the_figure(known, flag, detail):
    energy = counter_energy(watched(**known))
    assert energy.energy_j == 3000
    assert [doubt.flag for doubt in energy.doubts] == ([flag] if flag else [])
    assert detail is None or detail in energy.doubts[0].detail
    assert energy.uncertainty["gain"] == pytest.approx(GAIN * 3000)
    assert energy.uncertainty["offset"] == pytest.approx(OFFSET_W * 10)


def test_ticks_that_span_too_little_of_the_window_give_no_figure():
    energy = counter_energy(watched(off_tick={"end": "no tick"}, asked_s=(99, 111)))
    assert energy.energy_j is None
    assert "stood still for 2.00 s of the window of 12.000 s" in energy.reason


def test_without_a_counter_the_integral_is_the_figure_and_the_method_says_why(drive_all):
    none, forbidden, still = drive_all(
        ("no_counter 1\nsegment 1 250", "--windows", 1),
        ("error counter 4\nsegment 1 250", "--windows", 1),
        (f"period_ms 60000\nepoch {time.monotonic() - 30}\nsegment 1 250", "--windows", 1),
    )
    for answer, why in (
        (none, "this GPU has no energy counter (Not Supported)"),
        (forbidden, "the energy counter can't be read (Insufficient Permissions)"),
        (still, "stood still at"),
    ):
        (domain,) = answer["domains"]
        assert domain["method"].startswith(
            "sample-and-hold integral of NVML_FI_DEV_POWER_INSTANT (field 186, GPU scope);"
        )
        assert why in domain["method"]
        assert domain["period_s"] == pytest.approx(0.02, rel=0.2)
        assert why in gpu(answer)["counter_fault"]
        (energy,) = energies(answer)
        assert energy["energy_j"] == pytest.approx(250 * length_s(energy), rel=1e-6)
        uncertainty = energy["uncertainty"]
        assert uncertainty["gain"] == pytest.approx(GAIN * energy["energy_j"])
        assert uncertainty["offset"] == pytest.approx(OFFSET_W * length_s(energy))
        assert uncertainty["edges"] == pytest.approx(250 * domain["period_s"] * math.sqrt(2 / 12))
        assert uncertainty["sampling"] == 0
        (average,) = energy["checks"]
        assert average["energy_j"] is None
        assert "too short" in average["reason"]


def test_sampling_counts_updates_and_not_polls(drive):
    load = Load(((0.05, 100.0), (0.05, 300.0)), time.monotonic() - 0.025)  # every update finds the other power
    script = f"{load.script}\nno_counter 1\npower_period_ms 50"
    answer = drive(script, "--windows", 1, "--window-s", 0.6, "--sample-s", 0.005)
    (energy,) = energies(answer)
    updates = length_s(energy) / 0.05
    expected_j = 100 / math.sqrt(updates) * length_s(energy)
    assert answer["windows"][0]["samples"] > 2 * updates
    assert energy["uncertainty"]["sampling"] == pytest.approx(expected_j, rel=0.25)
    # One update at each end is in doubt, at most the difference of the two powers.
    assert energy["energy_j"] == pytest.approx(load.joules(energy), abs=2 * 0.06 * 200)


def test_fields_answer_in_the_scope_of_the_gpu_else_of_its_module(drive_all):
    board, superchip, integral, memory = drive_all(
        ("scope 0 -1\nscope 1 1.5", "--windows", 1),
        ("scope 0 -1\nscope 1 1.5\nnames GH200_480GB", "--windows", 1),
        ("scope 0 -1\nscope 1 1.5\nno_counter 1", "--windows", 1),
        ("scope 2 0.25", "--windows", 1),
    )
    (energy,) = energies(board)
    instant = energy["checks"][0]
    assert "field 186, module scope: the whole module" in instant["method"]
    assert instant["energy_j"] == pytest.approx(450 * length_s(energy), rel=1e-6)
    assert energy["uncertainty"]["disagreement"] == pytest.approx(150 * length_s(energy) / math.sqrt(3), rel=0.1)
    (energy,) = energies(superchip)
    assert energy["checks"][0]["energy_j"] is None
    assert "not comparable" in energy["checks"][0]["reason"]
    assert "disagreement" not in energy["uncertainty"]
    (energy,) = energies(integral)
    assert energy["energy_j"] == pytest.approx(450 * length_s(energy), rel=1e-6)
    assert "whole module" in integral["domains"][0]["boundary"]
    assert "GPU scope" in " ".join(gpu(integral)["refused_power_fields"])
    (energy,) = energies(memory)
    assert energy["checks"][0]["energy_j"] == pytest.approx(300 * length_s(energy), rel=1e-6)
    assert memory["environment"]["gpu_0"]["memory_power_w"] == 75
    assert "memory scope" in gpu(memory)["memory_power_field"]
    assert "memory_power_w" not in board["environment"]["gpu_0"]


def test_the_best_supported_power_reading_is_the_first_check_and_is_named(long_runs):
    for (_, watts, source, why), answer in zip(WITHOUT_INSTANT, long_runs["without_instant"], strict=True):
        (energy,) = energies(answer)
        (check,) = energy["checks"]
        assert source in check["method"]
        assert check["energy_j"] == pytest.approx(watts * check["window_s"], rel=1e-6)
        assert answer["windows"][0]["samples"] > 0
        assert why in gpu(answer)["refused_power_fields"]["NVML_FI_DEV_POWER_INSTANT (field 186, GPU scope)"]
        # The second figure is turned into the same window before it is compared.
        disagreement_j = abs(energy["energy_j"] - watts * length_s(energy)) / math.sqrt(3)
        assert energy["uncertainty"]["disagreement"] == pytest.approx(disagreement_j, abs=1e-6)


def test_without_any_power_reading_there_is_no_check(drive):
    answer = drive("no_field 186\nno_field 185\nno_power 1", "--windows", 1, "--window-s", 0.2)
    (energy,) = energies(answer)
    assert energy["energy_j"] > 0
    assert energy["checks"] == []
    assert "disagreement" not in energy["uncertainty"]
    assert answer["windows"][0]["samples"] == 0


def test_a_field_that_fails_in_the_window_spoils_its_own_figure_only(drive_all, tmp_path):
    instant, average, figure = drive_all(
        *(
            (
                f"lost_field {field} {tmp_path / name}\n{more}",
                *("--windows", 2, "--window-s", 0.2, "--touch", tmp_path / name),
            )
            for field, name, more in ((186, "a", ""), (185, "b", ""), (186, "c", "no_counter 1"))
        )
    )
    for answer, lost in ((instant, 0), (average, 1)):
        (energy,) = energies(answer)
        assert energy["energy_j"] == pytest.approx(300 * length_s(energy), abs=300 * edge_bound_s(energy))
        assert energy["checks"][lost]["energy_j"] is None
        assert "failed within the window: GPU is lost" in energy["checks"][lost]["reason"]
        (doubt,) = [doubt for doubt in energy["doubts"] if doubt["flag"] == "check_lost"]
        assert f"field {186 - lost}" in doubt["detail"]
    assert energies(average)[0]["checks"][0]["energy_j"] > 0
    (energy,) = energies(figure)
    assert energy["energy_j"] is None
    assert "field 186" in energy["reason"]
    assert "check_lost" not in flags(energy)


def test_visible_gpus_are_measured_in_cudas_order_with_their_own_edges(drive):
    answer = drive("gpus 3", "--windows", 1, CUDA_VISIBLE_DEVICES="GPU-3,0")
    assert [domain["name"] for domain in answer["domains"]] == ["gpu_0", "gpu_1"]
    assert [gpu["nvml_index"] for gpu in answer["provenance"]["gpus"].values()] == [2, 0]
    third, first = energies(answer)
    for energy, watts in ((third, 400), (first, 300)):
        assert energy["energy_j"] == pytest.approx(watts * length_s(energy), abs=watts * edge_bound_s(energy))
    assert third["begin_s"] != first["begin_s"]


def test_all_gpus_of_the_host_can_be_asked_for(drive):
    answer = drive("gpus 3\nnames A B A", "--windows", 1, "--window-s", 0.2, "--all-gpus", CUDA_VISIBLE_DEVICES="")
    assert [gpu["nvml_index"] for gpu in answer["provenance"]["gpus"].values()] == [0, 1, 2]
    for energy, watts in zip(energies(answer), (300, 350, 400), strict=True):
        assert energy["energy_j"] == pytest.approx(watts * length_s(energy), abs=watts * edge_bound_s(energy))


def test_a_gpu_that_nobody_asked_for_may_be_sliced_or_broken(drive):
    script = "gpus 3\nmig_gpu 0\nno_gpu 1"
    answer = drive(script, CUDA_VISIBLE_DEVICES="GPU-3")
    assert gpu(answer)["nvml_index"] == 2
    assert "MIG enabled" in drive(script, CUDA_VISIBLE_DEVICES="GPU-1")["unavailable"]
    by_number = drive(script, CUDA_VISIBLE_DEVICES="2")["unavailable"]
    assert "GPU 1 can't be opened: GPU is lost" in by_number
    assert "UUIDs" in by_number


def test_a_gpu_lost_within_the_window_gives_null_and_a_reason(drive_all, tmp_path):
    answers = drive_all(
        *(
            (f"lost {tmp_path / name}\n{more}", "--windows", 2, "--touch", tmp_path / name)
            for name, more in (("a", ""), ("b", "no_counter 1"))
        )
    )
    for answer in answers:
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
    assert good["energy_j"] == pytest.approx(300 * length_s(good), abs=300 * edge_bound_s(good))


def test_a_counter_that_stops_within_the_window_has_no_figure_for_it(drive, tmp_path):
    answer = drive(f"frozen {tmp_path / 'frozen'}", "--windows", 2, "--touch", tmp_path / "frozen")
    (stopped,), (still,) = energies(answer, 0), energies(answer, 1)
    for energy, reason in ((stopped, "stood still for 0."), (still, "stood still for the whole window")):
        assert energy["energy_j"] is None
        assert reason in energy["reason"]
        assert "edge_off_tick" in flags(energy)
        assert energy["checks"][0]["energy_j"] == pytest.approx(300 * length_s(energy), rel=1e-6)


def test_a_counter_that_starts_late_is_measured_from_its_first_change_and_flagged(drive, tmp_path):
    frozen = tmp_path / "frozen"
    load = Load(ALTERNATING, time.monotonic())
    script = f"{load.script}\nfrozen {frozen}"
    answer = drive(script, "--windows", 2, "--window-s", 0.6, "--touch", frozen, "--remove", frozen)
    (energy,) = energies(answer, 1)
    assert "begin: no tick" in energy["reason"]
    assert "edge_off_tick" in flags(energy)
    assert energy["energy_j"] == pytest.approx(load.joules(energy), abs=400 * edge_bound_s(energy))
    assert energy["uncertainty"]["edges"] >= mean_w(energy) * 0.015 / math.sqrt(12)  # samples are 20 ms apart


def test_environment_names_processes_and_event_reasons(drive):
    answer = drive(f"pid {os.getpid()}\npid 4194304\ngraphics_pid 4194305\nmps_pid 4194306\nreasons 0x8024")
    reading = answer["environment"]["gpu_0"]
    assert (reading["temperature_c"], reading["sm_clock_mhz"], reading["memory_clock_mhz"]) == (55, 1755, 0)
    assert reading["power_state"] == "P0"
    assert reading["event_reasons"] == ["sw_power_cap", "sw_thermal_slowdown", "bit_15"]
    mine, alien = reading["compute_processes"]
    assert mine["pid"] == os.getpid()
    assert mine["name"]
    assert alien | {"memory_bytes": None} == {
        "pid": 4194304,
        "name": None,
        "memory_bytes": None,
    }  # beyond the kernel's largest pid
    assert [process["pid"] for process in reading["graphics_processes"]] == [4194305]
    assert [process["pid"] for process in reading["mps_processes"]] == [4194306]


def test_one_failing_reading_is_null_and_the_provenance_says_why(drive_all):
    one, all_of_them = drive_all(("error temperature 4",), ("no_environment 1",))
    reading = one["environment"]["gpu_0"]
    assert reading["temperature_c"] is None
    assert reading["sm_clock_mhz"] == 1755
    assert gpu(one)["failed_readings"] == {"temperature_c": "Insufficient Permissions"}
    assert set(all_of_them["environment"]["gpu_0"].values()) == {None}
    assert set(gpu(all_of_them)["failed_readings"]) == set(all_of_them["environment"]["gpu_0"])


def test_provenance_identifies_board_and_driver(drive):
    answer = drive("names A100-SXM4-40GB")
    provenance, found = answer["provenance"], gpu(answer)
    assert provenance["driver"] == "999.1"
    assert provenance["nvml"] == "13.999.1"
    assert provenance["nvidia_ml_py"]
    assert found["uuid"].startswith("GPU-1")
    assert (found["power_limit_enforced_w"], found["power_limit_requested_w"]) == (350.0, 400.0)
    assert found["persistence_mode"] is True
    assert found["compute_mode"] == "default"
    assert found["energy_counter"] is True
    assert found["known_coverage"]["window_ms"] == 25


@pytest.mark.parametrize(
    ("board", "window_ms"),
    [
        ("NVIDIA A100 80GB PCIe", 25),
        ("NVIDIA H100 PCIe", 25),
        ("NVIDIA GH200 480GB", 20),
        ("Tesla V100-SXM2-16GB", 10),
        ("Quadro RTX 8000", 20),
        ("NVIDIA H100 80GB HBM3", None),  # not in the study
        ("NVIDIA RTX A6000", None),
        ("NVIDIA A10", None),
    ],
)
def test_published_coverage_is_told_of_boards_that_were_studied_only(board, window_ms):
    coverage = known_coverage(board)
    assert (coverage and coverage["window_ms"]) == window_ms


@pytest.mark.parametrize(
    ("script", "visible", "reason"),
    [
        ("mig 1", "0", "MIG enabled"),
        ("scope 0 -1\nscope 1 1\nno_counter 1\nnames GH200_480GB", "0", "power of its whole module only"),
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


def distribution(folder, version: str) -> str:
    """A pynvml distribution's metadata in ``folder``; gives the search path on which it comes first."""
    info = folder / f"pynvml-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pynvml\nVersion: {version}\n")
    (info / "top_level.txt").write_text("pynvml\n")
    return os.pathsep.join([str(STUBS.parent), str(folder)])


def test_the_deprecated_pynvml_package_that_shadows_the_bindings_is_refused(tmp_path):
    (tmp_path / "pynvml").mkdir()
    (tmp_path / "pynvml" / "__init__.py").write_text("")
    path = distribution(tmp_path, "11.5.0")
    reason = run_python(STUBS / "nvml_driver.py", env={"PYTHONPATH": path})["unavailable"]
    assert "pynvml 11.5.0" in reason
    assert "pip uninstall -y pynvml" in reason


def test_the_deprecated_shell_is_named_and_its_warning_is_not_shown(drive, tmp_path):
    # Version 13 warns from a finder that a .pth file of its installs at the start of the interpreter.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, warnings\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'pynvml':\n"
        "            warnings.warn('The pynvml package is deprecated.', FutureWarning, stacklevel=2)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    path = distribution(tmp_path, "13.0.1")
    plain = subprocess.run(
        [sys.executable, "-c", "import pynvml"], env=os.environ | {"PYTHONPATH": path}, capture_output=True, check=True
    )
    assert b"FutureWarning" in plain.stderr
    provenance = drive(PYTHONPATH=path)["provenance"]  # whose stderr is empty, see run_python
    assert "deprecated distribution pynvml 13.0.1" in provenance["bindings_note"]
    assert "pip uninstall pynvml" in provenance["bindings_note"]


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
