"""The scripts of space and adaptation, one after the other over files, as the workflow's rules call them."""

import importlib.util
import json
from pathlib import Path

import pandas as pd
import pytest

from ipa_energy.analysis import tables
from ipa_energy.configuration import Configuration, StageKnobs
from ipa_studies import profile_of, rows, settings_of

SCRIPTS = Path(__file__).resolve().parents[1] / "workflow_scripts"
CPU = {"device": "cpu", "precision": "fp32"}


def main_of(name):
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def read(path):
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def test_the_spaces_of_all_inputs_and_what_is_feasible(tmp_path):
    inputs = {name: {"rate_rps": rate} for name, rate in (("low", 3), ("no", 900), ("idle", 0))}
    made = settings_of(tmp_path, profile_of(), inputs)
    profile = str(tmp_path / "profile.csv")
    common = {"ipa": made["ipa"], "usd": made["prices"], "platform": CPU}
    kinds = {
        "space": "parquet",
        "summary": "json",
        "front": "front.csv",
        "optima": "optima.csv",
        "svg": "svg",
        "png": "png",
    }
    for name in made["ipa"]["inputs"]:
        outputs = {kind: str(tmp_path / f"{name}.{ending}") for kind, ending in kinds.items()}
        main_of("enumerate_space")(profile, outputs, name=name, seed=1, **common)
        assert all(Path(path).stat().st_size > 0 for path in outputs.values())
        told = json.loads(Path(outputs["summary"]).read_text())
        written = pd.read_parquet(outputs["space"])
        assert told["feasible"] == written["feasible"].sum() and told["configurations"] == len(written)
        assert len(read(outputs["front"])) == told["front"]["configurations"]
        assert len(read(outputs["optima"])) == 5
    summaries = [str(tmp_path / f"{name}.json") for name in made["ipa"]["inputs"]]
    main_of("summarise_spaces")(summaries, str(tmp_path / "summary.csv"))
    table = read(tmp_path / "summary.csv")
    assert table["input"].tolist() == ["low", "no", "idle"]
    assert table["empty_because"].notna().tolist() == [False, True, False]
    knobs = {
        "stages": {
            "detect": {"variant": ["small"], "batch": [1, 3], "replicas": [1], "threads": [1]},
            "classify": {"variant": ["r18"], "batch": [1], "replicas": [1], "threads": [1]},
        },
        "platform": {"device": ["cpu"], "precision": ["fp32"]},
    }
    chosen = str(tmp_path / "chosen.csv")
    main_of("choose_feasible")(profile, chosen, pipeline="video", knobs=knobs, **common)
    table = read(chosen)
    assert table["chosen"].tolist() == [True, False]
    assert table["inputs"][0] == "low;idle" and "batch 3" in table["reason"][1]


def test_measured_configurations_of_a_table_are_marked(tmp_path):
    made = settings_of(tmp_path, profile_of(), {"low": {"rate_rps": 3}})
    knobs = (StageKnobs("detect", "small", 1, 1, 1), StageKnobs("classify", "r18", 1, 1, 1))
    one = Configuration("video", knobs)
    row = {"configuration": one.id, "pipeline": "video", "workload": "saturated", "n": 2} | one.knobs()
    table = str(tmp_path / "configurations.csv")
    tables.write_csv(table, pd.DataFrame([row, row | {"workload": "rate"}, row | {"detect.variant": "large", "n": 0}]))
    outputs = {kind: str(tmp_path / kind) for kind in ("space", "summary", "front", "optima", "svg", "png")}
    outputs |= {"svg": str(tmp_path / "f.svg"), "png": str(tmp_path / "f.png")}
    main_of("enumerate_space")(
        str(tmp_path / "profile.csv"),
        outputs,
        name="low",
        ipa=made["ipa"],
        usd=made["prices"],
        platform=CPU,
        seed=1,
        configurations=table,
    )
    written = pd.read_parquet(outputs["space"])
    assert written.loc[written["measured"], "configuration_id"].tolist() == [one.id]
    assert json.loads(Path(outputs["summary"]).read_text())["measured"] == 1
    optima = read(outputs["optima"]).set_index("method")
    assert optima.loc["fa2_low", "configuration_id"] == one.id  # the least variants, one of each
    assert optima["evidence"].eq("measured").all()


@pytest.mark.parametrize("predictors", [["lstm", "reactive"], ["max"]])
def test_adaptation_from_loads_to_the_answer(tmp_path, predictors):
    (tmp_path / "own.txt").write_text("\n".join(["3"] * 100 + ["12"] * 60))
    loads = {"low": {"pattern": "steady_low", "seconds": 150}, "own": {"file": str(tmp_path / "own.txt")}}
    adaptation = {"loads": loads, "predictors": predictors, "seeds": 2, "history_days": 1, "sla_s": 0.9}
    made = settings_of(tmp_path, profile_of(rows(evidence="estimated")), adaptation=adaptation)
    ipa = made["ipa"]
    filled = ipa["adaptation"]
    counts = {name: str(tmp_path / f"{name}.counts.txt") for name in filled["loads"]}
    for name, load in filled["loads"].items():
        main_of("make_load")(counts[name], name=name, load=load, seed=made["seed"])
    assert len(Path(counts["low"]).read_text().split()) == 150
    trained = None
    if "lstm" in predictors:
        trained = (str(tmp_path / "predictor.pt"), str(tmp_path / "predictor.json"))
        main_of("train_predictor")([counts["own"]], *trained, largest_scale=1.0, days=filled["history_days"], seed=5)
        assert json.loads(Path(trained[1]).read_text())["errors"]["lstm"]["smape_percent"] > 0
    main_of("compare_predictors")(
        counts, str(tmp_path / "predictors.csv"), loads=filled["loads"], predictors=predictors, trained=trained
    )
    compared = read(tmp_path / "predictors.csv")
    assert compared["smape_percent"].notna().all() and set(compared["predictor"]) == set(predictors)
    runs = []
    for name, path in counts.items():
        outputs = {kind: str(tmp_path / f"{name}.{kind}.csv") for kind in ("runs", "intervals")}
        outputs |= {kind: str(tmp_path / f"adaptation.{name}.{kind}") for kind in ("svg", "png")}
        main_of("simulate_adaptation")(
            str(tmp_path / "profile.csv"),
            path,
            outputs,
            load=name,
            ipa=ipa,
            usd=made["prices"],
            max_wait_s=made["max_wait_s"],
            seed=made["seed"],
            trained=trained,
        )
        assert all(Path(file).stat().st_size > 0 for file in outputs.values())
        assert len(read(outputs["runs"])) == 5 * 2 * len(predictors)
        runs.append(outputs["runs"])
    main_of("summarise_adaptation")(
        runs, str(tmp_path / "summary.csv"), str(tmp_path / "answer.txt"), confidence=0.95, cost_unit="cores"
    )
    assert len(read(tmp_path / "summary.csv")) == 2 * 5 * len(predictors)
    text = (tmp_path / "answer.txt").read_text()
    assert text.count("estimated net energy") == len(text.splitlines()) == 2
    assert f"predictor {predictors[0]}" in text
