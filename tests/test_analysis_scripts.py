"""The scripts from records to summary, one after the other over files, as the workflow's rules call them."""

import importlib.util
import json
from pathlib import Path

import pytest

from ipa_energy.analysis import tables
from ipa_energy.layout import records_below
from ipa_energy.study import load_study
from synthetic_records import PRICES, synthetic_study, video_grid, write_damaged, write_study

SCRIPTS = Path(__file__).resolve().parents[1] / "workflow_scripts"
GRID = {"stages": {"detect": {"variant": ["ssd300_vgg16"]}, "classify": {"variant": ["resnet18"]}}}
TABLES = (
    *("joint", "matched", "partial", "residual_knobs", "tradeoff", "membership", "objectives", "sufficient"),
    "decisions",
)
SMALL = video_grid(classifiers=("resnet18", "resnet50"), batches=(1, 4))


def main_of(name):
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def analyse(folder, paths, workload="saturated"):
    """Run all scripts with the default settings of the config; returns the paths of what they wrote."""
    analysis = load_study({"experiment": "x", "grid": GRID}).settings["analysis"] | {"bootstrap": 100}
    out = {name: str(folder / f"{name}.csv") for name in ("measurements", "configurations", "anchors", "refused")}
    main_of("aggregate_records")([str(path) for path in paths], out, PRICES, analysis)
    settings = load_study({"experiment": "x", "grid": GRID}).settings
    pairs = {"pairwise": str(folder / "pairwise.csv"), "page": str(folder / "pairwise.html")}
    main_of("analyse_coupling")(out["measurements"], pairs, experiment="x", analysis=analysis, seed=0)
    judged = {name: str(folder / f"{name}.csv") for name in TABLES}
    judged |= {"verdict": str(folder / "verdict.json"), "answer": str(folder / "answer.md")}
    main_of("judge_coupling")(out | pairs, judged, experiment="x", analysis=analysis, ipa=settings["ipa"], seed=0)
    judged |= pairs
    figures = {"effects": "effects.csv"} | {
        f"{figure}_{kind}": f"{figure}.{kind}" for figure in ("effects", "energy") for kind in ("svg", "png")
    }
    figures = {name: str(folder / file) for name, file in figures.items()}
    main_of("draw_figures")(out | judged, figures, workload=workload, confidence=0.95)
    main_of("summarise")(judged["verdict"], str(folder / "summary.txt"))
    return out | judged | figures


def test_good_and_bad_records_give_tables_verdict_figures_and_summary(tmp_path):
    records = synthetic_study("coupled", SMALL, blocks=2, anchor=True)
    good = write_study(tmp_path / "records", records)
    bad = write_damaged(tmp_path / "records" / "bad", records[0])
    out = analyse(tmp_path, [*bad, *good])
    assert all(Path(path).stat().st_size > 0 for path in out.values())
    assert len(tables.read_csv(out["measurements"])) == len(records)
    assert len(tables.read_csv(out["configurations"])) == len(SMALL)
    assert len(tables.read_csv(out["anchors"])) == 4
    assert tables.read_csv(out["refused"])["path"].tolist() == [str(path) for path in bad]
    judged = json.loads(Path(out["verdict"]).read_text())
    assert judged["decision"] == "coupled"
    assert judged["counts"]["refused"] == len(bad)
    page = Path(out["page"]).read_text()
    assert "http" not in page  # the report must work offline
    assert "latency_p99" in page
    assert judged["answer"] in (tmp_path / "summary.txt").read_text()


@pytest.mark.parametrize("state", ["failed", "not_run"])
def test_a_study_without_a_single_figure_still_gives_every_file(tmp_path, state):
    paths = write_study(
        tmp_path / "records", synthetic_study("coupled", SMALL[:2], blocks=1, state=state, weights=None)
    )
    out = analyse(tmp_path, paths)
    assert all(Path(path).is_file() for path in out.values())
    assert "No answer" in (tmp_path / "summary.txt").read_text()


def test_an_empty_folder_and_a_workload_that_nobody_measured_still_give_every_file(tmp_path):
    out = analyse(tmp_path, [], workload="elsewhere")
    assert all(Path(path).is_file() for path in out.values())
    assert Path(out["refused"]).read_text() == "path,reason\n"


def test_refused_files_are_named_on_the_terminal_with_what_to_do(tmp_path):
    records = synthetic_study("coupled", SMALL, blocks=1)
    good, bad = write_study(tmp_path / "records", records), tmp_path / "block1.json"
    bad.write_text("{half")
    out = analyse(tmp_path, [bad, *good])
    spec = importlib.util.spec_from_file_location("script", SCRIPTS / "aggregate_records.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    line, what_to_do = script.advice(out["refused"], measured_here=True)
    assert line.startswith(f"refused: {bad}: not readable as JSON")
    assert f'--force "{bad}"' in what_to_do
    assert script.advice(out["refused"], measured_here=False) == [line]


def test_what_is_named_like_a_record_and_is_no_file_is_named_and_the_rest_analysed(tmp_path):
    records = synthetic_study("coupled", SMALL, blocks=1)
    folder = tmp_path / "records"
    good = write_study(folder, records)
    (folder / "folder.json").mkdir()
    (folder / "loop.json").symlink_to("loop.json")
    (folder / "nowhere.json").symlink_to("gone")
    (folder / "history").mkdir()
    (folder / "history" / "old.json").write_text("{}")
    files, others = records_below(folder)
    assert files == sorted(str(path) for path in good)
    out = {name: str(tmp_path / f"{name}.csv") for name in ("measurements", "configurations", "anchors", "refused")}
    analysis = load_study({"experiment": "x", "grid": GRID}).settings["analysis"] | {"bootstrap": 100}
    main_of("aggregate_records")(files, out, PRICES, analysis, no_files=others)
    assert len(tables.read_csv(out["measurements"])) == len(records)
    refused = tables.read_csv(out["refused"])
    assert dict(zip(refused["path"], refused["reason"], strict=True)) == {
        str(folder / "folder.json"): "a folder, not a file",
        str(folder / "loop.json"): "a link that leads to no file",
        str(folder / "nowhere.json"): "a link that leads to no file",
    }
