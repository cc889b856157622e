"""The simulated pipeline against queueing theory, an independent recursion, hand-made cases and the real engine."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa_energy.configuration import StageKnobs
from ipa_energy.ipa.arrival_times import arrivals_in_counts, poisson_arrivals
from ipa_energy.ipa.baselines import fa2, rim
from ipa_energy.ipa.controller import chooser, controller, nearest
from ipa_energy.ipa.objective import Objective, Weights
from ipa_energy.ipa.outcome import FIGURES, figures, intervals, requests
from ipa_energy.ipa.predictors import REACTIVE
from ipa_energy.ipa.profile import make_profile
from ipa_energy.ipa.profile_table import ProfileError
from ipa_energy.ipa.run_log import Rules
from ipa_energy.ipa.service import LognormalNoise, ServiceCurve, lognormal_variation, service_curves
from ipa_energy.ipa.simulation import simulate
from ipa_energy.ipa.solver import solve
from ipa_energy.ipa.workload import pattern_counts


def curve(stage, latency_s, variant="m", cores=1, **more):
    """A service curve from the latencies of batch sizes 1, 2, ..."""
    more = {"accuracy": 0.5, "cost": float(cores)} | more
    return ServiceCurve(stage, variant, cores, latency_s=np.array(latency_s, dtype=float), **more)


def curves_of(*made):
    found = {}
    for one in made:
        found.setdefault(one.stage, {})[one.variant, one.cores] = one
    return found


def knobs(stage, replicas=1, batch=1, variant="m", threads=1):
    return StageKnobs(stage, variant, batch, replicas, threads)


def steps(*configurations):
    """A decision that follows a list: the n-th at the n-th time, then the last."""
    return lambda at_s, _history, _current: configurations[min(round(at_s / 10), len(configurations)) - 1]


# --- queueing theory ---


def exponential(generator, size):
    return generator.exponential(size=size)


def mean_wait_s(rate, replicas, noise):
    """Mean wait in the queue of a single stage with mean service time 1 s and batches of one, over several runs.

    One run scatters by up to 3.4 % (standard deviation of 16 seeds), the mean of four by half of that.
    """
    waits_s, duration_s = [], math.ceil(60_000 / rate)
    for seed in range(4):
        log = simulate(
            curves_of(curve("a", [1.0], noise=noise)),
            poisson_arrivals(np.full(duration_s, rate), seed),
            float(duration_s),
            (knobs("a", replicas),),
            rules=Rules(max_wait_s=0.0, seed=seed, interval_s=1e9),
        )
        waits_s.append(requests(log).queue_s.mean())
    return float(np.mean(waits_s))


def erlang_c_wait_s(rate, replicas):
    """Mean wait of M/M/c with service rate 1 (Erlang 1917)."""
    below = sum(rate**k / math.factorial(k) for k in range(replicas))
    last = rate**replicas / math.factorial(replicas) / (1 - rate / replicas)
    return last / (below + last) / (replicas - rate)


@pytest.mark.parametrize(("rate", "replicas"), [(0.6, 1), (2.1, 3)])
def test_waits_with_exponential_service_are_those_of_erlang(rate, replicas):
    assert mean_wait_s(rate, replicas, exponential) == pytest.approx(erlang_c_wait_s(rate, replicas), rel=0.04)


def test_waits_with_constant_service_are_those_of_pollaczek_and_khinchine():
    assert mean_wait_s(0.7, 1, None) == pytest.approx(0.7 / (2 * 0.3), rel=0.04)


def test_waits_with_lognormal_service_are_those_of_pollaczek_and_khinchine():
    expected = 0.6 * (1 + 0.8**2) / (2 * 0.4)
    assert mean_wait_s(0.6, 1, LognormalNoise(0.8)) == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize(("replicas", "batch"), [((3, 2), (4, 2)), ((1, 1), (8, 8)), ((2, 5), (1, 3))])
def test_a_saturated_pipeline_does_what_its_slowest_stage_can(replicas, batch):
    made = [curve(stage, 0.02 + slope * np.arange(1, 9)) for stage, slope in (("a", 0.03), ("b", 0.05))]
    least = min(n * b / one.latency_s[b - 1] for one, n, b in zip(made, replicas, batch, strict=True))
    initial = tuple(knobs(one.stage, n, b) for one, n, b in zip(made, replicas, batch, strict=True))
    log = simulate(curves_of(*made), np.linspace(0, 30, 12_000, endpoint=False), 30.0, initial)
    done_s = np.sort(requests(log).done_s[:, -1])
    steady = done_s[(done_s > 10) & (done_s <= 30)]
    assert len(steady) / 20 == pytest.approx(least, rel=0.02)


@pytest.mark.parametrize("max_wait_s", [0.0, 0.4])
def test_at_a_tiny_load_latency_is_service_and_the_wait_for_a_batch_that_never_fills(max_wait_s):
    made = curves_of(curve("a", [0.2, 0.3]), curve("b", [0.1, 0.15]))
    log = simulate(
        made,
        np.arange(1.0, 500.0, 5.0),
        500.0,
        (knobs("a", 1, 2), knobs("b", 1, 2)),
        rules=Rules(max_wait_s=max_wait_s),
    )
    assert requests(log).latency_s == pytest.approx(np.full(100, 0.3 + 2 * max_wait_s))


# --- an independent recursion ---


def recursion(arrivals, replicas, batch, max_wait_s, latency_s):
    """Begin and end of every batch of a stage, and how many requests it has, by the rule alone.

    The next batch begins once a replica is free and either the queue holds a full batch or its head has waited enough.
    """
    free, taken, batches = [0.0] * replicas, 0, []
    while taken < len(arrivals):
        full_s = arrivals[taken + batch - 1] if taken + batch <= len(arrivals) else math.inf
        begin_s = max(min(free), min(full_s, arrivals[taken] + max_wait_s))
        size = min(batch, sum(t <= begin_s for t in arrivals[taken : taken + batch]))
        end_s = begin_s + latency_s[size - 1]
        free[free.index(min(free))] = end_s
        batches.append((begin_s, end_s, size))
        taken += size
    return batches


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 60),
    st.integers(1, 5),
    st.integers(1, 3),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.sampled_from([0.0, 0.05, 0.7]),
)
def test_two_stages_do_what_an_independent_recursion_says(seed, count, spread, replicas, batch, max_wait_s):
    generator = np.random.default_rng(seed)
    arrivals = np.sort(generator.uniform(0, spread, count))
    first, second = (np.cumsum(generator.uniform(0.02, 0.2, 5)) for _ in range(2))
    log = simulate(
        curves_of(curve("a", first), curve("b", second)),
        arrivals,
        10.0,
        (knobs("a", 1, batch[0]), knobs("b", replicas, batch[1])),
        rules=Rules(max_wait_s=max_wait_s, interval_s=100),
    )
    expected = recursion(arrivals.tolist(), 1, batch[0], max_wait_s, first)
    entering = [end_s for _, end_s, size in expected for _ in range(size)]
    expected_second = recursion(entering, replicas, batch[1], max_wait_s, second)
    for stage, truth in ((0, expected), (1, expected_second)):
        found = sorted((b.begin_s, b.end_s, len(b.requests)) for b in log.batches if b.stage == stage)
        assert np.array(found) == pytest.approx(np.array(sorted(truth)), abs=1e-9)


# --- what holds whatever is decided ---


RUNS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "batch": st.sampled_from([1, 4]),
        "start_s": st.sampled_from([0.0, 1.0, 2.9]),
        "drop_after_s": st.sampled_from([None, 2.0]),
        "rate": st.sampled_from([0.5, 3.0, 9.0]),
    }
)


def random_run(seed, batch, start_s, drop_after_s, rate):
    """The log of 40 s with random service curves and arrivals, and a random decision every 3 s."""
    generator = np.random.default_rng(seed)
    made = curves_of(
        *(
            curve(stage, generator.uniform(0.1, 1.0) * (1 + np.arange(4) / 3), variant, cores, accuracy=accuracy)
            for stage in ("a", "b")
            for variant, accuracy in (("small", 0.5), ("large", 0.8))
            for cores in (1, 2)
        )
    )

    def any_configuration():
        return tuple(
            knobs(
                stage,
                int(generator.integers(1, 6)),
                int(generator.integers(1, batch + 1)),
                str(generator.choice(["small", "large"])),
                int(generator.integers(1, 3)),
            )
            for stage in ("a", "b")
        )

    def decide(_at_s, _history, _current):
        return None if generator.random() < 0.2 else any_configuration()

    rules = Rules(3.0, start_s, max_wait_s=0.0 if batch == 1 else 0.5, drop_after_s=drop_after_s)
    arrivals = poisson_arrivals(np.full(40, rate), seed)
    return simulate(made, arrivals, 40.0, any_configuration(), decide, rules)


@settings(max_examples=60, deadline=None)
@given(RUNS)
def test_every_request_passes_every_stage_once_or_is_dropped_once(run):
    log, batch = random_run(**run), run["batch"]
    table = requests(log)
    served = [[r for b in log.batches if b.stage == stage for r in b.requests] for stage in (0, 1)]
    dropped = [d.request for d in log.drops]
    for stage, numbers in enumerate(served):
        assert len(numbers) == len(set(numbers))
        assert set(numbers) == set(range(len(log.arrivals_s))) - {d.request for d in log.drops if d.stage <= stage}
    assert len(dropped) == len(set(dropped))
    assert len(served[1]) + len(dropped) == len(log.arrivals_s)
    through = ~table.dropped
    assert (table.queue_s[through] > -1e-9).all()
    assert (table.done_s[through] > table.taken_s[through]).all()
    assert all(1 <= len(b.requests) <= batch for b in log.batches)
    if log.rules.drop_after_s is not None:
        assert all(b.begin_s - log.arrivals_s[request] <= 2.0 + 1e-9 for b in log.batches for request in b.requests)
        assert all(d.at_s - log.arrivals_s[d.request] > 2.0 - 1e-9 for d in log.drops)


@settings(max_examples=60, deadline=None)
@given(RUNS)
def test_arrived_is_completed_dropped_and_in_the_system_at_every_decision(run):
    log = random_run(**run)
    left_s = np.concatenate([requests(log).done_s[:, -1], [d.at_s for d in log.drops]])
    for decision in log.decisions:
        gone = int(np.sum(left_s < decision.at_s))
        assert decision.in_system == int(np.sum(log.arrivals_s < decision.at_s)) - gone
        assert decision.in_system >= 0


@settings(max_examples=60, deadline=None)
@given(RUNS)
def test_a_replica_serves_one_batch_at_a_time_within_its_life(run):
    log = random_run(**run)
    for replica in log.replicas:
        mine = sorted((b.begin_s, b.end_s) for b in log.batches if b.replica == replica.number)
        assert all(end <= begin + 1e-12 for (_, end), (begin, _) in itertools.pairwise(mine))
        if mine:
            assert replica.ready_s is not None and replica.ready_s <= mine[0][0]
            assert replica.gone_s is None or mine[-1][1] <= replica.gone_s + 1e-12
        if replica.ready_s is not None and replica.started_s > 0:
            assert replica.ready_s == pytest.approx(replica.started_s + log.rules.start_s)


@settings(max_examples=60, deadline=None)
@given(RUNS)
def test_no_replica_idles_while_a_request_waits_whatever_is_reconfigured(run):
    """Work conservation, with batches of one: all that are ready are busy whenever a request is in the queue."""
    log = random_run(**run | {"batch": 1})
    table = requests(log)
    moments = np.unique([t for r in log.replicas for t in (r.ready_s, r.gone_s) if t is not None])
    for stage in (0, 1):
        entered = table.arrival_s if stage == 0 else table.done_s[:, 0]
        busy = np.array([(b.begin_s, b.end_s) for b in log.batches if b.stage == stage]).reshape(-1, 2)
        waited = [(e, t) for e, t in zip(entered, table.taken_s[:, stage], strict=True) if t > e + 1e-6]
        for begin_s, end_s in waited[:40]:
            edges = np.concatenate([[begin_s], moments[(moments > begin_s) & (moments < end_s)], busy.ravel(), [end_s]])
            edges = np.unique(edges[(edges >= begin_s) & (edges <= end_s)])
            for middle in (edges[1:] + edges[:-1])[np.diff(edges) > 1e-6] / 2:
                at_work = int(np.sum((busy[:, 0] < middle) & (middle < busy[:, 1])))
                there = sum(
                    r.stage == stage and r.ready_s is not None and r.ready_s < middle < (r.gone_s or math.inf)
                    for r in log.replicas
                )
                assert at_work == there > 0


@settings(max_examples=40, deadline=None)
@given(RUNS)
def test_the_intervals_add_up_to_the_whole(run):
    log = random_run(**run)
    whole, parts = figures(log, 1.5), intervals(log, 1.5)
    assert set(whole) == set(FIGURES)
    assert parts["arrived"].sum() == whole["requests"]
    assert parts["late"].sum() == whole["late"]
    assert parts["dropped"].sum() == whole["dropped"]
    assert whole["violations"] == whole["late"] + whole["dropped"]
    if log.end_s == log.duration_s:
        assert (parts["cores"] * (parts["end_s"] - parts["begin_s"])).sum() / 40 == pytest.approx(whole["cores_mean"])
    served = parts["arrived"] - parts["dropped"]
    assert (parts["accuracy_pas"].fillna(0) * served).sum() == pytest.approx(
        (whole["accuracy_pas"] or 0) * served.sum()
    )
    assert whole["cores_peak"] >= whole["cores_mean"]


def test_the_same_seed_gives_the_same_run_and_another_one_another():
    made = curves_of(curve("a", [0.1, 0.15], noise=LognormalNoise(0.3)))
    arrivals = poisson_arrivals(np.full(30, 8.0), 1)
    first, again, other = (
        simulate(made, arrivals, 30.0, (knobs("a", 1, 2),), rules=Rules(seed=seed)).batches for seed in (1, 1, 2)
    )
    assert first == again != other


# --- reconfiguration by hand ---


def test_a_new_replica_serves_once_it_has_started_and_costs_from_its_decision():
    made = curves_of(curve("a", [4.0]))
    log = simulate(
        made,
        np.array([9.0, 9.1, 9.2, 20.5]),
        30.0,
        (knobs("a"),),
        steps((knobs("a", 2),)),
        Rules(start_s=3.0, max_wait_s=0),
    )
    assert [(b.begin_s, b.end_s) for b in log.batches] == [(9, 13), (13, 17), (13, 17), (20.5, 24.5)]
    assert log.replicas[1].started_s == 10 and log.replicas[1].ready_s == 13
    found = figures(log, sla_s=5.0)
    assert found["cores_mean"] == found["cost_decided_mean"] == pytest.approx((30 + 20) / 30)
    assert (found["late"], found["changes"], found["infeasible"]) == (2, 1, 0)


def test_a_replica_that_is_taken_away_finishes_its_batch_and_costs_until_then():
    made = curves_of(curve("a", [4.0]))
    log = simulate(
        made, np.array([8.0, 9.0, 9.5]), 20.0, (knobs("a", 2),), steps((knobs("a", 1),)), Rules(max_wait_s=0)
    )
    assert [(b.begin_s, b.end_s) for b in log.batches] == [(8, 12), (9, 13), (12, 16)]
    assert [r.gone_s for r in log.replicas] == [None, 13]
    assert figures(log, 9)["cost_mean"] == pytest.approx((20 + 13) / 20)
    assert figures(log, 9)["cost_decided_mean"] == pytest.approx((20 + 10) / 20)


def test_an_idle_replica_goes_before_a_busy_one():
    made = curves_of(curve("a", [4.0]))
    log = simulate(made, np.array([8.0]), 20.0, (knobs("a", 2),), steps((knobs("a", 1),)), Rules(max_wait_s=0))
    assert [r.gone_s for r in log.replicas] == [None, 10]


def test_another_variant_takes_over_when_all_of_it_is_there_and_nothing_is_lost():
    small = curve("a", [1.0], "small", accuracy=0.4, idle_w=2.0, busy_j=np.array([10.0]))
    large = curve("a", [2.0], "large", 3, accuracy=0.9, idle_w=5.0, busy_j=np.array([30.0]))
    log = simulate(
        curves_of(small, large),
        np.array([9.5, 12.0, 14.5, 14.6, 25.0]),
        30.0,
        (knobs("a", 1, variant="small"),),
        steps((knobs("a", 2, variant="large", threads=3),)),
        Rules(start_s=5.0, max_wait_s=0.0),
    )
    assert [(b.curve.variant, b.begin_s, b.end_s) for b in log.batches] == [
        ("small", 9.5, 10.5),
        ("small", 12.0, 13.0),
        ("small", 14.5, 15.5),  # in hand when the large ones take over
        ("large", 15.0, 17.0),
        ("large", 25.0, 27.0),
    ]
    found = figures(log, sla_s=2.0, host_base_w=40.0)
    assert found["accuracy_pas"] == pytest.approx((3 * 0.4 + 2 * 0.9) / 5)
    assert found["cores_mean"] == pytest.approx((15.5 * 1 + 20 * 2 * 3) / 30)
    assert found["cores_peak"] == 7
    assert found["waiting_j"] == pytest.approx(15.5 * 2 + 20 * 2 * 5)
    assert found["busy_j"] == pytest.approx(3 * 10 + 2 * 30)
    assert found["net_j"] == pytest.approx(15.5 * 2 + 200 + 90)
    assert found["gross_j"] == pytest.approx(found["net_j"] + 1200)
    assert found["gross_j_per_request"] == pytest.approx(found["gross_j"] / 5)
    assert found["late"] == 1 and found["dropped"] == 0
    parts = intervals(log, 2.0)
    assert parts["a.variant"].tolist() == ["small", "large", "large"]
    assert parts["cores"].tolist() == pytest.approx([1, (5.5 * 1 + 10 * 6) / 10, 6])
    assert parts["busy_j"].tolist() == [0, 10 + 10 + 10 + 30, 30]


def test_a_batch_size_changes_at_once_but_with_its_variant_when_that_changes_too():
    small, large = curve("a", [1.0, 1.0], "small"), curve("a", [1.0, 1.0], "large")
    arrivals = np.array([10.5, 10.6, 20.5, 20.6, 26.0, 26.1])
    decide = steps((knobs("a", 1, 2, "small"),), (knobs("a", 1, 1, "large"),))
    log = simulate(
        curves_of(small, large),
        arrivals,
        30.0,
        (knobs("a", 1, 1, "small"),),
        decide,
        Rules(start_s=5.0, max_wait_s=3.0),
    )
    assert [(b.curve.variant, b.begin_s, len(b.requests)) for b in log.batches] == [
        ("small", 10.6, 2),
        ("small", 20.6, 2),
        ("large", 26.0, 1),
        ("large", 27.0, 1),
    ]


def test_a_switch_that_is_called_off_or_replaced_leaves_what_serves_alone():
    made = curves_of(*(curve("a", [1.0], variant) for variant in ("x", "y", "z")))
    decide = steps((knobs("a", 2, variant="y"),), (knobs("a", 2, variant="z"),), (knobs("a", 1, variant="x"),))
    log = simulate(
        made, np.arange(0.5, 59, 1.5), 60.0, (knobs("a", 1, variant="x"),), decide, Rules(start_s=25.0, max_wait_s=0)
    )
    assert {b.curve.variant for b in log.batches} == {"x"}
    assert [(r.curve.variant, r.started_s, r.ready_s, r.gone_s) for r in log.replicas] == [
        ("x", 0, 0, None),
        *[("y", 10, None, 20)] * 2,
        *[("z", 20, None, 30)] * 2,
    ]


def test_a_switch_still_under_way_is_resized_and_waits_for_all_of_its_replicas():
    made = curves_of(curve("a", [1.0], "x"), curve("a", [1.0], "y"))
    decide = steps((knobs("a", 1, variant="y"),), (knobs("a", 2, variant="y"),), (knobs("a", 1, variant="y"),))
    late = simulate(made, np.arange(0.5, 59, 1.5), 60.0, (knobs("a", variant="x"),), decide, Rules(start_s=15.0))
    first_y = min(b.begin_s for b in late.batches if b.curve.variant == "y")
    assert 30 <= first_y < 32  # the second, of 20 s, would be there at 35 s, but at 30 s it is taken back
    assert [r.gone_s for r in late.replicas][1:] == [None, 30]


def test_where_nothing_is_feasible_the_configuration_stays():
    made = curves_of(curve("a", [1.0]))
    log = simulate(made, np.array([1.0]), 35.0, (knobs("a", 3),), lambda *_: None)
    assert figures(log, 2)["infeasible"] == len(log.decisions) == 3
    assert all(d.configuration == (knobs("a", 3),) for d in log.decisions)
    assert figures(log, 2)["cost_mean"] == 3


def test_a_decision_sees_the_past_seconds_and_no_more():
    counts, asked = pattern_counts("bursty", 2, seconds=45), []

    def decide(at_s, history, current):
        asked.append((at_s, history.tolist(), current))
        with pytest.raises(ValueError, match="read-only"):
            history[0] = 9
        return current

    simulate(
        curves_of(curve("a", [0.01])),
        arrivals_in_counts(counts, 1),
        45.0,
        (knobs("a"),),
        decide,
        before_rps=[7.0, 8.0],
    )
    assert [at_s for at_s, *_ in asked] == [10, 20, 30, 40]
    assert all(history == [7, 8, *counts[: int(at_s)].tolist()] for at_s, history, _ in asked)


# --- drops, violations, figures ---


def test_drops_and_lateness_are_counted_apart():
    made = curves_of(curve("a", [2.0]))
    log = simulate(
        made, np.array([0.0, 0.1, 0.2, 0.3]), 10.0, (knobs("a"),), rules=Rules(max_wait_s=0.0, drop_after_s=3.0)
    )
    found = figures(log, sla_s=2.5)
    assert (found["completed"], found["late"], found["dropped"], found["violations"]) == (2, 1, 2, 3)
    assert found["violation_share"] == 0.75
    assert [(d.request, d.at_s) for d in log.drops] == [(2, 4.0), (3, 4.0)]
    assert found["latency_max_s"] == pytest.approx(3.9)


def test_a_request_is_dropped_at_a_later_stage_too():
    made = curves_of(curve("a", [1.0]), curve("b", [4.0]))
    log = simulate(
        made, np.array([0.0, 0.5]), 10.0, (knobs("a", 2), knobs("b")), rules=Rules(max_wait_s=0.0, drop_after_s=4.0)
    )
    assert [(d.stage, d.request, d.at_s) for d in log.drops] == [(1, 1, 5.0)]


def test_what_is_left_when_arrivals_end_is_served_and_paid_for():
    made = curves_of(curve("a", [4.0], idle_w=1.0, busy_j=np.array([3.0])))
    log = simulate(made, np.array([1.0, 2.0, 3.0]), 5.0, (knobs("a"),), rules=Rules(max_wait_s=0.0))
    found = figures(log, 60.0, host_base_w=10.0)
    assert found["end_s"] == 13 and found["duration_s"] == 5
    assert (found["busy_j"], found["waiting_j"], found["base_j"]) == (9, 13, 130)


def test_an_energy_that_is_not_known_is_null_with_its_reason():
    log = simulate(curves_of(curve("a", [1.0])), np.array([1.0]), 5.0, (knobs("a"),))
    found = figures(log, 2.0)
    for name in ("busy_j", "waiting_j", "base_j", "net_j", "gross_j", "net_j_per_request"):
        assert found[name] is None
    for words in ("batch of a/m is not known", "waiting replica of a/m is not known", "bare host is not given"):
        assert words in found["energy_reason"]
    known = curves_of(curve("a", [1.0], idle_w=0.0, busy_j=np.array([2.0])))
    found = figures(simulate(known, np.array([1.0]), 5.0, (knobs("a"),)), 2.0)
    assert found["net_j"] == 2 and found["gross_j"] is None


def test_a_run_without_requests_has_figures_all_the_same():
    found = figures(simulate(curves_of(curve("a", [1.0])), np.array([]), 30.0, (knobs("a", 2),)), 1.0)
    assert found["requests"] == found["violations"] == 0
    assert found["violation_share"] is found["latency_p99_s"] is found["accuracy_pas"] is None
    assert found["cores_mean"] == 2


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        ((knobs("b"), knobs("a")), "needs the stages a, b in this order; this one has b, a"),
        ((knobs("a", variant="n"), knobs("b")), "stage a has no n on 1 cores; it has m on 1"),
        ((knobs("a", batch=3), knobs("b")), "batch of stage a is 3: m was profiled to 2"),
        ((knobs("a"), knobs("b", replicas=0)), "replicas of stage b are 0"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_when_given_and_when_decided(configuration, words):
    made = curves_of(curve("a", [1.0, 2.0]), curve("b", [1.0, 2.0]))
    with pytest.raises(ValueError, match=words):
        simulate(made, np.array([]), 20.0, configuration)
    with pytest.raises(ValueError, match=words):
        simulate(made, np.array([]), 20.0, (knobs("a"), knobs("b")), lambda *_: configuration)


@pytest.mark.parametrize("arrivals", [[-1.0], [3.0, 2.0], [20.0]])
def test_arrivals_out_of_order_or_range_are_refused(arrivals):
    with pytest.raises(ValueError, match="must rise from 0 on and end before 20 s"):
        simulate(curves_of(curve("a", [1.0])), np.array(arrivals), 20.0, (knobs("a"),))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"interval_s": 0.0}, "interval_s"),
        ({"start_s": -1.0}, "start_s"),
        ({"max_wait_s": {"a": math.inf}}, "max_wait_s"),
        ({"drop_after_s": 0.0}, "drop_after_s"),
    ],
)
def test_rules_that_make_no_sense_are_refused_by_name(change, words):
    with pytest.raises(ValueError, match=words):
        Rules(**change)


def test_a_waiting_time_by_stage_is_needed_for_every_stage():
    made = curves_of(curve("a", [1.0, 1.0]), curve("b", [1.0, 1.0]))
    initial = (knobs("a", 1, 2), knobs("b", 1, 2))
    log = simulate(made, np.array([1.0]), 9.0, initial, rules=Rules(max_wait_s={"a": 0.25, "b": 2.0}))
    assert requests(log).queue_s.tolist() == [[0.25, 2.0]]
    with pytest.raises(ValueError, match="given for a but not for stage b"):
        simulate(made, np.array([1.0]), 9.0, initial, rules=Rules(max_wait_s={"a": 0.25}))


# --- service curves ---


def profile(**changes):
    """Two stages of two variants on batches 1, 2, 4; the dearer is slower, more accurate and hungrier."""
    rows = []
    for stage, factor in (("detect", 1.0), ("classify", 0.6)):
        for variant, accuracy, weight in (("small", 0.5, 1.0), ("large", 0.7, 2.5)):
            for batch in (1, 2, 4):
                mean_s = 0.05 * factor * weight * (0.4 + 0.6 * batch)
                rows.append(
                    {
                        "stage": stage,
                        "variant": variant,
                        "accuracy": accuracy,
                        "cores": 1,
                        "batch": batch,
                        "latency_mean_s": mean_s,
                        "latency_p99_s": 1.3 * mean_s,
                        "throughput_rps": batch / mean_s,
                        "energy_j": 8 * mean_s,
                        "idle_w": 1.5,
                    }
                )
    return pd.DataFrame([row | changes for row in rows])


def test_curves_interpolate_between_the_profiled_batch_sizes():
    made = service_curves(make_profile(profile(), "net"))
    small = made["detect"]["small", 1]
    assert small.latency_s == pytest.approx([0.05, 0.08, (0.08 + 0.14) / 2, 0.14])
    assert small.busy_j == pytest.approx(8 * small.latency_s)
    assert (small.accuracy, small.idle_w, small.cost, small.noise) == (0.5, 1.5, 1.0, None)
    assert list(made) == ["detect", "classify"]


def test_gross_energy_of_a_batch_is_made_net_of_the_waiting_replica():
    made = service_curves(make_profile(profile(), "gross"))
    assert made["detect"]["small", 1].busy_j[:2] == pytest.approx((8 - 1.5) * np.array([0.05, 0.08]))


def test_at_full_load_the_simulated_energy_is_the_profiled_one():
    """A replica that never waits draws its gross energy per batch: idle and busy parts add up to what was measured."""
    made = service_curves(make_profile(profile(), "gross"))
    log = simulate(
        {"detect": made["detect"]},
        np.zeros(4 * 250),
        35.0,
        (knobs("detect", 1, 4, "small"),),
        rules=Rules(interval_s=100),
    )
    found = figures(log, 60.0)
    assert found["end_s"] == pytest.approx(250 * 0.14)
    assert found["net_j"] == pytest.approx(250 * 8 * 0.14)


def test_smaller_batches_than_the_smallest_profiled_take_as_long_as_that():
    rows = profile()
    made = service_curves(make_profile(rows[rows["batch"] > 1], "net"))
    assert made["detect"]["small", 1].latency_s == pytest.approx([0.08, 0.08, 0.11, 0.14])


def test_noise_has_the_percentile_of_the_profile():
    made = service_curves(make_profile(profile(), "net"), noise="p99")["detect"]["small", 1]
    drawn = made.noise(np.random.default_rng(1), 400_000)
    assert drawn.mean() == pytest.approx(1, rel=0.002)
    assert np.percentile(drawn, 99) == pytest.approx(1.3, rel=0.005)
    fixed = service_curves(make_profile(profile(), "net"), noise=0.25)["detect"]["small", 1]
    assert fixed.noise(np.random.default_rng(1), 400_000).std() == pytest.approx(0.25, rel=0.01)


@given(st.floats(0.001, 3.0))
def test_the_variation_of_a_lognormal_follows_from_its_mean_and_percentile(variation):
    sigma = math.sqrt(math.log1p(variation**2))
    if sigma < 2.3:  # beyond, a larger spread has a smaller percentile, and the smaller root is another one
        p99 = math.exp(2.3263478740408408 * sigma - sigma**2 / 2)
        if p99 > 1:
            assert lognormal_variation(1.0, p99) == pytest.approx(variation, rel=1e-5)


def test_what_a_profile_cannot_say_is_refused():
    with pytest.raises(ValueError, match="no lognormal distribution"):
        lognormal_variation(1.0, 16.0)
    assert lognormal_variation(1.0, 0.9) == 0
    rows = profile().drop(columns="latency_p99_s")
    with pytest.raises(ProfileError, match="needs latency_mean_s and latency_p99_s"):
        service_curves(make_profile(rows, "net"), noise="p99")
    shares = pd.concat([profile(gpu_share=0.5), profile(gpu_share=1.0)])
    with pytest.raises(ProfileError, match="give a GPU a price"):
        service_curves(make_profile(shares, "net"))


# --- decisions by IPA and its baselines ---


def test_of_equally_good_configurations_the_nearest_is_taken():
    now = (knobs("a", 2, 1, "x"), knobs("b", 2, 1, "x"))
    one, two = (knobs("a", 2, 4, "x"), knobs("b", 3, 1, "x")), (knobs("a", 2, 1, "y"), knobs("b", 2, 1, "x"))
    assert nearest([two, one], now) == one
    assert nearest([one, now, two], now) == now
    assert nearest([], now) is None


def adapted(method, counts, objective_weights):
    made = make_profile(profile(), "net")
    objective = Objective(Weights(**objective_weights))
    decide = controller(REACTIVE, chooser(made, 0.5, 8, lambda options: method(options, objective)))
    initial = (knobs("detect", 3, 1, "small"), knobs("classify", 3, 1, "small"))
    arrivals = arrivals_in_counts(counts, 1)
    return simulate(service_curves(made), arrivals, float(len(counts)), initial, decide, Rules(max_wait_s=0.3))


def test_ipa_and_its_baselines_adapt_over_a_burst():
    counts = pattern_counts("bursty", 1, seconds=900)
    weights = {"alpha": 20.0, "beta": 0.5}
    logs = {
        "ipa": adapted(solve, counts, weights),
        "energy": adapted(solve, counts, weights | {"delta": 20.0}),
        "fa2_low": adapted(lambda o, f: fa2(o, f, "lightest"), counts, weights),
        "fa2_high": adapted(lambda o, f: fa2(o, f, "heaviest"), counts, weights),
        "rim": adapted(lambda o, f: rim(o, f, {"detect": 3, "classify": 3}), counts, weights),
    }
    found = {name: figures(log, 0.5, host_base_w=50.0) for name, log in logs.items()}
    assert all(f["requests"] == counts.sum() and f["decisions"] == 89 for f in found.values())
    assert found["fa2_low"]["accuracy_pas"] == pytest.approx(0.25)
    assert found["fa2_low"]["accuracy_pas"] <= found["ipa"]["accuracy_pas"] <= found["fa2_high"]["accuracy_pas"]
    assert found["energy"]["net_j"] < found["ipa"]["net_j"]
    assert found["fa2_low"]["net_j"] < found["fa2_high"]["net_j"]
    assert {k.replicas for d in logs["rim"].decisions for k in d.configuration} == {3}
    assert found["rim"]["cores_mean"] >= 6
    replicas = intervals(logs["fa2_low"], 0.5)["detect.replicas"]
    assert replicas[5:35].max() < replicas[45:55].min()  # the burst is answered
    assert all(f["decide_mean_s"] > 0 for f in found.values())
    # Who knows 10 s late that a burst has begun is late then, and not much otherwise.
    assert 0 < found["fa2_low"]["violation_share"] < 0.3


# --- the real engine ---


def test_the_simulation_does_what_the_serving_engine_does(tmp_path, monkeypatch):
    """The same arrivals through real queues and replica processes that sleep; service times as observed there."""
    from pathlib import Path

    from ipa_energy.serving.arrivals import Workload
    from test_serving_engine import serving, until

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    arrivals = poisson_arrivals(np.full(5, 25.0), seed=6)
    stages = (("a", "sleeper", {"service_s": 0.1}, 4, 2), ("b", "sleeper", {"service_s": 0.06}, 2, 2))
    workload = Workload(None, iter([*arrivals.tolist(), 1e9]))
    with serving(tmp_path, workload, *stages, max_wait_s=0.1) as (engine, _, _arrays):
        engine.serve(until(engine, len(arrivals), timeout_s=30))
        journal = engine.journal
    real = sorted(journal.completed, key=lambda request: request.arrival_s)
    assert len(real) == len(arrivals)
    observed = [np.median([b.service_s for b in journal.batches if b.stage == stage]) for stage in (0, 1)]
    made = curves_of(curve("a", [observed[0]] * 4), curve("b", [observed[1]] * 2))
    log = simulate(made, arrivals, 5.0, (knobs("a", 2, 4), knobs("b", 2, 2)), rules=Rules(max_wait_s=0.1))
    difference_s = requests(log).latency_s - np.array([r.done_s[-1] - r.arrival_s for r in real])
    assert abs(np.median(difference_s)) < 0.03
    assert abs(np.mean(difference_s)) < 0.05
    assert len(log.batches) == pytest.approx(len(journal.batches), rel=0.1)
