"""A fraction of a grid: its size, its balance, what it can tell apart, and that every machine draws the same."""

import itertools
import json
import os
import re
import subprocess
import sys

import numpy as np
import patsy
import pydoe
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ipa_energy import design
from ipa_energy.configuration import grid
from ipa_energy.design_check import Factor, Model, check
from ipa_energy.design_exchange import exchanged
from ipa_energy.plan import GRID, size_of
from ipa_energy.study import ConfigError, load_study

from test_analysis_knob_variance import energy_rows, panel_of  # isort: skip
from tiny import tiny_config  # isort: skip

VIDEO_GPU = (5, 5, 4, 4, 2, 2)


def factors_of(levels):
    codes = np.array(list(itertools.product(*map(range, levels))), dtype=np.int64)
    return tuple(Factor("abcdefghij"[i], tuple(range(n)), codes[:, i].copy()) for i, n in enumerate(levels))


def rank_by_patsy(factors, chosen):
    data = {f.name: f.codes for f in factors}
    matrix = np.asarray(patsy.dmatrix(f"({' + '.join(f'C({f.name})' for f in factors)}) ** 2", data))
    return np.linalg.matrix_rank(matrix[chosen]), np.linalg.matrix_rank(matrix)


grids = st.lists(st.integers(2, 5), min_size=2, max_size=6).filter(lambda levels: 8 <= np.prod(levels) <= 400)


@settings(max_examples=60, deadline=None)
@given(levels=grids, keep=st.floats(0.05, 1), seed=st.integers(0, 2**32))
def test_a_draw_has_the_size_that_was_asked_for_and_the_check_agrees_with_an_independent_rank(levels, keep, seed):
    factors = factors_of(levels)
    total = int(np.prod(levels))
    size = size_of(keep, total)
    assert abs(size - keep * total) <= 0.5 or size == 1
    chosen = design.draw(factors, size, seed)
    assert len(set(chosen.tolist())) == len(chosen) == size
    assert list(chosen) == sorted(chosen)
    assert set(chosen.tolist()) <= set(range(total))
    assert np.array_equal(chosen, design.draw(factors, size, seed))
    found = check(factors, chosen)
    rank, full = rank_by_patsy(factors, chosen)
    assert (found.rank, found.grid_rank) == (rank, full)
    assert found.sound == (size == total or (rank == full and size > full))
    assert bool(found.inestimable) == (rank < full)
    if rank == full:
        assert found.fewest_in_pair >= 1  # else the interaction of the two would not be estimable


@settings(max_examples=60, deadline=None)
@given(levels=grids, spare=st.floats(1.3, 4), seed=st.integers(0, 1000))
def test_levels_are_measured_about_equally_often_and_effects_stay_apart(levels, spare, seed):
    factors = factors_of(levels)
    total = int(np.prod(levels))
    size = int(spare * Model(factors).columns)
    assume(size < total)
    found = check(factors, design.draw(factors, size, seed))
    assert found.sound
    for factor in factors:
        counts = np.array(list(found.level_counts[factor.name].values()))
        assert counts.sum() == size
        even = size / len(factor.levels)
        assert np.abs(counts - even).max() <= max(2, 0.3 * even), found
    random = [Model(factors).efficiency(np.random.default_rng(i).permutation(total)[:size]) for i in range(9)]
    assert found.d_efficiency >= min(0.95, np.median(random)) - 1e-9


DRAWS = """
import hashlib, itertools
import numpy as np
from ipa_energy.design import draw
from ipa_energy.design_check import Factor
for levels, size in (((5, 5, 4, 4, 2, 2), 160), ((5, 5, 4, 4, 2, 2), 400), ((7, 5, 3, 2), 105), ((2,) * 6, 32)):
    codes = np.array(list(itertools.product(*map(range, levels))))
    factors = [Factor(str(i), tuple(range(n)), codes[:, i]) for i, n in enumerate(levels)]
    print(hashlib.sha256(",".join(map(str, draw(factors, size, 2024))).encode()).hexdigest()[:12])
"""


@pytest.mark.parametrize(("kernel", "threads"), [("SkylakeX", "2"), ("Haswell", "1"), ("Nehalem", "1")])
def test_every_machine_draws_the_same(kernel, threads):
    """Kernels of linear algebra for other processors round in other ways; the digests are of this construction."""
    environment = os.environ | {"OPENBLAS_CORETYPE": kernel, "OPENBLAS_NUM_THREADS": threads}
    done = subprocess.run([sys.executable, "-c", DRAWS], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["d00978e2ac42", "4b7468740cdd", "93239b0f85ad", "6bcded9ee6b7"]


def test_other_seeds_draw_other_subsets():
    factors = factors_of(VIDEO_GPU)
    drawn = {tuple(design.draw(factors, 400, seed)) for seed in range(8)}
    assert len(drawn) == 8


@pytest.mark.parametrize(
    ("levels", "size", "efficiency", "inflation"),
    [
        (VIDEO_GPU, 160, 0.80, 5.0),
        (VIDEO_GPU, 400, 0.97, 1.6),
        (VIDEO_GPU, 800, 0.99, 1.3),
        ([2] * 8, 128, 1 - 1e-9, 1 + 1e-9),  # the half with the longest defining word
        ([3] * 5, 81, 1 - 1e-9, 1 + 1e-9),  # the regular third
        ([2] * 4, 12, 0.85, 1.6),
        ([7, 5, 3, 2], 105, 0.9, 3.5),
        ([5, 5, 5, 5, 4, 4], 2500, 0.99, 1.1),
    ],
)
def test_a_fraction_is_nearly_as_efficient_as_the_whole_grid(levels, size, efficiency, inflation):
    factors = factors_of(levels)
    for seed in range(3):
        found = check(factors, design.draw(factors, size, seed))
        assert found.sound
        assert found.d_efficiency >= efficiency
        assert found.worst_inflation <= inflation


def test_the_figures_of_the_check_are_those_of_the_definitions():
    factors = factors_of([4, 3, 2])
    chosen = design.draw(factors, 20, 1)
    found = check(factors, chosen)
    x = Model(factors).matrix(chosen)
    assert 100 * found.d_efficiency == pytest.approx(pydoe.d_efficiency(x))
    inverse = np.linalg.inv(x.T @ x / len(chosen))
    model = Model(factors)
    worst = [np.linalg.eigvalsh(inverse[columns, columns])[-1] for columns in model.slices]
    assert found.worst_inflation == pytest.approx(max(worst))
    assert found.worst_effect == model.label(model.terms[int(np.argmax(worst))])
    pairs = [
        np.histogram2d(a.codes[chosen], b.codes[chosen], bins=(len(a.levels), len(b.levels)))[0]
        for a, b in itertools.combinations(factors, 2)
    ]
    assert (found.fewest_in_pair, found.most_in_pair) == (min(p.min() for p in pairs), max(p.max() for p in pairs))
    whole = check(factors, np.arange(24))
    assert (whole.d_efficiency, whole.worst_inflation, whole.balance) == (pytest.approx(1), pytest.approx(1), 1)


@pytest.mark.parametrize(("levels", "base"), [([3, 4, 6], 4), ([5, 5, 2, 2], 3), ([2, 3, 4, 4], 2), ([4, 4, 2], 5)])
def test_with_plain_labels_a_class_is_the_generalised_subset_design_of_pydoe(levels, base):
    labels = [np.arange(n)[:, None] for n in levels[:-1]] + [-np.arange(levels[-1])[:, None]]
    factors = factors_of(levels)
    first = design.sums(factors, labels, base) == 0
    ours = np.column_stack([factor.codes for factor in factors])[first]
    assert {tuple(row) for row in ours} == {tuple(row) for row in pydoe.gsd(levels, base)}


def test_exchanges_lower_the_sum_of_squares_of_the_information_matrix():
    factors = factors_of([4, 3, 3, 2])
    start = np.random.RandomState(3).permutation(72)[:40]
    model = Model(factors)

    def squares(chosen):
        return np.sum((len(chosen) * model.information(chosen)) ** 2)

    after = exchanged(factors, start)
    assert len(after) == len(set(after.tolist())) == 40
    assert squares(after) < squares(start)
    inside = set(after.tolist())
    for out, new in itertools.product(after, set(range(72)) - inside):
        assert squares(np.array([*(inside - {out}), new])) >= squares(after) * (1 - 1e-9)


@pytest.mark.parametrize(("levels", "size"), [((5, 4, 3, 2), 80), (VIDEO_GPU, 160)])
def test_without_noise_a_fraction_tells_what_the_rest_of_the_grid_would_give(levels, size):
    factors = factors_of(levels)
    model = Model(factors)
    everything = model.matrix(np.arange(int(np.prod(levels))))
    truth = everything @ np.random.default_rng(0).normal(size=model.columns)
    chosen = design.draw(factors, size, 5)
    fitted, *_ = np.linalg.lstsq(everything[chosen], truth[chosen], rcond=None)
    assert everything @ fitted == pytest.approx(truth, abs=1e-8)


def test_the_analysis_of_variance_of_a_quarter_agrees_with_that_of_the_whole_grid():
    factors = factors_of(VIDEO_GPU)
    model = Model(factors)
    everything = model.matrix(np.arange(1600))
    codes = np.column_stack([f.codes for f in factors])
    covered, missed, covered_by_all = [], [], []
    noise, repetitions = 0.05, 2
    for seed in range(8):
        rng = np.random.default_rng(seed)
        effects = np.zeros(model.columns)
        for term, columns in zip(model.terms, model.slices, strict=True):
            size = rng.choice([0.04, 0.2]) * (1 if len(term) == 1 else 0.3)
            effects[columns] = (
                size * rng.normal(size=columns.stop - columns.start) / np.sqrt(columns.stop - columns.start)
            )
        y = everything @ effects
        total = np.sum(effects**2) + noise**2 / repetitions
        chosen = design.draw(factors, 400, seed)
        given = {"names": [f.name for f in factors], "repetitions": repetitions, "noise": noise, "seed": seed}
        part, whole = energy_rows(panel_of(codes[chosen], y[chosen], **given)), energy_rows(panel_of(codes, y, **given))
        assert (part["df"].drop("residual") == whole["df"].drop("residual")).all()
        for term, columns in zip(model.terms, model.slices, strict=True):
            true = np.sum(effects[columns] ** 2) / total
            of_part, of_whole = part.loc[model.label(term)], whole.loc[model.label(term)]
            covered.append(of_part["share_lo"] <= true <= of_part["share_hi"])
            covered_by_all.append(of_whole["share_lo"] <= true <= of_whole["share_hi"])
            missed.append(of_part["omega2"] - true)
    assert np.mean(covered_by_all) >= 0.9
    assert np.mean(covered) >= 0.88
    assert abs(np.mean(missed)) < 0.002
    assert np.max(np.abs(missed)) < 0.04


def test_a_share_that_is_too_small_is_refused_with_the_least_that_works():
    configurations = _grid()
    with pytest.raises(
        design.DesignError, match=r"the least share found to work is 0\.\d+ \(\d+ configurations\)"
    ) as told:
        design.fraction(configurations, 0.2, 7)
    least = told.value.least
    assert len(design.fraction(configurations, least / len(configurations), 7).configurations) == least
    named = float(re.search(r"work is (0\.\d+)", str(told.value)).group(1))
    assert len(design.fraction(configurations, named, 7).configurations) >= least
    with pytest.raises(design.DesignError):
        design.fraction(configurations, (least - 1) / len(configurations), 7)


def test_no_fraction_tells_the_interaction_of_only_two_knobs():
    configurations = _grid(batch=[1], replicas=[1], classify=["resnet18"], precision=["fp32", "bf16"])
    assert len(configurations) == 4
    with pytest.raises(design.DesignError, match="no share below 1 works for this grid"):
        design.fraction(configurations, 0.75, 0)
    assert design.fraction(configurations, 1, 0).configurations == configurations


def test_knobs_that_never_vary_are_no_effects_and_platform_knobs_are():
    factors = design.factors_of(_grid(precision=["fp32", "bf16"], replicas=[1]))
    assert [f.name for f in factors] == [
        "detect.variant",
        "detect.batch",
        "classify.variant",
        "classify.batch",
        "precision",
    ]


def _grid(batch=(1, 2, 4), replicas=(1, 2), classify=("resnet18", "resnet50"), precision=("fp32",)):
    stages = {
        "detect": {"variant": ["ssd", "frcnn"], "batch": batch, "replicas": replicas, "threads": [1]},
        "classify": {"variant": classify, "batch": batch, "replicas": [1], "threads": [1]},
    }
    return tuple(grid("video", stages, {"device": ["cpu"], "precision": precision}))


STAGES = {
    "detect": {
        "variant": ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"],
        "batch": [1, 4],
        "replicas": [1, 2],
    },
    "classify": {"variant": ["resnet18", "resnet50"], "batch": [1, 4]},
}


def _study(**changes):
    return load_study(tiny_config(grid={"stages": STAGES}, design="fraction", fraction={"keep": 0.6}, **changes))


def test_every_block_and_workload_holds_the_whole_fraction_and_the_grid_stays_known():
    loads = {"saturated": {"kind": "saturated"}, "slow": {"kind": "rate", "rate_rps": 1}}
    study = _study(blocks=3, workloads=loads, seed=5)
    assert (len(study.configurations), len(study.measured)) == (32, 19)
    assert set(study.measured) < set(study.configurations)
    for block, load in itertools.product((1, 2, 3), loads):
        cells = [m.configuration for m in study.plan if (m.block, m.workload) == (block, load)]
        assert len(cells) == 19
        assert set(cells) == set(study.measured)


def test_a_sample_is_drawn_from_the_fraction_and_the_anchor_is_the_first_of_the_grid():
    loads = {"saturated": {"kind": "saturated"}, "slow": {"kind": "rate", "rate_rps": 1, "sample": 5}}
    study = _study(workloads=loads, anchor=True)
    slow = [m.configuration for m in study.plan if m.workload == "slow"]
    assert len(slow) == 5
    assert set(slow) <= set(study.measured)
    assert {m.configuration for m in study.plan if m.role != GRID} == {study.configurations[0]}


def test_the_whole_grid_is_measured_unless_a_fraction_is_asked_for():
    study = load_study(tiny_config(grid={"stages": STAGES}, fraction={"keep": 0.1}))
    assert study.measured == study.configurations
    assert len(study.plan) == 32


def test_only_what_is_measured_counts_against_the_limit():
    assert len(_study(max_measurements=20).plan) == 19
    with pytest.raises(ConfigError, match="needs 19 measurements; allowed: at most max_measurements = 18"):
        _study(max_measurements=18)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"fraction": {"keep": 0.3}},
            r"keep is 0.3: 10 of 32 configurations are fewer than the 16 coef.*least",
        ),
        ({"fraction": {"keep": 0}}, "fraction.keep is 0; allowed: at most 1 and more than 0"),
        ({"fraction": {"keep": 1.5}}, "fraction.keep is 1.5; allowed: at most 1"),
        ({"measure": "feasible"}, "design is 'fraction' with measure: feasible; allowed: design: full"),
        ({"design": "half"}, "design is 'half'; allowed: one of full, fraction"),
    ],
)
def test_a_fraction_that_can_not_be_is_refused_before_any_job(changes, words):
    config = tiny_config(grid={"stages": STAGES}, **({"design": "fraction"} | changes))
    with pytest.raises(ConfigError, match=words):
        load_study(config)


def test_records_from_elsewhere_need_no_fraction_of_the_grid(tmp_path):
    config = tiny_config(design="fraction", fraction={"keep": 0.01}, records=str(tmp_path))
    assert len(load_study(config).measured) == 1


def test_the_workflow_measures_the_fraction_only_and_says_what_it_can_carry(checkout):
    path = checkout.configure(grid={"stages": STAGES}, design="fraction", fraction={"keep": 0.6})
    study = load_study(yaml.safe_load(path.read_text()))
    output = checkout.run("-n")
    shown = set(re.findall(r"Measure (\S+) under", output))
    assert shown == {c.id for c in study.measured}
    assert "describe_design" in output
    checkout.run("results/tiny/design.json", "results/tiny/plan.csv")
    told = json.loads((checkout.folder / "results/tiny/design.json").read_text())
    assert (told["size"], told["grid"], told["rank"], told["inestimable"]) == (19, 32, 16, [])
    assert told["limitation"].startswith("A fraction of the grid was measured by design: 19 of 32 configurations")
    planned = (checkout.folder / "results/tiny/plan.csv").read_text().splitlines()
    assert len(planned) == 1 + 19
    checkout.configure(grid={"stages": STAGES}, design="fraction", fraction={"keep": 0.1})
    assert "the least share found to work is" in checkout.run("-n", expect=1)
