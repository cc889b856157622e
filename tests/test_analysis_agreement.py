"""Agreement of two ways to measure: against scipy, statsmodels, simulation, and cases whose answer is known."""

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ipa_energy.analysis import agreement, association
from ipa_energy.analysis.agreement import Noise
from ipa_energy.analysis.association import Clusters


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), m=st.integers(3, 6), n=st.integers(3, 15), levels=st.integers(2, 30))
def test_w_is_that_of_friedmans_test_with_ties(seed, m, n, levels):
    table = np.random.default_rng(seed).integers(levels, size=(m, n)).astype(float)
    found = agreement.kendalls_w(table)
    if found is None:
        assert all(len(set(row)) == 1 for row in table)
        return
    expected = stats.friedmanchisquare(*table.T)
    assert found.w * m * (n - 1) == pytest.approx(expected.statistic, abs=1e-9)
    assert found.p == pytest.approx(expected.pvalue, abs=1e-9)


def test_w_is_1_for_equal_rankings_and_0_for_opposite_ones_and_a_line_of_spearmans_rho_for_two():
    x = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    assert agreement.kendalls_w(np.array([x, np.exp(x), 10 * x])).w == pytest.approx(1)
    assert agreement.kendalls_w(np.array([x, -x])).w == pytest.approx(0)
    y = np.array([1.0, 3.0, 2.0, 4.0, 5.0])
    assert agreement.kendalls_w(np.array([x, y])).w == pytest.approx((1 + stats.spearmanr(x, y).statistic) / 2)
    assert agreement.kendalls_w(np.ones((3, 4))) is None


def test_limits_are_the_mean_and_the_normal_range_of_the_differences():
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, 40))
    found = agreement.limits(one, other, None, 0.95)
    difference = one - other
    lo, hi = stats.t.interval(0.95, 39, difference.mean(), difference.std(ddof=1) / math.sqrt(40))
    assert (found.bias, found.bias_lo, found.bias_hi) == pytest.approx((difference.mean(), lo, hi))
    assert found.limit_hi - found.bias == pytest.approx(1.959964 * difference.std(ddof=1), rel=1e-6)
    line = stats.linregress((one + other) / 2, difference)
    assert found.trend == pytest.approx(line.slope)
    assert found.trend_hi - found.trend == pytest.approx(stats.t.ppf(0.975, 38) * line.stderr)
    assert found.noise is None
    assert found.excess is None


def test_a_constant_ratio_is_a_bias_without_spread():
    x = np.array([0.1, 0.7, 2.0, 3.3])
    found = agreement.limits(x + math.log(1.05), x, Noise(1e-4, 8), 0.95)
    assert math.exp(found.bias) == pytest.approx(1.05)
    assert (found.spread, found.excess, found.trend) == (0, 0, 0)
    assert found.excess_p == pytest.approx(1)


def test_a_way_that_spreads_configurations_more_widely_shows_as_a_trend():
    x = np.linspace(0, 3, 30)
    assert agreement.limits(1.5 * x, x, None, 0.95).trend == pytest.approx(0.5 / 1.25)


def test_excess_is_the_scatter_that_repetitions_do_not_explain():
    rng = np.random.default_rng(2)
    one, other = rng.normal(0, 0.03, size=(2, 4000))
    noise = Noise(2 * 0.03**2, 500)
    assert agreement.limits(one, other, noise, 0.95).excess_p > 0.01
    own = rng.normal(0, 0.05, size=4000)
    found = agreement.limits(one + own, other, noise, 0.95)
    assert found.excess == pytest.approx(0.05, abs=0.003)
    assert found.excess_p < 1e-6


def test_noise_of_a_sum_has_the_degrees_of_satterthwaite():
    total = agreement.sum_of([Noise(1.0, 10), Noise(1.0, 10)])
    assert (total.variance, total.degrees) == pytest.approx((2.0, 20))
    assert agreement.sum_of([Noise(1.0, 5), Noise(1e-9, 500)]).degrees == pytest.approx(5, rel=1e-6)
    assert agreement.sum_of([Noise(0.0, 5), Noise(0.0, 7)]) == Noise(0.0, 12)


def crossed(rng, n, m, repetitions, configuration, place, interaction, noise):
    """Log energies of shape (n, m, repetitions) with the given standard deviations."""
    return (
        rng.normal(0, configuration, size=(n, 1, 1))
        + rng.normal(0, place, size=(1, m, 1))
        + rng.normal(0, interaction, size=(n, m, 1))
        + rng.normal(0, noise, size=(n, m, repetitions))
    )


def components_of(values):
    n, m, r = values.shape
    noise = Noise(float(values.var(axis=2, ddof=1).mean()), n * m * (r - 1)) if r > 1 else None
    return agreement.components(values.mean(axis=2), noise, r, 0.95)


def test_components_are_those_of_a_mixed_model_by_restricted_likelihood():
    values = crossed(np.random.default_rng(3), 12, 4, 3, 1.0, 0.8, 0.5, 0.3)
    n, m, r = values.shape
    c, h, _ = np.meshgrid(range(n), range(m), range(r), indexing="ij")
    frame = pd.DataFrame({"y": values.ravel(), "c": c.ravel(), "h": h.ravel(), "all": 1})
    formula = {"c": "0 + C(c)", "h": "0 + C(h)", "ch": "0 + C(c):C(h)"}
    model = sm.MixedLM.from_formula("y ~ 1", frame, groups="all", vc_formula=formula)
    fit = model.fit(reml=True, method="lbfgs")
    parts = dict(zip(model.exog_vc.names, fit.vcomp, strict=True)) | {"noise": fit.scale}
    total = sum(parts.values())
    found = components_of(values)
    shares = {"c": found.configuration, "h": found.place, "ch": found.interaction, "noise": found.noise}
    assert shares == pytest.approx({name: part / total for name, part in parts.items()}, abs=0.01)
    assert found.dependence == pytest.approx(parts["ch"] / (parts["c"] + parts["ch"]), abs=0.01)


@pytest.mark.parametrize(("interaction", "noise"), [(0.3, 0.1), (0.05, 0.1), (1.0, 0.3)])
def test_intervals_of_the_dependence_hold_it_as_often_as_they_say_or_more_often(interaction, noise):
    rng = np.random.default_rng(4)
    truth = interaction**2 / (1 + interaction**2)
    found = [components_of(crossed(rng, 15, 3, 3, 1.0, 0.5, interaction, noise)) for _ in range(300)]
    assert np.mean([one.dependence_lo <= truth <= one.dependence_hi for one in found]) >= 0.93


def test_without_repetitions_noise_is_part_of_the_interaction():
    found = components_of(crossed(np.random.default_rng(5), 40, 3, 1, 1.0, 0.0, 0.0, 0.5))
    assert found.noise is None
    assert found.interaction_p is None
    assert found.interaction > 0.1


def test_nothing_that_varies_has_no_components():
    assert agreement.components(np.ones((5, 2)), Noise(0.0, 5), 2, 0.95) is None


def test_the_interval_of_tau_holds_the_tau_of_the_population():
    rng = np.random.default_rng(6)
    truth = 2 / math.pi * math.asin(0.8)
    held = 0
    for _ in range(60):
        x, z = rng.normal(size=(2, 60))
        y = 0.8 * x + 0.6 * z
        parts = [Clusters(side[:, None, None], np.ones(60, dtype=np.int64)) for side in (x, y)]
        tau = association.tau_b(x, y)
        lo, hi = agreement.tau_interval(parts, tau, confidence=0.95, resamples=200, rng=rng)
        assert lo <= tau <= hi
        held += lo <= truth <= hi
    assert held / 60 >= 0.88


def test_two_ways_measured_together_keep_their_repetitions_together():
    rng = np.random.default_rng(7)
    values = rng.normal(size=(20, 1, 1)) + rng.normal(0, 2, size=(20, 3, 1))
    sizes = np.full(20, 3)
    lo, hi = agreement.tau_interval(
        [Clusters(np.repeat(values, 2, axis=2), sizes)], 1.0, confidence=0.95, resamples=100, rng=rng
    )
    assert (lo, hi) == (1.0, 1.0)
    apart = agreement.tau_interval(
        [Clusters(values, sizes), Clusters(values, sizes)], 1.0, confidence=0.95, resamples=100, rng=rng
    )
    assert apart[0] < 0.9
