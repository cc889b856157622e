"""The real workflow, run by the real Snakemake on a tiny grid of real models."""

import csv
import itertools
import json
import os
import re
import shutil
import signal
import sys
import time

import psutil
import pytest
import yaml

from ipa_energy.record import read_record
from ipa_energy.study import load_study

from conftest import Checkout  # isort: skip
from tiny import descendants, living, tiny_config, wait_for  # isort: skip

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a detector and a classifier want a core each")

MEASURED = "rule measure_configuration|Job .*: Measure"


def _measure_jobs(output):
    """How many measurements a (dry) run's table of jobs holds."""
    found = re.search(r"^measure_configuration\s+(\d+)", output, re.MULTILINE)
    return int(found.group(1)) if found else 0


def _plan(checkout, experiment="tiny"):
    with (checkout.folder / "results" / experiment / "plan.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_everything_it_promises(finished):
    checkout, _ = finished
    results = checkout.folder / "results" / "tiny"
    for name in (
        "plan.csv",
        "weights.json",
        "frames.npy",
        "measurements.csv",
        "configurations.csv",
        "coupling/pairwise.csv",
        "verdict.json",
        "summary.txt",
        "figures/knob_effects.saturated.svg",
        "figures/knob_effects.saturated.png",
        "figures/energy_against_metrics.saturated.svg",
        "figures/energy_against_metrics.saturated.png",
    ):
        assert (results / name).stat().st_size > 0, name
    assert len(checkout.records()) == len(_plan(checkout)) == 8
    assert len(list((results / "traces").rglob("*.parquet"))) == 8
    assert len(list((results / "history").rglob("*.json"))) == 8
    with (results / "measurements.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 8


def test_measurements_follow_the_plan_one_at_a_time(finished):
    checkout, _ = finished
    records = sorted((read_record(p) for p in checkout.records()), key=lambda r: r["window"]["start_monotonic_s"])
    ran = [(r["identity"]["workload"], r["identity"]["configuration_id"], r["identity"]["repetition"]) for r in records]
    assert ran == [(row["workload"], row["configuration"], row["repetition"]) for row in _plan(checkout)]
    for before, after in itertools.pairwise(records):
        assert before["window"]["end_monotonic_s"] < after["window"]["start_monotonic_s"]


def test_the_run_ends_with_a_summary_that_says_estimated(finished):
    checkout, output = finished
    summary = (checkout.folder / "results/tiny/summary.txt").read_text()
    assert summary.strip() in output
    assert "8 measured, 0 failed, 0 not run" in summary
    assert "estimated" in summary
    assert "figures" in summary
    verdict = json.loads((checkout.folder / "results/tiny/verdict.json").read_text())
    assert "estimated" in json.dumps(verdict)


def test_every_measurement_reports_itself_on_the_terminal(finished):
    _, output = finished
    for number in range(1, 9):
        assert re.search(
            rf"^\[{number}/8\] video\+\S+ under saturated, .* J/request \(estimated\)", output, re.MULTILINE
        )


def test_a_second_run_has_nothing_to_do(finished):
    checkout, _ = finished
    assert "Nothing to be done" in checkout.run()


def test_touched_files_and_a_fresh_checkout_measure_nothing_again(finished):
    checkout, _ = finished
    now = time.time() + 5
    for folder in ("workflow_scripts", "rules", "config", "report"):
        for path in (checkout.folder / folder).rglob("*"):
            os.utime(path, (now, now))
    for name in (
        "Snakefile",
        "results/tiny/plan.csv",
        "results/tiny/frames.npy",
        "results/tiny/weights.json",
        "results/tiny/frames.json",
    ):
        os.utime(checkout.folder / name, (now, now))
    assert _measure_jobs(checkout.run("-n")) == 0


@pytest.mark.parametrize(
    ("file", "old", "new", "measured_again", "drawn_again"),
    [
        ("workflow_scripts/ipa_energy/figures/style.py", "\n\n\n", "\n\n_EDITED = True\n\n\n", 0, True),
        ("workflow_scripts/draw_figures.py", '"""', '"""Edited. ', 0, False),
        ("workflow_scripts/ipa_energy/serving/engine.py", '"""The engine', '"""An edited text. The engine', 0, False),
        ("workflow_scripts/ipa_energy/serving/engine.py", "_LONGEST_WAIT_S = 0.05", "_LONGEST_WAIT_S = 0.04", 8, True),
        ("workflow_scripts/ipa_energy/meters/estimate.py", "\n\n\n", "\n\n_EDITED = True\n\n\n", 8, True),
    ],
    ids=["plot helper", "plot script", "docstring of the engine", "code of the engine", "code of a meter"],
)
def test_editing_measures_again_exactly_what_it_affects(finished, file, old, new, measured_again, drawn_again):
    checkout, _ = finished
    path = checkout.folder / file
    source = path.read_text()
    assert old in source
    try:
        path.write_text(source.replace(old, new, 1))
        output = checkout.run("-n")
        assert _measure_jobs(output) == measured_again
        assert ("draw_figures" in output) == drawn_again
    finally:
        path.write_text(source)


@pytest.mark.parametrize(
    ("changes", "measured_again"),
    [
        ({"prices": {"core_hour_usd": 1.0}}, 0),
        ({"analysis": {"bootstrap": 200}}, 0),
        ({"blocks": 3}, 4),
        ({"max_wait_s": 0.1}, 8),
        ({"seed": 5}, 8),
    ],
    ids=["prices", "analysis", "one more block", "serving", "seed"],
)
def test_a_changed_config_measures_again_exactly_what_it_affects(finished, changes, measured_again):
    checkout, _ = finished
    settings = yaml.safe_load((checkout.folder / "tiny.yaml").read_text())
    (checkout.folder / "changed.yaml").write_text(yaml.safe_dump(settings | changes))
    assert _measure_jobs(checkout.run("-n", config="changed")) == measured_again


def test_other_frames_are_noticed_although_the_run_that_made_them_was_stopped(finished, tmp_path):
    checkout, _ = finished
    other = Checkout(tmp_path / "checkout", tmp_path / "lock")
    shutil.copytree(checkout.folder, other.folder, symlinks=True)
    stages = yaml.safe_load((other.folder / "tiny.yaml").read_text())["grid"]["stages"]
    other.configure(grid={"stages": stages}, blocks=2, anchor=True, frames={"count": 3, "width": 96, "height": 72})
    weights = sorted(str(path.relative_to(other.folder)) for path in (other.folder / "results/tiny/weights").iterdir())
    other.run(*weights)
    assert _measure_jobs(other.run("-n")) == 8


def test_a_grown_grid_measures_only_what_is_new(finished):
    checkout, _ = finished
    settings = yaml.safe_load((checkout.folder / "tiny.yaml").read_text())
    settings["grid"]["stages"]["classify"]["batch"] = [1, 2, 3]
    settings["grid"]["stages"]["classify"]["variant"] = ["resnet18", "resnet34"]
    (checkout.folder / "grown.yaml").write_text(yaml.safe_dump(settings))
    assert _measure_jobs(checkout.run("-n", config="grown")) == 4 * 2


def test_experiments_of_different_names_live_side_by_side(finished):
    checkout, _ = finished
    checkout.configure("other")
    assert _measure_jobs(checkout.run("-n", config="other")) == 1
    assert "Nothing to be done" in checkout.run("-n")


def test_the_report_is_made_offline(finished, tmp_path):
    checkout, _ = finished
    checkout.run("--report", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    for word in ("knob effects", "energy against metrics", "summary", "configurations"):
        assert word in page


def test_a_folder_of_records_is_analysed_without_measuring_and_a_damaged_one_is_named(finished, tmp_path):
    checkout, _ = finished
    study = tmp_path / "records from elsewhere"
    shutil.copytree(checkout.folder / "results/tiny/records", study)
    damaged = sorted(study.rglob("*.json"))[0]
    damaged.write_text(damaged.read_text()[:400])
    settings = yaml.safe_load((checkout.folder / "tiny.yaml").read_text())
    settings |= {"experiment": "elsewhere", "records": str(study)}
    (checkout.folder / "elsewhere.yaml").write_text(yaml.safe_dump(settings))
    output = checkout.run(config="elsewhere")
    assert _measure_jobs(output) == 0
    results = checkout.folder / "results/elsewhere"
    assert damaged.name in (results / "refused.csv").read_text()
    assert "refused" in (results / "summary.txt").read_text()
    with (results / "measurements.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 7


def test_the_dry_run_shows_every_measurement_as_its_own_job(checkout):
    path = checkout.configure(blocks=2, anchor=True)
    output = checkout.run("-n")
    plan = load_study(yaml.safe_load(path.read_text())).plan
    for measurement in plan:
        workload, configuration, repetition = measurement.key
        assert f"Measure {configuration} under {workload}, {repetition}" in output
    assert _measure_jobs(output) == len(plan) == 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": {"stages": tiny_config()["grid"]["stages"] | {"detect": {"variant": ["yolov5n"]}}}}, "'yolov5n'"),
        ({"grid": {"stages": tiny_config()["grid"]["stages"] | {"detect": {"variant": []}}}}, "detect.variant is []"),
        ({"blocks": 0}, "blocks is 0; allowed: at least 1"),
        ({"grid": None}, "grid is None"),
    ],
    ids=["unknown variant", "empty grid", "no block", "no grid"],
)
def test_a_bad_config_stops_before_any_job(checkout, changes, words):
    checkout.configure(**changes)
    output = checkout.run(expect=1)
    assert "The config can't be used" in output
    assert words in output
    assert "Execute" not in output
    assert not (checkout.folder / "results").exists()


def _replicas_in_window(checkout, workflow):
    """Replica pids once the measurement that now runs has opened its window."""

    def look():
        logs = sorted((checkout.folder / "logs").rglob("measure/**/*.log"), key=lambda p: p.stat().st_mtime)
        if not logs or "window" not in logs[-1].read_text() or "idle_after" in logs[-1].read_text():
            return None
        return [
            pid
            for pid in _all_of(workflow)
            if "ipa_energy.serving.preload" in " ".join(psutil.Process(pid).cmdline())
            and "ipa_energy.serving.preload" in " ".join(psutil.Process(psutil.Process(pid).ppid()).cmdline())
        ]

    return wait_for(look, 120)


def _all_of(workflow):
    """Every process that belongs to the workflow: its descendants, and those that name it as their owner."""
    named = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if f"--owner {workflow}" in " ".join(process.info["cmdline"] or []):
            named += [process.pid, *descendants(process.pid)]
    return sorted({*descendants(workflow), *named})


def test_a_config_without_a_grid_is_refused_and_not_filled_from_the_default(checkout):
    (checkout.folder / "tiny.yaml").write_text("experiment: mine\n")
    output = checkout.run("-n", expect=1)
    assert "grid is missing; allowed: a grid, or measure: none together with ipa.profile" in output


def test_the_terminal_says_which_meters_are_missing(finished):
    _, output = finished
    assert "energy is estimated, not measured, because these meters are missing" in output
    assert re.search(r"rapl: .*powercap", output)


def test_a_worker_killed_in_the_window_costs_one_record_and_the_others_go_on(checkout):
    stages = tiny_config()["grid"]["stages"]
    stages["classify"]["batch"] = [1, 2]
    protocol = tiny_config()["protocol"] | {"window_s": 4}
    checkout.configure(grid={"stages": stages}, protocol=protocol)
    run = checkout.start()
    victim = _replicas_in_window(checkout, run.pid)[0]
    os.kill(victim, signal.SIGKILL)
    output, _ = run.communicate(timeout=200)
    assert run.returncode == 0, output[-4000:]
    states = {r["status"]["state"]: r["status"]["reason"] for r in map(read_record, checkout.records())}
    assert set(states) == {"ok", "failed"}
    assert f"(pid {victim}) was killed by SIGKILL" in states["failed"]
    assert re.search(r"1 failed", output)


def test_a_killed_workflow_leaves_no_process_and_the_next_run_goes_on(checkout):
    stages = tiny_config()["grid"]["stages"]
    stages["classify"]["batch"] = [1, 2, 3]
    checkout.configure(grid={"stages": stages})
    run = checkout.start()
    wait_for(checkout.records, 120)
    _replicas_in_window(checkout, run.pid)
    ours = _all_of(run.pid)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    wait_for(lambda: not living(ours), 15)
    before = {path: path.read_bytes() for path in checkout.records()}
    assert len(before) == 1
    assert not list((checkout.folder / "results").rglob("*.part"))

    assert "unlock" in checkout.run(expect=1)
    checkout.run("--unlock")
    output = checkout.run()
    assert len(checkout.records()) == 3
    assert {path: path.read_bytes() for path in before} == before
    assert len(re.findall(MEASURED, output)) == 2
    assert "Nothing to be done" in checkout.run()


def test_two_runs_at_once_measure_one_after_the_other(checkout):
    for name in ("one", "two"):
        checkout.configure(name)
    # Two folders of results, as Snakemake locks one; the host and its lock are the same.
    runs = [checkout.start("--directory", name, config=checkout.folder / name) for name in ("one", "two")]
    outputs = [run.communicate(timeout=200)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    records = [read_record(p) for p in checkout.folder.glob("*/results/*/records/*/*/*.json")]
    first, second = sorted(records, key=lambda r: r["window"]["start_monotonic_s"])
    assert first["window"]["end_monotonic_s"] < second["window"]["start_monotonic_s"]
    assert any("waiting for the measurement lock" in output for output in outputs)


def _servers_of(checkout):
    """Preload servers that jobs of a checkout started; on a cluster they belong to the job and not to the workflow."""
    library = checkout.environment["PYTHONPATH"]
    found = []
    for process in psutil.process_iter(["pid"]):
        try:
            ours = library in process.environ().get("PYTHONPATH", "").split(os.pathsep)
            if ours and "ipa_energy.serving.preload" in process.cmdline():
                found.append(process.pid)
        except psutil.Error:
            continue
    return living(found)


def test_the_profile_for_other_clusters_works_with_a_submitter_in_the_background(checkout):
    checkout.configure(blocks=2)
    submit = checkout.folder / "submit.sh"
    submit.write_text('#!/bin/bash\nsetsid bash "$1" >"$1.out" 2>&1 &\necho $!\n')
    submit.chmod(0o755)
    command = [sys.executable, "-m", "snakemake", "--configfile", "tiny.yaml"]
    command += ["--workflow-profile", "profiles/cluster-generic", "--cluster-generic-submit-cmd", str(submit)]
    run = checkout.start(
        command=[*command, "--max-jobs-per-timespan", "100/1s", "--seconds-between-status-checks", "1"]
    )
    wait_for(lambda: _servers_of(checkout), 300, 0.5)
    output, _ = run.communicate(timeout=400)
    assert run.returncode == 0, output[-4000:]
    records = sorted(map(read_record, checkout.records()), key=lambda r: r["window"]["start_monotonic_s"])
    assert [r["status"]["state"] for r in records] == ["ok", "ok"], output[-3000:]
    # Both jobs may run at once on a cluster; on one host the lock keeps their measurements apart.
    assert records[0]["window"]["end_monotonic_s"] < records[1]["window"]["start_monotonic_s"]
    assert (checkout.folder / "results/tiny/verdict.json").exists()
    wait_for(lambda: not _servers_of(checkout), 15)
