"""The cluster that these tests run on. `make test-slurm` runs them, a plain `pytest` does not (pyproject.toml)."""

import os

import psutil
import pytest

from slurm.cluster import slurm, why_not


def pytest_sessionstart(session):
    reason = why_not()
    if reason:
        pytest.exit(f"Slurm can't be brought up here: {reason}", returncode=3)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes, each with two cores and a quarter of this machine's memory."""
    memory_mb = psutil.virtual_memory().total // 4 // 2**20
    with slurm(tmp_path_factory.mktemp("slurm"), min(2, os.cpu_count()), memory_mb) as up:
        yield up
