"""A measurement from job to record, with real models, and everything that can befall it."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from ipa_energy import supervisor
from ipa_energy.host import available_cores
from ipa_energy.lock import measurement_lock
from ipa_energy.owner import OWNER_VARIABLE, WorkflowGoneError, claim_of, watched_owner
from ipa_energy.record import fault, read_record
from ipa_energy.supervisor import InfrastructureError, in_words, run, why_not

from tiny import descendants, living, replicas_of, tiny_config, tiny_job, wait_for  # isort: skip

CORES = len(available_cores())
pytestmark = pytest.mark.skipif(CORES < 2, reason="a detector and a classifier want a core each")

SUPERVISOR = """
import sys
from pathlib import Path
from ipa_energy.job import job_from_json
from ipa_energy.supervisor import run
run(job_from_json(Path(sys.argv[1]).read_text()), sys.argv[2], lambda text: print(text, flush=True))
"""


@pytest.fixture(scope="module", autouse=True)
def _one_server_for_all(tmp_path_factory):
    """The test process is the workflow, so that one preload server serves all tests; and the lock is our own."""
    os.environ[OWNER_VARIABLE] = claim_of(os.getpid())
    os.environ["IPA_ENERGY_LOCK"] = str(tmp_path_factory.mktemp("lock") / "lock")
    os.environ["IPA_ENERGY_JOURNAL"] = str(tmp_path_factory.mktemp("journal"))
    yield
    del os.environ[OWNER_VARIABLE], os.environ["IPA_ENERGY_LOCK"], os.environ["IPA_ENERGY_JOURNAL"]


def test_a_measurement_yields_a_whole_consistent_record(tmp_path):
    said = []
    record = run(tiny_job(tmp_path), str(tmp_path / "r.json"), said.append)
    assert fault(record) is None
    assert read_record(tmp_path / "r.json") == json.loads(json.dumps(record))
    assert record["status"] == {"state": "ok", "reason": None}
    service, energy, window = record["service"], record["energy"], record["window"]
    assert service["completed"] > 3
    assert window["duration_s"] >= 1.0
    assert service["throughput_rps"] == pytest.approx(service["completed"] / window["duration_s"])
    assert service["in_flight_mean"] == pytest.approx(4, rel=0.25)
    assert 0 < service["stages"]["detect"]["utilisation"] <= 1
    assert energy["gross_j_per_request"] == pytest.approx(energy["gross_j"] / service["completed"])
    assert energy["evidence"] == "estimated"
    assert "estimated" in in_words(record)
    assert "estimated" in energy["boundary"]
    bare_w = (energy["idle_bare_w"] + energy["idle_bare_after_w"]) / 2
    assert energy["net_j"] == pytest.approx(energy["gross_j"] - bare_w * window["duration_s"])
    (domain,) = energy["domains"]
    for which in ("", "net_"):
        parts_j = domain[f"{which}uncertainty_parts_j"]
        combined_j = math.hypot(*parts_j.values()) if parts_j else None
        assert energy[f"{which}uncertainty_j"] == pytest.approx(combined_j)
    assert set(domain["uncertainty_parts_j"]) == {"model"}
    # On a quiet machine the modelled idle power shows no scatter, from which an error could be told.
    assert set(domain["net_uncertainty_parts_j"]) in ({"model", "idle"}, set())
    assert record["accuracy"]["pas"] == pytest.approx(0.213 * 0.69758)
    phases = [phase["phase"] for phase in window["timeline"]]
    assert phases == [
        *("start", "idle_bare", "load_models", "idle_resident", "warm_up", "window", "quiesce"),
        *("settle", "idle_after", "stop", "settle", "idle_bare_after"),
    ]
    edges_s = [phase[edge] for phase in window["timeline"] for edge in ("begin_s", "end_s")]
    assert edges_s == sorted(edges_s)
    (measured,) = (phase for phase in window["timeline"] if phase["phase"] == "window")
    assert measured["begin_s"] <= window["start_monotonic_s"]
    assert window["end_monotonic_s"] <= measured["end_s"]
    assert record["provenance"]["weights"]["weights"] == "random"
    assert record["provenance"]["settings"]["protocol"]["window_s"] == 1.0
    assert {tuple(r["cpus"]) for r in record["provenance"]["replicas"].values()} == {
        (c,) for c in available_cores()[:2]
    }
    assert all(len(r["facts"]) for r in record["provenance"]["replicas"].values())
    trace = pq.read_table(tmp_path / "trace.parquet").to_pandas()
    assert list(trace.columns) == ["time_s", "domain", "power_w"]
    assert len(trace) >= 8
    assert trace.time_s.between(-0.2, window["duration_s"] + 0.5).all()


def test_an_open_loop_is_offered_its_rate(tmp_path):
    job = tiny_job(tmp_path, workload="rate", workloads={"rate": {"kind": "rate", "rate_rps": 6}})
    record = run(job, str(tmp_path / "r.json"), print)
    service = record["service"]
    assert record["status"]["state"] == "ok"
    assert service["offered_rps"] == pytest.approx(service["sent"] / record["window"]["duration_s"])
    assert service["sent"] > 0
    assert record["window"]["duration_s"] == pytest.approx(1.0)


def test_more_cores_than_the_host_has_is_not_run_with_the_reason(tmp_path):
    config = tiny_config()
    config["grid"]["stages"]["detect"]["threads"] = [CORES]
    job = tiny_job(tmp_path, grid=config["grid"])
    record = run(job, str(tmp_path / "r.json"), print)
    assert record["status"]["state"] == "not_run"
    assert f"want {CORES + 1} cores and the host has {CORES}" in record["status"]["reason"]
    assert record["energy"] is None
    assert pq.read_table(tmp_path / "trace.parquet").num_rows == 0
    assert why_not(tiny_job(tmp_path, grid=config["grid"], oversubscribe=True)) is None


def test_oversubscription_when_wanted_is_flagged(tmp_path):
    config = tiny_config()
    config["grid"]["stages"]["classify"]["replicas"] = [CORES]
    record = run(tiny_job(tmp_path, grid=config["grid"], oversubscribe=True), str(tmp_path / "r.json"), print)
    assert record["status"]["state"] == "ok"
    assert "oversubscribed" in {flag["flag"] for flag in record["quality"]["flags"]}


def test_a_platform_that_can_not_be_put_back_stops_measurements_with_gpus_and_only_these(tmp_path, monkeypatch):
    journal = tmp_path / "journal"
    journal.mkdir()
    (journal / "power_limit.GPU-1.json").write_text("{damaged")
    monkeypatch.setenv("IPA_ENERGY_JOURNAL", str(journal))
    said = []
    with pytest.raises(InfrastructureError, match=r"left changed.*power_limit\.GPU-1\.json.*platforms restore"):
        run(tiny_job(tmp_path, meters={"gpus": "all"}), str(tmp_path / "r.json"), said.append)
    assert not (tmp_path / "r.json").exists()
    assert any("power_limit.GPU-1.json" in line for line in said)
    assert run(tiny_job(tmp_path), str(tmp_path / "r.json"), said.append)["status"]["state"] == "ok"


def flagged(number):
    return {"status": {"state": "ok", "reason": None}, "quality": {"flags": [{"flag": "foreign_cpu"}]}, "n": number}


FAILED = {"status": {"state": "failed", "reason": "too late"}, "quality": None, "n": 9}


@pytest.mark.parametrize(
    ("tries", "kept", "earlier"),
    [
        ([flagged(1), flagged(2), flagged(3)], 3, [1, 2]),
        ([flagged(1), FAILED], 1, [9]),
        ([flagged(1), InfrastructureError("disk full")], 1, []),
        ([FAILED], 9, []),
    ],
    ids=["the last", "a later one fails", "the disk is full", "none has figures"],
)
def test_a_try_that_has_figures_is_never_given_up_for_one_that_has_none(tmp_path, monkeypatch, tries, kept, earlier):
    left = iter(tries)

    def try_once(*_):
        following = next(left)
        if isinstance(following, Exception):
            raise following
        return dict(following)

    monkeypatch.setattr(supervisor, "_try_once", try_once)
    monkeypatch.setattr(supervisor.time, "sleep", lambda _: None)
    job = tiny_job(tmp_path, protocol=tiny_config()["protocol"] | {"retries": 2})
    with watched_owner() as owner:
        record = supervisor._with_retries(job, print, owner)
    assert record["n"] == kept
    assert [r["n"] for r in record["earlier_tries"]] == earlier


def test_a_cuda_configuration_without_a_gpu_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr("ipa_energy.host.has_cuda_device", lambda: False)
    config = tiny_config()
    config["grid"]["platform"] = {"device": ["cuda"]}
    record = run(tiny_job(tmp_path, grid=config["grid"]), str(tmp_path / "r.json"), print)
    assert record["status"]["state"] == "not_run"
    assert "CUDA" in record["status"]["reason"]


def test_a_measurement_that_takes_too_long_is_ended_and_recorded(tmp_path):
    config = tiny_config()
    config["protocol"] |= {"timeout_s": 2, "window_s": 60}
    record = run(tiny_job(tmp_path, protocol=config["protocol"]), str(tmp_path / "r.json"), print)
    assert record["status"]["state"] == "failed"
    assert "protocol.timeout_s = 2 s" in record["status"]["reason"]
    assert fault(record) is None


def test_foreign_load_is_flagged_and_retried_and_every_try_is_kept(tmp_path):
    config = tiny_config(gates={"max_foreign_cores": 0.1, "max_drift": 10})
    config["protocol"] |= {"retries": 1}
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        record = run(
            tiny_job(tmp_path, protocol=config["protocol"], gates=config["gates"]), str(tmp_path / "r.json"), print
        )
    finally:
        burner.kill()
        burner.wait()
    assert "foreign_cpu" in {flag["flag"] for flag in record["quality"]["flags"]}
    assert len(record["earlier_tries"]) == 1
    assert fault(record["earlier_tries"][0]) is None


def _supervise(tmp_path, window_s=20.0, **environment):
    """A supervisor in a process of its own, once its measurement has reached the window; its replicas' pids."""
    config = tiny_config()
    config["protocol"] |= {"window_s": window_s}
    (tmp_path / "job.json").write_text(tiny_job(tmp_path, protocol=config["protocol"]).to_json())
    arguments = [sys.executable, "-c", SUPERVISOR, str(tmp_path / "job.json"), str(tmp_path / "r.json")]
    log = (tmp_path / "log").open("w")
    supervisor = subprocess.Popen(arguments, stdout=log, stderr=log, env=os.environ | environment)
    wait_for(lambda: "window" in (tmp_path / "log").read_text())
    (measuring,) = [
        p for p in psutil.Process(supervisor.pid).children() if "ipa_energy.measurement" in " ".join(p.cmdline())
    ]
    owner = (os.environ | environment)[OWNER_VARIABLE].split(":")[0]
    replicas = replicas_of(owner)
    return supervisor, measuring.pid, replicas


def test_a_worker_killed_in_the_window_makes_a_failed_record_that_names_it(tmp_path):
    supervisor, measuring, replicas = _supervise(tmp_path)
    assert len(replicas) == 2
    os.kill(replicas[0], signal.SIGKILL)
    killed_s = time.monotonic()
    assert supervisor.wait(30) == 0
    assert time.monotonic() - killed_s < 10
    record = read_record(tmp_path / "r.json")
    assert record["status"]["state"] == "failed"
    assert f"(pid {replicas[0]}) was killed by SIGKILL" in record["status"]["reason"]
    assert not living([measuring, *replicas])


def test_a_killed_measuring_process_makes_a_failed_record(tmp_path):
    supervisor, measuring, replicas = _supervise(tmp_path)
    os.kill(measuring, signal.SIGKILL)
    assert supervisor.wait(30) == 0
    record = read_record(tmp_path / "r.json")
    assert record["status"] == {"state": "failed", "reason": "the measuring process was killed by SIGKILL"}
    wait_for(lambda: not living(replicas), 10)


def test_a_killed_supervisor_leaves_no_record_no_process_and_no_temporary_file(tmp_path):
    (tmp_path / "tmp").mkdir()
    supervisor, measuring, replicas = _supervise(tmp_path, TMPDIR=str(tmp_path / "tmp"))
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    wait_for(lambda: not living([measuring, *replicas]), 10)
    assert not (tmp_path / "r.json").exists()
    assert not list((tmp_path / "tmp").glob("ipa-energy*"))


def test_when_the_workflow_dies_the_measurement_ends_without_a_record(tmp_path):
    workflow = subprocess.Popen(["sleep", "300"])
    supervisor, measuring, replicas = _supervise(tmp_path, **{OWNER_VARIABLE: claim_of(workflow.pid)})
    server = psutil.Process(replicas[-1]).ppid()
    workflow.kill()
    workflow.wait()
    assert supervisor.wait(10) != 0
    wait_for(lambda: not living([measuring, server, *replicas]), 10)
    assert "ended during the measurement" in (tmp_path / "log").read_text()
    assert not (tmp_path / "r.json").exists()
    assert not Path(tmp_path / "trace.parquet").exists()


def test_a_job_that_waits_for_the_lock_ends_with_its_workflow_and_never_measures(tmp_path):
    workflow = subprocess.Popen(["sleep", "300"])
    (tmp_path / "job.json").write_text(tiny_job(tmp_path).to_json())
    environment = os.environ | {OWNER_VARIABLE: claim_of(workflow.pid)}
    arguments = [sys.executable, "-c", SUPERVISOR, str(tmp_path / "job.json"), str(tmp_path / "r.json")]
    with measurement_lock("somebody else", print, lambda: None):
        waiting = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        assert "waiting for the measurement lock" in waiting.stdout.readline()
        workflow.kill()
        workflow.wait()
        assert waiting.wait(10) != 0
    assert "WorkflowGoneError" in waiting.stdout.read()
    assert not (tmp_path / "r.json").exists()


def test_a_job_whose_workflow_is_dead_already_does_not_start(tmp_path, monkeypatch):
    gone = subprocess.Popen(["true"])
    claim = claim_of(gone.pid)
    gone.wait()
    monkeypatch.setenv(OWNER_VARIABLE, claim)
    with pytest.raises(WorkflowGoneError, match=f"process {gone.pid}"):
        run(tiny_job(tmp_path), str(tmp_path / "r.json"), print)
    assert not (tmp_path / "r.json").exists()


def test_a_fault_of_the_infrastructure_raises_and_makes_no_record(tmp_path):
    job = tiny_job(tmp_path)
    Path(job.frames).unlink()
    with pytest.raises(InfrastructureError, match=r"FileNotFoundError: .*frames\.npy"):
        run(job, str(tmp_path / "r.json"), print)
    assert not (tmp_path / "r.json").exists()


def test_two_measurements_on_a_host_run_one_after_the_other(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    started = []
    for folder in folders:
        folder.mkdir()
        (folder / "job.json").write_text(tiny_job(folder).to_json())
        arguments = [sys.executable, "-c", SUPERVISOR, str(folder / "job.json"), str(folder / "r.json")]
        started.append(subprocess.Popen(arguments, stdout=(folder / "log").open("w"), stderr=subprocess.STDOUT))
    assert [s.wait(120) for s in started] == [0, 0]
    windows = sorted(
        (r["window"]["start_monotonic_s"], r["window"]["end_monotonic_s"])
        for r in (read_record(folder / "r.json") for folder in folders)
    )
    assert windows[0][1] <= windows[1][0]
    logs = "".join((folder / "log").read_text() for folder in folders)
    assert "waiting for the measurement lock" in logs
    assert "tiny: video+ssdlite320" in logs
    assert not descendants(started[0].pid)
