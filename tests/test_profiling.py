"""IPA's profiler, with real models and processes: entries from jobs, whatever happens; and the table made of them."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pyarrow.parquet as pq
import pytest

from ipa_energy import profile_supervisor
from ipa_energy.configuration import Configuration, StageKnobs
from ipa_energy.host import available_cores
from ipa_energy.ipa.measured_profile import measured_table, usable
from ipa_energy.ipa.profile import make_profile
from ipa_energy.ipa.profile_table import ProfileError
from ipa_energy.owner import OWNER_VARIABLE, claim_of
from ipa_energy.profile_record import ProfileFileError, distribution, read_profile_file
from ipa_energy.profiling import jobs_from_json, jobs_to_json
from ipa_energy.record import fault

from tiny import living, replicas_of, tiny_config, tiny_job, wait_for  # isort: skip

CORES = len(available_cores())
pytestmark = pytest.mark.skipif(CORES < 2, reason="two allocations want two cores")

SUPERVISOR = """
import sys
from pathlib import Path
from ipa_energy.profile_supervisor import run
from ipa_energy.profiling import jobs_from_json
run(jobs_from_json(Path(sys.argv[1]).read_text()), sys.argv[2], lambda text: print(text, flush=True))
"""


@pytest.fixture(scope="module", autouse=True)
def _one_server_for_all(tmp_path_factory):
    os.environ[OWNER_VARIABLE] = claim_of(os.getpid())
    os.environ["IPA_ENERGY_LOCK"] = str(tmp_path_factory.mktemp("lock") / "lock")
    os.environ["IPA_ENERGY_JOURNAL"] = str(tmp_path_factory.mktemp("journal"))
    yield
    del os.environ[OWNER_VARIABLE], os.environ["IPA_ENERGY_LOCK"], os.environ["IPA_ENERGY_JOURNAL"]


def jobs_of(folder, stage="classify", variant="resnet18", sizes=((1, 1), (1, 3)), **changes):
    """Jobs of one variant for (threads, batch) pairs."""
    base = tiny_job(folder, **changes)
    return [
        dataclasses.replace(
            base,
            configuration=Configuration("video", (StageKnobs(stage, variant, batch, 1, threads),)),
            repetition="block1-profile",
            order=order,
        )
        for order, (threads, batch) in enumerate(sizes)
    ]


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """Both stages, profiled once: classify on one core and on two, and on more than there are."""
    folder = tmp_path_factory.mktemp("profile")
    said = []
    sizes = ((1, 1), (1, 2), (2, 2), (CORES + 1, 1))
    profile_supervisor.run(jobs_of(folder, sizes=sizes), str(folder / "classify.json"), said.append)
    trace = pq.read_table(folder / "trace.parquet").to_pandas()
    detect = jobs_of(folder, "detect", "ssdlite320_mobilenet_v3_large")
    profile_supervisor.run(detect, str(folder / "detect.json"), said.append)
    return folder, said, trace


def test_every_batch_size_and_allocation_has_an_entry_with_a_whole_record(profiled):
    folder, said, _ = profiled
    entries = read_profile_file(folder / "classify.json")
    knobs = [entry.record["identity"]["configuration"]["stages"] for entry in entries]
    assert [(k[0]["threads"], k[0]["batch"]) for k in knobs] == [(1, 1), (1, 2), (2, 2), (CORES + 1, 1)]
    assert [len(stages) for stages in knobs] == [1] * 4
    for entry in entries[:3]:
        record = entry.record
        assert fault(record) is None
        assert record["status"]["state"] == "ok"
        assert record["identity"]["role"] == "profile"
        (service,) = record["service"]["stages"].values()
        assert service["batch_fill"] == pytest.approx(1.0)
        assert service["utilisation"] > 0.5  # others may use the machine
        seconds = entry.service_s
        assert seconds["n"] == service["batches"]
        assert seconds["mean_s"] == pytest.approx(service["service_mean_s"])
        assert seconds["min_s"] <= seconds["p50_s"] <= seconds["p99_s"] <= seconds["max_s"]
        assert entry.memory["rss_bytes"] > entry.memory["uss_bytes"] > 10e6
        (facts,) = record["provenance"]["replicas"].values()
        assert facts["facts"]["threads"] == len(facts["cpus"])
        phases = [phase["phase"] for phase in record["window"]["timeline"]]
        assert (phases[:2], phases[-1]) == (["start", "idle_bare"], "idle_bare_after")
    assert any("estimated" in line for line in said)


def test_more_cores_than_the_host_has_is_an_entry_with_the_reason(profiled):
    folder, _, _ = profiled
    last = read_profile_file(folder / "classify.json")[-1]
    assert last.record["status"]["state"] == "not_run"
    assert f"the replicas want {CORES + 1} cores" in last.record["status"]["reason"]
    assert last.service_s is None and last.memory is None


def test_one_trace_holds_the_power_of_all_windows(profiled):
    folder, _, trace = profiled
    windows = [e.record["window"] for e in read_profile_file(folder / "classify.json")[:3]]
    begin_s = windows[0]["start_monotonic_s"]
    for window in windows:
        inside = trace.time_s.between(window["start_monotonic_s"] - begin_s, window["end_monotonic_s"] - begin_s)
        assert inside.sum() >= 8


def test_the_table_puts_energies_together_as_the_records_have_them(profiled):
    folder, _, _ = profiled
    table = measured_table([folder / "detect.json", folder / "classify.json"], gpu_share=0.5)
    assert list(table["state"]) == ["ok"] * 5 + ["not_run"]
    for (_, row), entry in zip(
        table.iterrows(),
        [*read_profile_file(folder / "detect.json"), *read_profile_file(folder / "classify.json")],
        strict=True,
    ):
        if row["state"] != "ok":
            assert "cores" in row["reason"]
            continue
        energy, window_s = entry.record["energy"], entry.record["window"]["duration_s"]
        resident_w = (energy["idle_resident_w"] + energy["idle_after_w"]) / 2
        bare_w = (energy["idle_bare_w"] + energy["idle_bare_after_w"]) / 2
        requests = entry.record["service"]["completed"]
        assert row["energy_j"] == pytest.approx((energy["gross_j"] - resident_w * window_s) / (requests / row["batch"]))
        assert row["idle_w"] == pytest.approx(resident_w - bare_w)
        # Own energy, waiting power and bare host together are what was metered.
        whole_j = row["energy_j"] * requests / row["batch"] + (row["idle_w"] + row["host_idle_w"]) * window_s
        assert whole_j == pytest.approx(energy["gross_j"])
        assert row["throughput_rps"] * row["latency_mean_s"] == pytest.approx(row["batch"], rel=0.5)
        assert (row["gpu_share"], row["evidence"], row["energy_kind"]) == (0.0, "estimated", "net")
    rows, remarks = usable(table)
    profile = make_profile(rows)
    assert [stage.stage for stage in profile.stages] == ["detect", "classify"]
    assert (profile.evidence, profile.energy_kind) == ("estimated", "net")
    assert profile.host_idle_w > 0
    assert (rows["idle_w"] >= 0).all()
    assert any("is left out: not_run" in remark for remark in remarks)


def test_waiting_power_that_is_unknown_in_one_row_is_left_out_of_all(profiled):
    folder, _, _ = profiled
    table = measured_table([folder / "classify.json"], gpu_share=1)
    table.loc[0, "idle_w"] = None
    rows, remarks = usable(table)
    assert "idle_w" not in rows.columns
    assert any("left out of all" in remark for remark in remarks)
    table.loc[:, "idle_w"] = -0.5
    rows, remarks = usable(table)
    assert (rows["idle_w"] == 0).all()
    assert any("is -0.5 W, taken as 0" in remark for remark in remarks)


def test_a_stage_without_any_figures_is_refused_with_the_reasons(profiled):
    folder, _, _ = profiled
    table = measured_table([folder / "detect.json", folder / "classify.json"], gpu_share=1)
    table.loc[table["stage"] == "detect", ["state", "reason"]] = "failed", "no room for 7 GiB"
    with pytest.raises(
        ProfileError, match=r"no variant of stage detect has figures .no room for 7 GiB.: profile/detect"
    ):
        usable(table)


def test_one_row_without_energy_is_told(profiled):
    folder, _, _ = profiled
    table = measured_table([folder / "classify.json"], gpu_share=1)
    table.loc[1, "energy_j"] = None
    assert any("batch 2 has no energy" in remark for remark in usable(table)[1])


def test_a_flagged_window_is_measured_again_at_once_and_all_tries_are_kept(tmp_path):
    protocol = tiny_config()["protocol"] | {"retries": 2, "retry_flags": ["short_window"]}
    jobs = jobs_of(tmp_path, protocol=protocol, sizes=((1, 1),))
    (entry,) = profile_supervisor.run(jobs, str(tmp_path / "p.json"), print)
    record = entry["record"]
    assert "short_window" in {flag["flag"] for flag in record["quality"]["flags"]}
    assert len(record["earlier_tries"]) == 2
    starts = [r["window"]["start_monotonic_s"] for r in (*record["earlier_tries"], record)]
    assert starts == sorted(set(starts))
    assert all(fault(one) is None for one in record["earlier_tries"])


@pytest.mark.parametrize("after_s", [0.0, 1.5], ids=["as the window is asked for", "within the window"])
def test_a_replica_killed_at_one_batch_size_costs_that_one_and_the_others_go_on(tmp_path, after_s):
    protocol = tiny_config()["protocol"] | {"window_s": 4}
    jobs = jobs_of(tmp_path, protocol=protocol, sizes=((1, 1), (1, 2)))
    (tmp_path / "jobs.json").write_text(jobs_to_json(jobs))
    assert jobs_to_json(jobs_from_json(jobs_to_json(jobs))) == jobs_to_json(jobs)
    log = (tmp_path / "log").open("w")
    arguments = [sys.executable, "-c", SUPERVISOR, str(tmp_path / "jobs.json"), str(tmp_path / "p.json")]
    supervisor = subprocess.Popen(arguments, stdout=log, stderr=log)
    wait_for(lambda: "window" in (tmp_path / "log").read_text())
    replicas = replicas_of(os.getpid())
    assert len(replicas) == 1
    time.sleep(after_s)
    os.kill(replicas[0], signal.SIGKILL)
    assert supervisor.wait(60) == 0
    first, second = read_profile_file(tmp_path / "p.json")
    assert first.record["status"]["state"] == "failed"
    assert f"(pid {replicas[0]}) was killed by SIGKILL" in first.record["status"]["reason"]
    assert second.record["status"]["state"] == "ok"
    assert not living(replicas)


@pytest.mark.parametrize("sizes", [((1, 1), (2, 1)), ((1, 1), (1, 2))], ids=["second allocation", "second batch size"])
def test_what_was_measured_before_the_profiler_died_stays(tmp_path, sizes):
    protocol = tiny_config()["protocol"] | {"window_s": 3}
    jobs = jobs_of(tmp_path, protocol=protocol, sizes=sizes)
    (tmp_path / "jobs.json").write_text(jobs_to_json(jobs))
    log = (tmp_path / "log").open("w")
    arguments = [sys.executable, "-c", SUPERVISOR, str(tmp_path / "jobs.json"), str(tmp_path / "p.json")]
    supervisor = subprocess.Popen(arguments, stdout=log, stderr=log)
    wait_for(lambda: (tmp_path / "log").read_text().count(" window") == 2)
    (child,) = [p for p in psutil.Process(supervisor.pid).children() if "ipa_energy.profiling" in " ".join(p.cmdline())]
    child.kill()
    assert supervisor.wait(60) == 0
    first, second = read_profile_file(tmp_path / "p.json")
    assert first.record["status"]["state"] == "ok"
    assert second.record["status"] == {"state": "failed", "reason": "the measuring process was killed by SIGKILL"}


def test_a_profiler_that_takes_too_long_is_ended_and_every_entry_says_so(tmp_path):
    protocol = tiny_config()["protocol"] | {"timeout_s": 1, "window_s": 60}
    jobs = jobs_of(tmp_path, protocol=protocol)
    entries = profile_supervisor.run(jobs, str(tmp_path / "p.json"), print)
    assert [e["record"]["status"]["state"] for e in entries] == ["failed"] * 2
    assert "2 x protocol.timeout_s = 2 s" in entries[0]["record"]["status"]["reason"]
    assert pq.read_table(tmp_path / "trace.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no profile of a variant"),
        ('{"schema_version": 7}', "schema_version is 7"),
        ('{"schema_version": 1, "entries": [{"record": {}, "service_s": null, "memory": null}]}', "schema_version"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, words):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ProfileFileError, match=words) as caught:
        read_profile_file(tmp_path / "bad.json")
    assert "bad.json" in str(caught.value)


def test_the_distribution_of_batch_times():
    assert distribution([]) is None
    assert distribution([2.0])["std_s"] == 0
    found = distribution([1.0, 2.0, 3.0])
    assert (found["n"], found["mean_s"], found["std_s"], found["p50_s"]) == (3, 2, 1, 2)
    assert json.dumps(found)
