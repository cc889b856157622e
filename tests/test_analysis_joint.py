"""Panel, surface, joint evidence and the rule, on data of known truth and against independent implementations."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from statsmodels.regression.mixed_linear_model import MixedLM

from ipa_energy.analysis import surface
from ipa_energy.analysis.joint import joint
from ipa_energy.analysis.joint_details import partial_table, residual_knobs
from ipa_energy.analysis.judge import combine
from ipa_energy.analysis.needed import Needed, in_words
from ipa_energy.analysis.panel import halves, panels
from synthetic_records import make_record, true_latency_s, video_grid
from test_analysis_coupling import measurements_of

GRID = video_grid()
RULE = {"spread_threshold": 0.05, "confidence": 0.95, "min_configurations": 8, "bootstrap": 300, "seed": 1}


def study(energy, *, blocks=3, noise=0.02, seed=0, drift=0.0, order="random", grid=GRID):
    """Records of a grid: ``energy(configuration, i)`` in J, noise on latency and energy, drift over each block."""
    rng = np.random.default_rng(seed)
    records = []
    for block in range(1, blocks + 1):
        places = rng.permutation(len(grid)) if order == "random" else np.arange(len(grid))
        for place, i in enumerate(places):
            c = grid[i]
            trend = math.exp(drift * place / len(grid))
            records.append(
                make_record(
                    c,
                    latency_s=true_latency_s(c) * math.exp(rng.normal(0, noise)),
                    net_j_per_request=energy(c, i) * trend * math.exp(rng.normal(0, noise)),
                    block=block,
                    order=block * 1000 + place,
                )
            )
    return records


def net_panel(records):
    return next(p for p in panels(measurements_of(records), []) if p.energy == "net")


def follows_latency(c, _):
    return 3 * true_latency_s(c) ** 0.8


def own_part(size, seed=9):
    drawn = np.random.default_rng(seed).normal(0, size, len(GRID))
    return lambda c, i: follows_latency(c, i) * math.exp(drawn[i])


def test_block_effects_and_drift_are_taken_out_of_a_panel():
    flat = net_panel(study(follows_latency, noise=0.001))
    drifting = net_panel(study(follows_latency, noise=0.001, drift=0.2))
    trend = next(t for t in drifting.trends if t.metric == "energy")
    assert trend.slope == pytest.approx(0.2, abs=0.01)
    level = drifting.mean_of("energy") - flat.mean_of("energy")
    assert level.std() < 0.003
    energy = drifting.column("energy")
    assert math.sqrt(drifting.within[energy, energy]) < 0.003


def test_the_same_order_in_every_block_is_noticed_and_bars_decoupled():
    panel = net_panel(study(own_part(0.3), order="same"))
    assert panel.same_order
    found = joint(panel, **RULE)
    assert found.decision == "inconclusive"
    assert "same order" in found.reason


def test_halves_share_no_measurement_and_average_to_the_mean():
    panel = net_panel(study(follows_latency, blocks=5))
    a, b, count_a, count_b, split = halves(panel, np.random.default_rng(0))
    assert split.all()
    assert (count_a + count_b == 5).all()
    together = (a * count_a[:, None] + b * count_b[:, None]) / 5
    assert together == pytest.approx(panel.means)


def test_records_without_a_logarithm_are_counted_and_too_many_stop_the_verdict():
    records = study(lambda c, i: -1.0 if i % 4 == 0 else follows_latency(c, i))
    panel = net_panel(records)
    assert panel.left_out == 27
    assert len(panel.configurations) == 27
    found = joint(panel, **RULE)
    assert found.decision == "inconclusive"
    assert "at or below zero" in found.reason


def test_residuals_without_a_point_equal_those_of_a_model_that_never_saw_it():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, 2))
    y = x @ [0.7, -0.2] + 0.1 * rng.normal(size=20)
    found = surface.residuals(x, y, np.zeros((2, 2)))
    basis = surface._Basis(x)
    terms = basis(x)
    explicit = {}
    for penalty in surface._PENALTIES * len(y):
        left_out = []
        for i in range(len(y)):
            rest = np.arange(len(y)) != i
            # The level is the mean of the rest in an explicit refit; terms are centred over all.
            model = Ridge(alpha=penalty, fit_intercept=True, solver="svd").fit(terms[rest], y[rest])
            left_out.append(y[i] - model.predict(terms[i : i + 1])[0])
        explicit[penalty] = np.array(left_out)
    assert min(float(np.abs(found.residual - e).max()) for e in explicit.values()) < 0.02


@pytest.mark.parametrize("size", [0.1, 0.2])
def test_the_spread_is_the_size_of_an_own_part_and_agrees_with_a_mixed_model(size):
    panel = net_panel(study(own_part(size), blocks=4))
    found = joint(panel, **RULE)
    assert found.decision == "decoupled"
    assert found.spread.lo < size * 1.2
    assert found.spread.hi > size * 0.8
    # Without noise in latency a mixed model with a straight line is the right one: configurations as random effects.
    latency, energy = panel.column("latency_p99"), panel.column("energy")
    rows = [
        {"c": i, "x": panel.means[i, latency], "y": panel.values[i, r, energy]}
        for i in range(len(panel.configurations))
        for r in range(4)
    ]
    frame = pd.DataFrame(rows)
    fit = MixedLM.from_formula("y ~ x", frame, groups="c").fit()
    assert found.spread.value == pytest.approx(math.sqrt(float(fit.cov_re.iloc[0, 0])), rel=0.35)


def test_noise_in_latency_and_energy_is_no_spread():
    for seed in range(5):
        found = joint(net_panel(study(follows_latency, noise=0.15, seed=seed)), **RULE)
        assert found.decision != "decoupled"
        assert found.spread.lo < 0.05
        assert found.summary["total_spread"] > 0.5


def test_inconclusive_tells_how_many_repetitions_would_decide():
    found = joint(net_panel(study(own_part(0.05), noise=0.04, blocks=3)), **RULE)
    assert found.decision == "inconclusive"
    assert found.needed.repetitions is None or found.needed.repetitions > 2
    assert "would" in found.reason


def test_repetitions_that_would_decide_are_held_against_those_that_were_used():
    records = study(own_part(0.05), noise=0.04, blocks=2)
    panel = net_panel(records[: -len(GRID) // 3])  # a third of the second block is missing
    average = f"{panel.repetitions.mean():.1f} on average"
    assert 1 < panel.repetitions.mean() < 2 and f"about 2 repetitions instead of {average} would" in in_words(
        Needed(2, None), panel
    )
    assert "instead of 2 would" in in_words(Needed(5, None), net_panel(records))


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (study(follows_latency, grid=GRID[:1]), "1 configuration; the rule asks for 8"),
        (study(follows_latency, blocks=1), "one repetition each"),
        (study(lambda c, i: 2.0, blocks=5, noise=0.01), "energy itself varies by no more than"),
    ],
)
def test_what_can_not_be_decided_is_inconclusive_with_the_reason(records, words):
    found = joint(net_panel(records), **RULE)
    assert found.decision == "inconclusive"
    assert words in found.reason


def test_partial_correlations_hold_others_fixed_and_name_repeated_metrics():
    table = partial_table(net_panel(study(follows_latency)), 0.95).set_index("metric")
    assert table.loc["latency_p99", "partial_r"] > 0.9
    assert table.loc["latency_p99", "vif"] >= 1
    assert "exact function" in table.loc["latency_mean", "reason"]


def test_the_knob_that_changes_nothing_but_energy_is_found_in_what_is_left():
    panel = net_panel(
        study(lambda c, i: follows_latency(c, i) * (1.3 if c.stages[0].variant.startswith("ssd3") else 1))
    )
    found = joint(panel, **RULE)
    table = residual_knobs(panel, found.matched).set_index("knob")
    assert table["omega2"].idxmax() in ("detect.variant", "detect.batch")


@pytest.mark.parametrize(
    ("joint_", "tradeoff", "decision", "expected", "binding"),
    [
        ("coupled", "inconclusive", "inconclusive", "coupled", "joint"),
        ("coupled", "decoupled", "inconclusive", "inconclusive", "tradeoff"),
        ("coupled", "coupled", "decoupled", "inconclusive", "decision"),
        ("decoupled", "decoupled", "coupled", "decoupled", "tradeoff"),
        ("decoupled", "inconclusive", "decoupled", "decoupled", "decision"),
        ("decoupled", "coupled", "decoupled", "decoupled", "decision"),
        ("decoupled", "inconclusive", "coupled", "inconclusive", "tradeoff"),
        ("inconclusive", "decoupled", "decoupled", "inconclusive", "joint"),
    ],
)
def test_levels_combine_by_the_rule(joint_, tradeoff, decision, expected, binding):
    levels = {"joint": (joint_, "a"), "tradeoff": (tradeoff, "b"), "decision": (decision, "c")}
    assert combine(levels)[:2] == (expected, binding)


def merged(offset, truth=follows_latency, seed=4):
    """Two experiments on one host with other configurations each, whose blocks differ by a factor between them."""
    rng = np.random.default_rng(seed)
    first = rng.permutation(len(GRID)) < len(GRID) // 2
    records = []
    for number, part in enumerate((first, ~first)):
        grid = [c for c, chosen in zip(GRID, part, strict=True) if chosen]
        for record in study(truth, grid=grid, blocks=4, seed=number):
            record["identity"]["experiment"] = f"part{number}"
            if number and record["identity"]["block"] > 2:
                energy = record["energy"]
                for name in ("net_j", "net_j_per_request"):
                    energy[name] *= offset
            records.append(record)
    return records


def test_block_effects_of_experiments_without_a_link_move_no_group_against_the_other():
    plain, shifted = net_panel(merged(1.0)), net_panel(merged(1.44))
    assert shifted.groups == 2
    moved = shifted.mean_of("energy") - plain.mean_of("energy")
    # Half of the blocks of the second experiment are higher, so its mean is, by the half, and that of the first is not.
    assert sorted({round(float(m), 2) for m in moved}) == pytest.approx([0.0, math.log(1.44) / 2], abs=0.02)


def test_merged_experiments_without_a_common_configuration_never_say_decoupled():
    found = joint(net_panel(merged(1.44)), **RULE)
    assert found.decision != "decoupled"


def test_a_linked_study_has_one_group():
    assert net_panel(study(follows_latency)).groups == 1


@pytest.mark.parametrize("missing", ["latency", "cost"])
def test_a_verdict_on_three_metrics_needs_all_three(missing):
    table = measurements_of(study(follows_latency))
    columns = {"latency": ["latency_p99_s", "latency_mean_s"], "cost": ["usd_per_1000_requests", "cores"]}
    table = table.assign(**dict.fromkeys(columns[missing], math.nan))
    found = joint(next(p for p in panels(table, []) if p.energy == "net"), **RULE)
    assert found.decision == "inconclusive"
    assert f"no usable record has a figure above zero for {missing}" in found.reason


def test_records_that_lack_a_figure_are_counted_and_named():
    table = measurements_of(study(follows_latency))
    table.loc[table.index % 2 == 0, "usd_per_1000_requests"] = math.nan
    table.loc[1, "net_j_per_request"] = math.inf
    panel = next(p for p in panels(table, []) if p.energy == "net")
    assert panel.left_out == 55
    assert "54 without a figure for cost" in panel.why_left_out
    assert "1 without a figure for net energy" in panel.why_left_out
    assert "no fair sample" in joint(panel, **RULE).reason


def test_an_estimate_below_zero_keeps_the_width_of_its_interval():
    widths = [joint(net_panel(study(follows_latency, noise=0.1, blocks=2, seed=seed)), **RULE) for seed in range(6)]
    assert any(found.spread.value == 0 for found in widths)
    assert all(found.spread.hi > 0.01 for found in widths)
