"""Identifiers, grid, plan and the checks of the config file."""

import copy
import csv
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa_energy.configuration import (
    MAX_ID_LENGTH,
    Configuration,
    Platform,
    StageKnobs,
    configuration_from_dict,
    grid,
)
from ipa_energy.plan import GRID, block_and_role, make_plan, write_plan
from ipa_energy.study import ConfigError, load_study

ROOT = Path(__file__).parents[1]
MINIMAL = {
    "experiment": "tiny",
    "grid": {
        "stages": {
            "detect": {"variant": ["ssdlite320_mobilenet_v3_large"]},
            "classify": {"variant": ["resnet18", "resnet34"], "batch": [1, 4]},
        }
    },
}

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=1, max_size=40)
stage_knobs = st.builds(StageKnobs, names, names, st.integers(1, 4096), st.integers(1, 256), st.integers(1, 1024))
configurations = st.builds(
    Configuration,
    names,
    st.lists(stage_knobs, min_size=1, max_size=5).map(tuple),
    st.builds(Platform, st.sampled_from(["cpu", "cuda"]), st.sampled_from(["fp32", "bf16"])),
)


@given(configurations)
def test_ids_are_short_file_names(configuration):
    assert len(configuration.id) <= MAX_ID_LENGTH
    assert re.fullmatch(r"[A-Za-z0-9_.+~-]+", configuration.id)


@given(configurations)
def test_a_configuration_survives_json(configuration):
    assert configuration_from_dict(configuration.as_dict()) == configuration


@given(configurations, st.integers(0, 4), st.sampled_from(["variant", "batch", "replicas", "threads"]))
def test_ids_differ_where_any_knob_differs(configuration, place, knob):
    stages = list(configuration.stages)
    stage = stages[place % len(stages)]
    changed = getattr(stage, knob) + ("x" if knob == "variant" else 1)
    stages[place % len(stages)] = StageKnobs(**(stage_as_dict(stage) | {knob: changed}))
    assert Configuration(configuration.pipeline, tuple(stages), configuration.platform).id != configuration.id


def stage_as_dict(stage):
    return {key: getattr(stage, key) for key in ("stage", "variant", "batch", "replicas", "threads")}


def test_a_platform_at_its_defaults_does_not_show_so_that_new_knobs_keep_old_ids():
    stages = (StageKnobs("detect", "ssd", 1, 1, 1), StageKnobs("classify", "resnet18", 4, 2, 1))
    assert Configuration("video", stages).id == "video+ssd-b1-r1-t1+resnet18-b4-r2-t1"
    assert Configuration("video", stages, Platform("cuda", "bf16")).id.endswith("+cuda+bf16")


def test_the_grid_is_the_full_product_and_ids_stay_when_it_grows():
    stages = {"detect": {"variant": ["a", "b"], "batch": [1, 4], "replicas": [1], "threads": [1]}}
    small = {c.id for c in grid("p", stages, {"device": ["cpu"], "precision": ["fp32"]})}
    assert len(small) == 4
    stages["detect"]["replicas"] = [1, 2]
    large = {c.id for c in grid("p", stages, {"device": ["cpu"], "precision": ["fp32", "bf16"]})}
    assert len(large) == 16
    assert small < large


@given(st.integers(1, 4), st.integers(0, 10**6), st.integers(1, 3), st.booleans())
@settings(max_examples=30)
def test_every_block_holds_every_cell_once_between_its_anchors(blocks, seed, loads, anchored):
    cells = tuple(grid("p", {"s": {"variant": list("abcde"), "batch": [1, 2], "replicas": [1], "threads": [1]}},
                       {"device": ["cpu"], "precision": ["fp32"]}))  # fmt: skip
    workloads = [f"load{i}" for i in range(loads)]
    plan = make_plan(cells, dict.fromkeys(workloads), blocks, seed, cells[0] if anchored else None)
    assert [m.order for m in plan] == list(range(len(plan)))
    assert len({m.key for m in plan}) == len(plan)
    for block in range(1, blocks + 1):
        members = [m for m in plan if m.block == block]
        drawn = [(m.configuration.id, m.workload) for m in members if m.role == GRID]
        assert sorted(drawn) == sorted((c.id, w) for c in cells for w in workloads)
        if anchored:
            assert (members[0].role, members[-1].role) == ("anchor-first", "anchor-last")
    assert plan == make_plan(cells, dict.fromkeys(workloads), blocks, seed, cells[0] if anchored else None)


def test_blocks_are_shuffled_differently_and_by_the_seed():
    def order(config):
        return [m.key[:2] for m in load_study(config).plan if m.block == 1 and m.role == GRID]

    wide = copy.deepcopy(MINIMAL) | {"blocks": 2}
    wide["grid"]["stages"]["classify"]["batch"] = [1, 2, 3, 4, 5, 6, 7, 8]
    assert order(wide) == order(wide)
    assert order(wide) != order(wide | {"seed": 1})
    plan = load_study(wide).plan
    assert [m.key[:2] for m in plan if m.block == 1] != [m.key[:2] for m in plan if m.block == 2]


def test_the_plans_file_holds_a_row_per_measurement_with_its_knobs(tmp_path):
    plan = load_study(MINIMAL).plan
    write_plan(tmp_path / "plan.csv", plan)
    with (tmp_path / "plan.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["workload"], r["configuration"], r["repetition"]) for r in rows] == [m.key for m in plan]
    assert [int(r["order"]) for r in rows] == list(range(len(plan)))
    assert {r["classify.variant"] for r in rows} == {"resnet18", "resnet34"}


def test_a_repetitions_name_tells_block_and_role():
    for measurement in load_study(MINIMAL | {"blocks": 3}).plan:
        assert block_and_role(measurement.repetition) == (measurement.block, measurement.role)


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_is_valid_and_has_an_experiment_of_its_own(path):
    study = load_study(yaml.safe_load(path.read_text()))
    assert study.plan
    others = [yaml.safe_load(p.read_text())["experiment"] for p in (ROOT / "config").glob("*.yaml")]
    assert others.count(study.experiment) == 1


def broken(path, value):
    config = copy.deepcopy(MINIMAL)
    node = config
    for key in path[:-1]:
        node = node.setdefault(key, {})
    node[path[-1]] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (
            ("grid", "stages", "detect", "variant"),
            ["yolov5n"],
            ["grid.stages.detect.variant[0] is 'yolov5n'", "one of", "ssdlite320_mobilenet_v3_large"],
        ),
        (("grid", "stages", "classify", "batch"), [1, 0], ["grid.stages.classify.batch[1] is 0", "at least 1"]),
        (("grid", "stages", "classify", "batch"), [], ["grid.stages.classify.batch is []", "at least one value"]),
        (("grid", "stages", "classify", "batch"), [2, 2], ["grid.stages.classify.batch is [2, 2]", "only once"]),
        (("grid", "stages", "classify", "variant"), [], ["grid.stages.classify.variant is []", "at least one"]),
        (("grid", "stages"), {}, ["grid.stages is []", "at least one entry"]),
        (("grid", "stages", "translate"), {"variant": ["x"]}, ["exactly the stages", "video: detect, classify"]),
        (("grid", "stages", "detect", "colour"), ["red"], ["only the keys batch, replicas, threads, variant"]),
        (("pipeline",), "audio", ["pipeline is 'audio'", "one of video"]),
        (("experiment",), "../elsewhere", ["experiment is '../elsewhere'", "matches"]),
        (("experiment",), "a;rm -rf b", ["experiment is 'a;rm -rf b'"]),
        (("blocks",), 0, ["blocks is 0", "at least 1"]),
        (("blocks",), "two", ["blocks is 'two'", "type integer"]),
        (("max_measurements",), 3, ["needs 6 measurements", "max_measurements = 3"]),
        (("workloads",), {"w": {"kind": "rate"}}, ["workloads.w of kind rate", "exactly one of rate_rps, trace"]),
        (("workloads",), {"w": {"kind": "burst"}}, ["workloads.w.kind is 'burst'", "one of saturated, rate"]),
        (("workloads",), {"w": {"kind": "rate", "trace": "none.txt"}}, ["'none.txt'", "an existing text file"]),
        (("frames",), {"source": "no/such/folder"}, ["frames.source is 'no/such/folder'", "existing folder"]),
        (("protocol",), {"warm_up_max_s": 1}, ["warm_up_max_s is 1", "at least warm_up_min_s = 5"]),
        (("wieghts",), "random", ["only the keys", "weights"]),
    ],
)
def test_a_bad_config_is_refused_by_key_value_and_what_is_allowed(path, value, words):
    with pytest.raises(ConfigError) as caught:
        load_study(broken(path, value))
    for word in words:
        assert word in str(caught.value)


def test_stages_run_in_the_pipelines_order_whatever_the_order_in_the_file():
    turned = copy.deepcopy(MINIMAL)
    turned["grid"]["stages"] = dict(reversed(turned["grid"]["stages"].items()))
    assert load_study(turned).configurations == load_study(MINIMAL).configurations


def test_all_faults_are_told_at_once():
    config = broken(("blocks",), 0)
    config["grid"]["stages"]["detect"]["batch"] = [0]
    with pytest.raises(ConfigError, match=r"(?s)blocks is 0.*grid\.stages\.detect\.batch\[0\] is 0"):
        load_study(config)


def test_defaults_are_filled_at_every_level_without_touching_the_users_mapping():
    before = copy.deepcopy(MINIMAL)
    study = load_study(MINIMAL)
    assert before == MINIMAL
    assert study.settings["protocol"]["window_s"] == 30
    assert study.settings["grid"]["stages"]["detect"]["batch"] == [1]
    assert study.workloads == {"saturated": {"kind": "saturated", "in_flight_per_batch": 2, "drop_after_s": None}}
