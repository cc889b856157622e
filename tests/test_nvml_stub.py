"""The stub library against closed forms: what other tests take for the truth is true."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

import pytest

from meter_fixtures import STUBS, build_nvml_stub, run_python

INSTANT, AVERAGE = 186, 185
NOT_SUPPORTED, NO_PERMISSION, INVALID = 3, 4, 2


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return build_nvml_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def read(library, tmp_path):
    def read(script: str, **wanted):
        file = tmp_path / "nvml.txt"
        file.write_text(script + "\n")
        env = {"LD_LIBRARY_PATH": str(library), "NVML_STUB": str(file)}
        return run_python(STUBS / "nvml_reader.py", json.dumps(wanted), env=env)

    return read


@dataclass(frozen=True)
class Power:
    """Watts that hold from each time on, the first of them since ever; energies count from the first time."""

    times_s: list[float]
    watts: list[float]

    def energy_j(self, time_s: float) -> float:
        ends_s = [*self.times_s[1:], math.inf]
        spans = zip(self.times_s, ends_s, self.watts, strict=True)
        before_j = self.watts[0] * min(0.0, time_s - self.times_s[0])
        return before_j + sum(watts * (min(time_s, end) - begin) for begin, end, watts in spans if begin < time_s)

    def mean_w(self, end_s: float, length_s: float) -> float:
        if length_s == 0:
            return self.watts[max(0, bisect_right(self.times_s, end_s) - 1)]
        return (self.energy_j(end_s) - self.energy_j(end_s - length_s)) / length_s


def three_levels(epoch_s: float) -> tuple[str, Power]:
    """A script and what it says, again and again. No step falls on an update, where rounding would decide."""
    segments = [(0.0373, 100.0), (0.0211, 400.0), (0.0307, 250.0)] * 200
    times_s = [epoch_s + sum(seconds for seconds, _ in segments[:i]) for i in range(len(segments))]
    script = f"epoch {epoch_s!r}\nsegment 0.0373 100\nsegment 0.0211 400\nsegment 0.0307 250"
    return script, Power(times_s, [watts for _, watts in segments])


def update_before(poll, epoch_s: float, period_s: float) -> int | None:
    """Number of the last update before a poll; None where one may have come within it."""
    first, last = (math.floor((poll[edge] - epoch_s) / period_s) for edge in ("before_s", "after_s"))
    return first if first == last else None


def test_counter_and_power_are_those_of_the_last_update(read):
    epoch_s = time.monotonic()
    script, power = three_levels(epoch_s)
    polls = read(f"{script}\nperiod_ms 30\npower_period_ms 20", seconds=0.6, fields=[[INSTANT, 0]])["polls"]
    compared = 0
    for poll in polls:
        counted, sampled = update_before(poll, epoch_s, 0.03), update_before(poll, epoch_s, 0.02)
        if counted is not None:
            assert poll["counter_mj"] == pytest.approx(power.energy_j(epoch_s + counted * 0.03) * 1e3, abs=0.6)
        if sampled is not None and counted is not None:
            expected_mw = power.mean_w(epoch_s + sampled * 0.02, 0) * 1e3
            assert poll["fields"][0]["value"] == poll["usage_mw"] == pytest.approx(expected_mw)
            compared += 1
    assert compared > 50
    assert len({poll["usage_mw"] for poll in polls}) == 3


def test_a_part_time_sensor_sees_the_end_of_each_period(read):
    epoch_s = time.monotonic() - 0.1  # so that no sensor looks back to before it
    script, power = three_levels(epoch_s)
    script += "\nperiod_ms 30\npower_period_ms 50\nsee_ms 12\naverage_ms 70\ncounter_see_ms 8"
    polls = read(script, seconds=0.8, fields=[[INSTANT, 0], [AVERAGE, 0]])["polls"]
    compared = 0
    for poll in polls:
        counted, sampled = update_before(poll, epoch_s, 0.03), update_before(poll, epoch_s, 0.05)
        if counted is not None:
            seen_w = [power.mean_w(epoch_s + update * 0.03, 0.008) for update in range(1, counted + 1)]
            assert poll["counter_mj"] == pytest.approx(sum(seen_w) * 0.03 * 1e3, abs=0.6)
        if sampled is not None and counted is not None:
            instant, average = poll["fields"]
            assert instant["value"] == pytest.approx(power.mean_w(epoch_s + sampled * 0.05, 0.012) * 1e3, abs=0.6)
            assert average["value"] == pytest.approx(power.mean_w(epoch_s + sampled * 0.05, 0.070) * 1e3, abs=0.6)
            assert poll["usage_mw"] == average["value"]
            compared += 1
    assert compared > 50


def test_jitter_moves_updates_and_their_time_stamps_say_where_to(read):
    epoch_s = time.monotonic()
    script, power = three_levels(epoch_s)
    script += "\npower_period_ms 20\nperiod_ms 20\nsee_ms 10\njitter_ms 16"
    polls = read(script, seconds=1, fields=[[INSTANT, 0], [83, 0]])["polls"]
    wall_s = min(poll["wall_s"] for poll in polls)  # the least delayed pair of readings of the two clocks
    late_s = {}
    for before, poll in pairwise(polls):
        instant, energy = poll["fields"]
        update_s = instant["timestamp_us"] / 1e6 - wall_s
        number = round((update_s - epoch_s) / 0.02)
        if instant["timestamp_us"] != energy["timestamp_us"]:
            # Same updates: only one that came between the two readings, or the stamp's microsecond, tells them apart.
            assert abs(instant["timestamp_us"] - energy["timestamp_us"]) < 1e6 * (0.04 + 2 * 50e-6)
            continue
        late_s[number] = update_s - epoch_s - number * 0.02
        assert update_s <= poll["after_s"] + 50e-6
        assert instant["value"] == pytest.approx(power.mean_w(update_s, 0.01) * 1e3, abs=300e3 * 200e-6 / 0.01)
        if before["fields"][0]["value"] != instant["value"]:
            assert update_s >= before["before_s"] - 50e-6
    assert len(late_s) > 20
    assert max(map(abs, late_s.values())) <= 0.008 + 50e-6
    assert max(late_s.values()) > 0.004
    assert min(late_s.values()) < -0.004


def test_a_growing_load_file_is_followed_and_integrated_exactly(read, tmp_path):
    epoch_s = time.monotonic()
    load = tmp_path / "load"
    script = f"epoch {epoch_s!r}\nsegment 1 120\nload {load}\nperiod_ms 30\npower_period_ms 30\ngpus 2"
    answer = read(script, seconds=0.8, fields=[[INSTANT, 0]], append=str(load), gpu=1)
    pairs = [(epoch_s, 120.0), *answer["pairs"]]
    power = Power([time_s for time_s, _ in pairs], [watts for _, watts in pairs])
    assert len(pairs) > 10
    compared = 0
    for poll in answer["polls"]:
        update = update_before(poll, epoch_s + 0.01, 0.03)  # the second GPU's updates come a third of a period later
        if update is None:
            continue
        update_s = epoch_s + 0.01 + update * 0.03
        truth_j = power.energy_j(update_s) + 50 * (update_s - epoch_s)  # and it draws 50 W more
        assert poll["counter_mj"] == pytest.approx(truth_j * 1e3, abs=0.6)
        assert poll["fields"][0]["value"] == pytest.approx((power.mean_w(update_s, 0) + 50) * 1e3)
        compared += 1
    assert compared > 50


def test_each_scope_has_its_factor_or_is_not_supported(read):
    wanted = [[INSTANT, 0], [INSTANT, 1], [INSTANT, 2], [AVERAGE, 1], [INSTANT, 3]]
    (poll,) = read("scope 1 1.5\naverage_scale 0.5", fields=wanted)["polls"]
    assert [field.get("value") for field in poll["fields"]] == [300_000, 450_000, None, 225_000, None]
    assert poll["fields"][2] == {"code": NOT_SUPPORTED}
    (poll,) = read("scope 0 -1\nscope 2 0", fields=wanted)["polls"]
    assert [field.get("value") for field in poll["fields"]] == [None, None, 0, None, None]


def test_faults_of_single_fields_and_calls(read):
    wanted = [[INSTANT, 0], [AVERAGE, 0], [9999, 0]]
    (poll,) = read("zero_field 186\nno_field 185", fields=wanted)["polls"]
    assert poll["fields"][0]["value"] == 0
    assert poll["fields"][1:] == [{"code": NOT_SUPPORTED}] * 2
    names = {
        "counter": "counter_mj",
        "power": "usage_mw",
        "clocks": "clock_mhz",
        "reasons": "reasons",
        "processes": "compute",
    }
    for number, (name, key) in enumerate(names.items()):
        code = (NO_PERMISSION, 15, 999)[number % 3]
        (poll,) = read(f"error {name} {code}\nerror fields 4", fields=wanted)["polls"]
        assert poll[key] == {"code": code}
        assert poll["fields"] == [{"code": NO_PERMISSION}] * 3
        assert all(not isinstance(poll[other], dict) for other in names.values() if other != key)


@pytest.mark.parametrize(("begin", "end", "certain"), [(-10, 0.8, False), (-10, 1000, True), (500, 1000, False)])
def test_what_happens_in_a_spell_is_seen_in_it_only(read, begin, end, certain):
    begin_s, end_s = time.monotonic() + begin, time.monotonic() + end
    spell = f"{begin_s!r} {end_s!r}"
    script = [f"pid_between {spell} 4242", f"reasons_between {spell} 0x44", f"clock_between {spell} 900"]
    script += ["pid 17", "graphics_pid 18", "mps_pid 19", "reasons 1", f"epoch {begin_s!r}", "temperature 600 2"]
    polls = read("\n".join(script), until_s=time.monotonic() + (end if end < 1 else 0) + 0.2)["polls"]
    seen = set()
    for poll in polls:
        within = {begin_s <= poll[edge] < end_s for edge in ("before_s", "after_s")}
        if len(within) == 2:
            continue
        seen |= within
        alone = within == {False}
        assert poll["compute"] == ([17] if alone else [17, 4242])
        assert poll["reasons"] == (1 if alone else 0x45)
        assert poll["clock_mhz"] == (1755 if alone else 900)
        assert (poll["graphics"], poll["mps"]) == ([18], [19])
        low_c, high_c = (math.floor(max(0, 600 + 2 * (poll[edge] - begin_s))) for edge in ("before_s", "after_s"))
        assert low_c <= poll["temperature_c"] <= high_c
    assert certain in seen


def test_power_limits_are_checked_enforced_and_live_in_their_file(read, tmp_path):
    script = f"gpus 2\nlimits 150 500 450\nenforced_max 420\nlimit_file {tmp_path / 'limits'}"
    answer = read(script, set_limits_w=[149.999, 500.001, 430], gpu=1)
    assert answer["tried"] == [{"code": INVALID}, {"code": INVALID}, None]
    assert answer["limits"] == {
        "constraints_mw": [150_000, 500_000],
        "default_mw": 450_000,
        "requested_mw": 430_000,
        "enforced_mw": 420_000,
    }
    # Another process finds what this one set, and the other GPU as it was.
    (poll,) = (later := read(script, gpu=1, fields=[[field, 0] for field in (187, 188, 189, 190, 192)]))["polls"]
    assert later["limits"]["requested_mw"] == 430_000
    assert [field["value"] for field in poll["fields"]] == [150_000, 500_000, 450_000, 420_000, 430_000]
    assert read(script)["limits"]["requested_mw"] == 450_000
    refused = read(f"{script}\nno_permission 1", set_limits_w=[300], gpu=1)
    assert refused["tried"] == [{"code": NO_PERMISSION}]
    assert refused["limits"]["requested_mw"] == 430_000
    assert read(f"{script}\nerror set_limit 16", set_limits_w=[300])["tried"] == [{"code": 16}]
    # Without a file the limit lives as long as its process.
    assert read("", set_limits_w=[300])["limits"]["requested_mw"] == 300_000
    assert read("")["limits"]["requested_mw"] == 400_000


def test_a_board_says_who_it_is(read):
    identity = read("gpus 3\ncompute_mode 3\ntemperature 61 0", gpu=2)["identity"]
    assert identity["uuid"].startswith("GPU-3")
    assert identity["index"] == 2
    assert identity["no_such_uuid"] == {"code": 6}
    assert identity["bus_id"] == "00000000:12:00.0"
    assert (identity["architecture"], identity["compute_mode"], identity["temperature_v"]) == (9, 3, 61)
    assert identity["memory_bytes"] == 80 * 2**30
    assert read("no_counter 1")["identity"]["architecture"] == 4


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("perod_ms 3", "unknown key: perod_ms"),
        ("error counters 3", "unknown call: counters 3"),
        ("period_ms 20\njitter_ms 20", "jitter_ms: not less than the update period"),
        ("pid_between 1 2", "not T0 T1 VALUE: 1 2"),
    ],
)
def test_a_script_that_makes_no_sense_is_refused_aloud(library, tmp_path, script, complaint):
    file = tmp_path / "nvml.txt"
    file.write_text(script + "\n")
    env = os.environ | {"LD_LIBRARY_PATH": str(library), "NVML_STUB": str(file)}
    command = [sys.executable, "-c", "import pynvml; pynvml.nvmlInit()"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert complaint in done.stderr
