"""The serving engine with real replica processes over shared memory."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from ipa_energy.owner import OWNER_VARIABLE, claim_of
from ipa_energy.serving.arrivals import Workload, poisson_arrivals
from ipa_energy.serving.batching import StageQueue
from ipa_energy.serving.engine import Engine, Stage
from ipa_energy.serving.journal import service_figures
from ipa_energy.serving.processes import ReplicaPlan, Replicas, ServingError, connect_to_server
from ipa_energy.serving.shared import SharedArray

FRAMES = 8
SLOTS = 64
CORES = tuple(sorted(os.sched_getaffinity(0)))


@pytest.fixture(scope="module", autouse=True)
def _toys_importable():
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    yield
    del os.environ["PYTHONPATH"]


@contextmanager
def serving(tmp_path, workload, *stages, max_wait_s=0.05):
    """An engine over toy stages given as (name, factory, setup, batch, replicas)."""
    frames = tmp_path / "frames.npy"
    np.save(frames, np.arange(FRAMES, dtype=np.int64))
    arrays = [frames, *(SharedArray.create(name, (SLOTS,), "int64") for name, *_ in stages)]
    with Replicas(connect_to_server(("ipa_energy.serving.replica", "toy_stages"), "toys")) as processes:
        for number, (name, factory, setup, _batch, replicas) in enumerate(stages):
            for replica in range(replicas):
                cpus = (CORES[replica % len(CORES)],)
                processes.start(
                    ReplicaPlan(
                        f"{name}/{replica}", cpus, f"toy_stages:{factory}", setup, arrays[number], arrays[number + 1]
                    )
                )
        processes.wait_ready(60)
        engine = Engine(
            [
                Stage(
                    name,
                    StageQueue(batch, max_wait_s),
                    [r for r in processes.replicas if r.name.startswith(name + "/")],
                )
                for name, _f, _s, batch, _r in stages
            ],
            processes,
            workload,
            frames=FRAMES,
            slots=SLOTS,
        )
        yield engine, processes, arrays


def until(engine, completed, timeout_s=20.0):
    deadline_s = time.monotonic() + timeout_s
    return lambda now_s: len(engine.journal.completed) >= completed or now_s > deadline_s


def test_every_request_passes_every_stage_once_through_shared_memory(tmp_path):
    stages = (("a", "sleeper", {"service_s": 0.001, "add": 100}, 4, 2), ("b", "checker", {"add": 1000}, 3, 1))
    with serving(tmp_path, Workload(16, None), *stages) as (engine, _, arrays):
        engine.serve(until(engine, 200))
        engine.quiesce()
        assert len(engine.journal.completed) >= 200
        for request in engine.journal.completed:
            times = [request.arrival_s, request.queued_s[0], request.taken_s[0], request.done_s[0]]
            times += [request.queued_s[1], request.taken_s[1], request.done_s[1]]
            assert times == sorted(times)
        results = arrays[2].view()
        written = results[results != 0]
        assert len(written) > 0
        assert set(written - 1100) <= set(range(FRAMES))


def test_closed_loop_keeps_its_number_in_flight_and_fills_batches(tmp_path):
    with serving(tmp_path, Workload(8, None), ("a", "sleeper", {"service_s": 0.01}, 4, 1)) as (engine, _, _arrays):
        engine.serve(until(engine, 80))
        assert engine.in_flight == 8
        assert {b.size for b in engine.journal.batches[2:]} == {4}


def test_a_batch_that_is_not_full_leaves_after_max_wait(tmp_path):
    slow_arrivals = iter([0.0, 10.0])
    with serving(
        tmp_path, Workload(None, slow_arrivals), ("a", "sleeper", {"service_s": 0.0}, 8, 1), max_wait_s=0.2
    ) as (engine, _, _arrays):
        engine.serve(until(engine, 1))
        (request,) = engine.journal.completed
        assert 0.2 <= request.taken_s[0] - request.arrival_s < 0.4
        assert [b.size for b in engine.journal.batches] == [1]


def test_open_loop_arrivals_never_wait_for_responses(tmp_path):
    workload = Workload(None, poisson_arrivals(200, seed=1))
    with serving(tmp_path, workload, ("a", "sleeper", {"service_s": 0.05}, 1, 1)) as (engine, _, _arrays):
        begin_s = time.monotonic()
        engine.serve(lambda now_s: now_s - begin_s > 1.0)
        assert 140 < len(engine.journal.arrivals_s) < 260  # mean 200, standard deviation 14
        assert len(engine.journal.completed) < 25


def test_late_requests_are_dropped_and_counted(tmp_path):
    workload = Workload(None, poisson_arrivals(100, seed=1), drop_after_s=0.2)
    with serving(tmp_path, workload, ("a", "sleeper", {"service_s": 0.05}, 1, 1)) as (engine, _, _arrays):
        begin_s = time.monotonic()
        engine.serve(lambda now_s: now_s - begin_s > 1.5)
        end_s = time.monotonic()
        figures = service_figures(engine.journal, begin_s, end_s, True, [("a", 1, 1)])
        assert figures["dropped"] > 50
        assert figures["sent"] == figures["completed"] + figures["dropped"] + engine.in_flight
        assert all(r.taken_s[0] - r.arrival_s <= 0.2 for r in engine.journal.completed)


def test_replicas_share_the_load_on_cores_of_their_own(tmp_path):
    with serving(tmp_path, Workload(8, None), ("a", "sleeper", {"service_s": 0.02}, 2, 2)) as (engine, processes, _):
        engine.serve(until(engine, 60))
        by_replica = {name: sum(b.replica == name for b in engine.journal.batches) for name in ("a/0", "a/1")}
        assert min(by_replica.values()) > 0.4 * max(by_replica.values())
        cpus = [replica.facts["cpus"] for replica in processes.replicas]
        assert all(len(c) == 1 for c in cpus)
        if len(CORES) > 1:
            assert cpus[0] != cpus[1]


def test_a_killed_replica_is_noticed_at_once_and_named(tmp_path):
    with serving(tmp_path, Workload(4, None), ("a", "sleeper", {"service_s": 0.05}, 1, 2)) as (engine, processes, _):
        engine.serve(until(engine, 4))
        victim = processes.replicas[1]
        os.kill(victim.pid, signal.SIGKILL)
        killed_s = time.monotonic()
        with pytest.raises(ServingError, match=rf"replica a/1 \(pid {victim.pid}\) was killed by SIGKILL"):
            engine.serve(lambda now_s: now_s > killed_s + 10)
        assert time.monotonic() - killed_s < 2


def test_an_exception_in_a_stage_names_replica_and_error(tmp_path):
    with (
        serving(tmp_path, Workload(4, None), ("a", "raiser", {"at": 3}, 1, 1)) as (engine, _, _arrays),
        pytest.raises(ServingError, match=r"replica a/0 .* MemoryError: no room for 7 GiB"),
    ):
        engine.serve(until(engine, 100))


def test_a_model_that_does_not_load_is_named(tmp_path):
    with (
        pytest.raises(ServingError, match=r"replica a/0 .* RuntimeError: weights file is broken"),
        serving(tmp_path, Workload(4, None), ("a", "unloadable", {}, 1, 1)),
    ):
        pass


def test_leaving_the_replicas_ends_them_all(tmp_path):
    with serving(tmp_path, Workload(4, None), ("a", "sleeper", {"service_s": 0.01}, 1, 2)) as (engine, processes, _):
        engine.serve(until(engine, 4))
        pids = [r.pid for r in processes.replicas]
        assert all(psutil.pid_exists(pid) for pid in pids)
    assert not any(psutil.pid_exists(pid) for pid in pids)


CHILD = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_serving_engine import serving, until
    from ipa_energy.serving.arrivals import Workload
    stage = ("a", "sleeper", {{"service_s": 0.01}}, 1, 2)
    with serving(Path({tmp!r}), Workload(4, None), stage) as (engine, processes, _):
        engine.serve(until(engine, 4))
        print(*(r.pid for r in processes.replicas), flush=True)
        engine.serve(lambda now_s: False)
"""


def _gone(pids, within_s=5.0):
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("victim", ["engine", "server", "workflow"])
def test_replicas_never_outlive_the_engine_the_server_or_the_workflow(tmp_path, victim):
    workflow = subprocess.Popen(["sleep", "300"])
    source = textwrap.dedent(CHILD.format(tests=str(Path(__file__).parent), tmp=str(tmp_path)))
    environment = os.environ | {OWNER_VARIABLE: claim_of(workflow.pid), "PYTHONPATH": str(Path(__file__).parent)}
    engine = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        pids = [int(p) for p in engine.stdout.readline().split()]
        assert len(pids) == 2
        server = psutil.Process(pids[0]).parent()
        assert "preload" in " ".join(server.cmdline())
        target = {"engine": engine.pid, "server": server.pid, "workflow": workflow.pid}[victim]
        os.kill(target, signal.SIGKILL)
        if victim == "workflow":
            workflow.wait()
            assert _gone([server.pid])
        assert _gone(pids)
    finally:
        for process in (engine, workflow):
            process.kill()
            process.wait()
    assert _gone([server.pid])
