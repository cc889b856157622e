"""Adaptation of a study: what all runs share, what methods start with, savings by hand, and answers in words."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from ipa_energy.figures import adaptation as adaptation_figure
from ipa_energy.ipa.adaptation_study import run, simulate_all
from ipa_energy.ipa.adaptation_summary import METRICS, answer, read_runs, summary_table
from ipa_energy.ipa.controller import chooser
from ipa_energy.ipa.deciding import LEAST_RPS, choose_by, first_configuration, setting_of
from ipa_energy.ipa.loads import LARGEST_RPS, derived_seed, load_counts, load_scale
from ipa_energy.ipa.options import Input
from ipa_energy.ipa.outcome import FIGURES, figures
from ipa_energy.ipa.predictor_comparison import HISTORY, compare_predictors
from ipa_energy.ipa.predictors import MAXIMUM, REACTIVE, backtest, errors
from ipa_energy.ipa.profile_table import ProfileError
from ipa_energy.ipa.settings import METHOD_NAMES, method, objective_for, options_for
from ipa_energy.ipa.space import space_table
from ipa_energy.ipa.trained_predictors import make_predictor, train_lstm
from ipa_studies import ENERGY, profile_of, rows, settings_of

TIMES = ["decide_mean_s", "decide_max_s"]
RAMP = np.concatenate([np.full(40, 4), np.full(40, 15), np.full(20, 6)])


def setting(folder, counts=RAMP, profile=None, adaptation=None, **ipa):
    profile = profile or profile_of()
    loads = {"ramp": {"pattern": "steady_low"}}
    made = settings_of(folder, profile, adaptation={"loads": loads, "sla_s": 0.9} | (adaptation or {}), **ipa)
    return setting_of("ramp", np.asarray(counts), profile, made["ipa"], made["prices"], made["max_wait_s"])


def words(figure):
    return " ".join("\n".join(text.get_text() for text in figure.findobj(Text)).split())


def test_runs_are_the_same_for_the_same_seed_but_for_the_times(tmp_path):
    one = setting(tmp_path, adaptation={"seeds": 2})
    predictors = {"reactive": REACTIVE, "max": MAXIMUM}
    (a, a_intervals), (b, b_intervals), (c, _) = (simulate_all(one, predictors, seed) for seed in (1, 1, 2))
    assert a.drop(columns=TIMES).equals(b.drop(columns=TIMES)) and a_intervals.equals(b_intervals)
    assert not a["latency_mean_s"].equals(c["latency_mean_s"])
    assert len(a) == 2 * 5 * 2 and a["seed"].tolist() == [1, 2] * 10
    assert set(FIGURES) <= set(a.columns)
    assert (a["requests"] == RAMP.sum()).all()
    assert a["decide_mean_s"].gt(0).all() and a["evidence"].eq("measured").all() and a["reason"].isna().all()
    # the load and so all decisions are the same in both runs of a method, the moments of arrival are not
    by_run = a[a["method"] == "ipa"].groupby("predictor")
    assert (by_run["changes"].nunique() == 1).all() and (by_run["latency_mean_s"].nunique() == 2).all()


def test_remembering_answers_changes_no_decision(tmp_path):
    one = setting(tmp_path)
    plain = chooser(one.profile, one.sla_s, one.ipa["replicas"], method("ipa_energy", one.ipa))
    choose = choose_by(one, "ipa_energy")
    for rate in (4.0, 15.0, 4.0, 7.25, 15.0):
        assert choose(rate)[0] == plain(rate)
    assert len(choose.known) == 3
    assert choose(4.0)[1] > 0  # a remembered answer still costs what it took


def test_intervals_tell_what_arrived_and_what_was_prepared_for(tmp_path):
    one = setting(tmp_path, adaptation={"methods": ["ipa"], "seeds": 1})
    _, table = simulate_all(one, {"reactive": REACTIVE, "max": MAXIMUM}, 1)
    assert table["predictor"].eq("reactive").all() and len(table) == 10
    assert table["arrived"].tolist() == RAMP.reshape(10, 10).sum(axis=1).tolist()
    assert table["peak_rps"].tolist() == RAMP.reshape(10, 10).max(axis=1).tolist()
    assert pd.isna(table["predicted_rps"][0])
    assert table["predicted_rps"][1:].tolist() == table["peak_rps"][:-1].tolist()


def test_the_first_configuration_is_the_choice_for_the_first_interval(tmp_path):
    one = setting(tmp_path, counts=[2, 7, *[3] * 10, 50])
    initial, why = first_configuration(one, "ipa", choose_by(one, "ipa"))
    options = options_for(one.profile, Input(7.0, one.sla_s), one.ipa, one.usd)
    assert why is None and initial == method("ipa", one.ipa)(options).best.stages


@pytest.mark.parametrize("name", METHOD_NAMES)
@pytest.mark.parametrize(("counts", "sla_s", "reason"), [([300] * 12, 0.9, "rate is 300"), ([3] * 12, 0.01, "SLA is")])
def test_a_start_without_a_feasible_choice_takes_the_largest_throughput(tmp_path, name, counts, sla_s, reason):
    one = setting(tmp_path, counts=counts, adaptation={"sla_s": sla_s})
    initial, why = first_configuration(one, name, choose_by(one, name))
    assert reason in why
    options = options_for(one.profile, Input(float(counts[0]), 1e5), one.ipa, one.usd)
    space = space_table(options, objective_for(options, one.ipa, energy=False))
    may = np.ones(len(space), dtype=bool)
    for stage, lightest, heaviest in (("detect", "small", "large"), ("classify", "r18", "r152")):
        if name == "fa2_low":
            may &= space[f"{stage}.variant"] == lightest
        if name == "fa2_high":
            may &= space[f"{stage}.variant"] == heaviest
        if name == "rim":
            may &= space[f"{stage}.replicas"] == one.ipa["rim_replicas"]
    largest = min(float(counts[0]), space.loc[may, "throughput_rps"].max())
    mine = may.copy()
    for knobs in initial:
        for knob in ("variant", "batch", "replicas", "threads"):
            mine &= space[f"{knobs.stage}.{knob}"] == getattr(knobs, knob)
    assert mine.sum() == 1 and space.loc[mine, "throughput_rps"].iloc[0] >= largest


def test_decisions_without_a_feasible_choice_keep_the_configuration_and_are_counted(tmp_path):
    counts = np.concatenate([np.full(30, 4), np.full(30, 400), np.full(40, 4)])
    one = setting(tmp_path, counts=counts, adaptation={"seeds": 1})
    table, _ = simulate_all(one, {"reactive": REACTIVE}, 1)
    # reactive sees 400 at 40, 50 and 60 s
    assert table.set_index("method")["infeasible"].to_dict() == dict.fromkeys(METHOD_NAMES, 3)
    assert table["start_reason"].isna().all()


def test_a_load_with_empty_seconds_is_decided_for_by_all_methods(tmp_path):
    one = setting(tmp_path, counts=[0] * 25 + [5] * 15 + [0] * 40, adaptation={"seeds": 1})
    table, intervals = simulate_all(one, {"reactive": REACTIVE}, 1)
    assert (table["completed"] == 75).all() and table["infeasible"].eq(0).all()
    assert intervals["predicted_rps"].min() == LEAST_RPS


def test_a_method_that_cannot_run_has_a_row_with_its_reason(tmp_path):
    one = setting(tmp_path, profile=profile_of(without=ENERGY), adaptation={"seeds": 2})
    table, intervals = simulate_all(one, {"reactive": REACTIVE}, 1)
    (row,) = table[table["method"] == "ipa_energy"].to_dict("records")
    assert pd.isna(row["seed"]) and "energy" in row["reason"] and pd.isna(row["requests"])
    assert len(table) == 1 + 4 * 2 and "ipa_energy" not in set(intervals["method"])
    others = table[table["method"] != "ipa_energy"]
    assert others["net_j"].isna().all() and others["energy_reason"].str.contains("not known").all()
    text = answer(summary_table(table, 0.95), "cores")
    assert "no comparison, as IPA with energy could not run: the energy of some options is not known" in text


def test_noise_that_the_profile_cannot_give_is_asked_for(tmp_path):
    made = [{k: v for k, v in row.items() if k != "latency_p99_s"} for row in rows()]
    with pytest.raises(ProfileError, match=r"ipa\.adaptation\.noise is null: .*give the noise as a number|noise"):
        setting(tmp_path, profile=profile_of(made), latency="mean")
    assert setting(tmp_path, profile=profile_of(made), latency="mean", adaptation={"noise": 0}).sla_s == 0.9


def test_service_waits_and_drops_as_the_config_says(tmp_path):
    one = setting(tmp_path, adaptation={"interval_s": 5, "start_s": 2, "drop_after_s": 3})
    assert (one.rules.interval_s, one.rules.start_s, one.rules.max_wait_s, one.rules.drop_after_s) == (5, 2, 0.5, 3)


def runs_table(**changes):
    """Two methods in two runs; energies and the rest made up."""
    base = {"load": "l", "predictor": "lstm", "sla_s": 1.0, "evidence": "estimated", "reason": None}
    base |= {"start_reason": None, "energy_reason": ""} | dict.fromkeys(METRICS, 1.0)
    energy = {("ipa", 1): 2.0, ("ipa", 2): 4.0, ("ipa_energy", 1): 1.5, ("ipa_energy", 2): 2.0}
    return pd.DataFrame(
        [
            base
            | {"method": name, "seed": seed, "net_j_per_request": joules, "gross_j_per_request": 10 + joules}
            | {"accuracy_pas": 0.5 if name == "ipa" else 0.4, "violation_share": 0.02}
            | changes
            for (name, seed), joules in energy.items()
        ]
    )


def test_savings_are_differences_between_runs_of_the_same_seed():
    table = summary_table(runs_table(), 0.95).set_index("method")
    row = table.loc["ipa_energy"]
    assert row["net_energy_saved_vs_ipa"] == pytest.approx((0.25 + 0.5) / 2)
    half = 12.706204736 * np.std([0.25, 0.5], ddof=1) / np.sqrt(2)  # t of 0.975 with one degree of freedom
    assert row["net_energy_saved_vs_ipa_lo"] == pytest.approx(0.375 - half)
    assert row["gross_energy_saved_vs_ipa"] == pytest.approx((0.5 / 12 + 2 / 14) / 2)
    assert pd.isna(table.loc["ipa", "net_energy_saved_vs_ipa"])
    assert table.loc["ipa", "net_j_per_request"] == 3.0 and table.loc["ipa", "runs"] == 2
    one = summary_table(runs_table()[lambda t: t["seed"] == 1], 0.95).set_index("method").loc["ipa_energy"]
    assert one["net_energy_saved_vs_ipa"] == pytest.approx(0.25) and pd.isna(one["net_energy_saved_vs_ipa_lo"])


def test_the_answer_says_what_changes_and_that_energy_is_estimated():
    text = answer(summary_table(runs_table(), 0.95), "cores")
    assert text.startswith("Load l, predictor lstm: with energy in its objective, IPA has")
    assert "accuracy (PAS) 0.4 instead of 0.5 (-20 %)" in text
    assert "cost 1 cores, as without" in text
    assert "estimated net energy 1.75 J per request instead of 3 (-37.5 %, interval over the runs" in text
    assert text.count("energy 1") == text.count("estimated") == 2
    assert "estimated" not in answer(summary_table(runs_table(evidence="measured"), 0.95), "cores")
    assert "(evidence unknown)" in answer(summary_table(runs_table(evidence="unknown"), 0.95), "cores")


def test_the_answer_says_why_there_is_no_comparison():
    without = runs_table(net_j_per_request=None, gross_j_per_request=None, energy_reason="idle_w is not known")
    assert "Energy can't be compared: idle_w is not known." in answer(summary_table(without, 0.95), "cores")
    only = runs_table()[lambda t: t["method"] == "ipa"]
    nobody = runs_table(net_j_per_request=None, gross_j_per_request=None, energy_reason=np.nan)
    assert "no request was completed" in answer(summary_table(nobody, 0.95), "cores")
    assert "methods are without IPA with energy" in answer(summary_table(only, 0.95), "cores")


def test_real_runs_survive_their_file(tmp_path):
    one = setting(tmp_path, adaptation={"seeds": 2})
    table, _ = simulate_all(one, {"reactive": REACTIVE}, 1)
    table.to_csv(tmp_path / "runs.csv", index=False)
    read = read_runs(pd.read_csv(tmp_path / "runs.csv", dtype="str", keep_default_na=False, na_values=[""]))
    from_file, made = (summary_table(runs, 0.95).filter(regex="^(?!.*reason)") for runs in (read, table))
    pd.testing.assert_frame_equal(from_file, made)
    row = summary_table(read, 0.95).set_index("method").loc["ipa_energy"]
    by_hand = table.pivot(index="seed", columns="method", values="net_j_per_request")
    assert row["net_energy_saved_vs_ipa"] == pytest.approx((1 - by_hand["ipa_energy"] / by_hand["ipa"]).mean())


def test_figures_of_a_run_use_the_host_power_of_the_profile(tmp_path):
    one = setting(tmp_path, adaptation={"noise": 0})
    choose = choose_by(one, "ipa")
    made = run(one, choose, REACTIVE, first_configuration(one, "ipa", choose)[0], 3)
    table, _ = simulate_all(one, {"reactive": REACTIVE}, 1)
    assert figures(made.log, one.sla_s, 20.0)["base_j"] == pytest.approx(20.0 * made.log.end_s)
    assert table["base_j"].tolist() == pytest.approx((20.0 * table["end_s"]).tolist())


@pytest.mark.parametrize("evidence", ["estimated", "measured"])
def test_the_figure_says_estimated_where_it_is(tmp_path, evidence):
    one = setting(tmp_path, profile=profile_of(rows(evidence=evidence)), adaptation={"seeds": 1})
    _, table = simulate_all(one, {"reactive": REACTIVE}, 1)
    text = words(adaptation_figure.draw(table, "ramp", one.profile.evidence, "cores"))
    assert ("estimated net power (W)" in text) == (evidence == "estimated")
    assert "prepared for (reactive)" in text and "IPA with energy" in text


def test_the_figure_is_drawn_without_energy_for_one_interval_and_for_none(tmp_path):
    one = setting(tmp_path, counts=[3] * 5, profile=profile_of(without=ENERGY), adaptation={"seeds": 1})
    _, table = simulate_all(one, {"reactive": REACTIVE}, 1)
    assert set(table["begin_s"]) == {0.0}
    assert "not known" in words(adaptation_figure.draw(table, "ramp", one.profile.evidence, "cores"))
    nothing = setting(tmp_path, profile=profile_of(without=ENERGY), adaptation={"methods": ["ipa_energy"]})
    runs, table = simulate_all(nothing, {"reactive": REACTIVE}, 1)
    assert len(runs) == 1 and table.empty and "begin_s" in table.columns
    assert "no method could run" in words(adaptation_figure.draw(table, "ramp", "none", "cores"))


def test_loads_scatter_independently_and_follow_the_seed(tmp_path):
    pattern = {"pattern": "steady_high", "scale": 1, "seconds": 600}
    a, b, other = load_counts("a", pattern, 1), load_counts("b", pattern, 1), load_counts("a", pattern, 2)
    assert np.array_equal(a, load_counts("a", pattern, 1)) and not np.array_equal(a, other)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.15
    assert load_scale(pattern | {"scale": 0.3}, a) == 0.3
    (tmp_path / "own.txt").write_text("# mine\n8 16\n80\n")
    own = {"file": str(tmp_path / "own.txt"), "scale": 1, "damping": 8, "first": 1, "last": None}
    assert load_counts("own", own, 1).tolist() == [2, 10]
    assert load_scale(own, np.array([2, 10])) == 1.0
    assert load_scale(own, np.array([2, 340])) == 340 / LARGEST_RPS == 10
    assert derived_seed(1, "adaptation", 0) != derived_seed(1, "adaptation", 1) != derived_seed(2, "adaptation", 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lstm")
    files = (folder / "predictor.pt", folder / "predictor.json")
    return files, train_lstm(1, 2.0, 4, *files)


def test_the_lstm_is_trained_on_a_history_of_the_size_of_the_loads(trained):
    files, told = trained
    assert json.loads(files[1].read_text()) == told
    assert told["history"]["scale"] == 2.0 and 10 < told["history"]["mean_rps"] < 22
    assert 0 < told["errors"]["lstm"]["smape_percent"] < 25


def test_a_smaller_load_is_stretched_to_the_size_of_the_history(trained):
    files, _ = trained
    seen = np.array([*np.full(100, 5.0), *np.full(20, 9.0)])
    whole, half = make_predictor("lstm", scale=2.0, trained=files), make_predictor("lstm", scale=1.0, trained=files)
    assert half(seen) == pytest.approx(whole(2 * seen) / 2)
    raised = make_predictor("lstm", scale=1.0, margin_percent=10, trained=files)
    assert raised(seen) == pytest.approx(1.1 * half(seen))


def test_predictors_without_files_or_of_unknown_names_are_refused():
    assert make_predictor("max") is MAXIMUM
    with pytest.raises(ValueError, match="train it"):
        make_predictor("lstm")
    with pytest.raises(ValueError, match="oracle"):
        make_predictor("oracle")


def test_predictors_are_compared_on_loads_and_on_the_history(trained):
    files, told = trained
    rng = np.random.default_rng(0)
    loads = {"long": (rng.poisson(9, 400), 1.0), "short": (np.full(100, 3), 1.0)}
    table = compare_predictors(["lstm", "reactive"], loads, files).set_index(["load", "predictor"])
    by_hand = backtest(REACTIVE, loads["long"][0].astype(float))
    assert table.loc[("long", "reactive"), "smape_percent"] == by_hand.smape_percent
    assert table.loc[("long", "lstm"), "smape_percent"] > 0
    assert "100 s" in table.loc[("short", "lstm"), "reason"] and pd.isna(table.loc[("short", "lstm"), "excess"])
    assert table.loc[(HISTORY, "lstm"), "smape_percent"] == told["errors"]["lstm"]["smape_percent"]
    assert (HISTORY, "max") not in table.index
    assert errors(np.array([1.0]), np.array([1.0])).smape_percent == 0
