"""Variance by knob: against sums by hand, statsmodels, known truth, and grids that can't tell knobs apart."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from ipa_energy.analysis import anova, knob_variance, tables
from ipa_energy.analysis.panel import Panel, panels
from ipa_energy.record import Reading
from synthetic_records import PRICES, make_record, synthetic_study, video_grid

SMALL = video_grid(classifiers=("resnet18", "resnet50"))
MAINS_AND_PAIRS = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]


def measurements_of(records):
    return tables.measurements_table(Reading(tuple((Path(f"{i:05}"), r) for i, r in enumerate(records)), ()), PRICES)


def table_of(records, **changes):
    return knob_variance.knobs_table(measurements_of(records), **({"confidence": 0.95, "drop_flags": []} | changes))


def full_grid(*levels):
    return np.array(list(itertools.product(*map(range, levels))))


def panel_of(codes, energy, *, names=None, repetitions=1, noise=0.0, seed=0, extra=None):
    """A panel whose log energies are ``energy`` plus noise, over knobs with levels ``codes``."""
    n = len(codes)
    rng = np.random.default_rng(seed)
    columns = ("accuracy", "latency_p99", "cost", "throughput", "energy")
    base = np.tile(np.asarray(energy, dtype=float)[:, None], len(columns)) if extra is None else extra
    values = base[:, None, :] + noise * rng.normal(size=(n, repetitions, len(columns)))
    degrees = n * (repetitions - 1)
    deviation = (values - values.mean(axis=1, keepdims=True)).reshape(-1, len(columns))
    within = deviation.T @ deviation / degrees if degrees else np.full((len(columns),) * 2, np.nan)
    return Panel(
        cell=("video", "saturated", "host-a", "random", "cpu:rapl"),
        energy="net",
        evidence="measured",
        configurations=tuple(map(str, range(n))),
        knobs=pd.DataFrame(codes, columns=names or [f"{'abcdefghij'[i]}.batch" for i in range(codes.shape[1])]),
        names=columns,
        values=values,
        repetitions=np.full(n, repetitions),
        means=values.mean(axis=1),
        within=within,
        degrees=degrees,
        trends=(),
        same_order=False,
        left_out=0,
    )


def energy_rows(panel, confidence=0.95):
    table = knob_variance.as_table(knob_variance.knob_rows([panel], confidence))
    return table[table["metric"] == "net_energy"].set_index("term")


def test_a_complete_grid_gives_the_sums_of_squares_that_cell_means_give_by_hand():
    a, b, c = 3, 4, 2
    cube = np.random.default_rng(1).normal(size=(a, b, c))
    found = anova.type_two(full_grid(a, b, c), cube.reshape(-1, 1), MAINS_AND_PAIRS)
    centred = cube - cube.mean()
    mean_a, mean_b, mean_c = centred.mean((1, 2)), centred.mean((0, 2)), centred.mean((0, 1))
    both_ab = centred.mean(2) - mean_a[:, None] - mean_b
    both_ac = centred.mean(1) - mean_a[:, None] - mean_c
    both_bc = centred.mean(0) - mean_b[:, None] - mean_c
    by_hand = [
        b * c * np.sum(mean_a**2),
        a * c * np.sum(mean_b**2),
        a * b * np.sum(mean_c**2),
        c * np.sum(both_ab**2),
        b * np.sum(both_ac**2),
        a * np.sum(both_bc**2),
    ]
    assert [line.squares[0] for line in found.lines] == pytest.approx(by_hand)
    assert [line.df for line in found.lines] == [2, 3, 1, 6, 2, 3]
    assert found.residual_df == 6
    assert found.residual[0] == pytest.approx(np.sum(centred**2) - sum(by_hand))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), missing=st.integers(0, 9))
def test_an_incomplete_grid_gives_what_statsmodels_gives(seed, missing):
    rng = np.random.default_rng(seed)
    codes = full_grid(3, 4, 3)
    codes = codes[np.sort(rng.permutation(len(codes))[missing:])]
    y = rng.normal(size=(len(codes), 2)) + codes[:, :1] * codes[:, 1:2]
    found = anova.type_two(codes, y, MAINS_AND_PAIRS)
    design = pd.DataFrame(codes, columns=list("abc"))
    for at in range(2):
        model = smf.ols("y ~ (C(a) + C(b) + C(c)) ** 2", design.assign(y=y[:, at]))
        if np.linalg.matrix_rank(model.exog) < model.exog.shape[1]:
            return  # statsmodels does not find the degrees of freedom of a grid with empty pairs of levels
        model = model.fit()
        expected = sm.stats.anova_lm(model, typ=2)
        assert [line.squares[at] for line in found.lines] == pytest.approx(expected["sum_sq"].tolist()[:-1])
        assert [line.df for line in found.lines] == expected["df"].tolist()[:-1]
        assert found.residual[at] == pytest.approx(expected["sum_sq"].iloc[-1])


def test_chunks_do_not_change_the_result(monkeypatch):
    codes = full_grid(3, 4, 3)[5:]
    y = np.random.default_rng(2).normal(size=(len(codes), 3))
    whole = anova.type_two(codes, y, MAINS_AND_PAIRS)
    monkeypatch.setattr(anova, "_CHUNK", 60)
    parts = anova.type_two(codes, y, MAINS_AND_PAIRS)
    for one, other in zip(whole.lines, parts.lines, strict=True):
        assert one.squares == pytest.approx(other.squares)
        assert one.df == other.df


def test_one_factor_at_a_time_leaves_no_interaction_to_estimate():
    codes = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, 1]])
    y = (codes @ [1.0, 2.0, 3.0])[:, None]
    found = anova.type_two(codes, y, MAINS_AND_PAIRS)
    assert [line.df for line in found.lines] == [2, 1, 1, 0, 0, 0]
    assert [line.squares[0] for line in found.lines[3:]] == pytest.approx([0, 0, 0])


def test_noncentralities_are_those_at_which_the_observation_lies_at_the_tails():
    rng = np.random.default_rng(3)
    for df, true in [(1, 5.0), (4, 60.0), (3, 30_000.0)]:
        drawn = rng.noncentral_chisquare(df, true, size=2000)
        intervals = [anova.noncentrality(x, df, 0.9) for x in drawn[:400]]
        assert np.mean([lo <= true <= hi for lo, hi in intervals]) == pytest.approx(0.9, abs=0.05)
    assert anova.noncentrality(0.01, 3, 0.95) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("df", "rest_df", "error_df", "own", "other"),
    [(2, 33, 72, 20_000.0, 8_000.0), (2, 33, 72, 5.0, 300.0), (2, 17, 16, 20.0, 40.0), (4, 31, 72, 1000.0, 30.0)],
)
def test_intervals_of_the_share_hold_the_true_share_as_often_as_they_say(df, rest_df, error_df, own, other):
    n, runs = 36, 600
    rng = np.random.default_rng(4)
    truth = own / (own + other + n)
    drawn = zip(
        rng.noncentral_chisquare(df, own, runs),
        rng.noncentral_chisquare(rest_df, other, runs),
        rng.chisquare(error_df, runs) / error_df,
        strict=True,
    )
    held = 0
    for squares, rest, error in drawn:
        lo, hi = anova.share_interval(squares, df, rest, rest_df, error=error, error_df=error_df, n=n, confidence=0.95)
        held += lo <= truth <= hi
    assert held / runs == pytest.approx(0.95, abs=0.03)


def test_shares_of_a_known_energy_are_found_again():
    codes = full_grid(3, 2, 2)
    part_a, part_b, part_ab = (
        codes[:, 0] - 1.0,
        0.5 * (2 * codes[:, 1] - 1),
        0.25 * (codes[:, 0] - 1) * (2 * codes[:, 1] - 1),
    )
    rows = energy_rows(panel_of(codes, part_a + part_b + part_ab, repetitions=3, noise=1e-3))
    total = np.sum(part_a**2) + np.sum(part_b**2) + np.sum(part_ab**2)
    for term, part in [("a.batch", part_a), ("b.batch", part_b), ("a.batch x b.batch", part_ab)]:
        true = np.sum(part**2) / total
        assert rows.loc[term, "share"] == pytest.approx(true, abs=1e-3)
        assert rows.loc[term, "share_lo"] <= true <= rows.loc[term, "share_hi"]
        assert rows.loc[term, "p_holm"] < 1e-6
    assert rows.loc["c.batch", "share"] < 1e-4
    assert rows["share"].sum() == pytest.approx(1)
    assert "complete grid of 12" in rows.loc["residual", "reason"]


def test_noise_alone_gives_no_knob_a_share_beyond_what_noise_gives():
    codes = full_grid(3, 3, 2, 2)
    found = []
    for seed in range(12):
        rows = energy_rows(panel_of(codes, np.zeros(len(codes)), repetitions=3, noise=0.05, seed=seed))
        found.append(rows.drop(index="residual"))
        assert (rows["share_lo"].dropna() <= rows["omega2"].dropna()).all()
        assert (rows["share"] <= rows["share_hi"]).all()
    together = pd.concat(found)
    assert (together["p_holm"] < 0.05).groupby(np.arange(len(together)) // len(found[0])).any().mean() <= 0.15
    assert together["share_lo"].gt(0).mean() < 0.06


def test_p_values_are_adjusted_by_holm_over_the_terms_of_a_metric():
    rows = energy_rows(panel_of(full_grid(3, 2, 2), np.arange(12.0), repetitions=3, noise=1.0)).drop(index="residual")
    assert rows["p_holm"].tolist() == pytest.approx(multipletests(rows["p"], method="holm")[1].tolist())
    assert (rows["error"] == "repetitions").all()


def test_a_saturated_model_is_tested_against_repetitions():
    rows = energy_rows(panel_of(full_grid(3, 2), np.arange(6.0), repetitions=3, noise=0.1))
    assert rows.loc["residual", "df"] == 0
    assert rows.loc["a.batch x b.batch", "df"] == 2
    assert rows.loc["a.batch", "error_df"] == 12
    assert rows.loc["a.batch", "p"] < 1e-6


def test_without_repetitions_a_saturated_model_gives_up_its_interactions_and_says_so():
    codes = full_grid(3, 2)
    rows = energy_rows(panel_of(codes, codes @ [1.0, 2.0] + 0.1 * np.random.default_rng(0).normal(size=6)))
    assert set(rows.index) == {"a.batch", "b.batch", "residual"}
    assert "interactions are left out" in rows.loc["residual", "reason"]
    assert (rows.drop(index="residual")["error"] == "residual").all()
    assert rows.loc["b.batch", "p"] < 0.05


def test_a_single_knob_without_repetitions_has_a_share_but_no_test():
    rows = energy_rows(panel_of(full_grid(4), [1.0, 2.0, 3.0, 5.0]))
    assert rows.loc["a.batch", "share"] == pytest.approx(1)
    assert rows.loc["a.batch", ["share_lo", "share_hi", "f", "p", "p_holm"]].isna().all()
    assert "no error is known" in rows.loc["residual", "reason"]


def test_knobs_that_always_change_together_are_named_and_counted_once():
    codes = full_grid(3, 2)
    doubled = np.column_stack([codes, codes[:, 0]])
    rows = energy_rows(panel_of(doubled, codes[:, 0] ** 2.0 + codes[:, 1], repetitions=2, noise=0.01))
    assert "c.batch" not in rows.index
    assert rows.loc["a.batch", "reason"] == "always changes together with c.batch"
    assert rows.loc["residual", "reason"] == "complete grid of 6 combinations"


def test_a_knob_that_follows_from_another_has_no_share_of_its_own():
    codes = full_grid(4, 2)
    rows = energy_rows(panel_of(np.column_stack([codes, codes[:, 0] // 2]), codes[:, 0] + codes[:, 1] * 2.0))
    assert rows.loc["c.batch", "df"] == 0
    assert pd.isna(rows.loc["c.batch", "share"])
    assert rows.loc["c.batch", "reason"] == "follows from a.batch; the grid can't tell it from the other terms"


def test_interactions_that_hide_knobs_are_left_out():
    half = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]])  # c = a xor b: each knob is an interaction, too
    rows = energy_rows(panel_of(half, half @ [3.0, 2.0, 1.0], repetitions=2, noise=0.01))
    assert rows.loc["a.batch", "share"] == pytest.approx(9 / 14, abs=0.02)
    assert "can't tell them from the knobs" in rows.loc["residual", "reason"]


def test_too_many_contrasts_leave_the_interactions_out(monkeypatch):
    monkeypatch.setattr(knob_variance, "MAX_COLUMNS", 5)
    rows = energy_rows(panel_of(full_grid(3, 3), np.arange(9.0), repetitions=2, noise=0.1))
    assert set(rows.index) == {"a.batch", "b.batch", "residual"}
    assert "8 contrasts, of at most 5" in rows.loc["residual", "reason"]


def test_missing_combinations_are_counted_and_the_overlap_is_said():
    codes = np.delete(full_grid(3, 3, 2), [1, 5, 6, 11], axis=0)
    rows = energy_rows(panel_of(codes, codes @ [1.0, 1.0, 1.0], repetitions=2, noise=0.01))
    assert (rows["n_configurations"] == 14).all()
    assert (rows["n_possible"] == 18).all()
    assert "14 of 18 combinations, so that the shares add up to" in rows.loc["residual", "reason"]


def test_records_give_a_row_for_every_metric_and_energy_with_its_evidence():
    table = table_of(synthetic_study("coupled", SMALL))
    assert tuple(table.columns) == knob_variance.COLUMNS
    assert set(table["metric"]) == set(knob_variance.METRICS)
    energies = table["energy"].notna()
    assert (table.loc[energies, "evidence"] == "measured").all()
    assert table.loc[~energies, "evidence"].isna().all()
    latency = table[table["metric"] == "latency_p99"].set_index("term")
    assert latency["share"].idxmax() == "detect.variant"
    accuracy = table[table["metric"] == "accuracy"].set_index("term")
    assert accuracy.loc["detect.batch", "share"] == 0
    assert accuracy.loc[["detect.variant", "classify.variant"], "share"].sum() == pytest.approx(1)
    assert "repetitions are equal" in accuracy.loc["residual", "reason"]


def test_the_table_agrees_with_statsmodels_on_the_means_of_a_study():
    measurements = measurements_of(synthetic_study("independent", SMALL[1:]))
    table = knob_variance.knobs_table(measurements, confidence=0.95, drop_flags=[])
    rows = table[table["metric"] == "net_energy"].set_index("term")
    (panel,) = [panel for panel in panels(measurements, []) if panel.energy == "net"]
    names = {name: name.replace(".", "_") for name in panel.knobs.columns}
    frame = panel.knobs.rename(columns=names).astype(str).assign(y=panel.mean_of("energy"))
    model = smf.ols(f"y ~ ({' + '.join(names.values())}) ** 2", frame).fit()
    expected = sm.stats.anova_lm(model, typ=2)["sum_sq"]
    for term in rows.index.drop("residual"):
        assert rows.loc[term, "sum_squares"] == pytest.approx(expected[term.replace(".", "_").replace(" x ", ":")])


def test_negative_net_energies_are_left_out_and_counted():
    records = synthetic_study("coupled", SMALL)
    records[0]["energy"]["net_j_per_request"] = -1.0
    table = table_of(records)
    assert "1 records are left out" in table[table["metric"] == "net_energy"].iloc[-1]["reason"]


def test_the_table_survives_the_file(tmp_path):
    table = table_of(synthetic_study("coupled", SMALL))
    tables.write_csv(tmp_path / "knobs.csv", table)
    pd.testing.assert_frame_equal(tables.read_csv(tmp_path / "knobs.csv"), table)


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (lambda: synthetic_study("coupled", SMALL[:1]), "one configuration"),
        (lambda: synthetic_study("coupled", SMALL, state="failed"), "no usable record"),
        (lambda: synthetic_study("coupled", SMALL, domains=()), "no usable record has an energy"),
        (lambda: synthetic_study("noise", SMALL, blocks=1), "cost is the same in all configurations"),
        (lambda: synthetic_study("coupled", SMALL[:2], blocks=1), "no error is known"),
        (lambda: [make_record(c, latency_s=0.1, net_j_per_request=-0.1) for c in SMALL], "net energy"),
    ],
)
def test_what_can_not_be_had_is_a_row_with_a_reason(records, says):
    table = table_of(records())
    assert len(table)
    assert any(says in reason for reason in table["reason"].dropna())


def test_no_records_give_an_empty_table():
    table = table_of([])
    assert table.empty
    assert tuple(table.columns) == knob_variance.COLUMNS
