"""The energy of a window from a log: against power that is known at every instant."""

import math

import numpy as np
import pytest

from ipa_energy.external.align import Clock, given_clock
from ipa_energy.external.cut import cut
from ipa_energy.external.series import Series, typical_period_s
from ipa_energy.external.settings import log_settings

from external_logs import PHASES, Steps, campaign, log_config, readings  # isort: skip

HERE = __file__  # any file that is there: these tests read none


def settings_of(**changes):
    return log_settings("wall", log_config(HERE, **changes))


def series(time_s, power_w, value="instant", period_s=None):
    period = period_s or typical_period_s(time_s)
    return Series("log", np.asarray(time_s), np.asarray(power_w), value, period, 3 * period)


def true_j(ran, number=0):
    begin_s, end_s = ran.windows[number]
    return ran.truth.mean_w(begin_s, end_s) * (end_s - begin_s)


@pytest.mark.parametrize("value", ["instant", "mean_before", "mean_after"])
@pytest.mark.parametrize("period_s", [0.05, 1.0])
def test_energy_and_idle_power_are_those_of_the_truth(value, period_s):
    ran = campaign(3, seed=5)
    time_s, power_w = readings(ran.truth, value=value, period_s=period_s, noise_w=0.0)
    log = series(time_s, power_w, value)
    for number, record in enumerate(ran.records):
        found = cut(settings_of(), log, given_clock(0.0, 0.0), record)
        begin_s, end_s = ran.windows[number]
        energy = found.energy
        # Power is constant in the window; only a reading across its end holds what comes after.
        level_w = ran.truth.mean_w(begin_s, end_s)
        assert energy["gross_j"] == pytest.approx(true_j(ran, number), abs=period_s * level_w)
        assert energy["gross_j"] == pytest.approx(true_j(ran, number), abs=2 * energy["uncertainty_j"] + 1e-6)
        assert energy["mean_w"] == pytest.approx(energy["gross_j"] / (end_s - begin_s))
        assert (energy["idle_bare_w"], energy["idle_bare_after_w"]) == pytest.approx((90.0, 90.0))
        resident_w = 90 + 0.1 * (level_w - 90)
        assert (energy["idle_resident_w"], energy["idle_after_w"]) == pytest.approx((resident_w, resident_w))
        assert energy["net_j"] == pytest.approx(energy["gross_j"] - 90.0 * (end_s - begin_s))
        assert found.flags == ()
        assert found.coverage == 1.0
        assert found.samples == pytest.approx((end_s - begin_s) / period_s, abs=1)


def test_errors_of_many_cuts_stay_within_their_stated_uncertainty():
    """Edges at any phase of the readings, noise, and a clock that is off by as much as is stated."""
    within = total = 0
    for seed in range(20):
        ran = campaign(3, seed=seed)
        random = np.random.default_rng(seed)
        for value, period_s in (("instant", 1.0), ("mean_before", 1.0), ("mean_before", 3.0)):
            time_s, power_w = readings(ran.truth, value=value, period_s=period_s, noise_w=3.0, seed=seed)
            log = series(time_s + random.normal(0, 0.3), power_w, value)
            for number, record in enumerate(ran.records):
                found = cut(settings_of(), log, given_clock(0.0, 0.3), record)
                within += abs(found.energy["gross_j"] - true_j(ran, number)) <= 2 * found.energy["uncertainty_j"]
                total += 1
    assert within >= 0.93 * total


def test_the_parts_of_the_uncertainty_are_what_they_say():
    ran = campaign(1, jitter=0.0, seed=2)
    (record,) = ran.records
    (begin_s, end_s) = ran.windows[0]
    time_s, power_w = readings(ran.truth, noise_w=4.0, period_s=0.5)
    log = series(time_s, power_w)
    found = cut(settings_of(gain_uncertainty=0.01), log, given_clock(0.0, 1.0), record)
    parts = found.parts_j
    assert set(parts) == {"gain", "clock", "edges", "sampling"}
    assert parts["gain"] == pytest.approx(0.01 * found.energy["gross_j"])
    inside = power_w[(time_s >= begin_s) & (time_s <= end_s)]
    assert parts["sampling"] == pytest.approx(np.std(inside, ddof=1) / math.sqrt(len(inside)) * 30)
    # A second too late, the window holds a second of what comes after: 0.4 s of emptying pipeline and 0.6 s of idling.
    level_w = ran.truth.at(np.array([begin_s]))[0] - 90
    assert parts["clock"] == pytest.approx(level_w * (0.4 * 0.4 + 0.6 * 0.85), rel=0.25)
    assert found.energy["uncertainty_j"] == pytest.approx(math.hypot(*parts.values()))
    # Net: the gain shrinks with the difference, and the idle baseline comes in.
    net = found.energy["net_uncertainty_parts_j"]
    shrinks = found.energy["net_j"] / found.energy["gross_j"]
    assert net["gain"] == pytest.approx(parts["gain"] * shrinks)
    assert net["idle"] > 0
    assert net["clock"] == parts["clock"]


def test_what_is_not_known_of_a_meter_is_left_out_of_its_uncertainty():
    ran = campaign(1, seed=2)
    found = cut(settings_of(), series(*readings(ran.truth)), given_clock(0.0, None), ran.records[0])
    assert set(found.parts_j) == {"edges", "sampling"}
    assert found.offset_uncertainty_s is None


def test_an_uncertain_clock_widens_the_uncertainty_with_the_distance_from_its_centre():
    ran = campaign(1, seed=2)
    (begin_s, _) = ran.windows[0]
    log = series(*readings(ran.truth, noise_w=0.1))
    near, far = (
        cut(
            settings_of(),
            log,
            Clock("estimated", 0.0, 0.1, 0.1, begin_s - away_s, drift_uncertainty=1e-5),
            ran.records[0],
        )
        for away_s in (0.0, 1e5)
    )
    assert far.offset_uncertainty_s == pytest.approx(math.hypot(0.1, 1.0), rel=0.01)
    assert far.parts_j["clock"] > near.parts_j["clock"]


def test_a_gap_is_bridged_by_the_mean_flagged_and_uncertain():
    ran = campaign(1, jitter=0.0, seed=3)
    begin_s, _ = ran.windows[0]
    time_s, power_w = readings(ran.truth, noise_w=3.0)
    kept = (time_s < begin_s + 10) | (time_s > begin_s + 16)
    whole = cut(settings_of(), series(time_s, power_w), given_clock(0, 0), ran.records[0])
    log = series(time_s[kept], power_w[kept])
    found = cut(settings_of(min_coverage=0.7), log, given_clock(0, 0), ran.records[0])
    assert found.flags == ("gap",)
    assert 20 / 30 < found.coverage < 26 / 30
    assert found.energy["gross_j"] == pytest.approx(true_j(ran), rel=0.03)
    assert found.parts_j["gaps"] > 0
    assert found.energy["uncertainty_j"] > whole.energy["uncertainty_j"]
    refused = cut(settings_of(), log, given_clock(0, 0), ran.records[0])
    assert refused.energy["gross_j"] is None
    assert refused.energy["uncertainty_j"] is None
    assert refused.flags == ("gap",)
    assert "of the window; min_coverage is 95.0%" in refused.energy["reason"]
    # With max_gap_s the same rows are no gap.
    bridged = Series(log.name, log.time_s, log.power_w, log.value, log.period_s, 10.0)
    assert cut(settings_of(), bridged, given_clock(0, 0), ran.records[0]).flags == ()


@pytest.mark.parametrize("cut_off", ["begin", "end"])
def test_an_edge_of_the_window_that_the_log_does_not_reach_is_a_gap(cut_off):
    ran = campaign(1, jitter=0.0, seed=3)
    begin_s, end_s = ran.windows[0]
    time_s, power_w = readings(
        ran.truth, **({"begin_s": begin_s + 0.7} if cut_off == "begin" else {"end_s": end_s - 0.7}), period_s=0.1
    )
    found = cut(settings_of(), series(time_s, power_w), given_clock(0, 0), ran.records[0])
    assert found.flags == ("gap",)
    assert found.coverage == pytest.approx(1 - 0.7 / 30, abs=0.006)
    assert found.energy["gross_j"] == pytest.approx(true_j(ran), rel=0.01)


def test_a_log_that_misses_the_window_gives_a_reason_and_no_zero():
    ran = campaign(1, seed=3)
    begin_s, _ = ran.windows[0]
    time_s, power_w = readings(ran.truth, end_s=begin_s - 10)
    found = cut(settings_of(), series(time_s, power_w), given_clock(0, 0), ran.records[0])
    assert found.flags == ("no_overlap", "too_few_samples")
    for name in ("gross_j", "net_j", "mean_w", "idle_bare_w", "uncertainty_j", "net_uncertainty_j"):
        assert found.energy[name] is None
    assert "the log has no power between 2026-03-01T12:00:2" in found.energy["reason"]
    assert found.coverage == 0.0


def test_a_meter_with_few_readings_in_the_window_is_flagged():
    ran = campaign(1, jitter=0.0, seed=3)
    time_s, power_w = readings(ran.truth, value="mean_before", period_s=4.0, noise_w=0)
    found = cut(settings_of(), series(time_s, power_w, "mean_before"), given_clock(0, 0), ran.records[0])
    assert found.flags == ("too_few_samples",)
    assert found.energy["gross_j"] == pytest.approx(true_j(ran), abs=2 * found.energy["uncertainty_j"])
    # One mean over a minute says nothing of a window of half a minute.
    time_s, power_w = readings(ran.truth, value="mean_before", period_s=60.0, noise_w=0)
    slow = cut(settings_of(), series(time_s, power_w, "mean_before"), given_clock(0, 0), ran.records[0])
    assert slow.energy["gross_j"] is None
    assert "one every 60 s is too slow" in slow.energy["reason"]


def test_idle_power_takes_no_reading_that_holds_some_of_another_phase():
    # Loading models draws 1000 W; a mean across the edge would spoil the idle power by hundreds of watts.
    phases = tuple((name, length_s, 8.0 if name == "load_models" else share) for name, length_s, share in PHASES)
    ran = campaign(1, jitter=0.0, phases=phases)
    for value in ("instant", "mean_before", "mean_after"):
        time_s, power_w = readings(ran.truth, value=value, noise_w=0)
        found = cut(settings_of(), series(time_s, power_w, value), given_clock(0.0, 0.4), ran.records[0])
        assert found.energy["idle_bare_w"] == pytest.approx(90.0)


def test_without_readings_in_a_bare_idle_phase_there_is_no_net_energy():
    ran = campaign(1, jitter=0.0, seed=3)
    time_s, power_w = readings(ran.truth, value="mean_before", period_s=6.0)
    found = cut(settings_of(), series(time_s, power_w, "mean_before"), given_clock(0, 0), ran.records[0])
    assert found.energy["gross_j"] is not None
    assert found.energy["net_j"] is None
    assert found.energy["net_uncertainty_j"] is None
    assert "net energy is null: fewer than 2 intervals" in found.energy["reason"]
    bare = tuple(phase for phase in PHASES if "bare" not in phase[0])
    ran = campaign(1, phases=bare)
    found = cut(settings_of(), series(*readings(ran.truth)), given_clock(0, 0), ran.records[0])
    assert found.energy["reason"] == "net energy is null: the record has no bare idle phase"


def test_power_that_varies_faster_than_the_readings_shows_in_the_sampling_uncertainty():
    """Bursts between the readings of an instantaneous meter: the error is covered by what is stated."""
    ran = campaign(1, jitter=0.0, seed=1)
    begin_s, end_s = ran.windows[0]
    within = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        bursts_s = np.sort(random.uniform(begin_s, end_s, 400))
        steps = Steps(
            np.concatenate((ran.truth.begin_s[:1], [begin_s], bursts_s, [end_s], [end_s + 300])),
            np.concatenate(([90.0, 150.0], random.choice([120.0, 300.0], 400), [90.0, 90.0])),
        )
        found = cut(settings_of(), series(*readings(steps, seed=seed, noise_w=0)), given_clock(0, 0), ran.records[0])
        exact_j = steps.mean_w(begin_s, end_s) * (end_s - begin_s)
        within += abs(found.energy["gross_j"] - exact_j) <= 2 * found.energy["uncertainty_j"]
    assert within >= 18


def test_the_entry_is_shaped_like_a_domain_of_a_record():
    ran = campaign(1, seed=3)
    found = cut(
        settings_of(covers="node", boundary="the wall"), series(*readings(ran.truth)), given_clock(0, 0), ran.records[0]
    )
    assert found.energy.keys() == ran.records[0]["energy"]["domains"][0].keys()
    assert found.energy["meter"] == "external(wall)"
    assert found.energy["covers"] == "node"
    assert found.energy["boundary"] == "the wall"
    assert found.energy["evidence"] == "measured"
