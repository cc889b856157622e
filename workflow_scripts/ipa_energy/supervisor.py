"""The supervisor of a measurement: whatever happens to the measuring process, a record comes out.

It takes the host's lock, runs :mod:`ipa_energy.measurement` as a child, and turns what the child could not do into a
record with a status and a reason: ``not_run`` when the host can't run the configuration, ``failed`` when the child or a
replica died, raised or took too long. Only faults of the infrastructure raise (disk full, unreadable inputs, a broken
installation). When the
workflow itself dies, the supervisor ends its child and goes without a record, so that the next run measures afresh.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ipa_energy import host
from ipa_energy.gates import disturbances
from ipa_energy.job import Job
from ipa_energy.lock import measurement_lock
from ipa_energy.memory_file import last_line, memory_file
from ipa_energy.owner import Owner, watched_owner
from ipa_energy.platforms import restore_left_behind
from ipa_energy.record import Record, write_record
from ipa_energy.sections import empty_record
from ipa_energy.trace import write_trace


class InfrastructureError(RuntimeError):
    """Something outside the configuration failed: a disk, a file, the installation. Not a result, so no record."""


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


def _wait(child: subprocess.Popen[bytes], timeout_s: float, limit: str, owner: Owner) -> str | None:
    """Wait for the child; why it has to be ended, or None when it ended by itself. Raises WorkflowGoneError."""
    child_fd = os.pidfd_open(child.pid)
    try:
        watched = [child_fd] if owner.descriptor is None else [child_fd, owner.descriptor]
        ready, _, _ = select.select(watched, [], [], timeout_s)
    finally:
        os.close(child_fd)
    if child_fd in ready:
        return None
    owner.check()
    return f"took longer than {limit} = {timeout_s:g} s"


def _ended_how(code: int) -> str:
    if code < 0:
        return f"the measuring process was killed by {signal.Signals(-code).name}"
    return f"the measuring process ended with code {code}; see the log of this job"


def _environment() -> dict[str, str]:
    """Our environment, in which children find this library also where it is not installed."""
    library = str(Path(__file__).resolve().parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [library, os.environ.get("PYTHONPATH")]))}


def run_child(
    module: str, text: str, timeout_s: float, owner: Owner, limit: str = "protocol.timeout_s"
) -> dict[str, Any]:
    """Run ``python -m module`` on a job's ``text``: ``{"result": ...}``, or ``{"failed": reason}``.

    With ``failed`` there may be ``partial``, what the child had kept until then.

    ``limit`` says in words where the limit comes from.

    Raises InfrastructureError for what is no property of the job, and WorkflowGoneError.
    """
    with memory_file("job", text) as job, memory_file("result") as result:
        command = [sys.executable, "-m", module, str(job), str(result), "--parent", str(os.getpid())]
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, env=_environment(), pass_fds=(job, result)
        )
        try:
            late = _wait(child, timeout_s, limit, owner)
        finally:
            child.kill()
            child.wait()
        outcome = last_line(result)
        if "result" in outcome:  # it had finished, even if it was slow to end
            return outcome
        if late or not outcome.keys() - {"partial"}:
            reason = late or _ended_how(child.returncode)
            return {"failed": reason, "partial": outcome.get("partial")}
        if "infrastructure" in outcome:
            raise InfrastructureError(outcome["infrastructure"])
        return outcome


def _try_once(job: Job, owner: Owner) -> Record:
    outcome = run_child("ipa_energy.measurement", job.to_json(), job.settings["protocol"]["timeout_s"], owner)
    return outcome["result"] if "result" in outcome else empty_record(job, "failed", outcome["failed"])


def run(job: Job, record_path: str, say: Callable[[str], None]) -> Record:
    """Measure ``job``, write its record to ``record_path`` (and its trace), and return the record.

    ``say`` gets lines for people. Raises WorkflowGoneError, InfrastructureError, and OSError when nothing can be
    written.
    """
    reason = why_not(job)
    if reason:
        record = empty_record(job, "not_run", reason)
    else:
        title = f"{job.experiment}: {job.title}"
        with watched_owner() as owner, measurement_lock(title, say, owner.check):
            put_back_what_was_left(job, say)
            record = _with_retries(job, say, owner)
    if record["status"]["state"] != "ok":
        write_trace(job.trace, [], 0.0)
    write_record(record_path, record)
    return record


def put_back_what_was_left(job: Job, say: Callable[[str], None]) -> None:
    """Undo what a killed run left changed on the platform; raises InfrastructureError where that can't be.

    A GPU whose power limit is still somebody else's would be measured as something that it is not. Measurements that
    leave GPUs out of their boundary go on.
    """
    kept = [restoration.line for restoration in restore_left_behind(say) if restoration.outcome == "kept"]
    on_gpu = job.configuration.platform.device == "cuda" or job.settings["meters"]["gpus"] == "all"
    if kept and on_gpu:
        raise InfrastructureError(
            f"the platform was left changed and could not be put back: {'; '.join(kept)}. "
            "Put it back (python -m ipa_energy.platforms restore, as root), then run again"
        )


def _with_retries(job: Job, say: Callable[[str], None], owner: Owner) -> Record:
    tries: list[Record] = []
    protocol = job.settings["protocol"]
    for left in range(protocol["retries"], -1, -1):
        owner.check()
        try:
            tries.append(_try_once(job, owner))
        except InfrastructureError as error:
            if not any(_whole(record) for record in tries):
                raise
            say(f"not tried again: {error}")
            break
        flags = disturbances(tries[-1], protocol["retry_flags"])
        if left == 0 or not flags:
            break
        say(f"flagged ({', '.join(flags)}); trying again, {left} left")
        time.sleep(1.0)
    # A flagged figure is more than none: a later try that failed does not take its place, and its trace is still there.
    chosen = next((record for record in reversed(tries) if _whole(record)), tries[-1])
    return chosen | {"earlier_tries": [record for record in tries if record is not chosen]}


def _whole(record: Record) -> bool:
    return bool(record["status"]["state"] == "ok")


def in_words(record: Record) -> str:
    """One line for the terminal: what came out."""
    state, reason = record["status"]["state"], record["status"]["reason"]
    if state != "ok":
        return f"{state}: {reason}"
    service, energy, quality = record["service"], record["energy"], record["quality"]
    per_request = energy["gross_j_per_request"]
    kind, estimated = energy["evidence"], energy["estimated_fraction"]
    if kind == "mixed" and estimated is not None:
        kind += f", {estimated:.0%} of it estimated"
    joules = "energy unknown" if per_request is None else f"{per_request:.3g} J/request ({kind})"
    flags = ", ".join(dict.fromkeys(f["flag"] for f in quality["flags"]))
    latency_s = service["latency"]["p99_s"]
    p99 = "no request completed" if latency_s is None else f"p99 {latency_s:.3g} s"
    return f"{service['throughput_rps']:.3g} requests/s, {p99}, {joules}" + (f"; flagged: {flags}" if flags else "")


def without_meters(record: Record) -> list[str]:
    """Lines for the terminal: which meters are missing and why, where energy is not measured."""
    energy = record["energy"]
    if energy is None or energy["evidence"] == "measured":
        return []
    missing = [f"{item['meter']}: {item['reason']}" for item in energy["unavailable"]]
    return [f"energy is {energy['evidence']}, not measured, because these meters are missing:", *missing]
