"""The supervisor of a measurement: whatever happens to the measuring process, a record comes out.

It takes the host's lock, runs :mod:`ipa_energy.measurement` as a child, and turns what the child could not do into a
record with a status and a reason: ``not_run`` when the host can't run the configuration, ``failed`` when the child or a
replica died, raised or took too long. Only faults of the infrastructure (disk full, unreadable inputs) raise. When the
workflow itself dies, the supervisor ends its child and goes without a record, so that the next run measures afresh.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ipa_energy import gates, host
from ipa_energy.job import Job, decided_weights
from ipa_energy.lock import measurement_lock
from ipa_energy.owner import owner_pid
from ipa_energy.record import SCHEMA_VERSION, Record, write_record
from ipa_energy.sections import accuracy_section, cost_section
from ipa_energy.trace import write_trace


class WorkflowGoneError(RuntimeError):
    """The workflow that wanted this measurement is dead."""


def why_not(job: Job) -> str | None:
    """Why this host can't run the job's configuration; None when it can."""
    wanted, cores = job.configuration.cores, len(host.available_cores())
    if wanted > cores and not job.settings["oversubscribe"]:
        return (
            f"the replicas want {wanted} cores and the host has {cores}; "
            "set oversubscribe: true to run it all the same, flagged"
        )
    if job.configuration.platform.device == "cuda" and not host.has_cuda_device():
        return "the configuration wants a CUDA device and the host shows none"
    return None


def empty_record(job: Job, state: str, reason: str) -> Record:
    """The record of a measurement without figures."""
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": job.identity(),
        "status": {"state": state, "reason": reason},
        "window": None,
        "service": None,
        "accuracy": accuracy_section(job),
        "cost": cost_section(job, None),
        "energy": None,
        "quality": None,
        "provenance": host.provenance()
        | {"weights": decided_weights(job.weights), "protocol_digest": job.protocol_digest},
        "earlier_tries": [],
    }


def _wait(child: subprocess.Popen[bytes], timeout_s: float) -> str | None:
    """Wait for the child; why it has to be ended, or None when it ended by itself. Raises WorkflowGoneError."""
    owner = owner_pid()
    with ExitStack() as stack:
        child_fd = os.pidfd_open(child.pid)
        stack.callback(os.close, child_fd)
        watched = [child_fd]
        if owner != os.getpid():
            owner_fd = os.pidfd_open(owner)
            stack.callback(os.close, owner_fd)
            watched.append(owner_fd)
        ready, _, _ = select.select(watched, [], [], timeout_s)
        if child_fd in ready:
            return None
        if ready:
            raise WorkflowGoneError(f"the workflow (process {owner}) ended during the measurement")
        return f"took longer than protocol.timeout_s = {timeout_s:g} s"


def _ended_how(code: int) -> str:
    if code < 0:
        return f"the measuring process was killed by {signal.Signals(-code).name}"
    return f"the measuring process ended with code {code}; see the log of this job"


def _environment() -> dict[str, str]:
    """Our environment, in which children find this library also where it is not installed."""
    library = str(Path(__file__).resolve().parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [library, os.environ.get("PYTHONPATH")]))}


def _try_once(job: Job) -> Record:
    with tempfile.TemporaryDirectory(prefix="ipa-energy.") as folder:
        job_file, result = Path(folder, "job.json"), Path(folder, "result.json")
        job_file.write_text(job.to_json(), encoding="utf-8")
        command = [sys.executable, "-m", "ipa_energy.measurement", str(job_file), str(result)]
        command += ["--parent", str(os.getpid())]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, env=_environment())
        try:
            late = _wait(child, job.settings["protocol"]["timeout_s"])
        finally:
            child.kill()
            child.wait()
        if late:
            return empty_record(job, "failed", late)
        if not result.exists():
            return empty_record(job, "failed", _ended_how(child.returncode))
        outcome = json.loads(result.read_text(encoding="utf-8"))
        return outcome["record"] if "record" in outcome else empty_record(job, "failed", outcome["failed"])


def _disturbed(record: Record) -> bool:
    flags = (record["quality"] or {"flags": []})["flags"]
    return any(flag["flag"] in gates.RETRYABLE for flag in flags)


def run(job: Job, record_path: str, say: Callable[[str], None]) -> Record:
    """Measure ``job``, write its record to ``record_path`` (and its trace), and return the record.

    ``say`` gets lines for people. Raises WorkflowGoneError, and OSError when nothing can be written.
    """
    reason = why_not(job)
    if reason:
        record = empty_record(job, "not_run", reason)
    else:
        with measurement_lock(f"{job.experiment}: {job.title}", say):
            record = _with_retries(job, say)
    if record["status"]["state"] != "ok":
        write_trace(job.trace, [], 0.0)
    write_record(record_path, record)
    return record


def _with_retries(job: Job, say: Callable[[str], None]) -> Record:
    earlier: list[dict[str, Any]] = []
    for left in range(job.settings["protocol"]["retries"], -1, -1):
        record = _try_once(job)
        if left == 0 or not _disturbed(record):
            break
        say(f"disturbed ({', '.join(f['flag'] for f in record['quality']['flags'])}); trying again, {left} left")
        earlier.append(record)
        time.sleep(1.0)
    return record | {"earlier_tries": earlier}


def in_words(record: Record) -> str:
    """One line for the terminal: what came out."""
    state, reason = record["status"]["state"], record["status"]["reason"]
    if state != "ok":
        return f"{state}: {reason}"
    service, energy, quality = record["service"], record["energy"], record["quality"]
    per_request = energy["gross_j_per_request"]
    joules = "energy unknown" if per_request is None else f"{per_request:.3g} J/request ({energy['evidence']})"
    flags = ", ".join(dict.fromkeys(f["flag"] for f in quality["flags"]))
    latency_s = service["latency"]["p99_s"]
    p99 = "no request completed" if latency_s is None else f"p99 {latency_s:.3g} s"
    return f"{service['throughput_rps']:.3g} requests/s, {p99}, {joules}" + (f"; flagged: {flags}" if flags else "")
