"""Savings of choices that know energy: known truths, choices against brute force, noise that must not look like one."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa_energy.analysis import choices, honest_ratios, tables
from ipa_energy.analysis.choices import Figures, Tolerances
from ipa_energy.analysis.decision import savings, weights_of
from ipa_energy.analysis.honest_ratios import Way
from ipa_energy.analysis.panel import panels
from ipa_energy.analysis.reference_inputs import ReferenceInput, derived_inputs, given_inputs
from ipa_energy.analysis.saving_rows import COLUMNS, choose, study_of, ways_of
from ipa_energy.ipa.profile import make_profile
from ipa_energy.ipa.space_report import optima_table, space_of, write_rows
from ipa_energy.ipa.space_savings import space_savings
from ipa_energy.record import Reading
from ipa_studies import USD, rows, settings_of
from made_up_panels import panel, population
from synthetic_records import PRICES, make_record, synthetic_study, video_grid

TOLERANCES = {"accuracy": 0.01, "latency": 0.05, "cost": 0.05}


def mean_row(found, scope):
    (row,) = found.rows[(found.rows["scope"] == scope) & found.rows["input"].isna()].to_dict("records")
    return row


def decisions(seeds, *, noise, **truth):
    return [savings(panel(population(100, seed=seed, **truth), noise=noise, seed=seed)) for seed in range(seeds)]


@pytest.mark.parametrize(
    "energy",
    [
        lambda latency, cost: latency**0.8,
        lambda latency, cost: latency**-0.5 * cost**0.7,
        lambda latency, cost: np.exp(0.3 * np.log(latency) ** 2) * cost**0.5,
    ],
    ids=["latency", "against latency", "valley"],
)
def test_energy_that_is_a_function_of_latency_and_cost_saves_nothing_of_its_own(energy):
    found = decisions(8, noise=0.03, energy=energy)
    assert all(one.decision == "coupled" for one in found)
    assert all(one.saving_hi < 0.05 for one in found)


def test_a_saving_that_the_metrics_foretell_is_none_of_energy_s_own():
    """A dense grid whose cost hardly falls with latency: 5 % of cost buys half the latency, and the energy with it."""
    latency, accuracy = (axis.ravel() for axis in np.meshgrid(np.geomspace(0.1, 3, 30), [0.5, 0.6, 0.7, 0.8]))
    latency = latency * accuracy**2
    cost = 0.01 * accuracy * latency**-0.05
    truth = {"accuracy": accuracy, "latency_p99": latency, "cost": cost, "throughput": 0.01 / cost}
    found = savings(panel(truth | {"energy": 4 * latency**0.8}, noise=0.005))
    row = mean_row(found, "grid")
    assert row["saving_lo"] > 0.3
    assert row["own_saving_hi"] < 0.05
    assert found.decision != "decoupled"


def test_an_own_part_of_energy_among_near_equal_configurations_is_found():
    found = decisions(8, noise=0.03, own=0.2)
    assert all(one.decision == "decoupled" for one in found)
    assert 0.08 < np.mean([one.saving for one in found]) < 0.35
    assert "lower bound at or above 5%" in found[0].reason


@pytest.mark.parametrize("repetitions", [2, 3])
def test_noise_never_looks_like_a_saving(repetitions):
    estimates = []
    for seed in range(100):
        truth = population(60, seed=seed) | {"energy": np.full(60, 5.0)}
        found = savings(panel(truth, noise=0.02, energy_noise=0.2, repetitions=repetitions, seed=seed), splits=1)
        assert found.decision != "decoupled"
        bounds = found.rows.loc[found.rows["input"].isna(), ["own_saving_lo", "saving_max_lo"]]
        assert bounds["own_saving_lo"].max() < 0.05
        estimates.append(found.rows.loc[found.rows["input"].isna(), "saving"].mean())
    assert abs(np.mean(estimates)) < 0.02


@pytest.mark.parametrize("own", [0.0, 0.1])
def test_an_interval_holds_the_true_saving_of_what_was_chosen(own):
    """The true energies of the choices of all ways, against the interval of the mean over references and ways."""
    pivots = []
    for seed in range(150):
        truth = population(40, seed=seed, own=own, energy=lambda latency, cost: np.ones(40))
        noisy = panel(truth, noise=0.01, energy_noise=0.1, seed=seed)
        study = study_of(noisy, [], choices.DEFAULT_WEIGHTS, Tolerances())
        pairs = [(way, choose(way.choosing, study, "grid")) for way in ways_of(study, 2, seed)]
        log_energy = np.log(truth["energy"])
        true = np.mean([np.mean(log_energy[c.aware] - log_energy[c.base]) for _, c in pairs])
        told = honest_ratios.estimates(pairs, honest_ratios.mean, 1.0, 0, ())
        value, lower = (math.log1p(-told[name]) for name in ("saving", "saving_hi"))
        pivots.append((value - true) / (value - lower))
    assert abs(np.mean(pivots)) < 0.25
    # Standard errors of ways are averaged, so that the scatter is less than the error says.
    assert 0.5 < np.std(pivots) < 1.05
    assert np.mean(np.abs(pivots) < 1.96) > 0.95


def test_configurations_in_several_choices_are_counted_with_their_covariance():
    """The standard error of a mean over choices that share configurations, against simulated means."""
    rng = np.random.default_rng(4)
    above, below = np.array([0, 0, 1, 2, 3, -1]), np.array([1, 4, 4, 2, 0, -1])
    repetitions, sigma = np.array([1, 2, 1, 2, 2]), 0.2
    nothing = np.zeros(5)

    def way(energy):
        figures = Figures(nothing, nothing, nothing, nothing, nothing, energy, nothing)
        return Way(figures, figures, repetitions, {"energy": sigma**2})

    drawn = rng.normal(size=(20_000, 5)) * sigma / np.sqrt(repetitions)
    means = [honest_ratios.mean(way(energy), "energy", above, below).value[0] for energy in drawn]
    told = honest_ratios.mean(way(nothing), "energy", above, below).error[0]
    assert told == pytest.approx(np.std(means), rel=0.03)
    singles = honest_ratios.each(way(nothing), "energy", above, below).error
    spread = (drawn[:, above[:5]] - drawn[:, below[:5]]).std(axis=0)
    assert singles[:5] == pytest.approx(spread, rel=0.03)
    assert math.isnan(singles[5])
    naive = math.sqrt(np.nansum(singles**2)) / 5
    assert abs(told / naive - 1) > 0.2


LEVELS = st.integers(0, 3)


@st.composite
def instances(draw):
    n = draw(st.integers(1, 12))
    column = st.lists(LEVELS, min_size=n, max_size=n)
    accuracy = np.array(draw(column)) * 0.2 - 0.3  # negative accuracies, as IPA's minus word error rate, too
    latency, cost, price, throughput, batch = (np.array(draw(column), dtype=float) for _ in range(5))
    energy = np.array(draw(st.permutations(range(n))), dtype=float)
    return Figures(accuracy, latency * 0.04, cost * 0.04, price * 0.5, throughput * 0.5, energy, batch)


@given(instances(), st.sampled_from([0.0, 0.01, 0.045, 0.5]), st.sampled_from(["normalised", "raw"]), LEVELS, LEVELS)
@settings(max_examples=150, deadline=None)
def test_choices_are_those_of_brute_force(f, tolerance, scales, rate, sla):
    n = len(f.energy)
    tolerances = Tolerances(tolerance, tolerance, tolerance)
    everyone = range(n)

    def no_worse(i, j, tol):
        """Whether i is within the tolerances of j."""
        return (
            f.accuracy[i] >= f.accuracy[j] - tol * abs(f.accuracy[j]) - 1e-9
            and math.exp(f.latency[i]) <= math.exp(f.latency[j]) * (1 + tol) + 1e-9
            and math.exp(f.cost[i]) <= math.exp(f.cost[j]) * (1 + tol) + 1e-9
        )

    front = [j for j in everyone if not any(no_worse(i, j, 0) and not no_worse(j, i, 0) for i in everyone)]
    base = choices.optimal_without_energy(f.accuracy, f.latency, f.cost)
    assert base.tolist() == front
    within = choices.limits(base, f.accuracy, f.latency, f.cost, tolerances)
    near = [[i for i in everyone if no_worse(i, j, tolerance)] for j in front]
    least = choices.least_within(f.energy, f.accuracy, f.latency, f.cost, within)
    assert least.tolist() == [min(some, key=lambda i: f.energy[i]) for some in near]
    assert choices.count_within(f.accuracy, f.latency, f.cost, within).tolist() == [len(some) for some in near]

    one = ReferenceInput("one", math.exp(0.5 * rate), math.exp(0.04 * sla), "config")
    sustaining = [i for i in everyone if math.exp(f.throughput[i]) >= one.rate_rps - 1e-9]
    serving = [i for i in sustaining if math.exp(f.latency[i]) <= one.sla_s + 1e-9]
    assert choices.feasible(f, one).tolist() == serving
    if not serving:
        return
    weights = dict(choices.DEFAULT_WEIGHTS) | {"alpha": 2.0, "gamma": 0.1, "scales": scales}
    terms = f.accuracy, np.exp(f.price), f.batch
    spreads = [max(t[sustaining]) - min(t[sustaining]) if scales == "normalised" else 1 for t in terms]
    a, c, b = (t / (s if s > 1e-9 else 1) for t, s in zip(terms, spreads, strict=True))
    value = 2 * a - c - 0.1 * b
    chosen = choices.without_energy(f, one, np.array(serving), weights)
    assert chosen == min(serving, key=lambda i: (-round(value[i], 8), f.latency[i], f.cost[i], i))


def test_least_energy_beyond_one_block_is_found():
    rng = np.random.default_rng(0)
    n = 3000
    accuracy, latency, cost, energy = rng.normal(size=(4, n))
    base = rng.integers(n, size=40)
    within = choices.limits(base, accuracy, latency, cost, Tolerances())
    found = choices.least_within(energy, accuracy, latency, cost, within)
    for at, j in enumerate(base):
        fits = (accuracy >= within.accuracy[at]) & (latency <= within.latency[at]) & (cost <= within.cost[at])
        assert fits[j]
        assert found[at] == np.flatnonzero(fits)[np.argmin(energy[fits])]


def test_what_metrics_foretell_leaves_out_the_configuration_itself():
    rng = np.random.default_rng(1)
    metrics = rng.normal(size=(40, 3))
    energy = metrics @ [0.5, -0.2, 0.1] + 0.1 * rng.normal(size=40)
    plain = choices.foretold(metrics, energy)
    moved = energy.copy()
    moved[7] += 0.001
    # Its own figure moves its own prediction by the penalty at most, others' predictions by their leverage.
    change = choices.foretold(metrics, moved) - plain
    assert abs(change[7]) < 1e-5
    assert np.abs(np.delete(change, 7)).max() > 1e-5
    assert np.corrcoef(plain, energy)[0, 1] > 0.95
    assert np.isfinite(choices.foretold(np.ones((5, 3)), np.arange(5.0))).all()


def test_rows_name_the_choices_and_the_price_of_least_energy():
    """Four configurations by hand: 1 is as good as 0 for 30 % less, 2 needs least but is late, 3 is inaccurate."""
    truth = {
        "accuracy": [0.8, 0.8, 0.8, 0.5],
        "latency_p99": [0.10, 0.102, 0.40, 0.05],
        "cost": [1.0, 1.01, 3.0, 0.9],
        "cores": [2, 2, 2, 2],
        "throughput": [10, 10, 10, 10],
        "batch": [1, 2, 4, 1],
        "energy": [10.0, 7.0, 5.0, 1.0],
    }
    found = savings(panel(truth), inputs={"in time": (5, 0.2), "never": (50, 0.2)}, min_configurations=2)
    row, never = (found.rows[found.rows["input"] == name].iloc[0] for name in ("in time", "never"))
    assert (row["baseline"], row["choice"], row["given_by"], row["cost_unit"]) == (
        "c00000",
        "c00001",
        "config",
        "cores",
    )
    assert (row["n_feasible"], row["n_alternatives"]) == (3, 1)
    assert row[["baseline_energy_j_per_request", "choice_energy_j_per_request"]].tolist() == pytest.approx([10, 7])
    assert row["saving"] == pytest.approx(0.3)
    assert row["regret"] == pytest.approx(10 / 7 - 1)
    assert row["price_latency"] == pytest.approx(0.02)
    assert never["reason"] == "no configuration sustains 50 requests/s with a p99 latency of at most 0.2 s"
    assert pd.isna(never["saving"])
    late = savings(panel(truth), inputs={"late": (5, 1.0)}, min_configurations=2).rows.iloc[0]
    assert late["choice"] == "c00001"
    assert late["regret"] == pytest.approx(1.0)
    assert late["price_latency"] == pytest.approx(3.0)
    grid = mean_row(found, "grid")
    assert (grid["n_references"], grid["n_with_alternative"]) == (2, 1)
    assert grid["saving"] == pytest.approx(1 - math.sqrt(0.7))
    assert grid["saving_max"] == pytest.approx(0.3)


def test_without_alternatives_the_level_says_so():
    n = 20
    accuracy = np.linspace(0.5, 0.9, n)
    truth = {"accuracy": accuracy, "latency_p99": accuracy**3, "cost": accuracy**4, "throughput": 1 / accuracy}
    found = savings(panel(truth | {"energy": accuracy}, noise=0.001))
    assert found.decision == "inconclusive"
    assert "only 0 of" in found.reason
    single = found.rows[found.rows["input"].notna()]
    assert (single["n_alternatives"] == 0).all()
    assert (single[["saving", "saving_lo", "saving_hi"]] == 0).all(axis=None)
    assert single["reason"].str.contains("nothing to choose").all()


def test_coupled_takes_both_scopes():
    """An SLA that one configuration alone meets leaves no choice, so that only the grid can speak."""
    truth = population(100, own=0.0)
    quickest = int(np.argmin(truth["latency_p99"]))
    truth["latency_p99"][quickest] *= 0.8
    found = savings(panel(truth, noise=0.001), inputs={"strict": (0.0, 1.05 * truth["latency_p99"][quickest])})
    assert found.decision == "inconclusive"
    assert "only 0 of 1 inputs" in found.reason
    assert found.scope == "grid"
    assert found.saving_hi < 0.05
    assert savings(panel(truth, noise=0.001)).decision == "coupled"


def test_ways_split_the_repetitions_and_know_how_many_evaluate():
    noisy = panel(population(20), noise=0.05, repetitions=[2, 3, 4, 5] * 5)
    study = study_of(noisy, [], choices.DEFAULT_WEIGHTS, Tolerances())
    ways = list(ways_of(study, 2, 1))
    for one, other in (ways[:2], ways[2:]):
        count = one.repetitions + other.repetitions
        assert count.tolist() == [2, 3, 4, 5] * 5
        together = one.repetitions * one.evaluating.energy + other.repetitions * other.evaluating.energy
        assert together / count == pytest.approx(noisy.mean_of("energy"))
        assert (one.choosing.energy == other.evaluating.energy).all()


def test_inputs_that_nothing_can_serve_give_way_to_derived_ones():
    found = savings(panel(population(40)), inputs={"flood": (1e6, 0.001)})
    given_by = found.rows.loc[found.rows["input"].notna(), "given_by"]
    assert given_by.tolist()[0] == "config"
    assert set(given_by[1:]) == {"derived"}
    assert mean_row(found, "feasible")["given_by"] == "derived"


def bad_panels():
    one = population(1)
    some = population(12)
    yield "fewer than two", panel(one)
    yield "one repetition each", panel(some, repetitions=1)
    yield "rule asks for 8", panel(population(5))
    yield "no figures for accuracy", panel({name: v for name, v in some.items() if name != "accuracy"})
    yield "5 configurations with two repetitions", panel(some, repetitions=[2] * 5 + [1] * 7)
    yield "no figures for", panel(some | {"throughput": [np.nan] * 12})
    nan = {name: np.where(np.arange(12) < 10, np.nan, values) for name, values in some.items()}
    yield "rule asks for 8", panel(nan)
    yield "fewer than two", panel(some | {"energy": -np.ones(12)})


@pytest.mark.parametrize(("reason", "bad"), list(bad_panels()))
def test_what_can_not_be_decided_is_inconclusive_with_a_reason(reason, bad):
    found = savings(bad)
    assert found.decision == "inconclusive"
    assert reason in found.reason
    assert (found.saving, found.saving_lo, found.saving_hi) == (None, None, None)
    assert list(found.rows.columns) == list(COLUMNS)
    assert {"feasible", "grid"} <= set(found.rows["scope"])
    lacking = found.rows["saving"].isna()
    assert found.rows.loc[lacking, "reason"].notna().all()


def test_constant_metrics_and_negative_accuracies_are_no_obstacle():
    truth = population(60, own=0.2)
    same = panel(
        truth | dict.fromkeys(("latency_p99", "cost", "throughput"), np.ones(60)), noise=0.0, energy_noise=0.02
    )
    assert savings(same).decision == "decoupled"
    negative = panel(truth | {"accuracy": truth["accuracy"] - 1}, noise=0.02)
    assert savings(negative).decision == "decoupled"
    assert savings(panel(truth | {"energy": np.full(60, 3.0)})).decision == "coupled"


def test_the_same_seed_gives_the_same_and_rows_survive_a_file(tmp_path):
    noisy = panel(population(40, own=0.1), noise=0.02)
    one, two = savings(noisy, seed=3), savings(noisy, seed=3)
    pd.testing.assert_frame_equal(one.rows, two.rows)
    assert one.saving == two.saving
    tables.write_csv(tmp_path / "decisions.csv", one.rows)
    pd.testing.assert_frame_equal(tables.read_csv(tmp_path / "decisions.csv"), one.rows)
    json.dumps([one.decision, one.reason, one.saving, one.saving_lo, one.saving_hi], allow_nan=False)


def measurements_of(records):
    return tables.measurements_table(Reading(tuple((Path(f"{i:05}"), r) for i, r in enumerate(records)), ()), PRICES)


def test_records_give_savings_in_every_cell():
    configurations = video_grid(classifiers=("resnet18", "resnet50"), batches=(1, 2, 4, 8))
    for of in panels(measurements_of(synthetic_study("independent", configurations)), []):
        found = savings(of, inputs={"slow": (0.5, 60.0)}, weights={"cost": "usd"})
        assert set(found.rows["energy"]) == {of.energy}
        assert found.rows.loc[found.rows["input"] == "slow", "cost_unit"].tolist() == ["usd_per_hour"]
        first = found.rows.iloc[0]
        hourly = 0.04 * 2  # one core for each stage
        assert first["baseline_cost"] == pytest.approx(hourly)
    one = make_record(configurations[0], latency_s=1.0, net_j_per_request=2.0)
    assert all(savings(of).decision == "inconclusive" for of in panels(measurements_of([one]), []))


def test_bad_terms_are_refused_by_name():
    with pytest.raises(ValueError, match="input a: rate_rps is -1"):
        given_inputs({"a": (-1, 2)})
    with pytest.raises(ValueError, match="input a: sla_s is nan"):
        given_inputs({"a": (1, math.nan)})
    with pytest.raises(ValueError, match=r"tolerance of cost is -0\.1"):
        savings(panel(population(10)), tolerances={"cost": -0.1})
    with pytest.raises(ValueError, match="weight beta is -1"):
        savings(panel(population(10)), weights={"beta": -1.0})


def test_derived_inputs_are_quartiles_that_something_serves():
    throughput, latency = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.1, 0.2, 0.3, 0.4])
    found = derived_inputs(throughput, latency)
    for one, (rate, sla) in itertools.product(found, [(4.0, 0.1)]):
        assert ((throughput >= one.rate_rps) & (latency <= one.sla_s)).any()
        assert (one.rate_rps, one.sla_s) != (rate, sla)
    assert len({(one.rate_rps, one.sla_s) for one in found}) == len(found) > 4
    assert len(derived_inputs(np.ones(5), np.ones(5))) == 1
    assert derived_inputs(np.zeros(0), np.zeros(0)) == []


def test_weights_of_a_config_are_those_without_energy():
    section = {"weights": {"alpha": 3, "beta": 2, "gamma": 0, "delta": 9}, "scales": "raw", "cost": "usd"}
    assert weights_of(section) == {"alpha": 3, "beta": 2, "gamma": 0, "scales": "raw", "cost": "usd"}
    assert weights_of({}) == choices.DEFAULT_WEIGHTS


@pytest.fixture
def space(tmp_path):
    profile = make_profile(pd.DataFrame(rows()))
    study = settings_of(tmp_path, profile, {"one": {"rate_rps": 8.0, "sla_s": 1.0}})
    made = space_of("one", profile, study["ipa"], USD)
    write_rows(tmp_path / "one.parquet", made)
    return tmp_path / "one.parquet", optima_table(made)


@pytest.mark.parametrize("group_rows", [7, 100_000])
def test_savings_in_the_space_are_those_of_brute_force(space, tmp_path, group_rows):
    path, optima = space
    all_rows = pq.read_table(path)
    pq.write_table(all_rows, tmp_path / "grouped.parquet", row_group_size=group_rows)
    found = space_savings(tmp_path / "grouped.parquet", optima, tolerances=TOLERANCES, cost_unit="cores")
    table = all_rows.to_pandas()
    table = table[table["feasible"]]
    base = optima.set_index("method").loc["ipa"]
    accurate = table[table["accuracy_pas"] >= base["accuracy_pas"] * 0.99 - 1e-12]
    near = accurate[(accurate["latency_s"] <= 1.05 * base["latency_s"]) & (accurate["cost"] <= 1.05 * base["cost"])]
    least = near["energy_j_per_request"].min()
    assert found["n_feasible"] == len(table)
    assert found["n_alternatives"] == len(near) - 1
    assert found["saving"] == pytest.approx(1 - least / base["energy_j_per_request"])
    assert found["regret"] == pytest.approx(base["energy_j_per_request"] / accurate["energy_j_per_request"].min() - 1)
    assert found["choice_energy_j_per_request"] == pytest.approx(least)
    assert found["evidence"] == "measured"
    assert "predicted" in found["reason"]
    assert set(found) <= set(COLUMNS)


def test_a_space_without_a_choice_or_without_energy_says_so(space):
    path, optima = space
    nothing = optima.assign(chosen=False, reason="the SLA leaves nothing")
    assert space_savings(path, nothing, tolerances=TOLERANCES)["reason"] == "the SLA leaves nothing"
    unknown = optima.assign(energy_j_per_request=np.nan)
    assert "no positive energy" in space_savings(path, unknown, tolerances=TOLERANCES)["reason"]
    with pytest.raises(ValueError, match="0 rows of method ipa"):
        space_savings(path, optima[optima["method"] != "ipa"], tolerances=TOLERANCES)
