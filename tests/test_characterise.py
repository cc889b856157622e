"""What a sensor sees is recovered: from synthetic data, and by the whole command over a stub of NVML, both known."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from threadpoolctl import threadpool_limits

from ipa_energy.characterise import analysis
from ipa_energy.characterise.bootstrap import Interval, block_counts
from ipa_energy.characterise.command import parse
from ipa_energy.characterise.load import Load, LoadError
from ipa_energy.characterise.load_log import LoadLog
from ipa_energy.characterise.recording import read_recording
from ipa_energy.characterise.response import Response, covered, estimate_response
from ipa_energy.characterise.sequence import pseudo_random
from ipa_energy.characterise.steady import compare, course, level, settling
from ipa_energy.characterise.updates import Readings, find_updates
from ipa_energy.characterise.verdict import judge
from ipa_energy.characterise.window import Observations, Shape, WindowFit, fit_window
from meter_fixtures import TESTS, build_nvml_stub

PULSES_S = (0.010, 0.040)


# --- the whole command over the stub: started first, looked at last ---


@dataclass(frozen=True)
class Run:
    """One run of the command: its folder, process and what the stub was told."""

    folder: Path
    process: subprocess.Popen

    @cached_property
    def said(self):
        return self.process.communicate(timeout=150)

    @cached_property
    def result(self):
        out, err = self.said
        assert self.process.returncode == 0, err
        (found,) = self.folder.glob("out/*/*/characterisation.json")
        return json.loads(found.read_text()), out, found.parent


# Powers of the board that a load file pretends are those of StubBoard.
SCENARIOS = {
    # The suspicion: counter and instant field both see 25 of each 100 ms, the other fields 1 s.
    "part": ("counter_see_ms 25\nsee_ms 25\naverage_ms 1000", "--seconds 10 --steady-seconds 1.4"),
    "full": ("period_ms 20\npower_period_ms 20\nsee_ms 10\naverage_ms 200", "--seconds 8 --steady-seconds 1.2"),
    "instant": (
        "period_ms 20\npower_period_ms 20\nno_field 185\nscope 1 1.25\nreasons 4\n"
        # Before there is a load, so that none of them can be it. Times by the driver.
        "pid_between {0} {1} 4242\npid_between {0} {1} 4343\n@1.9@999",
        "--seconds 8 --steady-seconds 1",
    ),
    "jitter": (
        "period_ms 40\npower_period_ms 20\njitter_ms 6\ncounter_see_ms 10\nsee_ms 20\nno_power 1",
        "--seconds 8 --steady-seconds 1",
    ),
    "deaf": (
        "segment 0.045 70\nsegment 0.067 400\nperiod_ms 20\npower_period_ms 20",
        "--seconds 5 --steady-seconds 0.5",
    ),
    "lost": ("period_ms 20\npower_period_ms 20\nlost LOST", "--seconds 5 --steady-seconds 0.5"),
}


def environment(folder, stub):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("CUDA_", "NVML_", "LD_LIBRARY"))}
    return clean | {
        "LD_LIBRARY_PATH": str(stub),
        "NVML_STUB": str(folder / "script.txt"),
        "IPA_ENERGY_LOCK": str(folder / "lock"),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def start(folder, stub, script, arguments):
    folder.mkdir()
    (folder / "load").touch()
    if not script.startswith("segment"):  # one that has segments of its own does not follow the load
        script = f"segment 1 70\nload {folder / 'load'}\n{script}"
    script = script.replace("LOST", str(folder / "is_lost"))
    (folder / "script.txt").write_text(script + "\n")
    command = (
        [str(TESTS / "stubs/characterise_driver.py"), script] if "@" in script else ["-m", "ipa_energy.characterise"]
    )
    files = ["--out", str(folder / "out"), "--stub-load", str(folder / "load")]
    process = subprocess.Popen(
        [sys.executable, *command, *files, *arguments.split()],
        env=environment(folder, stub),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Run(folder, process)


def lose(run):
    """Lose the GPU of a run once its full load has begun."""
    while (run.folder / "load").stat().st_size <= 16 and run.process.poll() is None:
        time.sleep(0.05)
    (run.folder / "is_lost").touch()


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    return build_nvml_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory, stub):
    """All scenarios at once: each takes its time waiting. They are on their way while the other tests run."""
    folder = tmp_path_factory.mktemp("characterise")
    started = {name: start(folder / name, stub, *scenario) for name, scenario in SCENARIOS.items()}
    threading.Thread(target=lose, args=(started["lost"],), daemon=True).start()
    with threadpool_limits(1):  # many threads of BLAS would fight with them for the cores
        yield started
    for run in started.values():
        run.process.kill()
        run.process.wait()


# --- sequence and load log ---


@settings(max_examples=30, deadline=None)
@given(st.floats(1, 60), st.integers(0, 1000))
def test_the_sequence_has_the_length_and_the_pulses_that_were_asked_for(seconds, seed):
    schedule = pseudo_random(seconds, seed, PULSES_S)
    durations_s, levels = schedule.T
    assert seconds <= durations_s.sum() <= seconds + PULSES_S[1]
    assert durations_s.min() >= PULSES_S[0]
    assert levels[0] == 1 and levels[-1] == 0
    assert np.all(np.abs(np.diff(levels)) == 1)
    assert np.array_equal(schedule, pseudo_random(seconds, seed, PULSES_S))


def test_the_sequence_is_on_half_the_time_and_never_in_step_with_a_clock():
    durations_s, levels = pseudo_random(300, 1, PULSES_S).T
    assert durations_s @ levels / durations_s.sum() == pytest.approx(0.5, abs=0.03)
    edges_s = np.cumsum(durations_s)
    for period_s in (0.02, 0.025, 0.1):
        step = abs(np.exp(2j * np.pi * edges_s / period_s).mean())
        assert step < 0.06


def test_impossible_pulses_are_refused():
    with pytest.raises(ValueError, match="positive"):
        pseudo_random(10, 1, (0.04, 0.01))
    with pytest.raises(ValueError, match="descend"):
        LoadLog(np.array([1.0, 0.5]), np.array([1.0, 0.0]))


def log_of(seconds, seed):
    durations_s, levels = pseudo_random(seconds, seed, PULSES_S).T
    return LoadLog(np.concatenate([[0.0], np.cumsum(durations_s)]), np.append(levels, 0.0))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.003, 0.02, 0.3]), st.floats(0.001, 0.5), st.floats(0, 1.5))
def test_the_mean_of_a_lagged_load_is_that_of_its_differential_equation(seed, ramp_s, width_s, begin_s):
    log = log_of(2.0, seed)
    lagged = log.ramped(ramp_s)
    inside = log.times_s[(log.times_s > begin_s) & (log.times_s < begin_s + width_s)]
    area, _ = integrate.quad(
        lambda t: float(lagged.level(np.array([t]))[0]), begin_s, begin_s + width_s, points=inside, limit=400
    )
    (mean,) = lagged.mean(np.array([begin_s]), np.array([begin_s + width_s]))
    assert mean == pytest.approx(area / width_s, abs=1e-6)
    if ramp_s:  # and the lagged level obeys ramp·dy/dt = level − y
        at_s = log.times_s[:-1] + 0.4 * np.diff(log.times_s)
        slope = (lagged.level(at_s + 1e-6) - lagged.level(at_s - 1e-6)) / 2e-6
        assert ramp_s * slope == pytest.approx(log.levels[:-1] - lagged.level(at_s), abs=1e-5)


def test_overlaps_of_lag_bins_add_up_to_the_share():
    log = log_of(2.0, 3)
    at_s, lags_s = np.array([0.5, 1.3]), np.array([-0.005, 0.0, 0.01, 0.3])
    together = log.overlap(at_s, lags_s) @ np.diff(lags_s) / (lags_s[-1] - lags_s[0])
    assert together == pytest.approx(log.share(at_s - lags_s[-1], at_s - lags_s[0]))


# --- updates ---


def polled(updates_s, values, end_s, poll_s=0.001, call_s=5e-5, seed=0, stall=None):
    """Polls of a reading that takes ``values`` at ``updates_s``; ``stall`` is (begin, end) without polls."""
    random = np.random.default_rng(seed)
    asked_s = np.cumsum(poll_s * random.uniform(0.9, 1.2, int(end_s / poll_s)))
    if stall:
        asked_s = asked_s[(asked_s < stall[0]) | (asked_s > stall[1])]
    at = np.searchsorted(updates_s, asked_s, side="right")
    return Readings(asked_s, asked_s + call_s, np.concatenate([[0], values])[at].astype(np.int64))


@settings(max_examples=25, deadline=None)
@given(st.floats(0.015, 0.2), st.floats(0, 0.01), st.integers(0, 99))
def test_even_updates_are_found_on_their_line_more_closely_than_polls_tell(period_s, phase_s, seed):
    truth_s = np.arange(phase_s + 0.01, 12, period_s)
    found = find_updates(polled(truth_s, np.arange(1, truth_s.size + 1) * 1000, 10, seed=seed))
    assert found.resolved and found.even and found.jitter_s == 0
    assert found.period_s == pytest.approx(period_s, rel=2e-4)
    nearest = np.abs(found.times_s[:, None] - truth_s[None, :]).min(axis=1)
    assert nearest.max() < 0.0004


@pytest.mark.parametrize("jitter_s", [0.004, 0.010])
def test_jitter_is_measured_and_the_updates_stay_where_they_were_seen(jitter_s):
    random = np.random.default_rng(1)
    truth_s = np.arange(0.05, 40, 0.1) + random.uniform(-jitter_s / 2, jitter_s / 2, 400)
    found = find_updates(polled(truth_s, np.arange(1, 401), 39))
    assert not found.even
    assert found.jitter_s == pytest.approx(jitter_s / np.sqrt(12), rel=0.1)
    assert np.abs(found.times_s[:, None] - truth_s[None, :]).min(axis=1).max() < 0.001


def test_a_stall_of_the_host_costs_its_updates_and_no_others():
    truth_s = np.arange(0.05, 20, 0.1)
    found = find_updates(polled(truth_s, np.arange(1, 201), 18, stall=(5.0, 5.27)))
    assert found.period_s == pytest.approx(0.1, rel=1e-3)
    assert found.numbers[-1] == round((found.times_s[-1] - found.times_s[0]) / 0.1)
    assert np.diff(found.numbers).max() > 1
    times_s, gaps_s, _ = found.increments()
    assert gaps_s == pytest.approx(0.1, abs=1e-3)
    assert not np.any((times_s > 5.0) & (times_s < 5.36))


def test_a_channel_that_changes_at_every_poll_has_no_period():
    truth_s = np.arange(0, 10, 0.0007)
    found = find_updates(polled(truth_s, np.arange(truth_s.size), 9))
    assert not found.resolved
    assert np.diff(found.times_s).min() >= 0.02


def test_a_reading_that_stands_still_has_no_updates():
    with pytest.raises(ValueError, match="changed 0 times"):
        find_updates(polled(np.array([]), np.array([]), 1))


# --- the estimator on synthetic data ---


def synthetic(shape, *, period_s, seconds, noise_w, seed, counter=False, jitter_s=0.0):
    """A load log, and what a sensor of this shape says of it: 100 W and 400 W more at full load, and noise."""
    random = np.random.default_rng(seed)
    log = log_of(seconds, seed)
    times_s = np.arange(random.uniform(0, period_s), seconds, period_s)
    times_s = times_s + random.uniform(-jitter_s / 2, jitter_s / 2, times_s.size)
    stretch = np.diff(times_s, prepend=times_s[0] - period_s) / period_s if counter else np.ones(times_s.size)
    end_s = times_s - shape.delay_s
    seen = log.ramped(shape.ramp_s).mean(end_s - shape.width_s * stretch, end_s)
    powers_w = 100 + 400 * seen + random.normal(0, noise_w, times_s.size)
    return log, Observations(times_s, powers_w, stretch, period_s).rows(times_s > min(1.6, seconds / 4))


def shape_of(delay_s, width_s, ramp_s):
    return Shape(delay_s + width_s / 2 + ramp_s, width_s, ramp_s)


def near(figure, truth, slack):
    """Whether the truth lies within thrice the interval, plus the resolution."""
    low = figure.value - 3 * (figure.value - figure.low) - slack
    high = figure.value + 3 * (figure.high - figure.value) + slack
    return low <= truth <= high


@settings(max_examples=5, deadline=None)
@given(
    width_s=st.sampled_from([0.004, 0.010, 0.025, 0.05, 0.1, 0.3, 1.0]),
    delay_s=st.floats(0, 0.03),
    ramp_s=st.sampled_from([0.0, 0.004, 0.012]),
    noise_w=st.sampled_from([1.0, 10.0]),
    seed=st.integers(0, 10_000),
)
def test_any_window_is_recovered(width_s, delay_s, ramp_s, noise_w, seed):
    truth = shape_of(delay_s, width_s, ramp_s)
    log, seen = synthetic(truth, period_s=0.1, seconds=40, noise_w=noise_w, seed=seed)
    found = fit_window(log, seen, np.random.default_rng(0))
    assert near(found.width_s, width_s, 0.0005)
    assert near(found.mean_lag_s, truth.mean_lag_s, 0.0005)
    assert near(found.ramp_s, ramp_s, 0.001)
    assert near(found.rise_w, 400, 0.5)
    assert found.residual_w == pytest.approx(noise_w, rel=0.3)


def test_the_intervals_hold_the_truth_about_as_often_as_they_say():
    truth = shape_of(0.002, 0.025, 0.003)
    held = 0
    for seed in range(8):
        log, seen = synthetic(truth, period_s=0.1, seconds=25, noise_w=8, seed=seed)
        found = fit_window(log, seen, np.random.default_rng(seed))
        held += found.width_s.low <= truth.width_s <= found.width_s.high
        assert found.width_s.high - found.width_s.low < 0.004
    assert held >= 6


def test_a_jittering_counter_that_counts_all_is_not_taken_for_one_that_counts_a_part():
    truth = shape_of(0.0, 0.1, 0.004)
    log, seen = synthetic(truth, period_s=0.1, seconds=40, noise_w=4, seed=3, counter=True, jitter_s=0.02)
    random = np.random.default_rng(0)
    found = fit_window(log, seen, random)
    response = estimate_response(log, seen, found.shape, random)
    verdict = judge(True, 0.1, True, found, response)
    assert verdict.kind == "full_period" and verdict.text.startswith("integrates the full period of 100 ms")
    assert verdict.covered_share.value == pytest.approx(1, abs=0.03)


def test_an_exponential_average_is_named_as_one():
    log, seen = synthetic(shape_of(0.0, 0.001, 0.3), period_s=0.1, seconds=40, noise_w=3, seed=4)
    random = np.random.default_rng(0)
    found = fit_window(log, seen, random)
    verdict = judge(False, 0.1, True, found, estimate_response(log, seen, found.shape, random))
    assert verdict.kind == "exponential_average"
    assert verdict.width_s.value == pytest.approx(0.3, rel=0.1)


def test_a_shape_that_is_no_window_is_judged_by_its_response():
    # Two glances per period, 60 ms apart: a sensor no single window describes.
    log, first = synthetic(shape_of(0.0, 0.01, 0.0), period_s=0.1, seconds=60, noise_w=0, seed=6)
    _, second = synthetic(shape_of(0.06, 0.01, 0.0), period_s=0.1, seconds=60, noise_w=0, seed=6)
    noise_w = np.random.default_rng(0).normal(0, 3, first.times_s.size)
    seen = Observations(first.times_s, (first.powers_w + second.powers_w) / 2 + noise_w, first.stretch, 0.1)
    random = np.random.default_rng(0)
    found = fit_window(log, seen, random)
    response = estimate_response(log, seen, found.shape, random)
    verdict = judge(False, 0.1, True, found, response)
    assert verdict.basis == "response" and verdict.kind == "part_of_period"
    assert verdict.covered_share.value == pytest.approx(0.2, abs=0.06)
    density = response.weights / np.diff(response.lags_s)
    assert {int(lag * 1e3) // 10 for lag in response.lags_s[:-1][density > 0.3 * density.max()]} == {0, 6}


def test_power_that_ignores_the_load_is_not_identified():
    log, seen = synthetic(shape_of(0.0, 0.025, 0.0), period_s=0.1, seconds=30, noise_w=4, seed=7)
    alien = Observations(seen.times_s, 200 + 50 * np.sin(seen.times_s * 3), seen.stretch, 0.1)
    random = np.random.default_rng(0)
    found = fit_window(log, alien, random)
    verdict = judge(False, 0.1, True, found, estimate_response(log, alien, found.shape, random))
    assert verdict.kind == "not_identified" and "the load explains only" in verdict.text
    assert verdict.covered_share is None


def test_power_that_wanders_by_itself_is_not_taken_for_a_response_to_the_load():
    # A random walk that by chance goes along with the mean load of a second: 71 % of its variance are "explained".
    shape = shape_of(0.0, 0.025, 0.0)
    log, seen = synthetic(shape, period_s=0.02, seconds=6, noise_w=0, seed=9)
    walk_w = np.cumsum(np.random.default_rng(9).normal(0, 20, seen.times_s.size))
    alien = Observations(seen.times_s, 300 + walk_w, seen.stretch, 0.02)
    random = np.random.default_rng(0)
    found = fit_window(log, alien, random)
    assert found.r2 > 0.6
    verdict = judge(True, 0.02, True, found, estimate_response(log, alien, found.shape, random))
    assert verdict.kind == "not_identified" and "other moments" in verdict.text
    true = estimate_response(log, seen, shape, random)
    assert true.r2 > 0.95 and true.chance_r2 < 0.6


def test_too_few_updates_or_constant_power_are_refused_with_the_reason():
    log, seen = synthetic(shape_of(0.0, 0.025, 0.0), period_s=0.1, seconds=12, noise_w=4, seed=7)
    with pytest.raises(ValueError, match="only 30 updates"):
        fit_window(log, seen.rows(slice(0, 30)), np.random.default_rng(0))
    still = Observations(seen.times_s, np.full(seen.times_s.size, 70.0), seen.stretch, 0.1)
    with pytest.raises(ValueError, match="never changed"):
        fit_window(log, still, np.random.default_rng(0))


# --- response, resampling, verdict ---


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(0, 30), st.sampled_from([20, 25, 40]))
def test_covered_share_of_a_window_is_its_width_over_the_period(width, delay, period):
    lags_s = np.arange(0, 121) / 1e3
    weights = np.zeros(120)
    weights[delay : delay + width] = 1 / width
    share = covered(lags_s, weights, period / 1e3)
    if width <= period:
        assert share == pytest.approx(width / period, rel=0.01)
    elif width % period == 0:
        assert share == pytest.approx(1)
    else:  # a longer window weighs some phases once more than others
        turns, rest = divmod(width, period)
        phases = np.full(period, turns) + (np.arange(period) < rest)
        assert share == pytest.approx(phases.mean() ** 2 / np.mean(phases**2), rel=0.01)


@given(st.integers(1, 200), st.integers(1, 50))
def test_block_resampling_draws_neighbours_and_as_many_rows_as_there_are(rows, block):
    counts = block_counts(rows, block, 5, np.random.default_rng(0))
    assert counts.shape == (5, rows) and np.all(counts.sum(axis=1) == rows)


def test_rows_of_one_block_are_drawn_together():
    many = block_counts(60, 10, 4000, np.random.default_rng(1))
    assert many.mean(axis=0) == pytest.approx(1, abs=0.1)
    assert np.corrcoef(many[:, 0], many[:, 1])[0, 1] > 0.6
    assert np.corrcoef(many[:, 0], many[:, 30])[0, 1] < 0.2


def fit_with(width, ramp=(0, 0, 0.001), r2=0.99):
    value, low, high = (figure / 1e3 for figure in width)
    lag = Interval(value / 2, value / 2, value / 2)
    shape, rise_w = shape_of(0.0, value, ramp[0]), Interval(400, 390, 410)
    return WindowFit(shape, lag, Interval(value, low, high), Interval(*ramp), 100, rise_w, r2, 4)


RESPONSE = Response(
    np.array([0, 0.1]), np.ones(1), np.ones(1), np.ones(1), *[Interval(0.1, 0.1, 0.1)] * 3, Interval(1, 1, 1),
    Interval(0, 0, 0), 0.99, 0.2, 4,
)  # fmt: skip


@pytest.mark.parametrize(
    ("counter", "width", "kind", "words"),
    [
        (True, (25, 21, 29), "part_of_period", "sees 25 ms (CI 21-29) of each 100 ms period (25%)"),
        (False, (1, 0.2, 2), "part_of_period", "sees at most 2 ms of each 100 ms period"),
        (True, (100, 99, 101), "full_period", "integrates the full period of 100 ms"),
        (False, (99, 96, 102), "full_period", "averages the full period of 100 ms"),
        (False, (1000, 990, 1010), "running_average", "running average over 1.000 s"),
        (True, (1000, 990, 1010), "running_average", "integrates the full signal, smoothed"),
        (True, (85, 72, 97), "not_identified", "may be a part of it or all"),
        (True, (25, 2, 60), "not_identified", "too wide"),
        (False, (1550, 1500, 1700), "not_identified", "more than the 1.6 s"),
    ],
)
def test_verdicts_follow_from_the_interval_and_not_from_the_value_alone(counter, width, kind, words):
    verdict = judge(counter, 0.1, True, fit_with(width), RESPONSE)
    assert verdict.kind == kind and words in verdict.text
    assert (verdict.covered_share is None) == (kind == "not_identified")


# --- steady phases ---


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 500), st.floats(0.3, 0.8))
def test_no_energy_of_a_counter_is_lost_or_made_up_where_polls_were_torn_apart(seed, stall_s):
    random = np.random.default_rng(seed)
    updates_s = np.arange(0.05, 12, 0.1)
    powers_w = random.uniform(50, 500, updates_s.size)
    counts = np.cumsum(powers_w * 0.1 * 1e3)
    path = course(polled(updates_s, np.rint(counts), 10, seed=seed, stall=(4.0, 4.0 + stall_s)), "mJ")
    # Never a power that was not there: two polls apart is what an instant is known to.
    assert path.powers_w.min() > 0.85 * powers_w.min() and path.powers_w.max() < 1.15 * powers_w.max()
    first, last = (int(np.abs(updates_s - edge).argmin()) for edge in (path.times_s[0], path.times_s[-1]))
    assert path.energy_j[-1] == pytest.approx((counts[last] - counts[first]) / 1e3, rel=1e-5)


def test_the_level_of_a_phase_has_an_interval_from_scatter_and_from_its_ends():
    updates_s = np.arange(0.05, 12, 0.1)
    counter = course(polled(updates_s, np.arange(1, 121) * 20_000, 10), "mJ")
    found = level(counter, 2, 9)
    assert found.value == pytest.approx(200, rel=1e-3)
    assert 0 < found.high - found.low < 2
    rarely = course(polled(updates_s, np.arange(1, 121) * 20_000, 10, poll_s=0.095), "mJ")
    found = level(rarely, 2, 9)
    assert found.low < 200 < found.high and found.high - found.low > 2
    field = course(polled(updates_s, np.where(np.arange(120) % 2, 90_000, 110_000), 10), "mW")
    found = level(field, 1, 9)
    assert found.low < 100 < found.high
    assert level(field, 30, 31) is None


def test_the_line_between_two_channels_is_found_with_its_interval():
    near_to = lambda value, half: Interval(value, value - half, value + half)  # noqa: E731
    random = np.random.default_rng(0)
    found = compare((near_to(100, 1), near_to(104, 1)), (near_to(500, 2), near_to(484, 2)), random)
    assert found.gain.value == pytest.approx(0.95) and found.gain.low < 0.95 < found.gain.high
    assert found.offset_w.value == pytest.approx(9) and found.offset_w.low < 9 < found.offset_w.high
    assert compare((near_to(100, 1), near_to(104, 1)), (near_to(100, 1), near_to(484, 2)), random) is None


def test_settling_is_the_time_until_power_stays_near_its_later_level():
    times_s = np.arange(0, 10, 0.1)
    decay_w = 100 + 300 * np.exp(-times_s / 0.8)
    readings = polled(times_s + 0.03, np.rint(decay_w * 1e3), 10)
    truth_s = 0.8 * math.log(300 / 5)
    found = settling(course(readings, "mW"), 0.03, 9.9)
    assert truth_s - 0.1 <= found.time_s <= truth_s + 0.2 and found.reason is None
    assert found.level_w == pytest.approx(100, rel=0.01) and found.band_w == pytest.approx(5, rel=0.01)
    rising = polled(times_s + 0.03, np.arange(100) * 4000 + 50_000, 10)
    found = settling(course(rising, "mW"), 0.03, 9.9)
    assert found.time_s is None and "still changing" in found.reason


# --- the load process ---


def wait_for(asked, limit_s=90):
    deadline_s = time.monotonic() + limit_s
    while not (answer := asked()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return answer


def exercise(load, schedule):
    """Play one schedule; what was done, and the process's CPU seconds meanwhile."""
    load.start()
    try:
        wait_for(load.ready)
        process = psutil.Process(load.pid)
        before = process.cpu_times()
        load.play(schedule)
        played = wait_for(load.played)
        after = process.cpu_times()
        return played, after.user + after.system - before.user - before.system
    finally:
        load.close()
        assert load.pid is not None and not psutil.pid_exists(load.pid)


def check_log(played, schedule):
    on = schedule[schedule[:, 1] == 1]
    assert played.levels.tolist() == [1.0, 0.0] * len(on)
    assert np.all(np.diff(played.times_s) >= 0)
    # A pulse ends after its time, never before; the plan's clock begins no later than the first pulse.
    planned_s = np.cumsum(schedule[:, 0])[schedule[:, 1] == 1]
    assert np.all(played.times_s[1::2] - played.times_s[0] >= planned_s - 0.001)
    assert played.host_s == pytest.approx(np.diff(played.times_s)[::2])


def test_the_matrix_load_works_in_its_pulses_and_logs_what_it_did():
    schedule = np.array([[0.2, 1.0], [0.3, 0.0], [0.1, 1.0], [0.2, 0.0]])
    load = Load("cpu", ["torch", "--device", "cpu"], {"OMP_NUM_THREADS": "1"})
    played, cpu_s = exercise(load, schedule)
    check_log(played, schedule)
    assert "torch.matmul" in load.facts["what"] and 0 < load.facts["kernel_s"] < 0.1
    assert played.device_s.size == 0
    assert cpu_s > 0.05  # it did work, though not how much: others may have had the core


@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="no NVIDIA GPU")
def test_on_a_gpu_pulses_are_as_long_by_its_own_clock():
    schedule = pseudo_random(3, 1, PULSES_S)
    load = Load("cuda", ["torch", "--device", "cuda"], {})
    played, _ = exercise(load, schedule)
    check_log(played, schedule)
    assert load.facts["kernel_s"] < 0.003
    excess_s = played.host_s - played.device_s
    assert np.median(excess_s) < 0.002 and np.quantile(excess_s, 0.05) > -0.001


def test_a_load_that_can_not_be_had_says_why():
    load = Load("cuda", ["torch", "--device", "cuda"], {"CUDA_VISIBLE_DEVICES": "-1"})
    load.start()
    try:
        with pytest.raises(LoadError, match="torch finds no CUDA device"):
            wait_for(load.ready)
    finally:
        load.close()


def test_the_load_file_holds_the_schedule_to_the_bit(tmp_path):
    path = tmp_path / "load"
    board = {"bare_w": 50, "context_w": 60, "full_w": 300, "noise_w": 0, "tail_w": 0}
    load = Load("file", ["file", "--path", str(path), "--board", json.dumps(board)], {})
    played, _ = exercise(load, np.array([[0.05, 1.0], [0.02, 0.0], [0.03, 1.0]]))
    pairs = np.fromfile(path, "<f8").reshape(-1, 2)
    assert pairs[:, 1].tolist() == [60, 300, 60, 300, 60, 50]
    assert np.all(np.diff(pairs[:, 0]) >= 0)
    assert played.times_s.tolist() == pairs[1:5, 0].tolist()
    assert played.levels.tolist() == [1, 0, 1, 0]


# --- refusals ---


def test_a_gpu_with_others_on_it_is_left_alone(tmp_path, stub):
    run = start(tmp_path / "busy", stub, "pid 4242\ngraphics_pid 4343", "--seconds 5")
    _, err = run.said
    assert run.process.returncode == 1
    assert "other processes are on this GPU: 4242 (name unknown), 4343" in err
    assert not (run.folder / "out").exists() and not (run.folder / "load").read_bytes()


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("mig 1", "--seconds 5", "MIG"),
        ("gpus 2", "--gpu 2", "there is no GPU 2: the driver reports 2"),
        (
            "no_counter 1\nno_power 1\nno_field 185\nzero_field 186",
            "--seconds 5",
            "answers no counter and no power field",
        ),
        ("init_error 9", "--seconds 5", "Driver Not Loaded"),
    ],
)
def test_what_can_not_be_characterised_is_refused_with_the_reason(tmp_path, stub, script, arguments, words):
    run = start(tmp_path / "refused", stub, script, arguments)
    _, err = run.said
    assert run.process.returncode == 1 and words in err and "Traceback" not in err


def test_the_load_ends_with_a_killed_characterisation(tmp_path, stub):
    run = start(tmp_path / "killed", stub, "period_ms 20", "--seconds 30 --steady-seconds 0.5")
    parent = psutil.Process(run.process.pid)
    (child,) = wait_for(lambda: [c for c in parent.children() if "load_process" in " ".join(c.cmdline())])
    run.process.send_signal(signal.SIGKILL)
    run.process.communicate()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 20)
    assert not list(run.folder.glob("out/*/*"))


# --- the runs over the stub ---


def verdict_of(result, channel):
    return result["channels"][channel]["verdict"]


def share_of(result, channel):
    return verdict_of(result, channel)["covered_share"]["value"]


def test_a_counter_that_sees_25_of_100_ms_is_told(runs):
    result, out, _ = runs["part"].result
    for channel in ("counter", "instant"):
        assert verdict_of(result, channel)["kind"] == "part_of_period"
        assert share_of(result, channel) == pytest.approx(0.25, abs=0.03)
        updates = result["channels"][channel]["updates"]
        assert updates["period_s"] == pytest.approx(0.1, rel=1e-3)
        response = result["channels"][channel]["response"]
        assert response["covered_share"]["value"] == pytest.approx(0.26, abs=0.06)
    for channel in ("average", "usage"):
        assert verdict_of(result, channel)["kind"] == "running_average"
        assert verdict_of(result, channel)["width_s"]["value"] == pytest.approx(1.0, abs=0.03)
        assert result["channels"][channel]["window"]["rise_s"] == pytest.approx(0.8, abs=0.03)
    assert "of each 100 ms period" in out and "no GPU was loaded" in out


def test_a_counter_that_sees_all_is_told(runs):
    result, out, _ = runs["full"].result
    assert verdict_of(result, "counter")["kind"] == "full_period"
    assert share_of(result, "counter") == pytest.approx(1, abs=0.05)
    assert "integrates the full period of 20 ms" in out
    assert share_of(result, "instant") == pytest.approx(0.5, abs=0.06)
    assert verdict_of(result, "average")["width_s"]["value"] == pytest.approx(0.2, abs=0.01)


def test_levels_gains_and_settling_are_those_of_the_board(runs):
    result, _, _ = runs["full"].result
    levels = result["levels_w"]
    for channel in ("counter", "instant", "average"):
        assert levels["idle_bare"][channel]["value"] == pytest.approx(70, rel=0.01)
        assert levels["idle_context"][channel]["value"] == pytest.approx(90, rel=0.01)
        assert levels["full"][channel]["value"] == pytest.approx(500, rel=0.02)
    for channel in ("instant", "average", "usage"):
        compared = result["comparison"]["channels"][channel]
        assert compared["gain"]["value"] == pytest.approx(1, abs=0.03)
        assert compared["offset_w"]["value"] == pytest.approx(0, abs=3)
    truth_s = 0.15 * math.log(40 / (0.05 * 90))
    settled = result["settling"]["after_load_ends"]["instant"]
    assert truth_s - 0.03 <= settled["time_s"] <= truth_s + 0.08
    assert settled["level_w"] == pytest.approx(90, rel=0.01)
    assert result["noise_w"]["instant"]["full"] == pytest.approx(4 / math.sqrt(2), rel=0.5)


def test_an_instant_reading_absent_fields_and_another_scope_are_told(runs):
    result, _, _ = runs["instant"].result
    instant = verdict_of(result, "instant")
    assert instant["kind"] == "part_of_period" and "at most" in instant["text"]
    assert instant["width_s"]["high"] < 0.003
    assert verdict_of(result, "average")["text"] == "not identified: this GPU does not have it (Not Supported)"
    assert result["channels"]["average"]["updates"] is None
    assert result["comparison"]["channels"]["module_instant"]["gain"]["value"] == pytest.approx(1.25, rel=0.02)
    assert verdict_of(result, "counter")["kind"] == "full_period"
    caveats = " ".join(result["caveats"])
    assert "other processes came onto the GPU meanwhile: 4242 (name unknown), 4343" in caveats
    assert "lowered clocks: sw_power_cap" in caveats


def test_a_gpu_that_is_lost_meanwhile_leaves_a_result_that_says_so(runs):
    result, _, _ = runs["lost"].result
    for channel in ("counter", "instant"):
        assert "no poll was answered during the sequence (GPU is lost)" in verdict_of(result, channel)["text"]
        assert result["levels_w"]["idle_context"][channel]["value"] == pytest.approx(90, rel=0.03)
        assert result["levels_w"]["sequence"][channel] is None
    assert any("polls failed, first with: GPU is lost" in caveat for caveat in result["caveats"])


def test_jitter_of_the_updates_is_no_obstacle(runs):
    result, _, _ = runs["jitter"].result
    counter = result["channels"]["counter"]
    assert not counter["updates"]["even"]
    assert counter["updates"]["jitter_s"] == pytest.approx(0.006 / math.sqrt(12), rel=0.35)
    assert counter["verdict"]["kind"] == "part_of_period"
    assert counter["verdict"]["covered_share"]["value"] == pytest.approx(0.25, abs=0.05)
    assert result["channels"]["instant"]["window"]["width_s"]["value"] == pytest.approx(0.02, abs=0.002)


def test_a_gpu_that_does_not_follow_the_load_is_not_judged(runs):
    result, out, _ = runs["deaf"].result
    for channel in ("counter", "instant"):
        verdict = verdict_of(result, channel)
        assert verdict["kind"] == "not_identified" and verdict["covered_share"] is None
    words = " ".join(out.split())
    assert "the load explains only" in words


# --- files ---


def test_an_old_recording_gives_the_same_result_to_the_byte(runs):
    _, _, folder = runs["full"].result
    copy = runs["full"].folder / "copy"
    shutil.copytree(folder, copy)
    for name in ("characterisation.json", "characterisation.svg"):
        (copy / name).unlink()
    done = subprocess.run(
        [sys.executable, "-m", "ipa_energy.characterise", "--again", str(copy)],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("characterisation.json", "characterisation.svg"):
        assert (copy / name).read_bytes() == (folder / name).read_bytes()
    assert (copy / "characterisation.png").stat().st_size > 50_000


def test_the_raw_samples_are_those_that_the_stub_gave(runs):
    _, _, folder = runs["full"].result
    recording = read_recording(folder)
    assert list(recording.readings) == ["counter", "instant", "average", "usage"]
    counter = recording.readings["counter"]
    assert np.all(np.diff(counter.values) >= 0) and np.all(counter.answered_s >= counter.asked_s)
    pairs = np.fromfile(runs["full"].folder / "load", "<f8").reshape(-1, 2)
    path = course(counter, "mJ")
    begin_s, end_s = path.times_s[0], path.times_s[-1]
    # The truth: the integral of the load file over the recording, whose clock began at an unknown instant.
    full = recording.phase("full")
    on_s = recording.log.times_s[recording.log.times_s >= full.begin_s][0]
    origin_s = pairs[np.flatnonzero(pairs[:, 1] > 400)[0], 0] - on_s
    times_s = np.concatenate([[begin_s], pairs[:, 0] - origin_s, [end_s]])
    watts = np.concatenate([[70], pairs[:, 1]])
    spans_s = np.diff(np.clip(times_s, begin_s, end_s))
    assert path.energy_j[-1] == pytest.approx(float(watts @ spans_s), rel=2e-3)


def test_every_key_of_the_result_is_explained(runs):
    result, _, _ = runs["instant"].result
    page = (TESTS.parent / "docs/characterise.md").read_text()
    told = set(re.findall(r"`([^`\n]+)`", page))
    told |= {part for name in told for part in name.split(".")}

    def keys(value, below=0):
        if isinstance(value, dict) and below < 4:
            yield from value
            for key, part in value.items():
                if key not in ("host", "gpu", "settings", "load", "shape", "published"):
                    yield from keys(part, below + 1)

    assert set(keys(result)) - told == set()
    for phase in analysis.STEADY:
        assert f"| `{phase}` |" in page


def test_options_are_explained_and_checked(capsys):
    page = (TESTS.parent / "docs/characterise.md").read_text()
    for option in parse([]).__dict__:
        assert f"`--{option.replace('_', '-')}" in page
    for wrong in (["--seconds", "1"], ["--pulse-ms", "40", "10"], ["--steady-seconds", "0"]):
        with pytest.raises(SystemExit):
            parse(wrong)
    assert "ascending" in capsys.readouterr().err
