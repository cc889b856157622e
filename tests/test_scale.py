"""A large plan: what the workflow does for each job stays small, and no command line holds the plan. Times are in
benchmarks/dag.py; here it is counted."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from ipa_energy.plan import write_plan
from ipa_energy.study import load_study
from tiny import tiny_config

COUNTING = """
import collections, json, os, sys
from snakemake.cli import main

counts = collections.Counter()


def hook(frame, event, what):
    if event == "call" and frame.f_code.co_filename.endswith((".smk", "Snakefile")):
        counts[frame.f_code.co_name] += 1
    elif event == "c_call" and what in (os.listdir, os.scandir):
        counts["folders listed"] += 1


sys.argv = ["snakemake", *sys.argv[1:]]
sys.setprofile(hook)
try:
    main()
finally:
    sys.setprofile(None)
    print("COUNTS" + json.dumps(counts))
"""


def grid_of(batches, replicas):
    knobs = {"batch": list(range(1, batches + 1)), "replicas": list(range(1, replicas + 1))}
    stages = tiny_config()["grid"]["stages"]
    return {"stages": {name: stage | knobs for name, stage in stages.items()}}


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Calls of the rules' own functions in dry runs of 16 and of 144 configurations."""
    from conftest import make_checkout

    checkout = make_checkout(tmp_path_factory.mktemp("scale") / "checkout")
    found = {}
    for count, batches, replicas in ((16, 2, 2), (144, 4, 3)):
        checkout.configure(grid=grid_of(batches, replicas), blocks=1)
        arguments = ("-n", "--cores", "all", "--configfile", "tiny.yaml")
        output = checkout_output(checkout, [sys.executable, "-c", COUNTING, *arguments])
        assert len(re.findall(r"^Job \d+: Measure ", output, re.MULTILINE)) == count
        found[count] = json.loads(output.rpartition("COUNTS")[2].splitlines()[0])
    return found


def checkout_output(checkout, command):
    done = subprocess.run(
        command, check=False, cwd=checkout.folder, env=checkout.environment, capture_output=True, text=True, timeout=400
    )
    return done.stdout + done.stderr


def test_ten_thousand_configurations_load_and_have_a_plan(tmp_path):
    study = load_study(tiny_config(grid=grid_of(10, 10), max_measurements=10_000, blocks=1))
    assert len(study.configurations) == len(study.plan) == len({m.key for m in study.plan}) == 10_000
    write_plan(tmp_path / "plan.csv", study.plan)
    assert len((tmp_path / "plan.csv").read_text().splitlines()) == 10_001


def test_every_job_costs_a_few_calls_and_no_listing_of_a_folder(counted):
    few, many = counted[16], counted[144]
    per_job = {name: (many[name] - few.get(name, 0)) / 128 for name in many}
    assert per_job["run_order"] > 0, "the hook counts nothing"
    # By name; all lambdas have one, and steps through a generator count as calls.
    most = {"<lambda>": 25, "<genexpr>": 15, "measurement_of": 8}
    assert not [name for name, calls in per_job.items() if calls > most.get(name, 3)], per_job
    assert abs(per_job["folders listed"]) < 0.1, (few, many)


def test_what_all_measurements_share_is_no_function_of_the_job(counted):
    """What is the same in the whole plan, here the host and so the node, costs no call for each job."""
    # Once for each measurement while the rules are read, and not again for its job.
    assert counted[144]["on_node"] - counted[16]["on_node"] == 144 - 16


def test_no_job_of_a_cluster_has_the_records_on_its_command_line(checkout):
    """The job that reads all records names only itself: 144 paths would be 13 kB, and 50 000 of them 4.6 MB."""
    path = checkout.configure(grid=grid_of(4, 3), blocks=1)
    study = load_study(yaml.safe_load(path.read_text()))
    results = checkout.folder / "results" / "tiny"
    for measurement in study.plan:
        workload, configuration, repetition = measurement.key
        for kind, suffix in (("records", "json"), ("traces", "parquet")):
            file = results / kind / workload / configuration / f"{repetition}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("")
    write_plan(results / "plan.csv", study.plan)
    submitted = checkout.folder / "submitted"
    submitted.mkdir()
    submit = checkout.folder / "submit.sh"
    submit.write_text(f'#!/bin/sh\ncp "$1" {submitted}/$(basename "$1")\nexit 1\n')
    submit.chmod(0o755)
    command = [sys.executable, "-m", "snakemake", "results/tiny/measurements.csv", "--configfile", "tiny.yaml"]
    command += ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", str(submit), "--jobs", "1"]
    command += ["--allowed-rules", "aggregate_records", "--workflow-profile", "none"]
    output = checkout_output(checkout, command)
    scripts = list(submitted.iterdir())
    assert len(scripts) == 1, output[-3000:]
    text = scripts[0].read_text()
    assert "aggregate_records" in text
    assert "records/saturated" not in text
    assert len(text) < 8_000


def test_the_scheduler_sleeps_until_a_job_ends(checkout):
    """Without Snakemake's limit on jobs per time span, which would wake it up, whatever the command line says."""
    checkout.configure()
    program = (
        "import snakemake.scheduling.job_scheduler as scheduling, sys\n"
        "made = []\n"
        "limiter = scheduling.JobRateLimiter.__init__\n"
        "def noted(self, limit): made.append(limit); limiter(self, limit)\n"
        "scheduling.JobRateLimiter.__init__ = noted\n"
        "from snakemake.cli import main\n"
        "sys.argv = ['snakemake', *sys.argv[1:]]\n"
        "try: main()\n"
        "finally: print('LIMITS', len(made))\n"
    )
    arguments = ("results/tiny/frames.json", "--cores", "all", "--configfile", "tiny.yaml")
    output = checkout_output(
        checkout, [sys.executable, "-c", program, *arguments, "--max-jobs-per-timespan", "100/300s"]
    )
    assert (checkout.folder / "results/tiny/frames.json").exists(), output[-3000:]
    assert "LIMITS 0" in output
