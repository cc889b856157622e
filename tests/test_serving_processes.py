"""Replicas from start to end, however they end: real processes, without an engine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from ipa_energy.serving.processes import ReplicaPlan, Replicas, ServingError, connect_to_server
from ipa_energy.serving.replica import encode_batch
from ipa_energy.serving.shared import SharedArray

from tiny import living, wait_for  # isort: skip

CORES = tuple(sorted(os.sched_getaffinity(0)))


@pytest.fixture(autouse=True)
def _toys_importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture
def plan(tmp_path):
    """From the factory, its setup and a name to the plan of a replica of a toy stage."""
    np.save(tmp_path / "frames.npy", np.arange(8, dtype=np.int64))
    output = SharedArray.create("a", (8,), "int64")

    def make(factory, name="a/0", **setup):
        return ReplicaPlan(name, CORES[:1], f"toy_stages:{factory}", setup, tmp_path / "frames.npy", output)

    return make


def connected():
    return Replicas(connect_to_server(("ipa_energy.serving.replica", "toy_stages"), "toys"))


# --- stopping twice: where one says so, and where the block ends ---


def test_a_runner_that_can_not_load_is_named_and_stopping_after_it_is_no_error(plan):
    with connected() as processes:
        processes.start(plan("unloadable"))
        with pytest.raises(ServingError, match="weights file is broken"):
            processes.wait_ready(60)
        processes.stop()
        (replica,) = processes.replicas
        assert replica.exit_code in (1, -signal.SIGKILL)  # it had said why, and was about to end by itself
    assert not processes.read_exits()


def test_a_replica_that_is_ended_while_it_loads_can_be_stopped_twice(plan):
    with connected() as processes:
        replica = processes.start(plan("model", load_s=60.0))
        processes.end(replica)
        processes.stop()
        processes.stop()
    assert replica.exit_code == -signal.SIGKILL


def test_a_replica_that_leaves_more_slowly_than_the_grace_is_killed_and_stopping_again_takes_no_time(plan):
    with connected() as processes:
        replica = processes.start(plan("sleeper", service_s=60.0))
        processes.wait_ready(60)
        replica.control.send(encode_batch([0], [0]))
        processes.stop(grace_s=0.2)
        stopped_s = time.monotonic()
    assert time.monotonic() - stopped_s < 0.1
    wait_for(lambda: not living([replica.pid]), 10)
    assert replica.exit_code is None  # it was killed with the connection, over which its end would have been told
    assert "went away" in str(processes.failure(replica, b""))


# --- what they used ---


def test_the_cpu_time_of_a_replica_is_told_when_it_is_gone_however_it_went(plan):
    with connected() as processes:
        left, killed, lives = (
            processes.start(plan("burner", name, burn_s=burn_s))
            for name, burn_s in (("a/0", 0.3), ("a/1", 0.6), ("a/2", 0.0))
        )
        processes.wait_ready(60)
        assert processes.cpu_s_of_gone == {}
        processes.end(left)
        os.kill(killed.pid, signal.SIGKILL)
        wait_for(lambda: len(processes.cpu_s_of_gone) == 2, 10)
        assert processes.cpu_s_of_gone == {left.pid: left.cpu_s, killed.pid: killed.cpu_s}
        assert (left.cpu_s, killed.cpu_s) == (pytest.approx(0.3, abs=0.1), pytest.approx(0.6, abs=0.1))
        assert lives.cpu_s is None and psutil.pid_exists(lives.pid)
    assert lives.cpu_s == pytest.approx(0.0, abs=0.1)
    assert set(processes.cpu_s_of_gone) == {left.pid, killed.pid, lives.pid}


# --- the preload server ends with its owner ---


def test_a_server_that_still_imports_ends_with_its_owner(tmp_path):
    (tmp_path / "slow_import.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    owner = subprocess.Popen(["sleep", "60"])
    command = [sys.executable, "-m", "ipa_energy.serving.preload", "--address", f"ipa-energy-test/{tmp_path}"[:100]]
    command += ["--owner", str(owner.pid), "--import=slow_import"]
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path})
    try:
        assert server.stdout.readline() == "importing\n"
        owner.kill()
        owner.wait()
        assert server.wait(10) == 0
    finally:
        for process in (owner, server):
            process.kill()
            process.wait()


def test_a_server_that_has_imported_has_one_thread_only(plan):
    with connected() as processes:
        replica = processes.start(plan("model"))
        server = psutil.Process(replica.pid).parent()
        assert server.num_threads() == 1
