"""The real workflow on two hosts: through a cluster, each job on its host; without one, each host its own blocks."""

import csv
import json
import os

import pytest

from ipa_energy.record import read_record

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a detector and a classifier want a core each")

HOSTS = {"node01": {}, "node02": None}


def measured(checkout):
    """(block, host) of every record."""
    records = [read_record(path) for path in checkout.records()]
    assert {record["status"]["state"] for record in records} == {"ok"}
    return sorted((record["identity"]["block"], record["provenance"]["host"]) for record in records)


def on_host(checkout, host, *arguments, expect=0):
    """Run Snakemake as if this machine were ``host``; its whole output."""
    process = checkout.start(*arguments, environment=checkout.environment | {"SLURMD_NODENAME": host})
    output, _ = process.communicate(timeout=400)
    assert process.returncode == expect, output[-6000:]
    return output


def test_a_cluster_sends_every_block_to_its_host(checkout):
    checkout.configure(hosts=HOSTS, blocks=3)
    submit = checkout.folder / "submit.sh"
    # The scheduler of the test: "nodes" of one machine, told apart by the name that Slurm would give.
    submit.write_text('#!/bin/bash\nSLURMD_NODENAME=$1 setsid bash "$2" >"$2.out" 2>&1 &\necho $!\n')
    submit.chmod(0o755)
    cluster = ("--executor", "cluster-generic", "--jobs", "4", "--seconds-between-status-checks", "1")
    cluster += ("--default-resources", "host=''")  # for the rules that measure nothing
    output = checkout.run(*cluster, "--cluster-generic-submit-cmd", f"{submit} '{{resources.host}}'")
    assert measured(checkout) == [(1, "node01"), (2, "node02"), (3, "node01")], output[-3000:]
    results = checkout.folder / "results/tiny"
    with (results / "plan.csv").open() as file:
        assert [(int(row["block"]), row["host"]) for row in csv.DictReader(file)] == measured(checkout)
    assert json.loads((results / "verdict.json").read_text())["hosts"] == list(HOSTS)
    assert "are not there yet" not in output


def test_without_a_cluster_each_host_measures_its_own_blocks_and_the_last_has_all(checkout):
    checkout.configure(hosts=HOSTS, blocks=2)
    output = on_host(checkout, "elsewhere", expect=1)
    assert "hosts in the config names node01, node02" in output
    assert not checkout.records()
    output = on_host(checkout, "node01")
    assert measured(checkout) == [(1, "node01")]
    assert "Of the blocks of node02, 1 measurements are not there yet" in output

    (own,) = checkout.records()
    other = str(own.relative_to(checkout.folder)).replace("block1", "block2")
    output = on_host(checkout, "node01", other, expect=1)  # asked for by name
    assert "this job belongs to host node02, and runs on node01" in output
    assert checkout.records() == [own]

    before = own.read_bytes()
    output = on_host(checkout, "node02")
    assert measured(checkout) == [(1, "node01"), (2, "node02")]
    assert own.read_bytes() == before
    assert "are not there yet" not in output
    with (checkout.folder / "results/tiny/measurements.csv").open() as file:
        assert sorted(row["host"] for row in csv.DictReader(file)) == ["node01", "node02"]
    # Any machine analyses what is there; a record that is older than the frames is no reason to measure again.
    os.utime(own, (0, 0))
    for host in ("node01", "node02", "elsewhere"):
        assert "measure_configuration" not in on_host(checkout, host, "-n")
