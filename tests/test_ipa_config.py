"""The section ipa of a config: what is refused, what is profiled, which live runs there are, what they depend on."""

import copy

import pytest

from ipa_energy import ipa_config
from ipa_energy.plan import sample
from ipa_energy.study import ConfigError, load_study

from tiny import tiny_config  # isort: skip

IPA = {
    "inputs": {"a": {"rate_rps": 5}},
    "adaptation": {"loads": {"load": {"pattern": "bursty"}}, "live": {"load": "load", "methods": ["ipa", "rim"]}},
}


def config(**changes):
    made = tiny_config(ipa=copy.deepcopy(IPA))
    stages = made["grid"]["stages"]
    stages["detect"]["batch"], stages["classify"]["threads"] = [4, 1], [2, 1]
    stages["classify"]["variant"] = ["resnet18", "resnet34"]
    return made | changes


def test_every_variant_is_profiled_by_cores_and_then_by_batch_size():
    found = load_study(config()).profiled
    assert list(found) == [
        ("detect", "ssdlite320_mobilenet_v3_large"),
        ("classify", "resnet18"),
        ("classify", "resnet34"),
    ]
    (detect, *_) = found.values()
    assert [(c.stages[0].threads, c.stages[0].batch) for c in detect] == [(1, 1), (1, 4)]
    assert [(c.stages[0].threads, c.stages[0].batch) for c in found["classify", "resnet18"]] == [(1, 1), (2, 1)]
    wider = config()
    wider["ipa"]["batches"] = {"classify": [8, 2]}
    classify = load_study(wider).profiled["classify", "resnet34"]
    assert [(c.stages[0].threads, c.stages[0].batch) for c in classify] == [(1, 2), (1, 8), (2, 2), (2, 8)]


def test_without_inputs_and_loads_nothing_is_profiled():
    assert load_study(tiny_config()).profiled == {}
    assert not ipa_config.wanted(load_study(tiny_config()).settings)


def test_a_profile_from_a_file_is_not_measured(tmp_path):
    (tmp_path / "p.csv").write_text("x")
    made = config()
    made["ipa"]["profile"] = str(tmp_path / "p.csv")
    assert load_study(made).profiled == {}


def test_a_study_of_a_profile_alone_needs_no_grid(tmp_path):
    (tmp_path / "p.csv").write_text("x")
    study = load_study(
        {"experiment": "x", "measure": "none", "ipa": {"profile": str(tmp_path / "p.csv"), "inputs": IPA["inputs"]}}
    )
    assert study.plan == () and study.configurations == ()


def change(made, path, value):
    *way, last = path
    for key in way:
        made = made.setdefault(key, {})
    made[last] = value


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("measure",), "some", ["measure is 'some'", "one of all, feasible, none"]),
        (("ipa",), {}, []),
        (("ipa", "inputs", "a", "rate_rps"), -1, ["ipa.inputs.a.rate_rps is -1", "at least 0"]),
        (("ipa", "inputs", "a", "sla_s"), 0, ["ipa.inputs.a.sla_s is 0", "more than 0"]),
        (("ipa", "inputs", "../x"), {"rate_rps": 1}, ["../x"]),
        (("ipa", "profile"), "none.csv", ["ipa.profile is 'none.csv'", "an existing CSV file"]),
        (("ipa", "device"), "cuda", ["ipa.device is 'cuda'", "grid.platform.device", "ipa.cost is 'cores'"]),
        (("ipa", "batches"), {"detekt": [1]}, ["ipa.batches names the stage 'detekt'", "detect, classify"]),
        (("ipa", "fa2_high"), {"x": "y"}, ["ipa.fa2_high names the stage 'x'"]),
        (("ipa", "weights", "delta"), -1, ["ipa.weights.delta is -1"]),
        (("ipa", "adaptation", "loads", "load"), {}, ["exactly one of pattern, file"]),
        (("ipa", "adaptation", "loads", "load"), {"file": "none.txt"}, ["'none.txt'", "an existing text file"]),
        (("ipa", "adaptation", "loads", "summary"), {"pattern": "bursty"}, ["summary"]),
        (("ipa", "adaptation", "live", "first"), 1000, ["first + seconds is 1300", "load load, 1200 s"]),
        (("ipa", "adaptation", "live", "load"), "other", ["live.load is 'other'", "load"]),
        (("ipa", "adaptation", "methods"), ["gurobi"], ["gurobi", "one of ipa"]),
        (("records",), ".", ["ipa.profile is null with a folder of records"]),
        (
            ("ipa", "adaptation", "loads", "load"),
            {"file": "f", "first": 5, "last": 5},
            ["last is 5", "more than first"],
        ),
    ],
)
def test_a_bad_section_is_refused_by_key_value_and_what_is_allowed(path, value, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").write_text("1\n")
    made = config()
    change(made, path, value)
    if not words:
        load_study(made)
        return
    with pytest.raises(ConfigError) as caught:
        load_study(made)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("measure", ["feasible", "none"])
def test_measuring_less_wants_ipa(measure):
    with pytest.raises(ConfigError, match=f"measure is '{measure}' without ipa"):
        load_study(tiny_config(measure=measure))


def test_nothing_is_planned_where_nothing_is_measured():
    assert load_study(config(measure="none")).plan == ()
    assert len(load_study(config(measure="feasible")).plan) == len(load_study(config()).plan)


def test_live_runs_are_in_an_order_drawn_by_the_seed():
    made = config()
    made["ipa"]["adaptation"]["live"] |= {"repetitions": 3, "methods": ["ipa", "ipa_energy", "rim"]}
    runs = ipa_config.planned_live(load_study(made).settings)
    assert len(set(runs)) == 9
    assert [run for _, run in runs] == sorted(run for _, run in runs)
    assert runs == ipa_config.planned_live(load_study(made).settings)
    orders = {tuple(ipa_config.planned_live(load_study(made | {"seed": seed}).settings)) for seed in range(9)}
    assert len(orders) > 1


def test_a_live_run_depends_only_on_what_decides_in_it():
    before = ipa_config.deciding(load_study(config()).settings)
    made = config()
    made["ipa"]["inputs"]["b"] = {"rate_rps": 7}
    made["ipa"]["adaptation"] |= {"seeds": 9, "methods": ["ipa"], "start_s": 3, "predictors": ["lstm", "max"]}
    made["ipa"]["adaptation"]["loads"]["other"] = {"pattern": "steady_low"}
    made["ipa"]["adaptation"]["live"]["repetitions"] = 4
    assert ipa_config.deciding(load_study(made).settings) == before
    for path, value in ((("adaptation", "noise"), 0.1), (("replicas",), 5)):
        made = config()
        change(made["ipa"], path, value)
        assert ipa_config.deciding(load_study(made).settings) == before
    for path, value in (
        (("weights", "delta"), 2),
        (("adaptation", "live", "seconds"), 20),
        (("accuracy",), "rank_sum"),
    ):
        made = config()
        change(made["ipa"], path, value)
        assert ipa_config.deciding(load_study(made).settings) != before


def test_a_sample_of_the_grid_stays_the_same_but_for_what_is_new_when_the_grid_grows():
    made = config(workloads={"saturated": {"kind": "saturated"}, "slow": {"kind": "rate", "rate_rps": 2, "sample": 3}})
    study = load_study(made)
    sampled = [m.configuration.id for m in study.plan if m.workload == "slow"]
    assert len(sampled) == len(set(sampled)) == 3
    assert len([m for m in study.plan if m.workload == "saturated"]) == len(study.configurations) == 8
    assert {c.id for c in sample(study.configurations, 3, "0:slow")} == set(sampled)
    assert "sample" not in study.workloads["slow"]  # no property of the load, so no reason to measure again
    bigger = copy.deepcopy(made)
    bigger["grid"]["stages"]["classify"]["batch"] = [1, 2]
    grown = [m.configuration.id for m in load_study(bigger).plan if m.workload == "slow"]
    assert len(grown) == 3
    # Only what is new can take the place of what was drawn before.
    assert {one for one in grown if one in {c.id for c in study.configurations}} <= set(sampled)
    with pytest.raises(ConfigError, match="needs 11 measurements"):
        load_study(made | {"max_measurements": 10})
