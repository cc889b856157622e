"""A front holds exactly the points that nothing dominates: against comparing every pair, and against enumeration."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmarks.ipa_reference import made_up_profile, shortest_latency_s
from ipa_energy.ipa import front
from ipa_energy.ipa.front import METRICS, FrontTooLargeError, metrics_of, pareto_mask, space_front
from ipa_energy.ipa.objective import Objective, Weights
from ipa_energy.ipa.options import Input, make_options
from ipa_energy.ipa.space import space_table
from ipa_instances import instances

RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
KEYS = {
    "accuracy_pas": "accuracy",
    "accuracy_rank_sum": "rank",
    "latency_s": "latency",
    "energy_j_per_request": "energy",
}


def by_pairs(points):
    no_worse = (points[:, None, :] <= points[None, :, :]).all(axis=2)
    better = (points[:, None, :] < points[None, :, :]).any(axis=2)
    return ~(no_worse & better).any(axis=0)


@settings(RELAXED, max_examples=120)
@given(
    hnp.arrays(
        float,
        st.tuples(st.integers(0, 60), st.integers(1, 5)),
        elements=st.integers(0, 4).map(float) | st.floats(-9, 9),
    )
)
def test_the_front_is_that_of_comparing_every_pair(points):
    expected = by_pairs(points)
    assert pareto_mask(points).tolist() == expected.tolist()


@pytest.mark.parametrize("pairs", [1, 4, 1 << 18])
@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("kind", ["uniform", "sphere", "few values", "one column constant", "repeated"])
def test_large_sets_are_divided_without_changing_the_answer(kind, d, pairs, monkeypatch):
    monkeypatch.setattr(front, "_PAIRS", pairs)
    rng = np.random.default_rng(d)
    points = rng.uniform(size=(400, d))
    if kind == "sphere":
        points = np.abs(rng.normal(size=(400, d)))
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    elif kind == "few values":
        points = rng.integers(0, 4, size=(400, d)).astype(float)
    elif kind == "one column constant":
        points[:, d // 2] = 1.0
    elif kind == "repeated":
        points = points[rng.integers(0, 50, size=400)]
    assert pareto_mask(points).tolist() == by_pairs(points).tolist()


def test_equal_points_are_all_on_the_front_and_infinities_compare():
    assert pareto_mask([[1, 2], [1, 2], [2, 1], [2, 2]]).tolist() == [True, True, True, False]
    assert pareto_mask([[np.inf, 0], [0, np.inf], [np.inf, np.inf]]).tolist() == [True, True, False]
    assert pareto_mask(np.zeros((0, 3))).tolist() == []


@pytest.mark.parametrize(
    ("points", "words"),
    [([[1.0, 2.0], [np.nan, 1.0]], "point 1 has a NaN"), ([1.0, 2.0], r"shape \(2,\): give one row per point")],
)
def test_points_that_cannot_be_compared_are_refused(points, words):
    with pytest.raises(ValueError, match=words):
        pareto_mask(points)


def knobs_of(table, stages):
    columns = [f"{s}.{k}" for s in stages for k in ("variant", "threads", "batch", "replicas")]
    return [tuple(row[4 * i : 4 * i + 4] for i in range(len(stages))) for row in map(tuple, table[columns].to_numpy())]


@settings(RELAXED, max_examples=60)
@given(instances(), st.sets(st.sampled_from(list(KEYS)), min_size=1))
def test_the_front_of_a_space_is_that_of_enumeration(instance, metrics):
    metrics = sorted(metrics - (set() if instance.energy_kind else {"energy_j_per_request"})) or ["cost"]
    found = space_front(instance.options(), instance.objective, metrics)
    expected = instance.front([KEYS.get(m, m) for m in metrics])
    knobs = knobs_of(found, instance.stages())
    assert len(knobs) == len(set(knobs))
    assert set(knobs) == expected


@pytest.mark.parametrize("seed", range(3))
def test_the_front_of_a_large_space_is_that_of_its_rows(seed):
    profile = made_up_profile(3, 4, [1, 2, 8], seed)
    options = make_options(profile, Input(15, 1e5), 4)
    options = options.with_sla(2.5 * shortest_latency_s(options))
    objective = Objective(Weights(2.0, 1.0))
    table = space_table(options, objective, only_feasible=True)
    points = table[list(METRICS)].to_numpy(dtype=float) * [-1, 1, 1, 1]
    expected = table[pareto_mask(points)]
    found = space_front(options, objective)
    assert len(found) == len(expected) > 5
    assert sorted(map(tuple, found[list(METRICS)].to_numpy())) == sorted(map(tuple, expected[list(METRICS)].to_numpy()))


def test_small_blocks_change_nothing(monkeypatch):
    options = make_options(made_up_profile(3, 3, [1, 4], 0), Input(15, 1e5), 4)
    options, objective = options.with_sla(2.5 * shortest_latency_s(options)), Objective(Weights(2.0, 1.0))
    whole = space_front(options, objective)
    monkeypatch.setattr(front, "_BLOCK", 50)
    pd.testing.assert_frame_equal(space_front(options, objective), whole)


def test_without_a_feasible_configuration_the_front_is_empty():
    options = make_options(made_up_profile(2, 3, [1, 4], 0), Input(1e5, 1.0), 2)
    assert len(space_front(options, Objective(Weights(1.0, 1.0)))) == 0
    tight = make_options(made_up_profile(2, 3, [1, 4], 0), Input(1, 1e-6), 2)
    assert len(space_front(tight, Objective(Weights(1.0, 1.0)))) == 0


def test_energy_that_is_not_known_is_no_metric():
    profile = made_up_profile(2, 2, [1], 0)
    idle = Input(0, 5.0)
    options = make_options(profile, idle, 1)
    assert metrics_of(options) == METRICS[:3]
    with pytest.raises(ValueError, match="leave energy_j_per_request out of the metrics"):
        space_front(options, Objective(Weights(1.0, 1.0)))
    assert len(space_front(options, Objective(Weights(1.0, 1.0)), metrics_of(options))) > 0


def test_a_front_that_outgrows_memory_says_so(monkeypatch):
    monkeypatch.setattr(front, "_LARGEST_FRONT", 5)
    options = make_options(made_up_profile(3, 4, [1, 2, 8], 0), Input(15, 50.0), 4)
    with pytest.raises(FrontTooLargeError, match=r"more than 5 partial configurations .* use fewer metrics"):
        space_front(options, Objective(Weights(1.0, 1.0)))
