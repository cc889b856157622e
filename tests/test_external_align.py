"""The clock of a log, told from the steps of the load: against logs whose clock is known."""

import math

import numpy as np
import pytest

from ipa_energy.external.align import DELAY_S, Clock, estimate_clock
from ipa_energy.external.series import Series, typical_period_s
from ipa_energy.external.timelines import idle_phases, stretches_of, utc_of, window_of

from external_logs import ORIGIN_S, PHASES, Steps, campaign, readings  # isort: skip

SEEDS = 50


def series(time_s, power_w, value="instant"):
    period_s = typical_period_s(time_s)
    return Series("log", time_s, power_w, value, period_s, 3 * period_s)


def estimate(campaign_, time_s, power_w, value="instant", max_offset_s=120.0, max_drift_ppm=100.0):
    return estimate_clock(series(time_s, power_w, value), stretches_of(campaign_.records), max_offset_s, max_drift_ppm)


def errors(value, period_s, noise_w, count, *, drift=0.0, seeds=SEEDS, delay_s=0.0):
    """(error, stated uncertainty of the fit) of the offset for many logs with clocks up to a minute off."""
    found = []
    for seed in range(seeds):
        ran = campaign(count, seed=seed)
        random = np.random.default_rng(seed)
        offset_s = float(random.uniform(-60, 60))
        truth = ran.truth
        if delay_s:
            # Power follows the load by a time that differs from record to record.
            begin_s = truth.begin_s.copy()
            rises = np.flatnonzero(np.diff(truth.power_w) > 30) + 1
            begin_s[rises] += random.uniform(0, 2 * delay_s, len(rises))
            truth = Steps(begin_s, truth.power_w)
        time_s, power_w = readings(
            truth, period_s=period_s, value=value, noise_w=noise_w, offset_s=offset_s, drift=drift, seed=seed
        )
        clock = estimate(ran, time_s, power_w, value)
        assert clock.offset_s is not None, clock.reason
        host_s = np.mean(ran.windows[0])
        at_s, uncertainty_s = clock.at(host_s)
        true_s = offset_s + drift * (host_s - offset_s - time_s[0]) - delay_s
        fit_s = math.sqrt(uncertainty_s**2 - DELAY_S**2 / 3)
        found.append((at_s - true_s, fit_s))
    return np.array(found).T


@pytest.mark.parametrize(
    ("value", "period_s", "noise_w", "count", "at_most_s"),
    [
        ("instant", 1.0, 2.0, 8, 0.3),
        ("instant", 0.1, 10.0, 8, 0.03),
        ("instant", 1.0, 2.0, 1, 0.6),
        ("mean_before", 1.0, 2.0, 8, 0.03),
        ("mean_after", 2.0, 2.0, 8, 0.8),
        ("mean_before", 1.0, 40.0, 20, 1.5),
    ],
)
def test_the_offset_is_found_within_its_uncertainty(value, period_s, noise_w, count, at_most_s):
    error_s, stated_s = errors(value, period_s, noise_w, count)
    # k = 1 holds 68 % of a normal distribution and k = 2 95 %: 34 and 47.7 of 50, less three standard deviations.
    assert (np.abs(error_s) <= stated_s).sum() >= 24
    assert (np.abs(error_s) <= 2 * stated_s).sum() >= 43
    assert (np.abs(error_s) <= 4 * stated_s).all()
    # And it says something: an uncertainty of a minute would hold everything.
    assert np.median(stated_s) < at_most_s


def test_scatter_of_the_steps_themselves_is_in_the_uncertainty():
    error_s, stated_s = errors("instant", 0.1, 5.0, 15, delay_s=0.2, seeds=20)
    assert (np.abs(error_s) <= 2 * stated_s).sum() >= 16
    assert np.median(stated_s) > 0.02


@pytest.mark.parametrize("drift", [60e-6, -60e-6])
def test_drift_is_seen_and_corrected(drift):
    for seed in range(5):
        ran = campaign(60, seed=seed)
        time_s, power_w = readings(ran.truth, value="mean_before", offset_s=-20.0, drift=drift, seed=seed)
        clock = estimate(ran, time_s, power_w, "mean_before")
        assert clock.method == "estimated with drift"
        assert clock.drift == pytest.approx(drift, abs=4 * clock.drift_uncertainty)
        for window in (ran.windows[0], ran.windows[-1]):
            host_s = np.mean(window)
            at_s, uncertainty_s = clock.at(host_s)
            assert at_s == pytest.approx(-20.0 + drift * (host_s + 20.0 - time_s[0]), abs=3 * uncertainty_s)
        # to_host is the inverse of what the log's clock did.
        assert clock.to_host(time_s)[0] == pytest.approx(time_s[0] - 20.0, abs=0.3)


def test_no_drift_is_seen_where_there_is_none():
    methods = set()
    for seed in range(20):
        ran = campaign(20, seed=seed)
        clock = estimate(
            ran, *readings(ran.truth, value="mean_before", noise_w=3, offset_s=7, seed=seed), "mean_before"
        )
        methods.add(clock.method)
        assert abs(clock.seen_drift) <= 5 * clock.drift_uncertainty
    assert methods == {"estimated"}


def test_drift_of_many_seconds_over_a_day_is_found():
    # 80 ppm over a day are 7 s: more than the shortest phase.
    ran = campaign(100, seed=3)
    stretched = np.linspace(0, 86400 - 100 * 80, 100)
    for record, later_s in zip(ran.records, stretched, strict=True):
        for key in ("start_utc", "end_utc"):
            record["window"][key] = _later(record["window"][key], later_s)
    truth = _stretched(ran, stretched)
    time_s, power_w = readings(truth, value="mean_before", period_s=1.0, offset_s=15.0, drift=80e-6)
    clock = estimate(ran, time_s, power_w, "mean_before")
    assert clock.drift == pytest.approx(80e-6, abs=4 * clock.drift_uncertainty)


def _later(text, seconds):
    from datetime import datetime, timedelta

    return (datetime.fromisoformat(text) + timedelta(seconds=float(seconds))).isoformat()


def _stretched(ran, later_s):
    """The truth of a campaign whose records have been moved to later times."""
    begins = [record["window"]["timeline"][0]["begin_s"] - 5000.0 + ORIGIN_S for record in ran.records]
    number = np.clip(np.searchsorted(begins, ran.truth.begin_s, side="right") - 1, 0, None)
    moved = ran.truth.begin_s + np.where(ran.truth.begin_s < begins[0], 0.0, np.asarray(later_s)[number])
    return Steps(moved, ran.truth.power_w)


@pytest.mark.parametrize(("set_s", "words"), [(2.0, "a clock was set in between"), (30.0, "in one half of them")])
def test_a_clock_that_was_set_in_between_is_no_drift(set_s, words):
    ran = campaign(20, seed=1)
    time_s, power_w = readings(ran.truth, value="mean_before", offset_s=5.0)
    time_s = np.where(time_s > np.median(time_s), time_s + set_s, time_s)
    clock = estimate(ran, time_s, power_w, "mean_before")
    assert clock.offset_s is None
    assert words in clock.reason


def test_records_of_equal_length_one_after_the_other_are_told_apart_by_the_first_and_last():
    ran = _periodic(12)
    time_s, power_w = readings(ran.truth, offset_s=3.0, noise_w=2.0)
    clock = estimate(ran, time_s, power_w)
    assert clock.offset_s == pytest.approx(3.0, abs=2 * clock.uncertainty_s)
    # The rival is one whole record away.
    cycle_s = ran.windows[1][0] - ran.windows[0][0]
    assert abs(clock.rival_s - 3.0) == pytest.approx(cycle_s, abs=2.0)


def test_a_log_that_begins_and_ends_within_such_records_is_ambiguous_and_refused():
    ran = _periodic(12)
    first, last = ran.windows[1], ran.windows[-2]
    time_s, power_w = readings(ran.truth, noise_w=2.0, begin_s=first[0] - 20, end_s=last[1] + 20)
    clock = estimate(ran, time_s, power_w)
    assert clock.offset_s is None
    assert "not unique" in clock.reason


def _periodic(count):
    """Records of one configuration, all alike, at equal distances."""
    one = campaign(1, jitter=0.0, seed=4)
    length_s = sum(length for _, length, _ in PHASES) + 1.0
    records, begins, powers = [], [one.truth.begin_s[:1]], [one.truth.power_w[:1]]
    for number in range(count):
        later_s = number * length_s
        record = campaign(1, jitter=0.0, seed=4, repeat=number, origin_s=ORIGIN_S + later_s).records[0]
        records.append(record)
        begins.append(one.truth.begin_s[1:-1] + later_s)
        powers.append(one.truth.power_w[1:-1])
    begins.append(one.truth.begin_s[-1:] + (count - 1) * length_s)
    powers.append(one.truth.power_w[-1:])
    return type(one)(records, Steps(np.concatenate(begins), np.concatenate(powers)))


@pytest.mark.parametrize(
    ("power", "words"),
    [
        (lambda random, shape: np.full(shape, 100.0), "no step"),
        (lambda random, shape: random.normal(100, 5, shape), r"no step|not unique|too small"),
        (lambda random, shape: 500 + np.cumsum(random.normal(0, 1, shape)), r"no step|not unique|too small"),
    ],
    ids=["flat", "noise", "wandering"],
)
@pytest.mark.parametrize("seed", range(5))
def test_power_that_does_not_follow_the_load_gives_no_offset(power, words, seed):
    ran = campaign(8, seed=seed)
    time_s, _ = readings(ran.truth, seed=seed)
    clock = estimate(ran, time_s, power(np.random.default_rng(seed), len(time_s)))
    assert clock.offset_s is None
    assert clock.uncertainty_s is None
    assert any(word in clock.reason for word in words.split("|")), clock.reason
    assert "give offset_s" in clock.reason


def test_steps_that_drown_in_noise_give_no_offset():
    ran = campaign(8, seed=0)
    time_s, power_w = readings(ran.truth, noise_w=200.0)
    clock = estimate(ran, time_s, power_w)
    assert clock.offset_s is None
    assert clock.reason


def test_a_meter_slower_than_the_phases_gives_no_offset():
    ran = campaign(8, seed=0)
    time_s, power_w = readings(ran.truth, value="mean_before", period_s=60.0)
    assert estimate(ran, time_s, power_w, "mean_before").offset_s is None


def test_an_offset_beyond_the_range_is_not_found_elsewhere():
    ran = campaign(8, seed=0)
    time_s, power_w = readings(ran.truth, offset_s=3600.0)
    clock = estimate(ran, time_s, power_w)
    assert clock.offset_s is None
    assert "max_offset_s" in clock.reason
    far = estimate(ran, time_s, power_w, max_offset_s=4000.0)
    assert far.offset_s == pytest.approx(3600.0, abs=2 * far.uncertainty_s)


def test_records_without_an_idle_phase_say_nothing():
    ran = campaign(4, phases=tuple(phase for phase in PHASES if "idle" not in phase[0]))
    assert len(stretches_of(ran.records)) == 0
    assert "no record with an idle and a busy phase" in estimate(ran, *readings(ran.truth)).reason


def test_without_a_phase_before_the_load_the_offset_is_less_certain_and_still_right():
    left_out = tuple(phase for phase in PHASES if phase[0] != "idle_resident")
    for seed in range(10):
        ran = campaign(8, seed=seed, phases=left_out)
        clock = estimate(ran, *readings(ran.truth, offset_s=12.0, seed=seed))
        assert clock.offset_s == pytest.approx(12.0, abs=2 * clock.uncertainty_s), clock.reason


def test_stretches_leave_out_what_is_not_known_and_join_what_follows():
    (record,) = campaign(1, jitter=0.0).records
    found = stretches_of([record])
    # Bare idle; idle with the models, and at once warm-up with the window; idle with the models; bare idle.
    assert found.busy.tolist() == [False, False, True, False, False]
    assert found.joined.tolist() == [False, False, True, False, False]
    assert found.end_s - found.begin_s == pytest.approx([10, 5, 36, 5, 10])
    assert found.begin_s[2] == pytest.approx(window_of(record)[0] - 6)


def test_phases_are_told_in_utc():
    (record,) = campaign(1, jitter=0.0).records
    phases = idle_phases(record)
    assert set(phases) == {"bare", "resident", "after", "bare_after"}
    assert phases["bare"] == pytest.approx((ORIGIN_S + 1.5, ORIGIN_S + 11.5))
    assert utc_of(record["window"], record["window"]["end_monotonic_s"]) == pytest.approx(window_of(record)[1])


def test_a_clock_turns_times_of_the_log_into_the_hosts_and_back():
    clock = Clock("given", 5.0, 0.1, centre_s=1000.0, drift=1e-3, drift_uncertainty=1e-4)
    log_s = np.array([0.0, 995.0, 2000.0])
    host_s = clock.to_host(log_s)
    assert host_s[1] == 1000.0
    for log, host in zip(log_s, host_s, strict=True):
        offset_s, uncertainty_s = clock.at(host)
        assert host - log == pytest.approx(offset_s)
        assert uncertainty_s == pytest.approx(math.hypot(0.1, 1e-4 * (host - 1000)))
    with pytest.raises(ValueError, match="unknown: because"):
        Clock("unknown", None, reason="because").to_host(log_s)
