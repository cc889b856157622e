"""The statistics against independent implementations, by brute force, and under what must not change them."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from ipa_energy.analysis import association

numbers = st.integers(-20, 20)
samples = st.integers(3, 12).flatmap(
    lambda n: st.tuples(st.lists(numbers, min_size=n, max_size=n), st.lists(numbers, min_size=n, max_size=n))
)


def varying(sample):
    x, y = (np.array(side, dtype=float) for side in sample)
    assume(np.ptp(x) > 0 and np.ptp(y) > 0)
    return x, y


@given(samples)
def test_tau_and_spearman_agree_with_scipy_ties_included(sample):
    x, y = varying(sample)
    expected = stats.kendalltau(x, y)
    assert association.kendall(x, y) == pytest.approx((expected.statistic, expected.pvalue))
    assert association.tau_b(x, y) == pytest.approx(expected.statistic)
    assert association.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_tau_of_many_points_agrees_between_both_ways(monkeypatch):
    x, y = np.random.default_rng(0).integers(0, 9, size=(2, 60)).astype(float)
    by_signs = association.tau_b(x, y)
    monkeypatch.setattr(association, "_MAX_SIGNS", 10)
    assert association.tau_b(x, y) == pytest.approx(by_signs)


def best_sse(groups, increasing):
    """Least SSE of any monotone step function, over all ways to pool neighbouring groups of equal x."""
    best = np.inf
    for cuts in itertools.product([False, True], repeat=len(groups) - 1):
        pools = [list(groups[0])]
        for cut, group in zip(cuts, groups[1:], strict=True):
            if cut:
                pools.append(list(group))
            else:
                pools[-1].extend(group)
        means = [np.mean(pool) for pool in pools]
        ordered = means if increasing else means[::-1]
        if all(a <= b + 1e-12 for a, b in itertools.pairwise(ordered)):
            best = min(best, sum(float(np.sum((np.array(p) - m) ** 2)) for p, m in zip(pools, means, strict=True)))
    return best


@given(
    st.integers(3, 7).flatmap(
        lambda n: st.tuples(st.lists(numbers, min_size=n, max_size=n), st.lists(numbers, min_size=n, max_size=n))
    )
)
def test_isotonic_r2_is_the_best_over_all_monotone_step_functions(sample):
    x, y = varying(sample)
    groups = [y[x == level] for level in np.unique(x)]
    total = float(np.sum((y - y.mean()) ** 2))
    r2 = {way: 1 - best_sse(groups, way == "increasing") / total for way in ("increasing", "decreasing")}
    fit = association.monotone_fit(x, y)
    assert fit.r2 == pytest.approx(max(r2.values()), abs=1e-9)
    assert r2[fit.direction] == pytest.approx(max(r2.values()), abs=1e-9)


@given(samples)
def test_isotonic_curve_agrees_with_scikit_learn(sample):
    x, y = varying(sample)
    fit = association.monotone_fit(x, y)
    expected = IsotonicRegression(increasing=fit.direction == "increasing").fit(x, y).predict(fit.x)
    assert fit.y == pytest.approx(expected)


@given(samples)
def test_a_monotone_transform_of_the_metric_changes_nothing_and_a_falling_one_only_the_sign(sample):
    x, y = varying(sample)
    up, down = np.exp(x / 10), -(x**3)
    assert association.monotone_fit(up, y).r2 == pytest.approx(association.monotone_fit(x, y).r2)
    assert association.monotone_fit(down, y).r2 == pytest.approx(association.monotone_fit(x, y).r2)
    assert association.tau_b(up, y) == pytest.approx(association.tau_b(x, y))
    assert association.tau_b(down, y) == pytest.approx(-association.tau_b(x, y))
    assert association.spearman(down, y) == pytest.approx(-association.spearman(x, y))


@given(samples, st.floats(0.001, 1000), st.floats(-100, 100))
def test_units_and_offset_of_energy_do_not_change_r2(sample, scale, offset):
    x, y = varying(sample)
    assert association.monotone_fit(x, scale * y + offset).r2 == pytest.approx(
        association.monotone_fit(x, y).r2, abs=1e-6
    )


def test_a_constant_side_has_no_statistics():
    flat, rising = np.full(5, 0.3), np.arange(5.0)
    for x, y in ((flat, rising), (rising, flat)):
        assert association.kendall(x, y) is None
        assert association.tau_b(x, y) is None
        assert association.spearman(x, y) is None
        assert association.monotone_fit(x, y) is None
        assert association.permutation_chance(x, y, 10, np.random.default_rng(0)) is None


def test_means_of_equal_figures_tie_whatever_the_number_of_repetitions():
    value = 0.1 + 0.2
    means = [np.mean([value] * n) for n in (1, 3, 7, 10)]
    assert association.is_constant(np.array(means))
    assert len(set(association.without_rounding(np.array(means)))) == 1
    assert association.without_rounding([0.0, -123456789.123456, 1e-30]) == pytest.approx([0.0, -123456789.1, 1e-30])


def test_chance_level_of_noise_is_what_unrelated_data_reach():
    rng = np.random.default_rng(1)
    x = rng.normal(size=20)
    fresh = [association.monotone_fit(x, rng.normal(size=20)).r2 for _ in range(400)]
    chance = association.permutation_chance(x, rng.normal(size=20), 400, rng)
    assert chance.mean_r2 == pytest.approx(np.mean(fresh), abs=0.04)
    assert chance.mean_r2 > 0.1  # a monotone curve bends after noise: that is why chance is reported


def test_permutation_p_is_small_for_a_monotone_relation_and_never_zero():
    x = np.arange(12.0)
    chance = association.permutation_chance(x, x**2, 199, np.random.default_rng(0))
    assert chance.p == pytest.approx(1 / 200)


def clusters_of(groups):
    """Clusters of one quantity, from the repetitions of each configuration."""
    index = [i for i, group in enumerate(groups) for _ in group]
    return association.Clusters.of([[value] for group in groups for value in group], index)


def test_resamples_hold_means_of_drawn_repetitions_and_keep_quantities_together():
    clusters = association.Clusters.of([[1.0, 10.0], [5.0, 50.0], [3.0, 30.0]], [0, 1, 0])
    drawn = list(association.resampled_means(clusters, 500, np.random.default_rng(0)))
    assert len(drawn) == 500
    values = np.concatenate(drawn)
    assert set(values[:, 0]) == {1.0, 2.0, 3.0, 5.0}
    assert values[:, 1] == pytest.approx(10 * values[:, 0])
    again = list(association.resampled_means(clusters, 500, np.random.default_rng(0)))
    assert np.array_equal(drawn, again)


def test_bootstrap_in_chunks_gives_as_many_resamples(monkeypatch):
    monkeypatch.setattr(association, "_CHUNK", 7)
    clusters = association.Clusters.of([[float(i), 0.0] for i in range(3)], range(3))
    assert len(list(association.resampled_means(clusters, 11, np.random.default_rng(0)))) == 11


def test_reliability_is_the_f_interval_of_shrout_and_fleiss():
    # Six targets, four judges: the example of Shrout and Fleiss (1979), table 4: ICC(1, k) = 0.44.
    ratings = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float
    )
    found = association.reliability(clusters_of(ratings), 0, 0.95)
    assert found.value == pytest.approx(0.44, abs=0.005)
    f = stats.f_oneway(*ratings).statistic
    assert found.value == pytest.approx(1 - 1 / f)
    assert found.lo == pytest.approx(max(0.0, 1 - stats.f.ppf(0.975, 5, 18) / f))


def test_reliability_of_noise_free_repetitions_is_one_and_of_no_repetitions_unknown():
    exact = association.reliability(clusters_of([[1.0, 1.0], [2.0, 2.0]]), 0, 0.95)
    assert (exact.value, exact.lo) == (1.0, 1.0)
    assert association.reliability(clusters_of([[1.0], [2.0]]), 0, 0.95) is None
    assert association.reliability(clusters_of([[1.0, 1.0], [1.0, 1.0]]), 0, 0.95) is None
    assert association.reliability(association.Clusters.of(np.empty((0, 1)), []), 0, 0.95) is None


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=4), min_size=2, max_size=8))
def test_reliability_of_unequal_repetitions_is_that_of_the_groups_one_by_one(groups):
    groups = [np.array(group) for group in groups]
    found = association.reliability(clusters_of(groups), 0, 0.95)
    assume(found is not None)
    means, pooled = [group.mean() for group in groups], np.concatenate(groups)
    between = sum(len(g) * (m - pooled.mean()) ** 2 for g, m in zip(groups, means, strict=True)) / (len(groups) - 1)
    within = sum(float(((g - m) ** 2).sum()) for g, m in zip(groups, means, strict=True)) / (len(pooled) - len(groups))
    assume(between > 1e-6)
    assert found.value == pytest.approx(max(0.0, 1 - within / between), abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 3), numbers), min_size=1, max_size=20))
def test_clusters_keep_the_order_of_repetitions_and_fill_up_with_zeros(drawn):
    index = np.unique([place for place, _ in drawn], return_inverse=True)[1]
    clusters = association.Clusters.of([[float(value), i] for i, (_, value) in enumerate(drawn)], index)
    for place in range(len(clusters)):
        wanted = [[value, i] for i, (_, value) in enumerate(drawn) if index[i] == place]
        rest = np.zeros((clusters.values.shape[1] - len(wanted), 2))
        assert np.array_equal(clusters.values[place], [*wanted, *rest])
        assert clusters.means[place] == pytest.approx(np.mean(wanted, axis=0))


@pytest.mark.parametrize(
    ("asked", "n", "confidence", "drawn"),
    [
        (1000, 30, 0.95, 1000),
        (1000, 1000, 0.95, 1000),
        (1000, 2000, 0.95, 500),
        (1000, 30_000, 0.95, 200),
        (100, 30_000, 0.95, 100),
        (10_000, 30_000, 0.99, 1000),
        (10_000, 2000, 0.9, 5000),
    ],
)
def test_fewer_resamples_are_drawn_of_many_configurations_only(asked, n, confidence, drawn):
    assert association.enough_resamples(asked, n, confidence) == drawn


def test_bounds_of_fewer_resamples_of_many_configurations_are_as_exact_as_those_of_all_of_few():
    rng = np.random.default_rng(7)

    def bounds(n, resamples, seed):
        truth = np.random.default_rng(n).normal(size=n)
        noise = np.random.default_rng(n + 1).normal(size=(n, 2, 2))
        values = truth[:, None, None] * [1.0, 1.0] + 0.7 * noise
        clusters = association.Clusters(values, np.full(n, 2))
        means = association.resampled_means(clusters, resamples, np.random.default_rng(seed))
        taus = [association.spearman(*drawn.T) for drawn in means]
        return association.percentile_interval(taus, 0.95)

    seeds = rng.integers(2**32, size=12)
    few = np.std([bounds(250, 400, seed) for seed in seeds], axis=0)
    many = np.std([bounds(2000, 50, seed) for seed in seeds], axis=0)
    assert (many < 2 * few).all()
    full, reduced = bounds(2000, 1000, 1), bounds(2000, 200, 2)
    assert reduced == pytest.approx(full, abs=0.25 * (full[1] - full[0]))
