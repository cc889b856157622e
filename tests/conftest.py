"""Fixtures of the workflow tests: a checkout that may be edited, and runs of the real Snakemake in it."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tiny import tiny_config

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "rules", "workflow_scripts", "config", "profiles", "report", "environment.yaml")


@dataclass(frozen=True)
class Checkout:
    """A copy of the workflow's files. Jobs import the library from it, and measure under a lock of its own."""

    folder: Path
    lock: Path

    @property
    def environment(self):
        return os.environ | {
            "PYTHONPATH": str(self.folder / "workflow_scripts"),
            "IPA_ENERGY_LOCK": str(self.lock),
            "IPA_ENERGY_JOURNAL": str(self.folder / "journal"),
            # Other tests may be workflows to this process; a run of its own is not part of them.
            "IPA_ENERGY_WORKFLOW_PID": "",
        }

    def configure(self, name="tiny", **changes):
        """Write a tiny config; its path."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tiny_config(experiment=name, **changes)))
        return path

    def command(self, *arguments, config="tiny"):
        # The time span of the rate limit is what a run waits for at its end.
        short = ("--cores", "all", "--configfile", f"{config}.yaml", "--max-jobs-per-timespan", "100/1s")
        return [sys.executable, "-m", "snakemake", *short, *arguments]

    def start(self, *arguments, config="tiny", command=None, environment=None):
        """Start Snakemake in the background, in a process group of its own; or the whole ``command`` given."""
        return subprocess.Popen(
            command or self.command(*arguments, config=config),
            cwd=self.folder,
            env=environment or self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments, config="tiny", expect=0):
        """Run Snakemake; its whole output."""
        process = self.start(*arguments, config=config)
        output, _ = process.communicate(timeout=400)
        assert process.returncode == expect, output[-6000:]
        return output

    def records(self, experiment="tiny"):
        return sorted((self.folder / "results" / experiment / "records").rglob("*.json"))


def make_checkout(folder):
    folder.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            # The library's link to the config stays one, as in a clone.
            shutil.copytree(
                source, folder / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
            )
        else:
            shutil.copy2(source, folder / part)
    return Checkout(folder, folder / "measurement.lock")


@pytest.fixture
def checkout(tmp_path):
    """A fresh checkout for one test."""
    return make_checkout(tmp_path / "checkout")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A checkout in which the tiny experiment (two configurations, two blocks, anchors) ran once; and its output."""
    done = make_checkout(tmp_path_factory.mktemp("workflow") / "checkout")
    stages = tiny_config()["grid"]["stages"]
    stages["classify"]["batch"] = [1, 2]
    done.configure(grid={"stages": stages}, blocks=2, anchor=True)
    return done, done.run()
