"""Designs measure parts of one and the same study, sequential ones stop by the real rule, and savings add up."""

import re

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.text import Text
from scipy.stats import binomtest

from ipa_energy import design
from ipa_energy.analysis import tables
from ipa_energy.error_rates import design_runs, design_summary, designs, service
from ipa_energy.error_rates.designs import Design, Simulated
from ipa_energy.error_rates.truths import TRUTHS
from ipa_energy.figures import designs as figure_of_designs
from test_error_rates import RULE, one

STOPPING = {"start": 2, "spend": 0.01, "half_width": 0.01}
PRESET = {
    "truths": ["latency_power", "unrelated"],
    "noise": [0.05],
    "configurations": [24],
    "seeds": 2,
    "designs": {
        "full_4": {"blocks": 4},
        "full_2": {"blocks": 2},
        "half": {"blocks": 4, "keep": 0.7},
        "sequential": {"blocks": 4, "sequential": STOPPING},
    },
}


@pytest.fixture(scope="module")
def runs():
    return pd.concat([design_runs.designed_runs(PRESET, truth, RULE) for truth in PRESET["truths"]], ignore_index=True)


def by_design(frame):
    return {name: rows.set_index(["truth", "noise", "seed"]) for name, rows in frame.groupby("design")}


@pytest.mark.parametrize("n", [16, 24, 64])
def test_a_whole_grid_is_a_full_factorial(n):
    grid = service.make_grid(n, np.random.default_rng(0), whole=True)
    knobs = pd.DataFrame([c.knobs() for c in grid.configurations])
    assert len(knobs) == np.prod([knobs[name].nunique() for name in knobs])
    assert n <= len(knobs) < 2 * n


def test_every_design_measures_its_part_of_every_study(runs):
    assert list(runs.columns) == list(design_runs.COLUMNS)
    assert len(runs) == 2 * 2 * 4
    of = by_design(runs)
    assert (runs["n_measurements"] == runs["n_configurations"] * runs["n_repetitions"]).all()
    assert (of["full_4"]["n_repetitions"] == 4).all() and (of["full_2"]["n_repetitions"] == 2).all()
    assert (of["full_4"]["n_configurations"] == of["full_4"]["n_possible"]).all()
    assert (of["half"]["n_configurations"] < of["half"]["n_possible"]).all()
    assert set(of["sequential"]["because"]) <= {"decided", "narrow", "rounds"}
    assert runs.loc[runs["design"] != "sequential", "because"].isna().all()


def test_a_sequential_study_ends_as_one_of_as_many_blocks_would(runs):
    of = by_design(runs)
    stopped = of["sequential"][of["sequential"]["n_repetitions"] == 2]
    assert len(stopped)  # clear studies are decided at the first look
    assert (stopped["decision"] == of["full_2"].loc[stopped.index, "decision"]).all()
    whole = of["sequential"][of["sequential"]["n_repetitions"] == 4]
    assert (whole["decision"] == of["full_4"].loc[whole.index, "decision"]).all()


def test_a_row_depends_on_its_study_and_design_alone(runs):
    given = Simulated("unrelated", 0.05, 24, 1)
    # As many blocks in the largest design: fewer would be another study.
    (alone, _) = design_runs.rows_of(given, [Design("full_2", 2), Design("full_4", 4)], RULE)
    row = one(runs, truth="unrelated", seed=1, design="full_2")
    assert {name: row[name] for name in alone if name != "because"} == {
        name: value for name, value in alone.items() if name != "because"
    }


def test_a_fraction_is_the_one_that_a_real_study_would_measure():
    made = design_runs._Study(Simulated("latency_power", 0.05, 64, 3), 2, RULE)
    kept = made.configurations(0.5)
    assert kept == {c.id for c in design.fraction(made.grid.configurations, 0.5, 3).configurations}
    # Where a share is too small to tell the knobs apart, the least that works is measured.
    with pytest.raises(design.DesignError) as error:
        design.fraction(made.grid.configurations, 0.05, 3)
    assert len(made.configurations(0.05)) == error.value.least
    assert made.judgement(0.5, 2, 0.95).joint.summary["n_configurations"] == len(kept)


# Presets


@pytest.mark.parametrize("name", designs.preset_names())
def test_presets_are_valid_and_their_first_design_is_the_largest(name):
    made = designs.designs_of(designs.read_preset(name))
    assert made[0].keep == 1 and made[0].stopping is None
    assert made[0].blocks == max(one.blocks for one in made)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"truths": ["nothing"]}, "truths/0"),
        ({"seeds": 0}, "seeds"),
        ({"designs": {}}, "designs"),
        ({"designs": {"half": {"blocks": 2, "keep": 0}}}, "designs/half/keep"),
        ({"designs": {"late": {"blocks": 2, "sequential": STOPPING | {"start": 3}}}}, "give a start from 1 to"),
    ],
)
def test_a_preset_with_a_fault_is_refused_by_file_and_key(tmp_path, change, named):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(PRESET | change))
    with pytest.raises(ValueError, match=rf"mine\.yaml: .*{named}"):
        designs.read_preset("mine", tmp_path)
    with pytest.raises(ValueError, match=r"no preset 'other'; there are mine"):
        designs.read_preset("other", tmp_path)


# Summaries


def made_runs():
    """Ten coupled and ten decoupled studies: the small design errs once, loses three and gains one."""
    rows = []
    for truth in ("latency_power", "unrelated"):
        right = TRUTHS[truth].kind
        for seed in range(10):
            full = "inconclusive" if seed == 0 else right
            small = TRUTHS[truth].wrong if truth == "unrelated" and seed == 1 else full
            small = {0: right, 2: "inconclusive", 3: "inconclusive"}.get(seed, small)
            for name, decision, blocks in (("full", full, 4), ("small", small, 1 + seed % 2)):
                rows.append(
                    {"truth": truth, "kind": right, "component": 0.0, "noise": 0.05, "n_possible": 10, "seed": seed}
                    | {"design": name, "n_configurations": 10, "n_repetitions": blocks, "n_measurements": 10 * blocks}
                    | {"decision": decision, "binding": "joint", "level_joint": decision, "because": None}
                )
    return pd.DataFrame(rows, columns=list(design_runs.COLUMNS))


def test_savings_and_rates_are_those_of_the_same_studies():
    table = design_summary.summary_table(made_runs())
    assert list(table.columns) == list(design_summary.COLUMNS)
    everything = one(table, scope="all", design="small")
    assert (everything["n_studies"], everything["against"]) == (20, "full")
    assert everything["saved"] == pytest.approx(1 - 15 / 40)
    assert everything["measurements"] == pytest.approx(15)
    assert (everything["measurements_lo"], everything["measurements_hi"]) == (10, 20)
    assert everything["n_wrong"] == 1
    exact = binomtest(1, 20).proportion_ci(0.95, method="exact")
    assert (everything["wrong_rate_lo"], everything["wrong_rate_hi"]) == pytest.approx((exact.low, exact.high))
    decoupled = one(table, scope="kind", kind="decoupled", design="small")
    assert (decoupled["n_right"], decoupled["n_lost"], decoupled["n_gained"]) == (7, 3, 1)
    assert decoupled["lost_p"] == pytest.approx(binomtest(3, 4).pvalue)
    full = one(table, scope="noise", kind="coupled", noise=0.05, design="full")
    assert (full["saved"], full["n_lost"], full["n_gained"], full["lost_p"]) == (0, 0, 0, 1)


def test_the_answer_and_the_figure_tell_every_design(tmp_path):
    table = design_summary.summary_table(made_runs())
    text = design_summary.answer(table)
    assert "small: 15 measurements a study, 62% fewer than full; wrong verdicts in 1 of 20 (5.0 % [0.1, 24.9])" in text
    assert "decoupled truths: saved 62%; wrong 1 of 10" in text
    assert "3 lost and 1 gained against full (p = 0.62)" in text
    assert "nan" not in text
    words = "\n".join(t.get_text() for t in figure_of_designs.draw(table).findobj(Text))
    assert "small" in words and "measurements (% of full)" in words
    tables.write_csv(tmp_path / "summary.csv", table)
    pd.testing.assert_frame_equal(tables.read_csv(tmp_path / "summary.csv"), table)
    tables.write_csv(tmp_path / "runs.csv", made_runs())
    pd.testing.assert_frame_equal(design_summary.summary_table(tables.read_csv(tmp_path / "runs.csv")), table)


def test_noise_alone_has_nothing_to_be_found():
    runs = made_runs().iloc[:20].assign(truth="noise", kind="noise", decision="inconclusive")
    table = design_summary.summary_table(runs)
    row = one(table, scope="kind", design="small")
    assert row["n_wrong"] == 0 and pd.isna(row["right_rate"]) and pd.isna(row["n_lost"])
    text = design_summary.answer(table)
    assert "nan" not in text and "found" not in text


def test_nothing_simulated_says_so():
    table = design_summary.summary_table(made_runs().iloc[:0])
    assert table.empty
    assert design_summary.answer(table) == "No study was simulated.\n"
    words = "\n".join(t.get_text() for t in figure_of_designs.draw(table).findobj(Text))
    assert "No study was simulated" in words


def test_the_rules_simulate_and_summarise_and_are_no_part_of_a_normal_run(checkout):
    checkout.configure()
    preset = PRESET | {"truths": ["unrelated"], "seeds": 1}
    (checkout.folder / "config/error_rates/designs/tiny.yaml").write_text(yaml.safe_dump(preset))
    checkout.run("results/designs/tiny/answer.txt")
    made = checkout.folder / "results/designs/tiny"
    names = {"unrelated.csv", "summary.csv", "answer.txt", "designs.svg", "designs.png"}
    assert {path.name for path in made.iterdir()} == names
    assert one(tables.read_csv(made / "summary.csv"), scope="all", design="half")["n_studies"] == 1
    assert "simulate_designs" not in checkout.run("-n")
    wanted = len(designs.read_preset("published")["truths"])
    assert re.search(rf"^simulate_designs +{wanted}$", checkout.run("-n", "designs"), re.MULTILINE)
