"""Walltimes cover every limit that a job ends its own work by, and grow with what the protocol asks for."""

import subprocess
import sys
from dataclasses import replace

import pytest

from ipa_energy import live_supervisor, phases, profile_supervisor, supervisor, walltime
from ipa_energy.live_job import LiveJob
from ipa_energy.study import load_study

from tiny import tiny_config, tiny_job  # isort: skip


class _StartedError(Exception):
    """The child would have been started now."""


def _protocol(**changes):
    return load_study(tiny_config(protocol=changes)).settings["protocol"]


def _limit_of_child(monkeypatch, module, run):
    """The time after which a supervisor ends its child, in seconds."""
    seen = []

    def note(module, text, timeout_s, owner, limit=""):
        seen.append(timeout_s)
        raise _StartedError

    monkeypatch.setattr(module, "run_child", note)
    with pytest.raises(_StartedError):
        run()
    return seen[0]


def test_a_measurement_may_run_into_its_timeout_after_every_retry():
    protocol = _protocol(timeout_s=900, retries=3)
    assert walltime.measurement_s(protocol) > 900 + 3 * walltime.try_s(protocol)
    once = _protocol(timeout_s=900, retries=0)
    assert walltime.measurement_s(protocol) - walltime.measurement_s(once) == 3 * walltime.try_s(protocol)


@pytest.mark.parametrize(
    ("key", "more_s", "longer_s"),
    [
        ("idle_bare_s", 100, 100),
        ("idle_resident_s", 100, 100),
        ("idle_after_s", 100, 100),
        ("idle_bare_after_s", 100, 100),
        ("settle_s", 100, 200),
        ("warm_up_max_s", 100, 100),
        ("window_s", 100, 300),  # and as long may pass at each edge until a batch ends
    ],
)
def test_a_try_is_as_long_as_its_phases(key, more_s, longer_s):
    long = {"timeout_s": 1e6, "window_s": 60, "warm_up_max_s": 60, "settle_s": 2}
    before = walltime.try_s(_protocol(**long))
    assert walltime.try_s(_protocol(**long | {key: _protocol(**long)[key] + more_s})) == before + longer_s


def test_a_try_is_no_longer_than_its_timeout():
    assert walltime.try_s(_protocol(timeout_s=50, window_s=3600)) == 50


def test_loading_may_take_as_long_as_the_protocol_lets_it():
    assert walltime.LOAD_S == phases.LOAD_TIMEOUT_S


def test_a_measurement_has_time_for_what_its_supervisor_allows(monkeypatch, tmp_path):
    job = tiny_job(tmp_path)
    protocol = job.settings["protocol"]
    limit_s = _limit_of_child(monkeypatch, supervisor, lambda: supervisor.run(job, tmp_path / "record.json", print))
    assert limit_s == protocol["timeout_s"]
    assert walltime.measurement_s(protocol) > limit_s


def test_a_profile_has_time_for_what_its_supervisor_allows(monkeypatch, tmp_path):
    job = tiny_job(tmp_path)
    stages = [replace(job.configuration.stages[0], batch=batch) for batch in (1, 2, 4)]
    jobs = [replace(job, configuration=replace(job.configuration, stages=(stage,))) for stage in stages]
    limit_s = _limit_of_child(
        monkeypatch, profile_supervisor, lambda: profile_supervisor.run(jobs, tmp_path / "profile.json", print)
    )
    bound_s = walltime.profile_s(job.settings["protocol"], len(jobs))
    assert bound_s == walltime.START_S + walltime.LOCK_S + limit_s


@pytest.mark.parametrize("load_s", [12, 1200])
def test_a_live_run_has_time_for_what_its_supervisor_allows(monkeypatch, tmp_path, load_s):
    job = tiny_job(tmp_path)
    live = LiveJob(job, "ipa", "reactive", "load", 1.0, (1,) * load_s, (), 1.0, 1, "profile.csv", None, {}, {})
    monkeypatch.setattr(live_supervisor, "_why_not", lambda live: None)  # without a profile it would not run
    limit_s = _limit_of_child(monkeypatch, live_supervisor, lambda: live_supervisor.run(live, "live.json", print))
    bound_s = walltime.live_s(job.settings["protocol"], load_s)
    assert bound_s == walltime.START_S + walltime.LOCK_S + limit_s


@pytest.mark.parametrize(("seconds", "minutes"), [(60, 1), (60.1, 2), (3600, 60)])
def test_minutes_are_rounded_up(seconds, minutes):
    assert walltime.minutes(seconds) == minutes


def test_parsing_the_workflow_needs_no_more_than_the_protocol_for_it():
    code = "import sys, ipa_energy.walltime; sys.exit(bool({'numpy', 'torch', 'snakemake'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
