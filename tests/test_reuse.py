"""The workflow as a module of other workflows: the folders of examples/, run by the real Snakemake; its metadata."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml

from conftest import ROOT, make_checkout
from ipa_energy.record import read_record
from ipa_energy.study import load_study
from tiny import PROTOCOL

EXAMPLES = {"module": ["ipa_energy"], "two-experiments": ["all_of_it", "feasible"]}
PROFILE = (
    "stage,variant,accuracy,cores,batch,latency_s,throughput_rps\n"
    "listen,small,60,1,1,0.3,4\nlisten,large,70,4,1,0.6,2\nanswer,base,77.1,1,1,0.2,6\n"
)
measures = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a detector and a classifier want a core each")


def example_config(name):
    """The config of an example with phases of fractions of a second."""
    config = yaml.safe_load((ROOT / "examples" / name / "config.yaml").read_text())
    short = config.get("common") or config["ipa_energy"]
    short |= {"protocol": dict(PROTOCOL), "gates": {"max_foreign_cores": 1000, "max_drift": 10}, "weights": "random"}
    short |= {"frames": {"count": 2, "width": 96, "height": 72}, "analysis": {"drop_flags": [], "bootstrap": 100}}
    return config


def studies(config):
    """The studies of an example's config, by the name of their section."""
    common = config.get("common", {})
    return {name: load_study(common | part) for name, part in config.items() if name != "common"}


class Outer:
    """A copy of an example, in a copy of the checkout, whose Snakefile is used as the module."""

    def __init__(self, checkout, name):
        self.checkout, self.folder = checkout, checkout.folder / "examples" / name
        shutil.copytree(ROOT / "examples" / name, self.folder, ignore=shutil.ignore_patterns(".snakemake", "energy"))
        self.config = example_config(name)
        self.write(self.config)

    def write(self, config):
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config))

    def run(self, *arguments, expect=0, **variables):
        command = [sys.executable, "-m", "snakemake", "--cores", "all", "--max-jobs-per-timespan", "100/1s", *arguments]
        environment = self.checkout.environment | variables
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        output = done.stdout + done.stderr
        assert done.returncode == expect, output[-6000:]
        return output

    def records(self, below="."):
        return [read_record(path) for path in (self.folder / below).glob("**/records/**/*.json")]


def jobs(output):
    """How many jobs of each rule the first table of a (dry) run holds."""
    table = output.partition("Job stats:")[2].partition("total")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


def in_turn(records):
    """The records by their windows, of which no two overlap."""
    ordered = sorted(records, key=lambda record: record["window"]["start_monotonic_s"])
    for before, after in itertools.pairwise(ordered):
        assert before["window"]["end_monotonic_s"] < after["window"]["start_monotonic_s"]
    return ordered


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """The example of a module, run once from its own folder; its dry run before, and its output."""
    outer = Outer(make_checkout(tmp_path_factory.mktemp("reuse") / "checkout"), "module")
    return outer, outer.run("-n"), outer.run()


@measures
def test_a_module_runs_from_another_folder_to_the_verdict(module):
    outer, planned, output = module
    study = studies(outer.config)["ipa_energy"]
    assert jobs(planned)["ipa_energy_measure_configuration"] == len(study.plan) == len(outer.records()) == 8
    assert jobs(planned)["all"] == jobs(planned)["quote_answer"] == 1
    assert "ipa_energy_all" not in jobs(planned)  # our `rule all` does not become the target of the other workflow
    verdict = json.loads((outer.folder / "energy/results/mobile/verdict.json").read_text())
    assert verdict["experiment"] == "mobile"
    assert (outer.folder / "answer.md").read_text() == (outer.folder / "energy/results/mobile/answer.md").read_text()
    assert (outer.folder / "energy/results/mobile/summary.txt").read_text().strip() in output


@measures
def test_measurements_of_a_module_follow_the_plan_one_at_a_time(module):
    outer, *_ = module
    plan = studies(outer.config)["ipa_energy"].plan
    ran = [(r["identity"]["configuration_id"], r["identity"]["repetition"]) for r in in_turn(outer.records())]
    assert ran == [(m.configuration.id, m.repetition) for m in plan]


@measures
def test_all_that_a_module_makes_lies_below_its_prefix(module):
    outer, *_ = module
    results = outer.folder / "energy/results/mobile"
    assert not (outer.folder / "results").exists()
    assert [path.name for path in (outer.folder / "logs").iterdir()] == ["quote_answer.log"]
    assert len(list((results / "history").rglob("*.parquet"))) == 8
    figure = next((results / "records").rglob("*.json")).relative_to(results / "records").with_suffix(".svg")
    outer.run(f"energy/results/mobile/figures/power/{figure}")
    assert "the trace of this record is missing" not in (results / "figures/power" / figure).read_text()


@measures
def test_a_module_has_nothing_to_do_twice_even_after_a_fresh_checkout(module):
    outer, *_ = module
    assert "Nothing to be done" in outer.run()
    for path in (outer.checkout.folder / "workflow_scripts").rglob("*.py"):
        path.touch()
    assert "ipa_energy_measure_configuration" not in jobs(outer.run("-n"))


@measures
def test_a_rule_that_another_workflow_changes_keeps_the_rest(module):
    _, planned, output = module
    for text in (planned, output):
        assert "Make the tables of what was measured" in text
        assert "Make the tables of experiment" not in text
    assert "[1/8] video+" in output  # what a measurement says of itself


@measures
def test_a_module_can_be_reported_and_leaves_the_text_to_the_other_workflow(module):
    outer, *_ = module
    output = outer.run("--report", "report.zip")
    assert "WARNING" not in output
    with zipfile.ZipFile(outer.folder / "report.zip") as report:
        page = "".join(report.read(name).decode(errors="replace") for name in report.namelist() if "html" in name)
    assert "Is energy redundant" not in page
    assert "summary.txt" in page


@measures
def test_two_experiments_of_one_workflow_measure_in_turn_one_of_them_what_a_checkpoint_chose(tmp_path):
    outer = Outer(make_checkout(tmp_path / "checkout"), "two-experiments")
    profile = ["--workflow-profile", str(outer.checkout.folder / "profiles/default")]
    outer.run(*profile)
    records = in_turn(outer.records())
    experiments = [record["identity"]["experiment"] for record in records]
    assert experiments.count("all-of-it") == 2
    # At one request a second a batch of 8 is not filled within 2 s.
    chosen = [
        r["identity"]["configuration"]["stages"][1]["batch"]
        for r in records
        if r["identity"]["experiment"] == "feasible"
    ]
    assert chosen == [1]
    assert "Nothing to be done" in outer.run(*profile)


def test_the_configs_of_the_examples_are_valid():
    for name, modules in EXAMPLES.items():
        assert list(studies(yaml.safe_load((ROOT / "examples" / name / "config.yaml").read_text()))) == modules
    assert sorted(path.name for path in (ROOT / "examples").iterdir()) == sorted(EXAMPLES)


def test_an_example_that_measures_has_the_settings_of_the_default_profile():
    ours = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())
    assert yaml.safe_load((ROOT / "examples/module/profiles/default/config.yaml").read_text()) == ours


def test_a_config_that_is_wrong_is_refused_before_any_job(tmp_path):
    outer = Outer(make_checkout(tmp_path / "checkout"), "module")
    outer.config["ipa_energy"]["blocks"] = 0
    outer.write(outer.config)
    assert "blocks is 0; allowed: at least 1" in outer.run("-n", expect=1)


def test_a_module_that_measures_nothing_needs_no_grid(tmp_path):
    outer = Outer(make_checkout(tmp_path / "checkout"), "module")
    (outer.folder / "profile.csv").write_text(PROFILE)
    inputs = {"steady": {"rate_rps": 5, "sla_s": 3}}
    study = {"experiment": "mobile", "measure": "none", "ipa": {"profile": "profile.csv", "inputs": inputs}}
    outer.write({"ipa_energy": study})
    outer.run("energy/results/mobile/space/steady.optima.csv")
    assert "ipa_energy_measure_configuration" not in jobs(outer.run("-n", "ipa_energy_all"))


def test_a_module_fetched_from_a_hosted_repository_makes_its_plan(tmp_path):
    """Snakemake's `github()`, with git itself led to a repository on this disk."""
    outer = Outer(make_checkout(tmp_path / "checkout"), "module")
    repository = outer.checkout.folder
    git = ["git", "-C", str(repository), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (["init", "-q"], ["add", "-A", "-f", "."], ["commit", "-qm", "all"], ["tag", "v1"]):
        subprocess.run([*git, *arguments], check=True, timeout=60)
    snakefile = (outer.folder / "Snakefile").read_text()
    assert '"../../Snakefile"' in snakefile
    hosted = snakefile.replace('"../../Snakefile"', 'github("someone/ipa-energy", path="Snakefile", tag="v1")')
    (outer.folder / "Snakefile").write_text(hosted)
    (tmp_path / "gitconfig").write_text(
        f'[url "file://{repository}/.git"]\n\tinsteadOf = https://github.com/someone/ipa-energy\n'
    )
    variables = {"GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    outer.run("energy/results/mobile/plan.csv", **variables)
    assert len((outer.folder / "energy/results/mobile/plan.csv").read_text().splitlines()) == 9


def test_an_installed_library_reads_configs_without_a_checkout(tmp_path):
    """From a wheel, as `pip install` of a repository makes it."""
    source = make_checkout(tmp_path / "checkout").folder
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source / name)
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip"]
    subprocess.run(
        [*pip, "install", *offline, "--target", str(tmp_path / "site"), str(source)], check=True, timeout=300
    )
    shutil.rmtree(source)
    code = (
        "import ipa_energy, yaml; from ipa_energy import record; from ipa_energy.study import load_study;"
        "from ipa_energy.analysis import look, verdict; from ipa_energy.error_rates import designs, presets;"
        "files = [record.SCHEMA_FILE, verdict.SCHEMA_FILE, look.SCHEMA_FILE, designs.FOLDER / 'published.yaml'];"
        "assert all(file.is_file() for file in files), files;"
        f"study = load_study(yaml.safe_load(open({str(ROOT / 'config/config.yaml')!r})));"
        "print(ipa_energy.__file__, len(study.plan), sorted(presets.preset_names()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "site"))
    assert "'published'" in done.stdout


def test_the_catalog_metadata_say_what_the_catalog_reads():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert usage["software-stack-deployment"]["report"] is True
    assert not (ROOT / "workflow").exists(), "then say so in docs/reuse.md, and that usage is standardized"


def test_the_readme_of_the_configs_names_every_one():
    named = set(re.findall(r"^\| `([\w./-]+\.yaml)`", (ROOT / "config/README.md").read_text(), re.MULTILINE))
    assert named >= {path.name for path in (ROOT / "config").glob("*.yaml")}
