"""Where a test's Slurm can't be brought up, it says why and what to do, and touches nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slurm import cluster  # isort: skip

TESTS = Path(__file__).parent


def test_missing_packages_are_named_and_the_command_fails(tmp_path):
    environment = os.environ | {"PATH": str(tmp_path), "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-m", "slurm.cluster"]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "munge, slurm-client, slurmctld, slurmd" in done.stderr
    assert "apt-get install slurm-wlm munge" in done.stderr


def test_the_tests_on_slurm_fail_where_they_cannot_run(tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", str(TESTS / "slurm")]
    environment = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, cwd=TESTS.parent)
    assert done.returncode == 3
    assert "apt-get install slurm-wlm munge" in done.stdout + done.stderr


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """As if the packages were installed and nothing of them ran, with a folder of configuration of its own."""
    monkeypatch.setattr(cluster, "FOLDER", tmp_path / "etc")
    monkeypatch.setattr(cluster, "PROGRAMS", {})
    monkeypatch.setattr(cluster.os, "getuid", lambda: 0)
    monkeypatch.setattr(cluster.shutil, "which", lambda program: None)
    cluster.FOLDER.mkdir()
    return cluster.FOLDER


def test_a_machine_with_the_packages_and_no_slurm_will_do(installed):
    assert cluster.why_not() is None


@pytest.mark.parametrize("name", ["slurm.conf", "gres.conf"])
def test_a_configuration_of_somebody_else_is_left_alone(installed, tmp_path, name):
    theirs = "ClusterName=theirs\n"
    (installed / name).write_text(theirs)
    with (
        pytest.raises(cluster.NoClusterError, match=f"{name} belongs to a Slurm that is in use"),
        cluster.slurm(tmp_path, 2, 1000),
    ):
        pass
    assert [path.name for path in installed.iterdir()] == [name]
    assert (installed / name).read_text() == theirs


def test_what_a_killed_test_left_is_no_hindrance(installed):
    (installed / "slurm.conf").write_text(f"{cluster.MARK}\nClusterName=test\n")
    assert cluster.why_not() is None


def test_others_than_root_are_told_so(installed, monkeypatch):
    monkeypatch.setattr(cluster.os, "getuid", lambda: 1000)
    assert "root" in cluster.why_not()
