"""Adaptation in reality: real models, replicas that come and go while requests are served, decisions by the solver."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ipa_energy import live_supervisor
from ipa_energy.host import available_cores
from ipa_energy.ipa.live_log import live_log, lost, start_s
from ipa_energy.ipa.live_report import in_words, rows_of, simulated, table_of
from ipa_energy.ipa.outcome import FIGURES, figures, intervals
from ipa_energy.ipa.predictors import REACTIVE
from ipa_energy.ipa.profile import read_profile
from ipa_energy.live_job import arrival_seed, live_job, live_job_from_json, live_setting
from ipa_energy.live_record import LiveFileError, read_live_file
from ipa_energy.owner import OWNER_VARIABLE, claim_of
from ipa_energy.record import fault
from ipa_energy.study import load_study

from tiny import living, replicas_of, tiny_config, tiny_job, wait_for  # isort: skip

CORES = len(available_cores())
pytestmark = pytest.mark.skipif(CORES < 2, reason="a detector and a classifier want a core each")

SUPERVISOR = """
import sys
from pathlib import Path
from ipa_energy.live_job import live_job_from_json
from ipa_energy.live_supervisor import run
run(live_job_from_json(Path(sys.argv[1]).read_text()), sys.argv[2], lambda text: print(text, flush=True))
"""

# As if resnet34 could serve 4 requests/s and resnet18 plenty, so that the load below makes IPA switch there and back.
PROFILE = """# made up
stage,variant,accuracy,cores,batch,latency_mean_s,latency_p99_s,throughput_rps,energy_j,energy_kind,idle_w,evidence,host_idle_w
detect,ssdlite320_mobilenet_v3_large,0.213,1,1,0.05,0.06,20,0.25,net,0,estimated,10
classify,resnet18,0.69758,1,1,0.03,0.04,30,0.15,net,0.1,estimated,10
classify,resnet34,0.73314,1,1,0.06,0.07,4,0.3,net,0.1,estimated,10
"""
COUNTS = [2] * 4 + [7] * 6 + [2] * 6


@pytest.fixture(scope="module", autouse=True)
def _one_server_for_all(tmp_path_factory):
    os.environ[OWNER_VARIABLE] = claim_of(os.getpid())
    os.environ["IPA_ENERGY_LOCK"] = str(tmp_path_factory.mktemp("lock") / "lock")
    os.environ["IPA_ENERGY_JOURNAL"] = str(tmp_path_factory.mktemp("journal"))
    yield
    del os.environ[OWNER_VARIABLE], os.environ["IPA_ENERGY_LOCK"], os.environ["IPA_ENERGY_JOURNAL"]


def settings_of(counts_file, **live):
    ipa = {
        "weights": {"alpha": 1, "beta": 0.1, "gamma": 0, "delta": 0},
        "adaptation": {
            "loads": {"load": {"file": str(counts_file)}},
            "predictors": ["reactive"],
            "interval_s": 2,
            "sla_s": 2,
            "live": {"load": "load", "seconds": 12, "first": 2} | live,
        },
    }
    config = tiny_config(ipa=ipa)
    config["grid"]["stages"]["classify"]["variant"] = ["resnet18", "resnet34"]
    return load_study(config).settings


def job_of(folder, counts=COUNTS, method="ipa", **live):
    counts_file = folder / "load.txt"
    counts_file.write_text("".join(f"{count}\n" for count in counts))
    (folder / "profile.csv").write_text(PROFILE)
    settings = settings_of(counts_file, **live)
    weights = []
    for variant in ("ssdlite320_mobilenet_v3_large", "resnet18", "resnet34"):
        weights.append(str(folder / f"{variant}.weights.json"))
        Path(weights[-1]).write_text(json.dumps({"variant": variant, "weights": "random", "seed": 0}))
    job = dataclasses.replace(
        tiny_job(folder),
        variant_weights=tuple(weights),
        workload="load",
        workload_settings={"kind": "rate", "drop_after_s": None},
        repetition="block2-live",
    )
    job = dataclasses.replace(job, configuration=dataclasses.replace(job.configuration, stages=()))
    profile = str(folder / "profile.csv")
    return live_job(job, method, str(counts_file), profile, None, settings["ipa"], settings["prices"])


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    live = job_of(folder)
    content = live_supervisor.run(live, str(folder / "live.json"), print)
    return folder, live, content, live_supervisor.in_words(content, live)


def test_the_job_begins_with_the_methods_choice_and_knows_the_seconds_before(tmp_path):
    live = job_of(tmp_path)
    assert live.counts == (2, 2, 7, 7, 7, 7, 7, 7, 2, 2, 2, 2)
    assert live.before == (2, 2)
    assert [knobs.variant for knobs in live.job.configuration.stages] == ["ssdlite320_mobilenet_v3_large", "resnet34"]
    assert live_job_from_json(live.to_json()).to_json() == live.to_json()


def test_a_stretch_beyond_the_load_is_refused(tmp_path):
    with pytest.raises(ValueError, match="seconds 2 to 102 of load load, which has 16"):
        job_of(tmp_path, seconds=100)


def log_of(live, content):
    return live_log(content, live_setting(live, read_profile(live.profile)))


def test_a_run_switches_while_it_serves_and_loses_no_request(served):
    folder, live, content, said = served
    assert content == read_live_file(folder / "live.json")
    assert content["state"] == "ok", content["reason"]
    wanted, journal = sum(live.counts), content["journal"]
    assert (content["run"], content["settled"], lost(content)) == ("run2", True, 0)
    assert len(journal["arrivals_s"]) == wanted
    assert sorted(number for number, _ in journal["requests"]) == list(range(wanted))
    for number, passed in journal["requests"]:
        times = [journal["arrivals_s"][number], *(moment for _, *moments in passed for moment in moments)]
        assert len(passed) == 2
        assert times == sorted(times)
    chosen = [decision["configuration"][1]["variant"] for decision in content["decisions"]]
    assert len(chosen) == 5
    assert "resnet18" in chosen
    replicas = [replica for replica in journal["replicas"] if replica["name"].startswith("classify/")]
    assert [replica["variant"] for replica in replicas][:2] == ["resnet34", "resnet18"]
    old, new = replicas[:2]
    assert old["gone_s"] >= new["ready_s"] > new["started_s"] > 0
    told = figures(log_of(live, content), live.sla_s)
    assert set(FIGURES) == set(told)
    assert (told["requests"], told["completed"], told["dropped"]) == (wanted, wanted, 0)
    assert told["changes"] >= 1
    assert 0.213 * 0.69758 < told["accuracy_pas"] < 0.213 * 0.73314
    assert f"{wanted} of {wanted} requests, 0 lost" in said
    assert "estimated" in said


def test_a_request_that_did_not_come_through_is_told_as_lost(served):
    _, live, content, _ = served
    doctored = json.loads(json.dumps(content))
    requests = doctored["journal"]["requests"]
    requests.pop()  # as if nobody had seen it again
    requests[0][1][1][2] = None  # taken by the last stage and never done
    requests[1][1].pop()  # never taken by the last stage
    assert lost(doctored) == 3
    told = figures(log_of(live, doctored), live.sla_s)
    assert told["completed"] == sum(live.counts) - 3
    (real, *_) = rows_of(doctored, *[log_of(live, doctored)] * 2, read_profile(live.profile))
    assert real["lost"] == 3
    doctored["journal"]["drops"].append([requests[1][0], 1, 3.0])
    assert lost(doctored) == 2


def test_how_long_starting_took_is_told_of_those_that_started_while_it_served(served):
    _, _, content, _ = served
    known = [
        r["ready_s"] - r["started_s"] for r in content["journal"]["replicas"] if r["started_s"] >= 0 and r["ready_s"]
    ]
    assert start_s(content) == pytest.approx(float(np.median(known)))
    doctored = json.loads(json.dumps(content))
    doctored["journal"]["replicas"] = [r for r in doctored["journal"]["replicas"] if r["started_s"] < 0]
    assert start_s(doctored) > 0


def test_arrivals_are_those_of_the_run_for_all_methods(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = job_of(tmp_path / "a"), job_of(tmp_path / "b", method="rim")
    assert arrival_seed(one) == arrival_seed(other) == (0, 2)
    again = dataclasses.replace(one, job=dataclasses.replace(one.job, repetition="block3-live"))
    assert arrival_seed(again) != arrival_seed(one)


def test_its_record_is_one_window_over_the_whole_load(served):
    folder, live, content, _ = served
    record, told = content["record"], figures(log_of(live, content), live.sla_s)
    assert fault(record) is None
    assert record["identity"]["role"] == "live"
    assert record["service"]["sent"] == record["service"]["completed"] == sum(live.counts)
    assert record["window"]["duration_s"] == pytest.approx(told["end_s"])
    assert record["service"]["latency"]["mean_s"] == pytest.approx(told["latency_mean_s"])
    assert record["service"]["latency"]["max_s"] == pytest.approx(told["latency_max_s"])
    assert 0 < record["service"]["stages"]["classify"]["utilisation"] < 1
    phases = [phase["phase"] for phase in record["window"]["timeline"]]
    assert [p for p in phases if p != "settle"] == [
        *("start", "idle_bare", "load_models", "idle_resident", "warm_up", "window", "quiesce", "idle_after", "stop"),
        "idle_bare_after",
    ]
    assert record["energy"]["gross_j_per_request"] == pytest.approx(record["energy"]["gross_j"] / sum(live.counts))
    trace = pq.read_table(folder / "trace.parquet").to_pandas()
    assert trace.time_s.max() == pytest.approx(record["window"]["duration_s"], abs=1.5)


def test_figures_and_intervals_of_the_run_agree(served):
    _, live, content, _ = served
    log = log_of(live, content)
    table, told = intervals(log, live.sla_s), figures(log, live.sla_s)
    assert table["arrived"].sum() == told["requests"]
    assert list(table["arrived"]) == list(np.add.reduceat(live.counts, range(0, 12, 2)))
    energy_j = table["busy_j"].sum() + table["waiting_j"].sum()
    # What ends after the last arrival lies in no interval.
    assert energy_j <= told["net_j"] + 1e-9
    assert energy_j == pytest.approx(told["net_j"], rel=0.2)
    # One batch of each stage a request, at the made-up energies of whoever served it.
    assert 0.4 * told["completed"] < told["busy_j"] < 0.55 * told["completed"]


def test_its_summary_puts_reality_beside_the_simulation(served, tmp_path):
    from summarise_live import main  # a script; it thinks as little as it can

    folder, live, content, _ = served
    names = ("table", "errors", "intervals", "answer", "svg", "png")
    outputs = {name: str(tmp_path / f"{name}.{name if name in ('svg', 'png') else 'csv'}") for name in names}
    failed = {**content, "method": "rim", "state": "not_run", "reason": "no room", "record": None, "journal": None}
    (tmp_path / "rim.json").write_text(json.dumps(failed))
    main(
        [str(folder / "live.json"), str(tmp_path / "rim.json")],
        [str(folder / "trace.parquet")] * 2,
        live.profile,
        str(folder / "load.txt"),
        None,
        outputs,
        ipa=live.ipa,
        usd=live.usd,
    )
    table = pd.read_csv(outputs["table"])
    assert list(table["how"]) == ["real", "composed", "simulated", "real"]
    assert list(table["state"]) == ["ok"] * 3 + ["not_run"]
    assert table["requests"][:3].tolist() == [sum(live.counts)] * 3
    assert table["net_j_per_request"][0] == pytest.approx(content["record"]["energy"]["net_j_per_request"])
    assert table["net_j_per_request"][1] == pytest.approx(
        figures(log_of(live, content), live.sla_s)["net_j_per_request"]
    )
    assert table["lost"][0] == 0
    assert table["changes"][2] == table["changes"][0]
    assert table["start_s"][0] > 0
    errors = pd.read_csv(outputs["errors"]).set_index("figure")
    assert errors.loc["completed", "error_simulated"] == 0
    row = errors.loc["latency_mean_s"]
    assert row["error_simulated"] == pytest.approx(row["simulated"] / row["real"] - 1)
    words = Path(outputs["answer"]).read_text()
    assert "0 lost" in words and "estimated net energy" in words and "not_run, no room" in words
    assert Path(outputs["png"]).stat().st_size > 10_000


def test_a_stretch_without_a_request_is_a_run_too(tmp_path):
    live = job_of(tmp_path, counts=[1, 0, *[0] * 12], seconds=10)
    content = live_supervisor.run(live, str(tmp_path / "live.json"), print)
    assert content["state"] == "ok", content["reason"]
    assert (content["journal"]["requests"], lost(content)) == ([], 0)
    setting = live_setting(live, read_profile(live.profile))
    log = log_of(live, content)
    table = table_of(rows_of(content, log, simulated(content, setting, REACTIVE), setting.profile))
    assert "0 of 0 requests served" in in_words(table)
    assert "mean latency unknown" in in_words(table)


def test_more_replicas_than_the_host_can_hold_are_not_run(tmp_path):
    live = job_of(tmp_path, replicas=CORES)
    content = live_supervisor.run(live, str(tmp_path / "live.json"), print)
    assert content["state"] == "not_run"
    assert f"with {CORES} replicas of every stage, the replicas want {2 * CORES} cores" in content["reason"]
    assert read_live_file(tmp_path / "live.json")["record"] is None
    assert pq.read_table(tmp_path / "trace.parquet").num_rows == 0


def test_a_method_or_a_profile_that_can_not_run_is_not_run_with_the_reason(tmp_path):
    live = job_of(tmp_path, method="ipa_energy")
    Path(live.profile).write_text(PROFILE.replace(",0.3,net", ",,net"))
    content = live_supervisor.run(live, str(tmp_path / "live.json"), print)
    assert content["state"] == "not_run"
    assert "the energy of some options is not known" in content["reason"]
    live = job_of(tmp_path)
    Path(live.profile).write_text(PROFILE.replace("resnet34", "resnet50"))
    content = live_supervisor.run(live, str(tmp_path / "live.json"), print)
    assert (content["state"], "not in the grid" in content["reason"], "resnet50" in content["reason"]) == (
        "not_run",
        True,
        True,
    )


def test_a_replica_killed_while_it_serves_makes_a_failed_run_that_names_it(tmp_path):
    live = job_of(tmp_path)
    (tmp_path / "job.json").write_text(live.to_json())
    log = (tmp_path / "log").open("w")
    arguments = [sys.executable, "-c", SUPERVISOR, str(tmp_path / "job.json"), str(tmp_path / "live.json")]
    supervisor = subprocess.Popen(arguments, stdout=log, stderr=log)
    wait_for(lambda: "window" in (tmp_path / "log").read_text())
    replicas = replicas_of(os.getpid())
    assert len(replicas) == 2
    os.kill(replicas[0], signal.SIGKILL)
    assert supervisor.wait(60) == 0
    content = read_live_file(tmp_path / "live.json")
    assert content["state"] == "failed"
    assert f"(pid {replicas[0]}) was killed by SIGKILL" in content["reason"]
    wait_for(lambda: not living(replicas), 10)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no file of a live run"),
        ('{"schema_version": 9}', "schema_version is 9"),
        ('{"schema_version": 1}', "lacks"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, words):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(LiveFileError, match=words) as caught:
        read_live_file(tmp_path / "bad.json")
    assert "bad.json" in str(caught.value)
