"""Live reconfiguration of the serving engine, with real replica processes that sleep instead of computing."""

import dataclasses
import itertools
import json
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_energy.configuration import Configuration, StageKnobs
from ipa_energy.deployment import choose_cores, plan_replicas, replica_planner, replica_starter
from ipa_energy.ipa.arrival_times import poisson_arrivals
from ipa_energy.ipa.outcome import requests as simulated_requests
from ipa_energy.ipa.run_log import Rules
from ipa_energy.ipa.service import ServiceCurve
from ipa_energy.ipa.simulation import simulate
from ipa_energy.serving.arrivals import Workload
from ipa_energy.serving.arrivals import poisson_arrivals as endless_arrivals
from ipa_energy.serving.batching import StageQueue
from ipa_energy.serving.engine import Engine
from ipa_energy.serving.processes import ReplicaPlan, Replicas, ServingError, connect_to_server
from ipa_energy.serving.shared import SharedArray
from ipa_energy.serving.stage import Stage

FRAMES = 8
SLOTS = 64
CORES = tuple(sorted(os.sched_getaffinity(0)))
MODELS = {
    "small": {"service_s": 0.01, "load_s": 0.05},
    "large": {"service_s": 0.02, "load_s": 0.3},
    "huge": {"service_s": 0.03, "load_s": 0.6},
    "slow": {"service_s": 0.5, "load_s": 0.0},
    "broken": {"service_s": 0.0, "load_s": 0.05, "broken": True},
    "endless": {"service_s": 0.0, "load_s": 60.0},
}


@pytest.fixture(scope="module", autouse=True)
def _toys_importable():
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    yield
    del os.environ["PYTHONPATH"]


def knobs(variant="small", replicas=1, batch=1, threads=1, stage="a"):
    return StageKnobs(stage, variant, batch, replicas, threads)


@contextmanager
def serving(tmp_path, workload, *initial, max_wait_s=0.0, special=None, cores=CORES, load_timeout_s=300.0):
    """An engine over toy stages of which ``initial`` holds the knobs; ``special`` has setups of replicas by name."""
    frames = tmp_path / "frames.npy"
    np.save(frames, np.arange(FRAMES, dtype=np.int64))
    arrays = [frames, *(SharedArray.create(k.stage, (SLOTS,), "int64") for k in initial)]
    numbers = {k.stage: number for number, k in enumerate(initial)}

    def plan(wanted, name, cpus):
        number = numbers[wanted.stage]
        setup = MODELS[wanted.variant] | (special or {}).get(name, {})
        return ReplicaPlan(name, cpus, "toy_stages:model", setup, arrays[number], arrays[number + 1])

    with Replicas(connect_to_server(("ipa_energy.serving.replica", "toy_stages"), "toys")) as processes:
        start = replica_starter(plan, processes, cores)
        started = [[start(k) for _ in range(k.replicas)] for k in initial]
        processes.wait_ready(60)
        stages = [
            Stage(k.stage, StageQueue(k.batch, max_wait_s), replicas, k)
            for k, replicas in zip(initial, started, strict=True)
        ]
        yield Engine(stages, processes, workload, FRAMES, SLOTS, start, load_timeout_s), processes


def serve_for(engine, seconds):
    end_s = time.monotonic() + seconds
    engine.serve(lambda now_s: now_s >= end_s)


def serve_until(engine, condition, timeout_s=20.0):
    end_s = time.monotonic() + timeout_s
    engine.serve(lambda now_s: condition() or now_s >= end_s)
    assert condition()


def settle(engine):
    serve_until(engine, lambda: engine.settled)


def gone(engine, *names):
    return all(engine.journal.replicas[name].gone_s is not None for name in names)


def pid_of(processes, name):
    (found,) = [replica.pid for replica in processes.replicas if replica.name == name]
    return found


def check_requests(engine, stages):
    """Every request passed every stage once and in order, and was served by one that could serve then."""
    journal = engine.journal
    assert len(journal.arrivals_s) == len(journal.completed) + len(journal.drops) + engine.in_flight
    assert len(journal.drops) == len(journal.dropped_s)
    for request in journal.completed:
        assert len(request.queued_s) == len(request.taken_s) == len(request.done_s) == len(request.served_by) == stages
        times = [request.arrival_s]
        for stage in range(stages):
            times += [request.queued_s[stage], request.taken_s[stage], request.done_s[stage]]
            life = journal.replicas[request.served_by[stage]]
            assert life.stage == stage
            assert life.ready_s <= request.taken_s[stage]
            assert life.gone_s is None or request.done_s[stage] <= life.gone_s
        assert times == sorted(times)
    came = sorted([r.arrival_s for r in journal.completed] + [d.arrival_s for d in journal.drops])
    assert engine.in_flight or came == sorted(journal.arrivals_s)


def kinds_in_order(journal, stage):
    """(variant, cores) of who took each request of a stage, in the order in which they were taken."""
    taken = sorted((r.taken_s[stage], r.served_by[stage]) for r in journal.completed)
    lives = [journal.replicas[name].knobs for _, name in taken]
    return [(k.variant, k.threads) for k in lives]


# --- the rules, one by one ---


def test_a_batch_size_holds_at_once_and_starts_nothing(tmp_path):
    with serving(tmp_path, Workload(8, None), knobs()) as (engine, _):
        serve_until(engine, lambda: len(engine.journal.completed) >= 5)
        for batch in (4, 2):
            engine.reconfigure([knobs(batch=batch)])
            assert engine.settled
            ended = len(engine.journal.batches)
            serve_for(engine, 0.2)
            later = engine.journal.batches[ended + 1 :]  # the first was in hand
            assert len(later) > 5 and {b.size for b in later} == {batch}
        assert list(engine.journal.replicas) == ["a/0"]
        assert engine.configuration == (knobs(batch=2),)


def test_requests_that_fill_a_smaller_batch_go_at_the_moment_of_the_decision(tmp_path):
    workload = Workload(None, iter([0.0, 0.0, 0.0]))
    with serving(tmp_path, workload, knobs(batch=8), max_wait_s=30.0) as (engine, _):
        serve_for(engine, 0.1)
        decided_s = time.monotonic()
        engine.reconfigure([knobs(batch=3)])
        serve_until(engine, lambda: engine.finished)
        assert all(0 <= r.taken_s[0] - decided_s < 0.02 for r in engine.journal.completed)


def test_more_replicas_serve_once_they_have_loaded_and_the_loop_goes_on_meanwhile(tmp_path):
    with serving(tmp_path, Workload(12, None), knobs("large")) as (engine, _):
        serve_until(engine, lambda: len(engine.journal.completed) >= 5)
        begin_s = time.monotonic()
        engine.reconfigure([knobs("large", 3)])
        assert time.monotonic() - begin_s < MODELS["large"]["load_s"]  # forks, and no model
        assert not engine.settled
        settle(engine)
        serve_for(engine, 0.4)
        lives = engine.journal.replicas
        assert list(lives) == ["a/0", "a/1", "a/2"]
        for name in ("a/1", "a/2"):
            assert lives[name].ready_s - lives[name].started_s >= 0.3
            mine = [b.begin_s for b in engine.journal.batches if b.replica == name]
            assert lives[name].ready_s <= min(mine) < lives[name].ready_s + 0.2
        between = [b for b in engine.journal.batches if begin_s < b.end_s < lives["a/1"].ready_s]
        assert {b.replica for b in between} == {"a/0"} and len(between) > 5
        engine.drain(10)
        check_requests(engine, 1)


def test_fewer_replicas_idle_ones_go_first_and_busy_ones_finish_their_batch(tmp_path):
    workload = Workload(None, iter([0.0, 0.0, 1e9]))
    with serving(tmp_path, workload, knobs("slow", 4)) as (engine, processes):
        serve_for(engine, 0.1)  # a/0 and a/1 are busy, a/2 and a/3 idle
        engine.reconfigure([knobs("slow", 3)])
        serve_until(engine, lambda: gone(engine, "a/3"))
        assert not gone(engine, "a/2")
        engine.reconfigure([knobs("slow", 1)])
        serve_until(engine, lambda: gone(engine, "a/2"))
        assert not engine.journal.batches and pid_of(processes, "a/1") in psutil.pids()
        serve_until(engine, lambda: gone(engine, "a/1"))
        done = {b.replica: b.end_s for b in engine.journal.batches}
        lives = engine.journal.replicas
        assert lives["a/3"].gone_s < lives["a/2"].gone_s < done["a/1"] <= lives["a/1"].gone_s < done["a/1"] + 0.3
        serve_until(engine, lambda: len(engine.journal.completed) == 2)
        assert lives["a/0"].gone_s is None
        assert {r.served_by[0] for r in engine.journal.completed} == {"a/0", "a/1"}
        assert not {pid_of(processes, f"a/{n}") for n in (1, 2, 3)} & set(psutil.pids())


def test_fewer_replicas_those_that_load_go_before_idle_ones_and_at_once(tmp_path):
    special = {name: {"load_s": 60.0} for name in ("a/2", "a/3")}
    with serving(tmp_path, Workload(None, iter([])), knobs("small", 2), special=special) as (engine, processes):
        engine.reconfigure([knobs("small", 4)])
        engine.reconfigure([knobs("small", 2)])
        assert engine.settled
        serve_until(engine, lambda: gone(engine, "a/2", "a/3"))
        lives = engine.journal.replicas
        assert [life.ready_s is None for life in lives.values()] == [False, False, True, True]
        assert [life.gone_s is None for life in lives.values()] == [True, True, False, False]
        assert not {pid_of(processes, name) for name in ("a/2", "a/3")} & set(psutil.pids())
        engine.reconfigure([knobs("small", 3)])
        assert list(lives)[-1] == "a/4"  # numbers of those that are gone don't come again


def test_another_variant_takes_over_when_all_of_it_is_there_and_the_old_one_serves_until_then(tmp_path):
    arrivals = poisson_arrivals(np.full(2, 60.0), 1)
    with serving(tmp_path, Workload(None, iter(arrivals)), knobs("small", 1, 1)) as (engine, processes):
        serve_for(engine, 0.5)
        decided_s = time.monotonic()
        engine.reconfigure([knobs("large", 2, 4)])
        assert engine.configuration == (knobs("large", 2, 4),)
        settle(engine)
        serve_until(engine, lambda: engine.finished)
        serve_until(engine, lambda: gone(engine, "a/0"))
        journal, lives = engine.journal, engine.journal.replicas
        over_s = max(lives["a/1"].ready_s, lives["a/2"].ready_s)
        old = [r for r in journal.completed if r.served_by == ["a/0"]]
        new = [r for r in journal.completed if r.served_by != ["a/0"]]
        assert sum(r.taken_s[0] > decided_s for r in old) > 5
        # It is over when the engine hears of the last one; what it was about to hand out at that moment is not counted.
        assert max(r.taken_s[0] for r in old) <= over_s <= min(r.taken_s[0] for r in new)
        assert {b.size for b in journal.batches if b.replica == "a/0"} == {1}
        assert lives["a/0"].gone_s < over_s + 0.3
        assert pid_of(processes, "a/0") not in psutil.pids()
        assert len(journal.completed) == len(arrivals)
        check_requests(engine, 1)


def test_a_set_that_leaves_finishes_the_batch_in_hand(tmp_path):
    workload = Workload(None, iter([0.3, 0.9]))
    with serving(tmp_path, workload, knobs("slow")) as (engine, _):
        serve_for(engine, 0.2)
        engine.reconfigure([knobs("large")])
        serve_until(engine, lambda: engine.finished)
        lives = engine.journal.replicas
        first, second = engine.journal.completed
        assert first.taken_s[0] < lives["a/1"].ready_s < first.done_s[0] <= lives["a/0"].gone_s
        assert (first.served_by, second.served_by) == (["a/0"], ["a/1"])


def test_other_cores_are_a_whole_new_set(tmp_path):
    with serving(tmp_path, Workload(2, None), knobs(threads=1)) as (engine, _):
        serve_for(engine, 0.1)
        engine.reconfigure([knobs(threads=2)])
        settle(engine)
        serve_until(engine, lambda: gone(engine, "a/0"))
        lives = engine.journal.replicas
        assert [(life.knobs.threads, len(life.cpus)) for life in lives.values()] == [(1, 1), (2, min(2, len(CORES)))]


def test_a_switch_that_is_called_off_leaves_what_serves_alone_but_for_its_new_numbers(tmp_path):
    with serving(tmp_path, Workload(8, None), knobs("small", 1)) as (engine, processes):
        serve_for(engine, 0.1)
        engine.reconfigure([knobs("endless", 2)])
        serve_for(engine, 0.2)
        engine.reconfigure([knobs("small", 2, 2)])
        serve_until(engine, lambda: gone(engine, "a/1", "a/2") and engine.settled)
        serve_for(engine, 0.2)
        lives = engine.journal.replicas
        assert [(n, v.knobs.variant, v.ready_s is None, v.gone_s is None) for n, v in lives.items()] == [
            ("a/0", "small", False, True),
            ("a/1", "endless", True, False),
            ("a/2", "endless", True, False),
            ("a/3", "small", False, True),
        ]
        assert lives["a/1"].gone_s - lives["a/1"].started_s < 1
        assert not {pid_of(processes, name) for name in ("a/1", "a/2")} & set(psutil.pids())
        assert {b.replica for b in engine.journal.batches} == {"a/0", "a/3"}
        assert engine.journal.batches[-1].size == 2
        engine.drain(10)
        check_requests(engine, 1)


def test_a_set_under_way_is_ended_by_another_one(tmp_path):
    with serving(tmp_path, Workload(4, None), knobs("small")) as (engine, _):
        serve_for(engine, 0.1)
        engine.reconfigure([knobs("endless", 2)])
        serve_for(engine, 0.1)
        engine.reconfigure([knobs("large", 1)])
        settle(engine)
        serve_until(engine, lambda: gone(engine, "a/0", "a/1", "a/2"))
        assert kinds_in_order(engine.journal, 0)[0] == ("small", 1)
        serve_for(engine, 0.1)
        kinds = kinds_in_order(engine.journal, 0)
        assert [kind for kind, _ in itertools.groupby(kinds)] == [("small", 1), ("large", 1)]


def test_a_set_under_way_grows_and_shrinks_and_takes_over_when_what_is_left_of_it_has_loaded(tmp_path):
    special = {"a/2": {"load_s": 60.0}, "a/3": {"load_s": 60.0}}
    with serving(tmp_path, Workload(4, None), knobs("small"), special=special) as (engine, _):
        engine.reconfigure([knobs("large", 1)])
        engine.reconfigure([knobs("large", 3)])
        lives = engine.journal.replicas
        serve_until(engine, lambda: lives["a/1"].ready_s is not None)
        serve_for(engine, 0.2)
        assert not engine.settled and {b.replica for b in engine.journal.batches} == {"a/0"}
        engine.reconfigure([knobs("large", 1, 2)])  # the two that load go, and the rest is all there
        assert engine.settled
        serve_until(engine, lambda: gone(engine, "a/0", "a/2", "a/3"))
        serve_for(engine, 0.1)
        assert engine.journal.batches[-1].replica == "a/1" and engine.journal.batches[-1].size == 2


def test_stages_are_reconfigured_each_for_itself(tmp_path):
    initial = knobs("small", 1, stage="a"), knobs("small", 1, stage="b")
    with serving(tmp_path, Workload(4, None), *initial) as (engine, _):
        serve_for(engine, 0.1)
        engine.reconfigure([knobs("small", 2, stage="a"), knobs("large", 1, stage="b")])
        assert set(engine.journal.replicas) == {"a/0", "b/0", "a/1", "b/1"}
        settle(engine)
        engine.drain(10)
        check_requests(engine, 2)


def test_a_replica_that_must_not_be_killed_leaves_once_it_has_loaded(tmp_path):
    np.save(tmp_path / "frames.npy", np.arange(FRAMES, dtype=np.int64))
    output = SharedArray.create("a", (SLOTS,), "int64")
    setup = {"service_s": 0.0, "load_s": 0.5}
    with Replicas(connect_to_server(("ipa_energy.serving.replica", "toy_stages"), "toys")) as processes:
        for name, kill in (("a/0", False), ("a/1", True)):
            plan = ReplicaPlan(name, CORES[:1], "toy_stages:model", setup, tmp_path / "frames.npy", output)
            processes.end(processes.start(dataclasses.replace(plan, kill_while_loading=kill)))
        assert [replica.name for replica in processes.living] == ["a/0"]  # it still needs its cores
        end_s = time.monotonic() + 10
        while processes.living and time.monotonic() < end_s:
            assert processes.read_exits()
            time.sleep(0.01)
        polite, killed = processes.replicas
        assert (polite.exit_code, killed.exit_code) == (0, -signal.SIGKILL)
        assert polite.gone_s - polite.started_s >= 0.5


# --- whatever is decided ---


@pytest.mark.parametrize(
    ("seed", "rate_rps", "drop_after_s"), [(1, 60, None), (2, 60, None), (3, 90, None), (4, 250, 0.15), (5, 150, 0.08)]
)
def test_random_decisions_lose_no_request(tmp_path, seed, rate_rps, drop_after_s):
    generator = np.random.default_rng(seed)

    def any_configuration():
        return tuple(
            knobs(
                str(generator.choice(["small", "large", "huge"])),
                int(generator.integers(1, 4)),
                int(generator.integers(1, 5)),
                int(generator.integers(1, 3)),
                stage,
            )
            for stage in ("a", "b")
        )

    arrivals = poisson_arrivals(np.full(3, float(rate_rps)), seed)
    workload = Workload(None, iter(arrivals.tolist()), drop_after_s)
    decisions = 0
    with serving(tmp_path, workload, *any_configuration(), max_wait_s=0.02) as (engine, processes):
        begin_s = time.monotonic()
        while time.monotonic() - begin_s < 3.0:
            serve_for(engine, float(generator.choice([0.02, 0.1, 0.9])))
            kept = engine.configuration
            engine.reconfigure(
                [new if generator.random() < 0.6 else old for new, old in zip(any_configuration(), kept, strict=True)]
            )
            decisions += 1
        serve_until(engine, lambda: engine.finished)
        settle(engine)
        decided = engine.configuration
        wanted = sum(k.replicas for k in decided)
        serve_until(engine, lambda: sum(v.gone_s is None for v in engine.journal.replicas.values()) == wanted)
        check_requests(engine, 2)
        journal = engine.journal
        assert len(journal.arrivals_s) == len(arrivals)
        assert bool(journal.drops) == (drop_after_s is not None)
        living = [v for v in journal.replicas.values() if v.gone_s is None]
        for number, k in enumerate(decided):
            assert [(v.knobs.variant, v.knobs.threads) for v in living if v.stage == number] == [
                (k.variant, k.threads)
            ] * k.replicas
            changes = sum(1 for _ in itertools.groupby(kinds_in_order(journal, number))) - 1
            assert changes <= decisions  # the old and the new set never take turns
        ours = {r.pid for r in processes.replicas}
        there = ours & {p.pid for p in psutil.Process(pid_of(processes, living[0].name)).parent().children()}
        assert there == {pid_of(processes, v.name) for v in living}
        if drop_after_s is not None:
            assert all(d.at_s - d.arrival_s > drop_after_s for d in journal.drops)
            for request in journal.completed:
                assert max(request.taken_s) - request.arrival_s <= drop_after_s
    engine.note_exits()
    assert all(v.gone_s is not None for v in journal.replicas.values())


# --- failures ---


def test_a_replica_whose_model_does_not_load_is_named(tmp_path):
    with serving(tmp_path, Workload(4, None), knobs()) as (engine, _):
        engine.reconfigure([knobs("broken")])
        with pytest.raises(ServingError, match=r"replica a/1 .* RuntimeError: weights file is broken"):
            serve_for(engine, 10)


def test_a_replica_that_is_killed_while_it_loads_is_named(tmp_path):
    with serving(tmp_path, Workload(4, None), knobs()) as (engine, processes):
        engine.reconfigure([knobs("endless")])
        serve_for(engine, 0.1)
        os.kill(pid_of(processes, "a/1"), signal.SIGKILL)
        with pytest.raises(ServingError, match=r"replica a/1 .* was killed by SIGKILL"):
            serve_for(engine, 10)


def test_a_replica_that_loads_for_too_long_is_named(tmp_path):
    with serving(tmp_path, Workload(4, None), knobs(), load_timeout_s=0.3) as (engine, _):
        engine.reconfigure([knobs("endless")])
        with pytest.raises(ServingError, match=r"replica a/1 did not load its model in 0.3 s"):
            serve_for(engine, 10)


@pytest.mark.parametrize("leaving", [False, True])
def test_a_replica_that_is_killed_with_a_batch_in_hand_is_named_even_if_it_was_to_leave(tmp_path, leaving):
    with serving(tmp_path, Workload(2, None), knobs("slow", 2)) as (engine, processes):
        serve_for(engine, 0.1)
        if leaving:
            engine.reconfigure([knobs("slow", 1)])
        os.kill(pid_of(processes, "a/1"), signal.SIGKILL)
        with pytest.raises(ServingError, match=r"replica a/1 .* was killed by SIGKILL"):
            serve_for(engine, 10)


def test_the_death_of_the_preload_server_is_noticed(tmp_path):
    with serving(tmp_path, Workload(4, None), knobs()) as (engine, processes):
        serve_for(engine, 0.1)
        server = psutil.Process(processes.replicas[0].pid).parent()
        server.kill()
        with pytest.raises(ServingError, match=r"replica a/0 .* went away"):
            serve_for(engine, 10)
        with pytest.raises(ServingError, match="preload server"):
            engine.reconfigure([knobs("large")])


def test_what_cannot_be_served_is_refused_before_anything_changes(tmp_path):
    with serving(tmp_path, Workload(4, None), knobs(), knobs(stage="b")) as (engine, _):
        for wrong, text in (
            ([knobs("large")], "needs the stages a, b in this order; this one has a"),
            ([knobs("large"), knobs(replicas=0, stage="b")], "replicas of stage b is 0: give 1 or more"),
            ([knobs("large"), knobs(batch=0, stage="b")], "batch of stage b is 0"),
            ([knobs("large"), knobs(batch=SLOTS + 1, stage="b")], "batch of stage b is 65: only 64 requests fit"),
        ):
            with pytest.raises(ValueError, match=text):
                engine.reconfigure(wrong)
        assert engine.settled and engine.configuration == (knobs(), knobs(stage="b"))
        assert list(engine.journal.replicas) == ["a/0", "b/0"]


# --- the end of a load ---


def test_a_load_that_ends_is_served_to_its_end(tmp_path):
    with serving(tmp_path, Workload(None, iter([0.0, 0.01, 0.3])), knobs(batch=2), max_wait_s=0.1) as (engine, _):
        assert not engine.finished
        serve_until(engine, lambda: engine.finished)
        assert len(engine.journal.completed) == 3


def test_draining_serves_what_was_admitted_and_admits_no_more(tmp_path):
    workload = Workload(None, endless_arrivals(200, 1))
    with serving(tmp_path, workload, knobs("large", batch=4)) as (engine, _):
        serve_for(engine, 0.5)
        assert engine.in_flight > 4
        engine.drain(20)
        assert engine.finished and engine.in_flight == 0
        assert len(engine.journal.completed) == len(engine.journal.arrivals_s)


def test_draining_that_takes_too_long_says_what_is_left(tmp_path):
    with serving(tmp_path, Workload(3, None), knobs("slow")) as (engine, _):
        serve_for(engine, 0.1)
        with pytest.raises(ServingError, match=r"3 requests were still in flight after 0.2 s"):
            engine.drain(0.2)


# --- late requests ---


@given(st.permutations(range(12)), st.integers(0, 12), st.integers(0, 12))
def test_all_late_requests_leave_a_queue_wherever_they_are(order, waiting, late):
    queue = StageQueue(3, 1.0)
    for place, request in enumerate(order[:waiting]):
        queue.push(request, float(place))
    entered = list(queue.waiting)
    assert queue.drop_late(lambda request: request < late) == [r for r, _ in entered if r < late]
    assert list(queue.waiting) == [entry for entry in entered if entry[0] >= late]


def test_a_late_request_behind_a_younger_one_is_dropped(tmp_path):
    """The first request is slow in stage a, so that it stands behind a younger one in the queue of b."""
    special = {"a/0": {"service_s": 0.4}, "b/0": {"service_s": 0.3}}
    workload = Workload(None, iter([0.0, 0.2, 0.25]), drop_after_s=0.45)
    initial = knobs("small", 2), knobs("small", 1, 2, stage="b")
    with serving(tmp_path, workload, *initial, special=special) as (engine, _):
        serve_until(engine, lambda: engine.finished)
        (drop,) = engine.journal.drops
        assert drop.stage == 1 and drop.arrival_s == min(engine.journal.arrivals_s)
        assert [r.served_by for r in engine.journal.completed] == [["a/1", "b/0"]] * 2


# --- cores ---


def test_the_cores_least_used_are_chosen_in_the_order_of_the_host():
    cores = [0, 2, 4, 1, 3, 5]  # one of each physical core first
    assert choose_cores(2, cores, []) == (0, 2)
    assert choose_cores(2, cores, [(0, 2)]) == (1, 4)
    assert choose_cores(3, cores, [(0, 2), (1, 4)]) == (0, 3, 5)
    assert choose_cores(1, cores, [(0, 1), (2, 3), (4, 5), (0, 2)]) == (4,)
    assert choose_cores(9, cores, [(0,)]) == (0, 1, 2, 3, 4, 5)


def test_cores_of_replicas_that_are_gone_are_given_again(tmp_path):
    with serving(tmp_path, Workload(2, None), knobs("small", 1), cores=[CORES[0], CORES[-1]]) as (engine, processes):
        serve_for(engine, 0.1)
        for variant in ("large", "small", "large"):
            engine.reconfigure([knobs(variant)])
            settle(engine)
            serve_for(engine, 0.1)
        lives = list(engine.journal.replicas.values())
        # While a set loads, the other core is that of the old one.
        assert [life.cpus for life in lives] == [(CORES[0],), (CORES[-1],)] * 2
        assert [tuple(r.facts["cpus"]) for r in processes.replicas] == [life.cpus for life in lives]


def test_a_job_starts_its_replicas_as_before_and_new_ones_alike(tmp_path):
    (tmp_path / "weights.json").write_text(json.dumps({"weights": "random"}))
    stages = (knobs("x", 2, 1, 2, "detect"), knobs("y", 1, 1, 3, "classify"))
    job = SimpleNamespace(
        configuration=Configuration("video", stages),
        settings={"seed": 7, "crops_per_frame": 1},
        weights=str(tmp_path / "weights.json"),
        weights_folder="folder",
    )
    arrays = [tmp_path / "frames.npy", SharedArray.create("a", (1,), "int64"), SharedArray.create("b", (1,), "int64")]
    plans = plan_replicas(job, arrays, [0, 2, 1, 3])
    assert [(p.name, p.cpus) for p in plans] == [("detect/0", (0, 2)), ("detect/1", (1, 3)), ("classify/0", (0, 1, 2))]
    again = replica_planner(job, arrays)(stages[1], "classify/0", (0, 1, 2))
    assert again == plans[2]
    assert again.setup == {
        "pipeline": "video",
        "knobs": {"stage": "classify", "variant": "y", "batch": 1, "replicas": 1, "threads": 3},
        "device": "cpu",
        "precision": "fp32",
        "weights": {"kind": "random", "seed": 7, "folder": "folder"},
        "crops_per_frame": 1,
    }


# --- the simulation ---


def test_the_simulation_reconfigures_as_the_engine_does(tmp_path):
    """The same arrivals and decisions; service and start times in the simulation as observed with real processes."""
    decisions = [
        (knobs("large", 2, 4), knobs("small", 1, 2, stage="b")),
        (knobs("large", 3, 2), knobs("large", 2, 2, stage="b")),
        (knobs("small", 2, 2), knobs("large", 2, 1, stage="b")),
        (knobs("small", 1, 1), knobs("large", 1, 4, stage="b")),
    ]
    initial = (knobs("small", 1, 1), knobs("small", 1, 1, stage="b"))
    arrivals = poisson_arrivals(np.full(5, 40.0), seed=3)
    special = {f"{stage}/{n}": {"load_s": 0.5} for stage in "ab" for n in range(20)}
    workload = Workload(None, iter(arrivals.tolist()))
    with serving(tmp_path, workload, *initial, max_wait_s=0.05, special=special) as (engine, _):
        begin_s = time.monotonic()
        for number, decision in enumerate(decisions, start=1):
            engine.serve(lambda now_s: now_s >= begin_s + number)  # noqa: B023
            engine.reconfigure(decision)
        serve_until(engine, lambda: engine.finished)
        journal = engine.journal
    lives = journal.replicas.values()
    start_s = float(np.median([v.ready_s - v.started_s for v in lives if v.ready_s and v.started_s > begin_s]))
    curves = {}
    for stage, name in enumerate("ab"):
        for variant in ("small", "large"):
            names = {v.name for v in lives if (v.stage, v.knobs.variant) == (stage, variant)}
            service_s = np.median([b.service_s for b in journal.batches if b.replica in names])
            curves.setdefault(name, {})[variant, 1] = ServiceCurve(name, variant, 1, 0.5, np.full(4, service_s))
    steps = iter(decisions)
    log = simulate(curves, arrivals, 5.0, initial, lambda *_: next(steps), Rules(1.0, start_s, max_wait_s=0.05))
    real = sorted(journal.completed, key=lambda request: request.arrival_s)
    assert len(real) == len(arrivals) and not log.drops
    assert [(r.stage, r.curve.variant) for r in sorted(log.replicas, key=lambda r: (r.stage, r.number))] == [
        (v.stage, v.knobs.variant) for v in sorted(lives, key=lambda v: v.stage)
    ]
    for stage in (0, 1):
        simulated = {q: b.curve.variant for b in log.batches if b.stage == stage for q in b.requests}
        served = [journal.replicas[r.served_by[stage]].knobs.variant for r in real]
        assert sum(simulated[q] == v for q, v in enumerate(served)) >= 0.95 * len(real)
    assert len(log.batches) == pytest.approx(len(journal.batches), rel=0.1)
    latency_s = np.array([r.done_s[-1] - r.arrival_s for r in real])
    assert simulated_requests(log).latency_s.mean() == pytest.approx(latency_s.mean(), rel=0.15)
