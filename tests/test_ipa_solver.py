"""The solver finds what enumeration finds, ties included, and what HiGHS finds where enumeration takes too long."""

import dataclasses
import itertools
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.ipa_reference import VIDEO_ACCURACY, highs_optimum, made_up_profile, shortest_latency_s
from ipa_energy.ipa import knapsack
from ipa_energy.ipa.baselines import fa2, rim
from ipa_energy.ipa.objective import Objective, Scales, Weights, normalising_scales
from ipa_energy.ipa.options import Input, make_options, restrict
from ipa_energy.ipa.profile import make_profile
from ipa_energy.ipa.solver import solve
from ipa_energy.ipa.space import blocks
from ipa_instances import Instance, instances

RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def knobs_of(choice):
    return tuple((k.variant, k.threads, k.batch, k.replicas) for k in choice.stages)


def row(stage, variant, accuracy, cores, batch, latency_s, throughput_rps, **more):
    return {
        "stage": stage,
        "variant": variant,
        "accuracy": accuracy,
        "cores": cores,
        "batch": batch,
        "latency_s": latency_s,
        "throughput_rps": throughput_rps,
    } | more


@settings(RELAXED, max_examples=150)
@given(instances())
def test_the_optimum_and_all_its_ties_are_those_of_enumeration(instance):
    best, optima = instance.optima()
    found = solve(instance.options(), instance.objective, max_ties=10**6)
    if best is None:
        assert found.best is None and found.ties == () and found.binding is not None
        return
    assert found.binding is None and not found.truncated
    assert found.best.objective == pytest.approx(float(best), abs=1e-9)
    assert len(found.ties) == len(optima)
    assert {knobs_of(choice) for choice in found.ties} == optima


@settings(RELAXED, max_examples=100)
@given(st.integers(0, 10**6), st.integers(1, 2), st.integers(2, 60), st.integers(0, 400))
def test_the_best_of_many_products_is_found_wherever_it_lies(seed, stages, variants, alpha):
    # Accuracies that fall ever faster with cost, so that many of them are corners of the search.
    rng = np.random.default_rng(seed)
    rows = []
    for s in range(stages):
        cores = np.sort(rng.choice(np.arange(1, 200), variants, replace=False))
        accuracies = 1 - np.exp(-((cores / 60) ** rng.uniform(0.3, 2))) * rng.uniform(0.98, 1, variants)
        rows += [row(f"s{s}", f"v{c}", a, int(c), 1, 0.1, 10) for c, a in zip(cores, accuracies, strict=True)]
    options = make_options(make_profile(pd.DataFrame(rows)), Input(1, 1), 1)
    product, cost = np.ones(1), np.zeros(1)
    for stage in options.stages:
        product = np.multiply.outer(product, stage.accuracy).ravel()
        cost = np.add.outer(cost, stage.cores).ravel()
    found = solve(options, Objective(Weights(alpha, 1.0)))
    assert found.best.objective == pytest.approx((alpha * product - cost).max(), rel=1e-11)


@settings(RELAXED, max_examples=25)
@given(instances(accuracy=("pas",), energy=(None,), most_stages=2), st.data())
def test_waiting_power_below_zero_makes_more_replicas_better(instance, data):
    # Noise can make a measured waiting power negative; the fewest replicas are then not the best.
    rows = [r | {"energy_j": 1.0, "idle_w": data.draw(st.sampled_from([-0.5, 0.0, 0.5]))} for r in instance.rows]
    objective = Objective(Weights(1.0, 0.1, 0.0, 1.0))
    noisy = dataclasses.replace(instance, rows=rows, objective=objective, energy_kind="net")
    best, optima = noisy.optima()
    found = solve(noisy.options(), objective, max_ties=10**6)
    assert {knobs_of(choice) for choice in found.ties} == optima
    assert best is None or found.best.objective == pytest.approx(float(best), abs=1e-9)


@pytest.mark.parametrize("accuracy", ["pas", "rank_sum"])
@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_is_the_best_row_of_a_large_space(accuracy, seed):
    profile = made_up_profile(3, 4, [1, 2, 8], seed)
    options = make_options(profile, Input(15, 1e5), 5)
    options = options.with_sla(1.7 * shortest_latency_s(options))
    for weights in (Weights(2, 1, 1e-6), Weights(1, 1, 0.01, 0.5), Weights(50, 0.1)):
        objective = Objective(weights, accuracy, normalising_scales(options, accuracy) if seed % 2 else Scales())
        best = max(
            (max(block["objective"].to_pylist(), default=-np.inf))
            for block in blocks(options, objective, only_feasible=True)
        )
        assert solve(options, objective).best.objective == pytest.approx(best, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("accuracy", ["pas", "rank_sum"])
@pytest.mark.parametrize(
    ("stages", "variants", "batches", "seed"), [(4, 5, [1, 2, 8, 32], 0), (6, 6, [1, 4, 16], 1), (10, 10, [1, 8], 2)]
)
def test_the_optimum_is_that_of_a_mixed_integer_program_in_highs(stages, variants, batches, seed, accuracy):
    profile = made_up_profile(stages, variants, batches, seed)
    for slack, weights in itertools.product((1.2, 2.5), (Weights(1, 1, 1e-3, 0.3), Weights(3, 1))):
        options = make_options(profile, Input(20, 1e5), 8)
        options = options.with_sla(slack * shortest_latency_s(options))
        objective = Objective(weights, accuracy, normalising_scales(options, accuracy))
        found = solve(options, objective).best.objective
        assert found == pytest.approx(highs_optimum(options, objective).value, rel=1e-7, abs=1e-8)


def test_a_middling_product_is_found_between_two_better_looking_extremes():
    # The optimum maximises no line between the first two slopes that the search tries, only one of its own.
    rows = [
        row("a", "small", 0.2, 1, 1, 0.1, 10),
        row("a", "middle", 0.8, 3, 1, 0.1, 10),
        row("a", "large", 1.0, 9, 1, 0.1, 10),
        row("b", "only", 0.5, 1, 1, 0.1, 10),
    ]
    instance = Instance(rows, Input(1, 1), 1, Objective(Weights(10.0, 1.0)), None)
    best, optima = instance.optima()
    found = solve(instance.options(), instance.objective)
    assert (found.best.objective, {knobs_of(found.best)}) == (pytest.approx(float(best)), optima)
    assert knobs_of(found.best)[0][0] == "middle"


def test_two_different_products_of_the_same_worth_are_both_found():
    rows = [row("a", "small", 0.5, 1, 1, 0.1, 10), row("a", "large", 0.75, 2, 1, 0.1, 10)]
    options = make_options(make_profile(pd.DataFrame(rows)), Input(1, 1), 1)
    found = solve(options, Objective(Weights(4.0, 1.0)))
    assert sorted(choice.accuracy_pas for choice in found.ties) == [0.5, 0.75]
    assert {choice.objective for choice in found.ties} == {1.0}


def test_sums_that_a_float_would_misjudge_meet_the_sla():
    rows = [row("a", "x", 0.5, 1, 1, 0.1, 10), row("b", "x", 0.5, 1, 1, 0.2, 10)]
    options = make_options(make_profile(pd.DataFrame(rows)), Input(1, 0.3), 1)
    assert 0.1 + 0.2 > 0.3
    assert solve(options, Objective(Weights(1.0, 1.0))).best.latency_s == 0.3


def test_replicas_that_a_float_would_misjudge_sustain_the_rate():
    rows = [row("a", "x", 0.5, 1, 1, 0.1, 0.29)]
    options = make_options(make_profile(pd.DataFrame(rows)), Input(29, 1), 100)
    assert 100 * 0.29 < 29
    assert solve(options, Objective(Weights(1.0, 1.0))).best.throughput_rps == 29


def test_of_equal_objectives_the_one_with_less_latency_comes_first_and_the_list_can_be_cut():
    rows = [row("a", "slow", 0.5, 1, 1, 0.4, 10), row("a", "fast", 0.5, 1, 1, 0.1, 10)]
    options = make_options(make_profile(pd.DataFrame(rows)), Input(1, 1), 3)
    whole = solve(options, Objective(Weights(1.0, 0.0)))
    assert len(whole.ties) == 6 and not whole.truncated
    assert [c.latency_s for c in whole.ties] == [0.1] * 3 + [0.4] * 3
    assert [c.stages[0].replicas for c in whole.ties] == [1, 2, 3] * 2
    cut = solve(options, Objective(Weights(1.0, 0.0)), max_ties=2)
    assert len(cut.ties) == 2 and cut.truncated


def test_figures_of_the_choice_follow_the_formulas():
    rows = [
        row("detect", "n", 0.457, 2, 4, 0.5, 10, energy_j=8.0, idle_w=1.5, energy_kind="net"),
        row("classify", "r", 0.6975, 1, 2, 0.1, 40, energy_j=1.0, idle_w=0.5, energy_kind="net"),
    ]
    given_input = Input(20, 3)
    options = make_options(make_profile(pd.DataFrame(rows)), given_input, 5)
    best = solve(options, Objective(Weights(2.0, 1.0, 1e-6))).best
    assert [k.replicas for k in best.stages] == [2, 1]
    assert best.cost == 2 * 2 + 1
    assert best.service_s == pytest.approx(0.6) and best.queue_s == pytest.approx(3 / 20 + 1 / 20)
    assert best.latency_s == pytest.approx(best.service_s + best.queue_s)
    assert best.accuracy_pas == pytest.approx(0.457 * 0.6975)
    assert best.accuracy_rank_sum == 2.0  # a single variant counts 1
    assert best.throughput_rps == 20
    assert best.energy_j_per_request == pytest.approx(8 / 4 + 2 * 1.5 / 20 + 1 / 2 + 0.5 / 20)
    assert best.objective == pytest.approx(2 * 0.457 * 0.6975 - 5 - 6e-6)


def test_raw_weights_never_pay_for_a_core_in_the_video_pipeline_and_scaled_ones_do():
    # The range of the product over IPA's video variants is 0.22: at alpha 2 less than half a core at beta 1.
    cores = {"detect": [1, 1, 2, 4, 8], "classify": [1, 1, 1, 1, 2]}
    rows = [
        row(stage, variant, accuracy, cores[stage][v], 1, 0.05 * (v + 1), 20 / (v + 1))
        for stage, variants in VIDEO_ACCURACY.items()
        for v, (variant, accuracy) in enumerate(variants.items())
    ]
    given_input = Input(4, 10)
    options = make_options(make_profile(pd.DataFrame(rows)), given_input, 10)
    raw = solve(options, Objective(Weights(2.0, 1.0, 1e-6))).best
    scales = normalising_scales(options)
    assert scales.accuracy == pytest.approx(0.689 * 0.7831 - 0.457 * 0.6975)
    assert scales.cost == (8 - 1) + (2 - 1)
    scaled = solve(options, Objective(Weights(2.0, 1.0, 1e-6), scales=scales)).best
    assert raw.cost == 2  # as cheap as can be, and of those the most accurate
    assert scaled.cost > 2 and scaled.accuracy_pas > raw.accuracy_pas


def test_more_replicas_than_needed_do_not_change_the_scales():
    profile = made_up_profile(2, 5, [1, 2, 4], 3)
    few, many = (normalising_scales(make_options(profile, Input(10, 5), n)) for n in (40, 90))
    assert few == many


def test_what_does_not_vary_has_the_scale_one():
    options = make_options(make_profile(pd.DataFrame([row("a", "x", 0.5, 1, 1, 0.1, 10)])), Input(1, 1), 3)
    assert normalising_scales(options) == Scales(1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("bad", [{"alpha": -1.0, "beta": 1.0}, {"alpha": 1.0, "beta": float("nan")}])
def test_weights_below_zero_are_refused(bad):
    with pytest.raises(ValueError, match=r"weight \w+ is (-1|nan).*0 or more"):
        Weights(**bad)


def test_a_weight_for_energy_without_energy_is_refused_with_the_option():
    options = make_options(make_profile(pd.DataFrame([row("a", "x", 0.5, 1, 1, 0.1, 10)])), Input(1, 1), 1)
    with pytest.raises(ValueError, match=r"delta is 0\.5 .* a/x, batch 1, .* set delta to 0"):
        solve(options, Objective(Weights(1.0, 1.0, 0.0, 0.5)))


@pytest.mark.parametrize(
    ("rate", "sla", "constraint", "words"),
    [
        (100, 5.0, "throughput", r"stage b reaches at most 20 requests/s \(y, batch 4, 2 replicas\)"),
        (10, 0.2, "latency", r"fastest options need 0\.25 s: a 0\.05 s \+ queue 0 s \(x, batch 1\), b 0\.2 s"),
        (10, 0.3, "latency and throughput", r"fastest options meet it \(0\.25 s\).* that do need 0\.85 s"),
    ],
)
def test_an_empty_space_is_an_answer_with_the_constraint_that_binds(rate, sla, constraint, words):
    rows = [
        row("a", "x", 0.5, 1, 1, 0.05, 60),
        row("b", "x", 0.5, 1, 1, 0.2, 4),
        row("b", "y", 0.6, 1, 4, 0.5, 10),
    ]
    given_input = Input(rate, sla)
    options = make_options(make_profile(pd.DataFrame(rows)), given_input, 2)
    found = solve(options, Objective(Weights(1.0, 1.0)))
    assert found.best is None and found.binding.constraint == constraint
    assert re.search(words, found.binding.reason), found.binding.reason


def video_options(given_input, replicas=12):
    profile = made_up_profile(2, 5, [1, 2, 4, 8], 7, VIDEO_ACCURACY)
    return make_options(profile, given_input, replicas)


def test_fa2_keeps_the_variants_and_rim_the_replicas():
    given_input = Input(20, 4)
    options, objective = video_options(given_input), Objective(Weights(2.0, 1.0, 1e-6))
    low, high = (fa2(options, objective, which) for which in ("lightest", "heaviest"))
    assert [k.variant for k in low.best.stages] == ["yolov5n", "resnet18"]
    assert [k.variant for k in high.best.stages] == ["yolov5x", "resnet152"]
    named = fa2(options, objective, {"detect": "yolov5s", "classify": "resnet101"})
    assert [k.variant for k in named.best.stages] == ["yolov5s", "resnet101"]
    fixed = rim(options, objective, {"detect": 3, "classify": 3})
    assert [k.replicas for k in fixed.best.stages] == [3, 3]
    ipa = solve(options, objective).best.objective
    assert all(ipa >= other.best.objective for other in (low, high, named, fixed))


def test_baselines_are_the_best_of_their_part_of_the_space():
    given_input = Input(20, 2)
    options, objective = video_options(given_input, 4), Objective(Weights(5.0, 0.2, 0.01, 0.1))
    rows = pd.concat([b.to_pandas() for b in blocks(options, objective, only_feasible=True)])
    at_three = rows[(rows["detect.replicas"] == 3) & (rows["classify.replicas"] == 3)]
    light = rows[(rows["detect.variant"] == "yolov5n") & (rows["classify.variant"] == "resnet18")]
    fixed = rim(options, objective, {"detect": 3, "classify": 3})
    assert fixed.best.objective == pytest.approx(at_three["objective"].max())
    assert fa2(options, objective, "lightest").best.objective == pytest.approx(light["objective"].max())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda o, t: fa2(o, t, {"detect": "yolov5n"}), "none is named for classify"),
        (
            lambda o, t: fa2(o, t, {"detect": "yolov9", "classify": "resnet18"}),
            "no variant 'yolov9'; it has yolo",
        ),
        (lambda o, t: fa2(o, t, "fattest"), "lightest, heaviest or a variant by stage, not 'fattest'"),
        (lambda o, t: rim(o, t, {"detect": 3}), "none are given for classify"),
        (lambda o, t: rim(o, t, {"detect": 3, "classify": 99}), "no replicas 99; it has 1, 2"),
        (lambda o, t: restrict(o, batches={"track": 1}), "no stage track; the stages are detect, classify"),
    ],
)
def test_a_baseline_that_fixes_what_is_not_there_is_refused(call, words):
    given_input = Input(20, 4)
    with pytest.raises(ValueError, match=words):
        call(video_options(given_input), Objective(Weights(2.0, 1.0)))


@settings(RELAXED, max_examples=100)
@given(st.data())
def test_the_knapsack_finds_every_best_choice(data):
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    figures = st.lists(st.integers(0, 9), min_size=sum(sizes), max_size=sum(sizes))
    splits = np.cumsum(sizes)[:-1]
    weights = np.split(np.array(data.draw(figures), dtype=float), splits)
    values = np.split(np.array(data.draw(figures), dtype=float) - 4, splits)
    budget = data.draw(st.integers(0, 30))
    worth = {}
    for choice in itertools.product(*(range(n) for n in sizes)):
        if sum(w[i] for w, i in zip(weights, choice, strict=True)) <= budget:
            worth[choice] = sum(v[i] for v, i in zip(values, choice, strict=True))
    classes = [knapsack.Items(w, v) for w, v in zip(weights, values, strict=True)]
    found = knapsack.solve(classes, budget, max_ties=10**6)
    if not worth:
        assert found is None
        return
    assert found.value == max(worth.values())
    assert {tuple(c) for c in found.choices.tolist()} == {c for c, v in worth.items() if v == found.value}
    assert len(found.choices) == len(set(map(tuple, found.choices.tolist())))


def test_a_knapsack_that_outgrows_memory_says_so(monkeypatch):
    monkeypatch.setattr(knapsack, "_LARGEST_FRONT", 1000)
    rng = np.random.default_rng(0)
    weights = [np.rint(rng.uniform(1e7, 1e9, 40)) for _ in range(5)]
    classes = [knapsack.Items(w, w / 1e9) for w in weights]
    with pytest.raises(knapsack.FrontTooLargeError, match=r"more than 1000 partial choices .* use fewer options"):
        knapsack.solve(classes, float(sum(w.mean() for w in weights)))
