"""The error of leaving objectives out: against all pairs, on known truths, and that bounds bound."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ipa_energy.analysis import tables
from ipa_energy.analysis.membership import space_of
from ipa_energy.analysis.objectives import (
    COLUMNS,
    SUFFICIENT_COLUMNS,
    objective_table,
    smallest_sufficient,
)
from synthetic_panels import panel_of_points, points_of

ALL = "accuracy+latency+cost+energy"


def table_of(points, noise=0.01, **kind):
    return objective_table(panel_of_points(points, noise=noise, **kind), confidence=0.95)


def delta_of(table, *, left_out, column="delta"):
    return float(table.set_index("left_out").loc[left_out, column])


def brute_force(space, kept, left_out, confidence):
    """delta and its lower bound, pair by pair."""
    n = len(space.points)
    span = np.ptp(space.points, axis=0)
    noisy = (space.deviation > 0).sum()
    critical = stats.t.isf((1 - confidence) / max(1, n * (n - 1) * noisy), space.degrees)
    means, certain = 0.0, 0.0
    for x in range(n):
        for y in range(n):
            difference = space.points[x] - space.points[y]
            margin = critical * space.deviation * np.sqrt(1 / space.repetitions[x] + 1 / space.repetitions[y])
            for k in left_out:
                if span[k] == 0:
                    continue
                if all(difference[j] <= 0 for j in kept):
                    means = max(means, difference[k] / span[k])
                if all(difference[j] + margin[j] <= 0 for j in kept):
                    certain = max(certain, (difference[k] - margin[k]) / span[k])
    return means, certain


@given(
    cells=st.lists(st.tuples(*[st.integers(0, 4)] * 4), min_size=1, max_size=14),
    repetitions=st.lists(st.integers(2, 4), min_size=1, max_size=3),
    noise=st.sampled_from([(0, 0, 0, 0), (0, 0.02, 0.02, 0.02), (0.01, 0.05, 0, 0.05)]),
)
@settings(max_examples=60, deadline=None)
def test_delta_and_its_bound_are_those_of_all_pairs(cells, repetitions, noise):
    panel = panel_of_points(
        np.array(cells) * [0.1, 0.5, 0.5, 0.5], noise=noise, repetitions=(repetitions * 14)[: len(cells)]
    )
    found = objective_table(panel, confidence=0.95)
    space = space_of(panel)
    assert len(found) == 15
    for row in found.itertuples():
        kept = [space.names.index(name) for name in row.kept.split("+")]
        left_out = [k for k in range(4) if k not in kept]
        means, certain = brute_force(space, kept, left_out, 0.95)
        assert row.delta == pytest.approx(means, abs=1e-12)
        assert row.delta_lo == pytest.approx(certain, abs=1e-9)


@pytest.mark.parametrize("truth", ["coupled", "independent", "opposed"])
def test_delta_of_many_points_is_that_of_all_pairs(truth):
    panel = panel_of_points(points_of(truth, 500), noise=0.05, repetitions=([2, 3] * 250))
    found = objective_table(panel, confidence=0.95).set_index("kept")
    points = space_of(panel).points
    for kept in combinations(range(4), 2):
        good = np.ones((500, 500), dtype=bool)
        for k in kept:
            good &= points[:, None, k] <= points[None, :, k]
        rest = [k for k in range(4) if k not in kept]
        expected = max(
            np.max(points[:, None, k] - points[None, :, k], where=good, initial=0) / np.ptp(points[:, k]) for k in rest
        )
        name = "+".join(("accuracy", "latency", "cost", "energy")[k] for k in kept)
        assert found.loc[name, "delta"] == pytest.approx(expected)


def test_energy_that_grows_with_latency_can_be_left_out():
    table = table_of(points_of("coupled", 100), noise=(0, 0, 0, 0))
    assert delta_of(table, left_out="energy") == 0
    assert delta_of(table, left_out="latency") == 0  # and so can latency, where energy stays
    assert delta_of(table, left_out="cost") > 0.2
    assert delta_of(table, left_out="accuracy") > 0.2
    sets = smallest_sufficient(table, 0.0)
    assert set(sets["kept"]) == {"accuracy+latency+cost", "accuracy+cost+energy"}
    assert set(sets["size"]) == {3}


def test_every_objective_is_needed_when_each_is_drawn_by_itself():
    rng = np.random.default_rng(2)
    points = np.column_stack([rng.uniform(0, 1, 200), rng.normal(size=(200, 3))])
    table = table_of(points, noise=0.001)
    for name in ("accuracy", "latency", "cost", "energy"):
        assert delta_of(table, left_out=name, column="delta_lo") > 0.3
    assert set(smallest_sufficient(table, 0.1)["kept"]) == {ALL}


def test_noise_alone_never_makes_an_objective_needed():
    """Energy follows latency in truth; the certain part of the error is above 0 in at most 5 % of studies."""
    wrong = seen = 0
    for seed in range(100):
        table = table_of(points_of("coupled", 30, seed), noise=0.2, seed=seed)
        seen += delta_of(table, left_out="energy") > 0
        wrong += delta_of(table, left_out="energy", column="delta_lo") > 0
    assert seen > 80  # the means do say so
    assert wrong <= 11


def test_ratios_say_how_much_worse_a_choice_without_the_objective_may_be():
    points = [[0.3, 0.0, 0.0, np.log(3.0)], [0.1, 1.0, 1.0, np.log(1.0)]]
    table = table_of(points, noise=(0, 0, 0, 0))
    assert delta_of(table, left_out="energy", column="delta_ratio") == pytest.approx(3)
    assert delta_of(table, left_out="energy") == pytest.approx(1)
    points[0][0], points[1][0], points[0][3] = 0.1, 0.3, 0.0
    table = table_of(points, noise=(0, 0, 0, 0))
    assert delta_of(table, left_out="accuracy", column="delta_ratio") == pytest.approx(0.2)
    assert table.loc[table["left_out"].str.contains(r"\+", na=False), "delta_ratio"].isna().all()


def test_the_sets_kept_are_all_fifteen():
    table = table_of(points_of("independent", 10))
    assert list(table.columns) == list(COLUMNS)
    assert table["kept"].is_unique and len(table) == 15
    assert list(table["kept"])[-1] == ALL
    assert table.loc[14, "delta"] == table.loc[14, "delta_lo"] == 0
    assert pd.isna(table.loc[14, "left_out"])


def test_keeping_more_never_errs_more():
    table = table_of(points_of("independent", 60), noise=0.02).set_index("kept")
    for fewer in table.index:
        for more in table.index:
            if set(fewer.split("+")) < set(more.split("+")):
                assert table.loc[more, "delta"] <= table.loc[fewer, "delta"]
                assert table.loc[more, "delta_lo"] <= table.loc[fewer, "delta_lo"]


def test_without_repetitions_there_is_no_bound():
    table = table_of(points_of("independent", 20), repetitions=1)
    assert table["delta"].notna().all()
    assert table["delta_lo"].isna().all()
    assert table["reason"].str.contains("replicate noise is unknown").all()
    sets = smallest_sufficient(table, 0.05)
    assert list(sets.columns) == list(SUFFICIENT_COLUMNS)
    bounded = sets[sets["basis"] == "lower_bound"]
    assert bounded["kept"].isna().all() and bounded["reason"].notna().all()


def test_one_configuration_contradicts_nothing():
    table = table_of(points_of("independent", 1), repetitions=3)
    assert (table["delta"] == 0).all()
    assert table["reason"].str.contains("1 configuration").all()


def test_an_objective_without_figures_is_left_aside_by_name():
    points = points_of("independent", 12)[:, 1:]
    table = table_of(points, names=("latency_p99", "cost", "energy"))
    assert len(table) == 7
    assert table["reason"].str.contains("no figures for accuracy").all()


def test_an_objective_that_never_changes_is_never_missed():
    points = points_of("independent", 20)
    points[:, 0] = 0.25
    assert delta_of(table_of(points), left_out="accuracy") == 0


def test_a_threshold_that_is_no_fraction_is_refused():
    with pytest.raises(ValueError, match=r"from 0 to 1"):
        smallest_sufficient(table_of(points_of("independent", 5)), 5)


def test_both_tables_survive_their_files(tmp_path):
    table = table_of(points_of("independent", 12))
    for found in (table, smallest_sufficient(table, 0.1)):
        tables.write_csv(tmp_path / "table.csv", found)
        pd.testing.assert_frame_equal(tables.read_csv(tmp_path / "table.csv"), found)
