"""CPU time of our own processes and of others, and the cores on which the dispatcher runs."""

import os
import platform
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_energy import host
from ipa_energy.deployment import leave_cores, move_dispatcher
from ipa_energy.serving.processes import ReplicaPlan, Replicas, connect_to_server
from ipa_energy.serving.shared import SharedArray

from tiny import wait_for  # isort: skip

CORES = host.available_cores()
SECONDS = st.floats(0, 1e4)
USED_BY_PID = st.dictionaries(st.integers(1, 20), SECONDS)


# --- whose CPU time ---


@given(USED_BY_PID, USED_BY_PID, USED_BY_PID)
def test_own_time_is_what_was_added_to_those_that_stayed_and_all_of_those_that_came(before, added, came):
    came = {pid + 100: used_s for pid, used_s in came.items()}  # ids of their own
    begin = host.CpuReading(0.0, before)
    stayed = {pid: used_s + added.get(pid, 0.0) for pid, used_s in before.items()}
    own_s = host.own_core_seconds(begin, host.CpuReading(1e6, stayed | came))
    expected_s = sum(added.get(pid, 0.0) for pid in before) + sum(came.values())
    assert own_s == pytest.approx(expected_s, abs=1e-6)


@given(USED_BY_PID, USED_BY_PID, SECONDS)
def test_own_and_foreign_time_add_up_to_that_of_the_host(before, added, foreign_s):
    begin = host.CpuReading(50.0, before)
    after = {pid: before.get(pid, 0.0) + added.get(pid, 0.0) for pid in before.keys() | added.keys()}
    end = host.CpuReading(50.0 + sum(added.values()) + foreign_s, after)
    assert host.foreign_core_seconds(begin, end) == pytest.approx(foreign_s, abs=1e-6)


@given(USED_BY_PID, st.integers(1, 20))
def test_a_process_of_which_no_more_is_known_adds_nothing(before, lost):
    begin = host.CpuReading(0.0, before)
    end = host.CpuReading(1.0, {pid: used_s + 1.0 for pid, used_s in before.items() if pid != lost})
    assert host.own_core_seconds(begin, end) == pytest.approx(len(before.keys() - {lost}), abs=1e-6)


def test_a_reading_takes_the_word_for_those_that_are_gone_and_looks_at_no_other_with_their_number():
    reading = host.read_cpu([os.getpid(), os.getppid()], {os.getppid(): 7.0, 2**22 + 1: 3.0})
    assert reading.own_s == {
        os.getpid(): pytest.approx(sum(os.times()[:2]), abs=0.5),
        os.getppid(): 7.0,
        2**22 + 1: 3.0,
    }
    assert set(host.read_cpu([os.getpid(), 2**22 + 1]).own_s) == {os.getpid()}


def test_a_replica_that_comes_and_goes_between_two_readings_is_our_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    np.save(tmp_path / "frames.npy", np.arange(8, dtype=np.int64))
    output = SharedArray.create("a", (8,), "int64")

    def plan(name, burn_s):
        return ReplicaPlan(name, CORES[:1], "toy_stages:burner", {"burn_s": burn_s}, tmp_path / "frames.npy", output)

    with Replicas(connect_to_server(("ipa_energy.serving.replica", "toy_stages"), "toys")) as processes:

        def read():
            return host.read_cpu([replica.pid for replica in processes.replicas], processes.cpu_s_of_gone)

        first = processes.start(plan("a/0", 0.5))  # there at the first reading, gone at the second
        processes.wait_ready(60)
        begin = read()
        gone, stays = processes.start(plan("a/1", 0.6)), processes.start(plan("a/2", 0.4))
        for replica in (gone, stays):
            replica.loaded(replica.control.recv(1 << 16))
        for replica in (first, gone):
            processes.end(replica)
        wait_for(lambda: len(processes.cpu_s_of_gone) == 2, 10)
        end = read()
    own_s = host.own_core_seconds(begin, end)
    assert own_s == pytest.approx(1.0, rel=0.2)
    assert host.foreign_core_seconds(begin, end) <= end.host_busy_s - begin.host_busy_s - 0.8


# --- where the dispatcher runs ---


@pytest.fixture
def threads():
    """The ids of three threads of this process, the first that of the main one; at the end all may use all cores."""
    done = threading.Event()
    others = [threading.Thread(target=done.wait) for _ in range(2)]
    for thread in others:
        thread.start()
    yield [threading.main_thread().native_id, *(thread.native_id for thread in others)]
    done.set()
    for thread in others:
        thread.join()
    move_dispatcher(CORES, [])


def cores_of(threads):
    (found,) = {frozenset(os.sched_getaffinity(thread)) for thread in threads}
    return found


@pytest.mark.skipif(len(CORES) < 2, reason="there is nowhere to move to")
def test_every_thread_moves_to_the_cores_that_no_replica_has_and_back(threads):
    for occupied in ([CORES[:1]], [CORES[1:]], [CORES[:1], CORES[:1]], [CORES[1:2], CORES[-1:]]):
        move_dispatcher(CORES, occupied)
        assert cores_of(threads) == set(CORES) - {cpu for cpus in occupied for cpu in cpus}
    for occupied in ([], [CORES], [CORES[:1], CORES[1:]], iter([CORES])):
        move_dispatcher(CORES, [CORES[:1]])
        move_dispatcher(CORES, occupied)
        assert cores_of(threads) == set(CORES)


def test_the_cores_left_are_those_of_a_larger_host_that_no_replica_has(monkeypatch):
    moved = {}
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, cores: moved.__setitem__(thread, list(cores)))
    cores = [0, 2, 4, 1, 3, 5]  # one of each physical core first
    for occupied, left in (
        ([(0, 2), (4,)], [1, 3, 5]),
        ([(0, 2), (0, 1, 2)], [4, 3, 5]),
        ([(7,)], cores),  # not ours
        ([(0, 2, 4), (1, 3), (5,)], cores),
    ):
        move_dispatcher(cores, occupied)
        assert moved[os.getpid()] == left


def test_a_thread_that_ends_while_the_others_are_moved_is_no_error(monkeypatch):
    tried = []

    def gone(thread, cores):
        tried.append(thread)
        raise ProcessLookupError(3, "No such process")

    monkeypatch.setattr(os, "sched_setaffinity", gone)
    move_dispatcher(CORES, [])
    assert os.getpid() in tried


@pytest.mark.skipif(len(CORES) < 2, reason="there is nowhere to move to")
def test_the_first_cores_are_left_where_there_are_others(threads):
    leave_cores(CORES, 1)
    assert cores_of(threads) == set(CORES[1:])
    for used in (len(CORES), len(CORES) + 1):
        leave_cores(CORES, used)
        assert cores_of(threads) == set(CORES)


# --- which host ---


def test_a_node_of_slurm_is_a_host_of_its_own_and_keeps_the_name_of_its_machine(monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "node-b")
    told = host.provenance()
    assert (told["host"], told["machine"]) == ("node-b", platform.node())
    monkeypatch.setenv("SLURMD_NODENAME", "")
    assert host.host_name() == platform.node()
    monkeypatch.delenv("SLURMD_NODENAME")
    assert host.provenance()["host"] == platform.node()


def test_a_container_is_told_the_name_of_its_host_but_a_node_of_slurm_knows_its_own(monkeypatch):
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    monkeypatch.setenv("IPA_ENERGY_HOST", "worker-3")
    assert host.host_name() == "worker-3"
    # Slurm hands the environment of the submitting machine to its jobs.
    monkeypatch.setenv("SLURMD_NODENAME", "node-b")
    assert host.host_name() == "node-b"
