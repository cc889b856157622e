"""The supervisor of a live run: whatever happens to its process, a file comes out that says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ipa_energy.ipa.live_log import live_log, lost
from ipa_energy.ipa.outcome import figures
from ipa_energy.ipa.profile import read_profile
from ipa_energy.live_job import LiveJob, live_setting, why_not_live
from ipa_energy.live_record import live_content, write_live_file
from ipa_energy.lock import measurement_lock
from ipa_energy.owner import watched_owner
from ipa_energy.phases import LOAD_TIMEOUT_S
from ipa_energy.supervisor import put_back_what_was_left, run_child, why_not
from ipa_energy.trace import write_trace


def run(live: LiveJob, path: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Run it, write the file and the trace, and return the file's content.

    A run whose largest configuration the host can't hold is ``not_run``. A run is not tried again: its decisions would
    be others. Raises WorkflowGoneError, InfrastructureError, and OSError when nothing can be written.
    """
    reason = _why_not(live)
    if reason:
        content = live_content(live, "not_run", reason, {})
    else:
        with watched_owner() as owner, measurement_lock(f"{live.job.experiment}: {live.title}", say, owner.check):
            put_back_what_was_left(live.job, say)
            served_s = len(live.counts) + live.drain_timeout_s
            timeout_s = live.job.settings["protocol"]["timeout_s"] + served_s + 2 * LOAD_TIMEOUT_S
            limit = "protocol.timeout_s and the time to load, serve and drain"
            outcome = run_child("ipa_energy.live", live.to_json(), timeout_s, owner, limit)
        found = outcome.get("result")
        content = live_content(live, "ok" if found else "failed", outcome.get("failed"), found or {})
    if content["state"] != "ok":
        write_trace(live.job.trace, [], 0.0)
    write_live_file(path, content)
    return content


def _why_not(live: LiveJob) -> str | None:
    """Why it can't run: the method, the profile, or a host that can't hold the largest configuration; else None."""
    profile = read_profile(live.profile)
    reason = why_not_live(live, profile)
    if reason:
        return reason
    most = {stage.stage: int(stage.cores.max()) for stage in profile.stages}
    stages = tuple(
        dataclasses.replace(knobs, replicas=live.replicas, threads=most[knobs.stage])
        for knobs in live.job.configuration.stages
    )
    largest = dataclasses.replace(live.job.configuration, stages=stages)
    reason = why_not(dataclasses.replace(live.job, configuration=largest))
    return f"with {live.replicas} replicas of every stage, {reason}" if reason else None


def in_words(content: dict[str, Any], live: LiveJob) -> str:
    """One line for the terminal."""
    if content["state"] != "ok":
        return f"{content['state']}: {content['reason']}"
    told = figures(live_log(content, live_setting(live, read_profile(live.profile))), live.sla_s)
    energy = content["record"]["energy"]
    per_request = energy["gross_j_per_request"]
    joules = "energy unknown" if per_request is None else f"{per_request:.3g} J/request ({energy['evidence']})"
    return (
        f"{told['completed']} of {sum(live.counts)} requests, {lost(content)} lost, {told['late']} late, "
        f"{told['dropped']} dropped, {told['changes']} changes, PAS {told['accuracy_pas'] or 0:.3f}, {joules}"
    )
