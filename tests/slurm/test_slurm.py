"""The tiny experiment on a real Slurm, through profiles/slurm: what users get, with shorter waits and fewer cores."""

import itertools
import os
import re
import signal
import sys
import time

import psutil
import pytest
import yaml

from ipa_energy import walltime
from ipa_energy.record import read_record
from ipa_energy.study import load_study

from slurm.cluster import NODES  # isort: skip
from tiny import tiny_config, wait_for  # isort: skip

# What a user could give as well, and here must: this is a small machine, and nobody waits 40 s for a status.
SHORT = (
    *("--workflow-profile", "profiles/slurm", "--slurm-no-account", "--max-threads", "2"),
    *("--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2"),
    *("--max-jobs-per-timespan", "100/1s", "--latency-wait", "10"),
    *("--default-resources", "mem_mb=500", "runtime=10"),
    # The models run on the CPU, so that the rule wants no GPU of its own accord.
    *("--set-resources", "measure_configuration:gpu=1"),
)
TABLE = "results/tiny/configurations.csv"


class _Workflow:
    """The tiny experiment in a checkout, started on the cluster."""

    def __init__(self, checkout):
        self.checkout = checkout
        self.started = []
        self.environment = checkout.environment | {"OMP_NUM_THREADS": "1"}
        # Each node brings its own, as machines of their own would have.
        del self.environment["IPA_ENERGY_LOCK"], self.environment["IPA_ENERGY_JOURNAL"]

    def start(self):
        command = [sys.executable, "-m", "snakemake", "--configfile", "tiny.yaml", *SHORT, "--", TABLE]
        self.started.append(self.checkout.start(command=command, environment=self.environment))
        return self.started[-1]

    def run(self, expect=0):
        process = self.start()
        output, _ = process.communicate(timeout=900)
        assert process.returncode == expect, output[-6000:]
        return output

    def end(self):
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def records(self):
        return [read_record(path) for path in self.checkout.records()]

    def plan(self):
        settings = yaml.safe_load((self.checkout.folder / "tiny.yaml").read_text())
        return sorted(measurement.key for measurement in load_study(settings).plan)


@pytest.fixture
def workflow(checkout):
    """No Snakemake is left after the test, whatever became of it; the cluster ends the jobs."""
    workflow = _Workflow(checkout)
    yield workflow
    workflow.end()


def _keys(records):
    names = ("workload", "configuration_id", "repetition")
    return sorted(tuple(record["identity"][name] for name in names) for record in records)


def _spans_s(records):
    """(begin, end) of each measurement, from its first phase to its last, by node; one clock, as it is one machine."""
    spans = {}
    for record in records:
        timeline = record["window"]["timeline"]
        span = (timeline[0]["begin_s"], timeline[-1]["end_s"])
        spans.setdefault(record["provenance"]["host"], []).append(span)
    return {host: sorted(found) for host, found in spans.items()}


def _overlap_s(one, other):
    return sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a, b in itertools.product(one, other))


def _measuring(cluster):
    return [job for job in cluster.jobs() if job["Comment"].startswith("rule_measure_configuration")]


def _measuring_processes(cluster, job_id):
    """What a job measures with: its script, its measuring process, its preload server and the replicas.

    Not Snakemake's own in the job: a node without control groups can lose one that hangs in its answer to SIGTERM.
    """
    return [
        process
        for process, words in _commands(cluster, job_id)
        if any("ipa_energy." in word or "/.snakemake/scripts/" in word for word in words)
    ]


def _commands(cluster, job_id):
    """The living processes of a job, each with its command line."""
    for process in cluster.processes(job_id):
        try:
            yield process, process.cmdline()
        except psutil.Error:  # it has just ended
            continue


def _wait_until_gone(cluster, job_id, timeout_s=60.0):
    """Wait for the end of all that a job measures with; fails with what is left."""
    deadline_s = time.monotonic() + timeout_s
    while (left := _measuring_processes(cluster, job_id)) and time.monotonic() < deadline_s:
        time.sleep(0.3)
    assert not left, [" ".join(words) for _, words in _commands(cluster, job_id)]


def _in_window(cluster, node):
    """The job that measures on ``node``, once its replicas are under load; by its processes, as logs tell no node."""

    def look():
        for job in _measuring(cluster):
            if job["JobState"] == "RUNNING" and job["NodeList"] == node and _replicas(cluster, job["JobId"]):
                return job["JobId"]
        return None

    return wait_for(look, 300, 0.3)


def _replicas(cluster, job_id):
    """Replicas of a job: forked from its preload server, and so of the same command line."""
    servers = [process for process, words in _commands(cluster, job_id) if "ipa_energy.serving.preload" in words]
    pids = {server.pid for server in servers}
    return [server for server in servers if server.ppid() in pids]


def test_nodes_measure_one_thing_at_a_time_and_side_by_side(cluster, checkout, workflow, capsys):
    stages = tiny_config()["grid"]["stages"]
    stages["classify"]["batch"] = [1, 2]
    checkout.configure(blocks=2, grid={"stages": stages})
    began_s = time.monotonic()
    workflow.run()
    took_s = time.monotonic() - began_s

    records = workflow.records()
    assert [record["status"]["state"] for record in records] == ["ok"] * 4
    assert _keys(records) == workflow.plan()
    spans_s = _spans_s(records)
    assert set(spans_s) == set(NODES)
    for node, found in spans_s.items():
        for before, after in itertools.pairwise(found):
            assert before[1] < after[0], f"{node} measured two at once"
    overlap_s = _overlap_s(*spans_s.values())
    assert overlap_s > 0, "the nodes took turns"

    settings = load_study(yaml.safe_load((checkout.folder / "tiny.yaml").read_text())).settings
    wanted = walltime.minutes(walltime.measurement_s(settings["protocol"]))
    jobs = _measuring(cluster)
    assert len(jobs) == 4
    for job in jobs:
        assert job["OverSubscribe"] == "NO"  # what Slurm makes of --exclusive
        assert job["JOB_GRES"] == "gpu:1"
        assert job["Requeue"] == "0"
        assert _minutes(job["TimeLimit"]) == wanted
    busy_s = sum(end - begin for found in spans_s.values() for begin, end in found)
    with capsys.disabled():
        print(
            f"\n4 measurements on {len(spans_s)} nodes: workflow {took_s:.0f} s, of which the nodes measured for "
            f"{busy_s:.0f} s together, and for {overlap_s:.0f} s side by side"
        )


def _minutes(limit):
    """Minutes of Slurm's ``[days-]hours:minutes:seconds``."""
    days, hours, minutes, seconds = map(int, re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", limit).groups(default="0"))
    assert seconds == 0
    return (days * 24 + hours) * 60 + minutes


def _bring_nodes_up(cluster):
    """End the time that a node was set down; it may have ended by itself, when the node told of itself."""
    for node, state in cluster.states().items():
        if state.startswith(("down", "drain")):
            cluster.command("scontrol", "update", f"nodename={node}", "state=resume")
    wait_for(lambda: not any(state.startswith("down") for state in cluster.states().values()), 60, 0.5)


@pytest.fixture
def nodes_up_again(cluster):
    """Both nodes are up after the test, whatever became of it."""
    yield
    _bring_nodes_up(cluster)


@pytest.mark.usefixtures("nodes_up_again")
def test_cancelled_killed_and_lost_jobs_leave_nothing_and_a_restart_measures_what_is_missing(
    cluster, checkout, workflow
):
    first, second = NODES
    # Blocks stay on their node: 1 and 3 on the first, 2 on the second.
    protocol = tiny_config()["protocol"] | {"window_s": 8}
    checkout.configure(blocks=3, hosts={first: {}, second: {}}, protocol=protocol)
    run = workflow.start()

    cancelled, lost = _in_window(cluster, first), _in_window(cluster, second)
    cluster.command("scontrol", "update", f"nodename={second}", "state=down", "reason=test")
    cluster.command("scancel", cancelled)
    _wait_until_gone(cluster, cancelled)

    killed = wait_for(lambda: (job := _in_window(cluster, first)) != cancelled and job, 300)
    words = _replicas(cluster, killed)[0].cmdline()
    owner = psutil.Process(int(words[words.index("--owner") + 1]))
    assert "snakemake" in " ".join(owner.cmdline())
    owner.kill()
    _wait_until_gone(cluster, killed)

    ended = {cancelled: "CANCELLED", lost: "NODE_FAIL", killed: "FAILED"}.items()
    wait_for(lambda: ended <= {job["JobId"]: job["JobState"] for job in _measuring(cluster)}.items(), 60, 0.5)
    # The plugin looks more and more rarely while no job succeeds; nobody here waits for it.
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=200)
    assert run.returncode == 1, output[-4000:]

    # Slurm tells a node that is down nothing: what ran there goes on until the node is back, and may leave a record.
    _bring_nodes_up(cluster)
    _wait_until_gone(cluster, lost)
    kept = {path: path.read_bytes() for path in checkout.records()}
    assert len(kept) <= 1
    assert not list((checkout.folder / "results").rglob("*.part"))

    workflow.run()
    records = workflow.records()
    assert [record["status"]["state"] for record in records] == ["ok"] * 3
    assert _keys(records) == workflow.plan()
    hosts = {record["identity"]["block"]: record["provenance"]["host"] for record in records}
    assert hosts == {1: first, 2: second, 3: first}
    assert {path: path.read_bytes() for path in kept} == kept
