"""Simulated studies have the truth that they claim, runs depend on nothing but their setting, and rates add up."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from scipy.stats import binomtest

from ipa_energy.analysis import tables
from ipa_energy.analysis.judge import LEVELS
from ipa_energy.analysis.panel import panels
from ipa_energy.configuration import configuration_from_dict
from ipa_energy.error_rates import presets, run, service, studies, summary, truths
from ipa_energy.error_rates.presets import Setting
from ipa_energy.figures import error_rates as figure_of_rates
from ipa_energy.record import Reading
from synthetic_records import make_record

TRUTHS = truths.TRUTHS
RULE = {
    "confidence": 0.95,
    "bootstrap": 100,
    "min_configurations": 8,
    "coupled_r2": 0.9,
    "spread_threshold": 0.05,
    "gain_threshold": 0.05,
    "expansion_threshold": 0.1,
    "saving_threshold": 0.05,
    "tolerances": {"accuracy": 0.01, "latency": 0.05, "cost": 0.05},
}


def grid_of(n, seed=0, **kind):
    return service.make_grid(n, np.random.default_rng(seed), **kind)


def study_of(truth, n=40, *, noise=0.05, repetitions=3, seed=0, **kind):
    rng = np.random.default_rng(seed)
    return studies.study(TRUTHS[truth], grid_of(n, seed, **kind), noise=noise, repetitions=repetitions, rng=rng)


# Grids


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 300), seed=st.integers(0, 1000), narrow=st.booleans())
def test_a_grid_has_as_many_configurations_as_asked_for_all_different_and_real(n, seed, narrow):
    grid = grid_of(n, seed, narrow=narrow)
    assert len({c.id for c in grid.configurations}) == n
    for figure in (grid.accuracy, grid.latency_p99_s, grid.latency_mean_s, grid.throughput_rps, grid.cores):
        assert figure.shape == (n,)
        assert np.isfinite(figure).all() and (figure > 0).all()
    assert (grid.latency_p99_s > grid.latency_mean_s).all() or narrow


def test_grids_differ_in_knobs_and_in_what_knobs_do():
    grids = [grid_of(96, seed) for seed in range(12)]
    varying = [
        {k for k in c[0].knobs() if len({x.knobs()[k] for x in c}) > 1} for c in (g.configurations for g in grids)
    ]
    assert len(set(map(frozenset, varying))) > 3
    shapes = [np.corrcoef(np.log(g.latency_p99_s), np.log(g.usd_per_1000_requests))[0, 1] for g in grids]
    assert max(shapes) - min(shapes) > 0.3


@pytest.mark.parametrize("n", [24, 400])
def test_a_narrow_grid_spans_a_fifth_in_latency_and_cost(n):
    grid = grid_of(n, narrow=True)
    for figure in (grid.latency_p99_s, grid.usd_per_1000_requests):
        assert figure.max() / figure.min() == pytest.approx(service.NARROW_SPAN)


def test_twins_are_alike_in_everything_but_the_knob():
    grid = grid_of(64, twins=True)
    pairs = {}
    for i, c in enumerate(grid.configurations):
        pairs.setdefault(c.stages, []).append(i)
    both = [pair for pair in pairs.values() if len(pair) == 2]
    assert len(both) > 10
    for a, b in both:
        assert grid.latency_p99_s[a] == grid.latency_p99_s[b]
        assert grid.usd_per_1000_requests[a] == grid.usd_per_1000_requests[b]
        energy = truths.true_log_energy(TRUTHS["knob_10"], grid, np.random.default_rng(1))
        assert abs(energy[a] - energy[b]) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("n", "narrow"), [(0, False), (service.LARGEST + 1, False), (service.LARGEST_NARROW + 1, True)]
)
def test_a_grid_that_can_not_be_is_refused_with_its_limits(n, narrow):
    with pytest.raises(ValueError, match=f"{n} configurations .* has 1 to"):
        grid_of(n, narrow=narrow)


# Truths


@pytest.mark.parametrize("law", truths.MONOTONE)
def test_a_monotone_law_never_gives_a_better_configuration_more_energy(law):
    for seed in range(3):
        grid = grid_of(60, seed)
        energy = truths.LAWS[law](grid, np.random.default_rng(seed))
        cost = grid.usd_per_1000_requests
        worse = [-grid.accuracy, grid.latency_p99_s, grid.latency_mean_s, cost]
        for a, b in itertools.permutations(range(60), 2):
            if all(metric[a] <= metric[b] for metric in worse):
                assert energy[a] <= energy[b] + 1e-12


@pytest.mark.parametrize("name", [name for name, truth in TRUTHS.items() if truth.kind == "coupled"])
def test_coupled_truths_leave_less_than_the_threshold_to_energy_itself(name):
    truth = TRUTHS[name]
    assert truth.component < RULE["spread_threshold"]
    assert truth.law in {*truths.MONOTONE, "any"}
    assert truth.wrong == "decoupled"


@pytest.mark.parametrize("name", ["component_02", "component_10", "component_20", "narrow_10", "unrelated"])
def test_a_component_has_its_size(name):
    truth = TRUTHS[name]
    grid = grid_of(500, narrow=truth.narrow)
    with_it = truths.true_log_energy(truth, grid, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    without = truths.LAWS[truth.law](grid, rng) + np.log(rng.uniform(0.5, 20.0))
    assert (with_it - without).std() == pytest.approx(truth.component, rel=0.12)


def test_opposed_energy_falls_where_latency_rises_and_equal_energy_is_equal():
    grid = grid_of(50)
    falling = truths.true_log_energy(TRUTHS["less_with_latency"], grid, np.random.default_rng(0))
    assert (np.diff(falling[np.argsort(grid.latency_p99_s)]) <= 1e-12).all()
    assert np.ptp(truths.true_log_energy(TRUTHS["noise"], grid, np.random.default_rng(0))) == 0


# Studies


@pytest.mark.parametrize("noise", [0.01, 0.2])
@pytest.mark.parametrize("truth", ["noise", "uneven_noise", "noise_heavy_tails"])
def test_replicate_noise_has_its_size_after_block_effects_are_out(truth, noise):
    panel = studies.panel(study_of(truth, 400, noise=noise, repetitions=6, seed=3))
    size = dict(zip(panel.names, np.sqrt(np.diag(panel.within)), strict=True))
    rel = 0.35 if truth == "noise_heavy_tails" else 0.1
    assert size["energy"] == pytest.approx(noise, rel=rel)
    assert size["latency_p99"] == pytest.approx(noise, rel=rel)
    assert size["cost"] == pytest.approx(noise / 2, rel=rel)
    assert size["cost"] == pytest.approx(size["throughput"])
    assert size["accuracy"] == size["cores"] == 0
    energy, cost = panel.column("energy"), panel.column("cost")
    assert panel.within[energy, cost] > -0.1 * noise**2
    p99, mean = panel.column("latency_p99"), panel.column("latency_mean")
    together = panel.within[p99, mean] / np.sqrt(panel.within[p99, p99] * panel.within[mean, mean])
    assert together == pytest.approx(0.8, abs=0.1)


def test_without_noise_the_panel_holds_the_truth():
    rng = np.random.default_rng(2)
    grid = grid_of(30, 2)
    panel = studies.panel(studies.study(TRUTHS["cost_power"], grid, noise=0.0, repetitions=2, rng=rng))
    order = np.argsort([c.id for c in grid.configurations])
    assert np.allclose(panel.mean_of("latency_p99"), np.log(grid.latency_p99_s)[order])
    slope = np.polyfit(panel.mean_of("cost"), panel.mean_of("energy"), 1)
    assert np.allclose(np.polyval(slope, panel.mean_of("cost")), panel.mean_of("energy"))


def test_drift_is_found_and_equal_orders_are_known():
    slopes = {t.metric: t.slope for t in studies.panel(study_of("warming", 200, noise=0.01)).trends}
    assert slopes["energy"] == pytest.approx(np.log(1.4), rel=0.05)
    for truth in ("drift_same_order", "warming_same_order"):
        assert studies.panel(study_of(truth)).same_order
    assert not studies.panel(study_of("drift")).same_order


@pytest.mark.parametrize("truth", ["component_10", "drift"])
def test_records_of_the_same_figures_give_the_same_panel(truth):
    grid = grid_of(24, 4)
    rows = studies.study(TRUTHS[truth], grid, noise=0.1, repetitions=3, rng=np.random.default_rng(4))
    by_id = {c.id: (i, c) for i, c in enumerate(grid.configurations)}
    records = []
    for row in rows.to_dict("records"):
        i, configuration = by_id[row["configuration"]]
        record = made_record(configuration, row)
        for stage, accuracy in grid.accuracies.items():
            record["accuracy"]["stages"][stage]["value"] = float(accuracy[i])
        record["accuracy"]["pas"] = float(grid.accuracy[i])
        records.append(record)
    reading = Reading(tuple((Path(f"{i:05}"), record) for i, record in enumerate(records)), ())
    (found,) = (p for p in panels(tables.measurements_table(reading, service.PRICES), []) if p.energy == studies.ENERGY)
    made = studies.panel(rows)
    assert found.configurations == made.configurations
    assert found.names == made.names
    assert np.allclose(found.values, made.values)
    assert np.allclose(found.within, made.within)
    assert found.degrees == made.degrees
    assert list(found.knobs.columns) == list(made.knobs.columns)


def made_record(configuration, row):
    """A whole record with the figures of a simulated row; its variants are none of the made-up pipeline's."""
    known = {"detect": "ssd300_vgg16", "classify": "resnet18"}
    stand_in = json.loads(json.dumps(configuration.as_dict()))
    for stage in stand_in["stages"]:
        stage["variant"] = known[stage["stage"]]
    record = make_record(
        configuration_from_dict(stand_in),
        latency_s=row["latency_p99_s"],
        net_j_per_request=1.0,
        throughput_rps=row["throughput_rps"],
        block=row["block"],
        order=row["order"],
    )
    record["identity"] |= {"configuration_id": configuration.id, "configuration": configuration.as_dict()}
    record["service"]["latency"]["mean_s"] = row["latency_mean_s"]
    record["energy"]["gross_j_per_request"] = row["gross_j_per_request"]
    return record


@pytest.mark.parametrize(("noise", "repetitions"), [(-0.1, 3), (0.1, 0)])
def test_an_impossible_study_is_refused(noise, repetitions):
    with pytest.raises(ValueError, match="give a noise from 0 on"):
        study_of("noise", noise=noise, repetitions=repetitions)


# Presets


@pytest.mark.parametrize("name", presets.preset_names())
def test_presets_name_truths_that_there_are(name):
    designs = presets.read_preset(name)
    assert set(presets.truths_of(designs)) == set(TRUTHS)
    assert all(presets.settings_of(designs, truth) for truth in TRUTHS)


def test_where_designs_meet_the_most_seeds_count():
    designs = [
        {"truths": "all", "noise": [0.05, 0.1], "repetitions": [2], "configurations": [24], "seeds": 2},
        {"truths": ["noise"], "noise": [0.05], "repetitions": [2, 3], "configurations": [24], "seeds": 5},
    ]
    found = presets.settings_of(designs, "noise")
    assert found == {
        Setting("noise", 0.05, 2, 24): 5,
        Setting("noise", 0.05, 3, 24): 5,
        Setting("noise", 0.1, 2, 24): 2,
    }
    assert presets.settings_of(designs, "drift") == {
        Setting("drift", 0.05, 2, 24): 2,
        Setting("drift", 0.1, 2, 24): 2,
    }
    # Another truth's design must not simulate this one again.
    assert presets.designs_of(designs, "drift") == presets.designs_of(designs[:1], "drift")
    assert presets.settings_of(presets.designs_of(designs, "noise"), "noise") == found


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"truths": ["nothing"]}, "0/truths"),
        ({"noise": [2]}, "0/noise/0"),
        ({"seeds": 0}, "0/seeds"),
        ({"configurations": [10**6]}, "0/configurations/0"),
        ({"sizes": [1]}, "'sizes' was unexpected"),
    ],
)
def test_a_preset_with_a_fault_is_refused_by_file_key_and_value(tmp_path, change, named):
    design = {"truths": "all", "noise": [0.05], "repetitions": [2], "configurations": [24], "seeds": 1}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump([design | change]))
    with pytest.raises(ValueError, match=rf"mine\.yaml: .*{named}"):
        presets.read_preset("mine", tmp_path)


def test_a_preset_that_is_none_is_refused_with_those_that_are(tmp_path):
    (tmp_path / "mine.yaml").write_text("[]")
    with pytest.raises(ValueError, match=r"no preset 'other'; there are mine"):
        presets.read_preset("other", tmp_path)
    with pytest.raises(ValueError, match=r"mine\.yaml: the list"):
        presets.read_preset("mine", tmp_path)


# Runs


def test_a_run_depends_on_its_setting_and_seed_alone():
    one, other = Setting("component_10", 0.05, 2, 24), Setting("noise", 0.05, 2, 24)
    first = run.judged_run(one, 1, RULE)
    run.judged_run(other, 1, RULE)
    assert run.judged_run(one, 1, RULE) == first
    assert run.judged_run(one, 2, RULE)["spread"] != first["spread"]


def test_runs_hold_every_setting_and_the_levels_that_were_judged():
    designs = [{"truths": "all", "noise": [0.01], "repetitions": [3], "configurations": [24, 5], "seeds": 2}]
    runs = run.judged_runs(designs, "latency_power", RULE)
    assert list(runs.columns) == list(run.COLUMNS)
    assert runs[["n_configurations", "seed"]].to_numpy().tolist() == [[5, 0], [5, 1], [24, 0], [24, 1]]
    assert (runs.loc[:1, "decision"] == "inconclusive").all()
    assert runs.loc[0, "reason"] == "5 configurations; the rule asks for 8"
    assert set(runs["decision"]) <= {"coupled", "inconclusive"}
    assert set(runs["binding"]) <= set(LEVELS)


def test_extreme_studies_give_rows_not_errors():
    for setting in (
        Setting("component_10", 0.05, 1, 24),
        Setting("noise", 0.0, 2, 24),
        Setting("unrelated", 1.0, 2, 24),
        Setting("latency_power", 0.05, 3, 1),
    ):
        assert run.judged_run(setting, 0, RULE)["decision"] in {"coupled", "decoupled", "inconclusive"}


# Rates


def made_runs(truth, decisions, noise=0.05, tradeoff="coupled", repetitions=3):
    rows = [
        dict.fromkeys(run.COLUMNS)
        | {"truth": truth, "kind": TRUTHS[truth].kind, "component": TRUTHS[truth].component, "noise": noise}
        | {"n_repetitions": repetitions, "n_configurations": 24, "seed": i, "decision": decision}
        | {"level_joint": decision, "level_tradeoff": tradeoff, "level_decision": "inconclusive"}
        for i, decision in enumerate(decisions)
    ]
    return pd.DataFrame(rows, columns=list(run.COLUMNS))


def some_runs():
    parts = [
        made_runs("latency_power", ["coupled"] * 17 + ["decoupled"] * 3),
        made_runs("cost_power", ["coupled"] * 15 + ["inconclusive"] * 5, noise=0.2),
        made_runs("noise", ["inconclusive"] * 10),
        made_runs("less_with_latency", ["inconclusive"] * 10, tradeoff="decoupled"),
        made_runs("component_05", ["inconclusive"] * 4 + ["decoupled"] * 6),
        made_runs("component_10", ["decoupled"] * 7 + ["inconclusive"] * 2 + ["coupled"]),
        made_runs("component_10", ["decoupled"] * 9 + ["inconclusive"], repetitions=5),
    ]
    return pd.concat(parts, ignore_index=True)


def one(table, **where):
    for name, value in where.items():
        table = table[table[name] == value]
    (row,) = table.to_dict("records")
    return row


def test_rates_are_counts_over_counts_with_exact_intervals():
    table = summary.summary_table(some_runs())
    assert list(table.columns) == list(summary.COLUMNS)
    row = one(table, scope="kind", kind="coupled", level="verdict")
    assert (row["n_runs"], row["n_coupled"], row["n_decoupled"], row["n_inconclusive"]) == (40, 32, 3, 5)
    assert (row["wrong"], row["n_wrong"], row["wrong_rate"]) == ("decoupled", 3, 3 / 40)
    exact = binomtest(3, 40).proportion_ci(0.95, method="exact")
    assert (row["wrong_rate_lo"], row["wrong_rate_hi"]) == pytest.approx((exact.low, exact.high))
    assert (row["right"], row["n_right"]) == ("coupled", 32)
    row = one(table, scope="truth", truth="component_10", level="verdict")
    assert (row["wrong"], row["n_wrong"], row["n_right"], row["n_runs"]) == ("coupled", 1, 16, 20)
    row = one(table, scope="setting", truth="component_10", n_repetitions=5, level="joint")
    assert (row["n_wrong"], row["n_right"], row["n_runs"]) == (0, 9, 10)
    row = one(table, scope="truth", truth="noise", level="verdict")
    assert (row["n_wrong"], row["wrong_rate"], row["wrong_rate_lo"]) == (0, 0, 0)
    assert pd.isna(row["right"])


def test_what_is_no_error_has_no_rate():
    table = summary.summary_table(some_runs())
    assert pd.isna(one(table, scope="truth", truth="component_05", level="verdict")["wrong_rate"])
    # Opposed energy changes the front, and energy with a component of its own need not.
    assert pd.isna(one(table, scope="truth", truth="less_with_latency", level="tradeoff")["wrong_rate"])
    assert pd.isna(one(table, scope="truth", truth="component_10", level="tradeoff")["wrong_rate"])
    assert one(table, scope="truth", truth="less_with_latency", level="verdict")["wrong_rate"] == 0


def test_the_answer_names_the_worst_place_and_what_it_takes_to_decide():
    text = summary.answer(summary.summary_table(some_runs()))
    assert "tell was called decoupled in 3 of 40 (7.5 % [1.6, 20.4]) of simulated studies" in text
    assert "Most often for the truth latency_power: 3 of 20 (15.0 % [3.2, 37.9]), above 5%" in text
    assert "latency_power with noise 5%, 3 repetitions, 24 configurations" in text
    assert "24 configurations x 3 repetitions: 7 of 10 (70.0 % [34.8, 93.3]); by level: joint 7, tradeoff 0" in text
    assert "smallest study that reaches 80% has 24 configurations and 5 repetitions" in text
    assert "nan" not in text


def test_the_answer_says_when_no_size_is_enough():
    runs = made_runs("component_10", ["inconclusive"] * 10)
    assert "None of these sizes reaches 80%" in summary.answer(summary.summary_table(runs))


def test_summary_survives_its_file(tmp_path):
    table = summary.summary_table(some_runs())
    tables.write_csv(tmp_path / "summary.csv", table)
    again = tables.read_csv(tmp_path / "summary.csv")
    pd.testing.assert_frame_equal(again, table)
    tables.write_csv(tmp_path / "runs.csv", some_runs())
    assert summary.summary_table(tables.read_csv(tmp_path / "runs.csv")).equals(table)


# The figure and the rules


def test_the_figure_shows_every_truth_that_can_be_wrong_with_its_counts():
    words = "\n".join(
        text.get_text() for text in figure_of_rates.draw(summary.summary_table(some_runs())).findobj(Text)
    )
    assert "a power of p99 latency (3/20)" in words
    assert "equal everywhere (0/10)" in words
    assert TRUTHS["component_05"].text not in words
    assert "noise 20%" in words


def test_the_figure_of_nothing_says_so():
    empty = summary.summary_table(some_runs().iloc[:0])
    words = "\n".join(text.get_text() for text in figure_of_rates.draw(empty).findobj(Text))
    assert "No study was simulated" in words


def test_the_rules_simulate_judge_and_summarise_and_are_no_part_of_a_normal_run(checkout):
    checkout.configure()
    design = {"truths": ["noise"], "noise": [0.05], "repetitions": [2], "configurations": [24], "seeds": 1}
    (checkout.folder / "config/error_rates/tiny.yaml").write_text(yaml.safe_dump([design]))
    checkout.run("results/error_rates/tiny/answer.txt")
    made = checkout.folder / "results/error_rates/tiny"
    names = {"noise.csv", "summary.csv", "answer.txt", "error_rates.svg", "error_rates.png"}
    assert {path.name for path in made.iterdir()} == names
    assert one(tables.read_csv(made / "summary.csv"), scope="kind", kind="noise", level="verdict")["n_runs"] == 1
    assert "Energy that is equal everywhere" in (made / "answer.txt").read_text()
    assert "error_rates" not in checkout.run("-n")
    assert re.search(rf"^simulate_error_rates +{len(TRUTHS)}$", checkout.run("-n", "error_rates"), re.MULTILINE)
