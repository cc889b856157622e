"""The supervisor of the profiler: whatever happens to its process, an entry for every batch size comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ipa_energy.job import Job
from ipa_energy.lock import measurement_lock
from ipa_energy.owner import watched_owner
from ipa_energy.profile_record import write_profile_file
from ipa_energy.profiling import failed_entry, jobs_to_json
from ipa_energy.supervisor import in_words, put_back_what_was_left, run_child, why_not
from ipa_energy.trace import write_trace


def run(jobs: Sequence[Job], path: str, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Profile the jobs of one stage variant, write the file and the trace, and return the entries.

    Each job that the host can't run has an entry ``not_run``; if the process dies, those that it had no time for are
    ``failed``, and what it had measured stays, without its power trace.
    Raises WorkflowGoneError, InfrastructureError, and OSError when nothing can be written.
    """
    (knobs,) = jobs[0].configuration.stages
    refused = {job.configuration.id: why_not(job) for job in jobs}
    wanted = [job for job in jobs if refused[job.configuration.id] is None]
    entries: list[dict[str, Any]] = []
    if wanted:
        title = f"{jobs[0].experiment}: profile of {knobs.stage} {knobs.variant}"
        with watched_owner() as owner, measurement_lock(title, say, owner.check):
            put_back_what_was_left(wanted[0], say)
            timeout_s = len(wanted) * wanted[0].settings["protocol"]["timeout_s"]
            limit = f"{len(wanted)} x protocol.timeout_s"
            outcome = run_child("ipa_energy.profiling", jobs_to_json(wanted), timeout_s, owner, limit)
        entries = outcome.get("result") or outcome.get("partial") or []
    if not wanted or "result" not in outcome:
        write_trace(jobs[0].trace, [], 0.0)
    by_id = {entry["record"]["identity"]["configuration_id"]: entry for entry in entries}
    made = []
    for job in jobs:
        name = job.configuration.id
        if refused[name] is not None:
            made.append(failed_entry(job, str(refused[name]), "not_run"))
        else:
            made.append(by_id.get(name) or failed_entry(job, str(outcome.get("failed"))))
    write_profile_file(path, knobs.stage, knobs.variant, made)
    for job, entry in zip(jobs, made, strict=True):
        (its,) = job.configuration.stages
        say(f"batch {its.batch}, {its.threads} threads: {in_words(entry['record'])}")
    return made
