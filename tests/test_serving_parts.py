"""Batching policy, arrivals and the figures cut from a journal, against brute force and statistics."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ipa_energy.serving.arrivals import make_workload, poisson_arrivals, read_trace, trace_arrivals
from ipa_energy.serving.batching import StageQueue
from ipa_energy.serving.journal import Batch, Journal, Request, service_drift, service_figures, throughput_drift


@given(st.integers(1, 8), st.floats(0, 2), st.lists(st.floats(0, 10), max_size=30), st.floats(0, 15))
def test_a_batch_is_ready_when_full_or_when_its_oldest_request_has_waited(batch, max_wait_s, times, now_s):
    queue = StageQueue(batch, max_wait_s)
    arrived = sorted(t for t in times if t <= now_s)
    for number, time_s in enumerate(arrived):
        queue.push(number, time_s)
    expected = bool(arrived) and (len(arrived) >= batch or now_s >= arrived[0] + max_wait_s)
    assert queue.ready(now_s) == expected


@given(st.integers(1, 8), st.integers(0, 30), st.integers(1, 40))
def test_batches_leave_in_order_and_never_exceed_batch_or_limit(batch, waiting, limit):
    queue = StageQueue(batch, 0.0)
    for number in range(waiting):
        queue.push(number, float(number))
    taken = [n for n, _ in queue.take(limit)]
    assert taken == list(range(min(batch, limit, waiting)))
    assert len(queue.waiting) == waiting - len(taken)


def test_poisson_gaps_are_exponential_with_the_wanted_mean():
    times_s = np.array(list(itertools.islice(poisson_arrivals(25.0, seed=7), 5000)))
    assert stats.kstest(np.diff(times_s), "expon", args=(0, 1 / 25.0)).pvalue > 0.01


def test_arrivals_are_the_same_for_the_same_seed():
    first, again, other = (list(itertools.islice(poisson_arrivals(5, seed), 50)) for seed in (1, 1, 2))
    assert first == again != other


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any), st.integers(0, 1000))
def test_a_trace_gives_each_second_its_count_and_starts_over(counts, seed):
    seconds = 2 * len(counts)
    times = list(itertools.takewhile(lambda t: t < seconds, trace_arrivals(counts, seed)))
    assert times == sorted(times)
    assert np.histogram(times, bins=np.arange(seconds + 1))[0].tolist() == counts * 2


def test_a_trace_file_names_its_bad_line(tmp_path):
    (tmp_path / "t.txt").write_text("3\n\n5\nmany\n")
    with pytest.raises(ValueError, match="line 4: 'many' is not a number of requests"):
        read_trace(tmp_path / "t.txt")
    (tmp_path / "zero.txt").write_text("0\n0\n")
    with pytest.raises(ValueError, match="holds no request"):
        read_trace(tmp_path / "zero.txt")
    (tmp_path / "good.txt").write_text("3\n0\n5\n")
    assert read_trace(tmp_path / "good.txt") == [3, 0, 5]


def test_a_saturated_load_holds_a_multiple_of_the_batch_capacity():
    settings = {"kind": "saturated", "in_flight_per_batch": 2}
    assert make_workload(settings, batch_capacity=12, seed=0).in_flight == 24
    assert make_workload(settings, batch_capacity=12, seed=0).arrivals_s is None


def a_journal(batch, service_s, batches):
    """A single stage that serves batch after batch without a gap, from time 0."""
    journal = Journal()
    for number in range(batches):
        begin_s, end_s = number * service_s, (number + 1) * service_s
        journal.batches.append(Batch(0, "a/0", begin_s, end_s, batch, 1))
        for _ in range(batch):
            journal.arrivals_s.append(begin_s)
            journal.completed.append(Request(begin_s - 0.5, [begin_s - 0.5], [begin_s], [end_s]))
    return journal


@given(st.integers(1, 8), st.floats(0.01, 0.5), st.integers(2, 20), st.integers(1, 10))
def test_a_window_between_completions_gives_the_exact_throughput(batch, service_s, length, start):
    journal = a_journal(batch, service_s, 40)
    begin_s, end_s = start * service_s, (start + length) * service_s
    # Edges are completion times as the journal holds them.
    begin_s, end_s = journal.batches[start - 1].end_s, journal.batches[start + length - 1].end_s
    figures = service_figures(journal, begin_s, end_s, False, [("a", batch, 1)])
    assert figures["throughput_rps"] == pytest.approx(batch / service_s)
    assert figures["completed"] == length * batch
    stage = figures["stages"]["a"]
    assert stage["utilisation"] == pytest.approx(1.0)
    assert stage["service_mean_s"] == pytest.approx(service_s)
    assert (stage["batch_fill"], stage["batches"], stage["filled_crops"]) == (1.0, length, length)
    assert stage["queue_mean_s"] == pytest.approx(0.5)
    assert figures["latency"]["p99_s"] == pytest.approx(service_s + 0.5)
    assert figures["in_flight_mean"] == pytest.approx(batch / service_s * (service_s + 0.5))


def test_a_window_without_completions_has_nulls_and_no_zeros():
    figures = service_figures(Journal(), 0.0, 1.0, True, [("a", 1, 1)])
    assert figures["completed"] == 0
    assert set(figures["latency"].values()) == {None}
    assert figures["stages"]["a"]["service_mean_s"] is None
    assert figures["in_flight_mean"] is None


@given(st.integers(0, 10**6), st.floats(0.5, 4.0))
def test_a_healthy_open_loop_does_not_look_unsteady_but_a_machine_that_slows_does(seed, slowing):
    """Single server, Poisson arrivals at 60 % load: completions vary with the arrivals, service times do not."""
    journal = Journal()
    free_s = 0.0
    for arrival_s in itertools.takewhile(lambda t: t < 60, poisson_arrivals(6.0, seed)):
        begin_s = max(arrival_s, free_s)
        free_s = begin_s + 0.1 * (slowing if begin_s > 30 else 1.0)
        journal.batches.append(Batch(0, "a/0", begin_s, free_s, 1, 0))
    expected = abs(slowing - 1.0) / ((slowing + 1.0) / 2)
    assert service_drift(journal, 1, 0.0, 60.0) == pytest.approx(expected, abs=0.03)


def test_drift_compares_the_halves_of_the_window():
    steady = a_journal(2, 0.1, 40)
    assert throughput_drift(steady, 0.0, 4.0) == pytest.approx(0.0, abs=1e-9)
    slowing = a_journal(2, 0.1, 20)
    for number in range(20):
        end_s = 2.0 + (number + 1) * 0.2
        slowing.completed += [Request(0.0, [0.0], [end_s - 0.2], [end_s])] * 2
    assert throughput_drift(slowing, 0.0, 6.0) > 0.2
    assert throughput_drift(a_journal(2, 1.0, 3), 0.0, 3.0) is None
