"""Whether sensor and load keep step, and what the readings around a window come to."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_energy import environment
from ipa_energy.aliasing import phase_locking, window_locking


@given(st.floats(0.02, 0.5), st.floats(0, 1), st.integers(1, 4))
def test_updates_at_a_multiple_of_the_cycle_are_locked_whatever_the_phase(cycle_s, phase, multiple):
    begins_s = np.arange(400) * cycle_s
    updates_s = (np.arange(60) * multiple + phase * 0.999) * cycle_s + cycle_s
    assert phase_locking(updates_s, begins_s) == pytest.approx(1.0, abs=1e-6)


def test_updates_that_wander_through_the_cycle_are_not_locked():
    begins_s = np.arange(0, 40, 0.073)
    assert phase_locking(np.arange(1, 31, 0.1), begins_s) < 0.05


def test_a_cycle_just_off_the_period_is_locked_for_as_long_as_it_takes_to_drift_apart():
    updates_s = np.arange(1, 6, 0.1)
    nearly = phase_locking(updates_s, np.arange(0, 10, 0.1002))
    apart = phase_locking(updates_s, np.arange(0, 10, 0.102))
    # Mean resultant of phases that sweep the share x of a cycle evenly: |sin(pi x) / (pi x)|.
    assert nearly == pytest.approx(math.sin(math.pi * 0.1) / (math.pi * 0.1), abs=0.01)
    assert apart < 0.15


@given(st.integers(0, 2**32 - 1))
def test_random_arrivals_keep_no_step(seed):
    rng = np.random.default_rng(seed)
    begins_s = np.cumsum(rng.exponential(0.1, 800))
    assert phase_locking(np.arange(1, 31, 0.1), begins_s) < 0.35  # exp(-300 * 0.35**2) is 1e-16


def test_cycles_shorter_than_any_sensors_view_and_few_updates_say_nothing():
    assert phase_locking(np.arange(0, 10, 0.1), np.arange(0, 10, 0.005)) is None
    assert phase_locking(np.arange(0, 0.9, 0.1), np.arange(0, 10, 0.1)) is None
    assert phase_locking([1.0, 2.0], [1.0]) is None


@pytest.mark.parametrize("updates_a_cycle", [1, 1.5, 2, 3, 4])
def test_batches_of_several_updates_are_locked_too(updates_a_cycle):
    begins_s = np.arange(-1, 40, 0.1 * updates_a_cycle)
    assert phase_locking(np.arange(0, 30, 0.1), begins_s) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("period_s", "window_s"), [(0.1, 60.0), (0.1, 600.0), (0.02, 30.0), (0.5, 60.0)])
def test_a_long_window_is_locked_although_the_period_is_known_from_a_few_updates_only(period_s, window_s):
    rng = np.random.default_rng(1)
    begins_s = np.arange(-2 * period_s, window_s + 2, 2 * period_s)
    for _ in range(10):
        detected_s = period_s + rng.uniform(-1, 1) * 0.0014 / 10
        assert window_locking(0.0, window_s, detected_s, begins_s) == pytest.approx(1.0, abs=1e-3)


def test_a_long_window_of_a_load_out_of_step_is_not_locked_at_any_number_of_updates():
    assert window_locking(0.0, 60.0, 0.1001, np.arange(-1, 62, 0.073)) == 0.0
    rng = np.random.default_rng(2)
    assert window_locking(0.0, 60.0, 0.1001, np.cumsum(rng.exponential(0.1, 800)) - 1) == 0.0
    assert window_locking(0.0, 0.5, 0.1, np.arange(-1, 2, 0.1)) is None


OURS, ALIEN, DESKTOP = ({"pid": pid, "name": name} for pid, name in ((1, "python"), (2, None), (3, "Xorg")))


def gpu(temperature_c, clock_mhz, reasons, processes=(), graphics=()):
    return {
        "nvml": {
            "gpu_0": {
                "temperature_c": temperature_c,
                "sm_clock_mhz": clock_mhz,
                "event_reasons": reasons,
                "compute_processes": None if processes is None else list(processes),
                "graphics_processes": list(graphics),
            }
        }
    }


READINGS = [
    (0.0, gpu(50, 1980, [], [OURS], [DESKTOP])),
    (1.0, gpu(52, 1700, ["sw_power_cap"], [OURS, ALIEN])),
    (2.0, {"nvml": {"error": "GPU is lost"}}),
    (3.0, gpu(57, None, None)),
    (4.0, gpu(58, 1980, ["sw_power_cap"], None)),
]


def test_readings_of_a_gpu_come_to_spreads_and_shares():
    (readings,) = environment.gpu_readings(READINGS).values()
    summary = environment.summary(readings)
    assert summary["readings"] == 4  # the one that failed is left out
    assert summary["temperature_c"] == {"first": 50.0, "last": 58.0, "min": 50.0, "median": 54.5, "max": 58.0}
    assert summary["event_reasons"] == {"sw_power_cap": pytest.approx(2 / 3)}
    assert environment.temperature_change_c(readings) == 8.0
    assert environment.clock_change(readings) == pytest.approx(280 / 1980)


def test_a_process_seen_once_within_the_window_is_named_and_ours_are_not():
    (readings,) = environment.gpu_readings(READINGS).values()
    assert environment.others(readings, environment.FOREIGN_KINDS, {1}) == ["unknown (pid 2)"]
    assert environment.others(readings, environment.GRAPHICS_KINDS, {1}) == ["Xorg (pid 3)"]


def test_our_processes_show_on_a_gpu_or_they_do_not():
    gpus = environment.gpu_readings(READINGS)
    assert environment.shows(gpus, {1})
    assert not environment.shows(gpus, {7})
    assert {name: len(readings) for name, readings in environment.merged([gpus, gpus]).items()} == {"gpu_0": 8}


def test_what_no_reading_has_is_null():
    summary = environment.summary([{"temperature_c": None, "event_reasons": None}])
    assert summary == {"readings": 1, "temperature_c": None, "sm_clock_mhz": None, "event_reasons": None}
    assert environment.gpu_readings([(0.0, {"rapl": {"wraps_repaired": 1}})]) == {}
    assert environment.relative_range([1.0]) is environment.relative_range([]) is None
