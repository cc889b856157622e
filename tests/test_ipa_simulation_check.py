"""The simulation against records: made by the simulation itself, by the real engine, and such as can't be checked."""

import time
from pathlib import Path

import numpy as np
import pytest

from ipa_energy.analysis import tables
from ipa_energy.configuration import Configuration, StageKnobs
from ipa_energy.ipa.outcome import figures as outcome_figures
from ipa_energy.ipa.outcome import requests
from ipa_energy.ipa.profile import make_profile, write_profile
from ipa_energy.ipa.relative_errors import Resampling
from ipa_energy.ipa.run_log import Rules
from ipa_energy.ipa.service import service_curves
from ipa_energy.ipa.simulated_window import METRICS, Span, arrivals_of, window_figures, window_span
from ipa_energy.ipa.simulation import simulate
from ipa_energy.ipa.simulation_check import ERROR_COLUMNS, check_errors, check_table, curves_for, told
from ipa_energy.serving.arrivals import make_workload
from ipa_energy.serving.journal import service_figures
from synthetic_records import IDLE_W, MEASURING_SETTINGS, make_record, video_grid, write_study
from test_ipa_composition import profile_table, table_of

HOW = Resampling(0.95, 200, 0)
GRID = video_grid(detectors=("ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"))
WARM_UP_S, WINDOW_S = 8.0, 30.0
WAIT_S = MEASURING_SETTINGS["max_wait_s"]


def without_noise(**changes):
    table = profile_table(**changes)
    return table.assign(latency_p99_s=table["latency_mean_s"])


TRUE = make_profile(without_noise())


def load(rate_rps=8.0, drop_after_s=None):
    return {"kind": "rate", "rate_rps": rate_rps, "drop_after_s": drop_after_s}


def simulated_record(configuration, block=1, *, workload=None, profile=TRUE, **settings):
    """A record of what the simulation did, its figures worked out request by request here."""
    workload = workload or load()
    record = make_record(
        configuration, latency_s=1.0, net_j_per_request=1.0, workload="rate", block=block, window_s=WINDOW_S, **settings
    )
    record["identity"]["workload_settings"] = workload
    if record["status"]["state"] != "ok":
        return record
    arrivals = make_workload(workload, 1, (MEASURING_SETTINGS["seed"], block)).arrivals_s
    end_s = WARM_UP_S + WINDOW_S
    arrivals_s = np.array([t for t in (next(arrivals) for _ in range(5000)) if t <= end_s])
    rules = Rules(max_wait_s=WAIT_S, drop_after_s=workload["drop_after_s"], seed=block)
    log = simulate(service_curves(profile, noise="p99"), arrivals_s, end_s, configuration.stages, rules=rules)
    done_s = requests(log).done_s[:, -1]
    latencies_s = sorted(
        done - arrival for done, arrival in zip(done_s, arrivals_s, strict=True) if WARM_UP_S < done <= end_s
    )
    completed = len(latencies_s)
    busy_j = 0.0
    for batch in log.batches:
        share = (min(batch.end_s, end_s) - max(batch.begin_s, WARM_UP_S)) / (batch.end_s - batch.begin_s)
        busy_j += max(0.0, share) * batch.curve.busy_j[len(batch.requests) - 1]
    net_j = busy_j + 1.5 * WINDOW_S * sum(s.replicas for s in configuration.stages)
    record["service"] |= {
        "sent": int(np.sum(arrivals_s > WARM_UP_S)),
        "completed": completed,
        "throughput_rps": completed / WINDOW_S,
        "offered_rps": workload.get("rate_rps"),
        "latency": {
            "mean_s": sum(latencies_s) / completed,
            **{f"p{p}_s": float(np.percentile(latencies_s, p)) for p in (50, 90, 95, 99)},
            "max_s": latencies_s[-1],
        },
    }
    record["energy"] |= {
        "net_j_per_request": net_j / completed,
        "gross_j_per_request": (net_j + IDLE_W * WINDOW_S) / completed,
    }
    return record


def checked(records, profile=TRUE, **changes):
    settings = {"drop_flags": ["foreign_cpu"], "max_wait_s": 9.0, "seed": 99} | changes
    table = check_table(profile, records, table_of(records), **settings)
    return table, check_errors(table, HOW)


def bias(errors):
    return errors.set_index("metric")["bias"]


# --- known truth ---


@pytest.mark.parametrize("drop_after_s", [None, 0.12])
def test_what_the_simulation_did_is_simulated_again_without_error(drop_after_s):
    """Also with drops, and from the record's own seed and max_wait_s, whatever the config says now."""
    records = [simulated_record(c, b, workload=load(drop_after_s=drop_after_s)) for c in GRID for b in (1, 2)]
    table, errors = checked(records)
    assert len(table) == len(records)
    assert table["reason"].isna().all()
    assert table["sent_simulated"].tolist() == table["sent_measured"].tolist()
    for metric in METRICS:
        assert table[f"{metric}_error"].abs().max() == pytest.approx(0, abs=1e-9)
    assert errors["mean_absolute_error_hi"].max() == pytest.approx(0, abs=1e-9)
    assert set(errors["n"]) == {len(records)}
    assert set(errors["n_configurations"]) == {len(GRID)}
    assert table["block"].tolist().count(2) == len(GRID)


def test_a_wrong_profile_shows_as_the_error_that_it_is():
    records = [simulated_record(c) for c in GRID]
    _, errors = checked(records, make_profile(without_noise(host_idle_w=2 * IDLE_W)))
    assert bias(errors)["net_j_per_request"] == pytest.approx(0, abs=1e-9)
    assert bias(errors)["gross_j_per_request"] > 0.2
    table = without_noise()
    table[["energy_j", "idle_w"]] *= 1.25
    _, errors = checked(records, make_profile(table))
    assert bias(errors)["net_j_per_request"] == pytest.approx(0.25)
    assert bias(errors)["latency_mean_s"] == pytest.approx(0, abs=1e-9)
    table = without_noise()
    table[["latency_mean_s", "latency_p99_s"]] *= 1.2
    found, errors = checked(records, make_profile(table))
    assert bias(errors)["latency_mean_s"] > 0.1
    assert (found["latency_p50_s_error"] > 0).all()
    assert abs(bias(errors)["completed"]) < 0.02


def test_noise_of_the_profile_is_simulated_and_without_it_the_tail_comes_out_too_short():
    rows = profile_table()
    noisy = make_profile(rows.assign(latency_p99_s=3 * rows["latency_mean_s"]))
    records = [simulated_record(c, profile=noisy) for c in GRID if all(s.batch == 1 for s in c.stages)]
    table, _ = checked(records, noisy)
    assert table["latency_p99_s_error"].abs().max() == pytest.approx(0, abs=1e-9)
    _, errors = checked(records)
    assert bias(errors)["latency_p99_s"] < -0.2
    assert abs(bias(errors)["completed"]) < 0.01


def test_a_window_over_a_whole_run_has_the_figures_of_the_run():
    record = simulated_record(GRID[0])
    configuration = GRID[0]
    arrivals_s = arrivals_of(record, configuration, 20.0, 1)
    log = simulate(service_curves(TRUE), arrivals_s, 21.0, configuration.stages, rules=Rules(max_wait_s=WAIT_S))
    found = window_figures(log, Span(0.0, log.end_s), IDLE_W)
    whole = outcome_figures(log, 1.0, IDLE_W)
    for metric in METRICS:
        if metric != "throughput_rps":
            assert found[metric] == pytest.approx(whole[metric])
    assert window_span(record) == Span(WARM_UP_S, WARM_UP_S + WINDOW_S)


# --- the real engine ---


def test_a_run_of_the_real_engine_is_simulated_closely(tmp_path, monkeypatch):
    """Real queues and replica processes that sleep; the profile holds the service times observed there."""
    from test_serving_engine import serving

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    stages = (StageKnobs("detect", "m", 4, 2, 1), StageKnobs("classify", "n", 2, 2, 1))
    configuration = Configuration("video", stages)
    settings = load(25.0)
    workload = make_workload(settings, 12, (MEASURING_SETTINGS["seed"], 1))
    toys = (("detect", "sleeper", {"service_s": 0.1}, 4, 2), ("classify", "sleeper", {"service_s": 0.06}, 2, 2))
    with serving(tmp_path, workload, *toys, max_wait_s=WAIT_S) as (engine, _, _arrays):
        warm_up_s = time.monotonic()
        engine.serve(lambda now_s: now_s >= warm_up_s + 1.5)
        begin_s = time.monotonic()
        engine.serve(lambda now_s: now_s >= begin_s + 5.0)
        journal = engine.journal
    service = service_figures(journal, begin_s, begin_s + 5.0, True, [(s.stage, s.batch, s.replicas) for s in stages])
    observed_s = [float(np.mean([b.service_s for b in journal.batches if b.stage == n])) for n in (0, 1)]
    record = simulated_record(GRID[0], workload=settings)
    record["identity"] |= {"configuration": configuration.as_dict(), "configuration_id": configuration.id}
    record["service"] = service
    record["window"] |= {"start_monotonic_s": begin_s, "end_monotonic_s": begin_s + 5.0, "duration_s": 5.0}
    record["window"]["timeline"] = [{"phase": "warm_up", "begin_s": warm_up_s, "end_s": begin_s}]
    rows = [
        {"stage": s.stage, "variant": s.variant, "accuracy": 0.5, "cores": 1, "batch": b, "latency_s": seconds}
        | {"throughput_rps": b / seconds}
        for s, seconds in zip(stages, observed_s, strict=True)
        for b in (1, s.batch)
    ]
    import pandas as pd

    profile = make_profile(pd.DataFrame(rows))
    assert "without noise" in curves_for(profile)[1]
    table, _ = checked([record], profile)
    row = table.iloc[0]
    assert abs(row["sent_simulated"] - row["sent_measured"]) <= 1
    assert abs(row["completed_error"]) < 0.05
    assert abs(row["latency_mean_s_error"]) < 0.15
    assert abs(row["latency_p50_s_error"]) < 0.15
    assert "the profile has no energy of detect/m" in row["reason"]


# --- what can't be checked ---


def test_closed_loops_failed_and_dropped_records_are_left_out():
    records = [simulated_record(GRID[0]), simulated_record(GRID[1], state="failed")]
    records += [simulated_record(GRID[2], flags=["foreign_cpu"]), simulated_record(GRID[3], role="anchor-last")]
    records += [make_record(GRID[4], latency_s=1.0, net_j_per_request=1.0)]
    table, errors = checked(records)
    assert table["configuration"].tolist() == [GRID[0].id]
    assert set(errors["reason"]) == {"1 configuration; statistics need at least 3"}
    assert "statistics need at least 3" in told(TRUE, table, errors)


def test_without_open_loops_the_tables_are_empty_and_have_their_columns():
    table, errors = checked([make_record(c, latency_s=1.0, net_j_per_request=1.0) for c in GRID])
    assert table.empty and errors.empty
    assert {"configuration", "workload", "latency_p99_s_error", "reason", "detect.batch"} <= set(table.columns)
    assert tuple(errors.columns) == ERROR_COLUMNS
    assert "nothing to check" in told(TRUE, table, errors)


def test_arrivals_that_cannot_be_made_again_are_told_and_not_compared():
    record = simulated_record(GRID[0])
    record["service"]["sent"] += 40
    table, _ = checked([record])
    assert "arrivals can't be made again" in table["reason"].iloc[0]
    assert table["latency_mean_s_error"].isna().all()
    assert table["latency_mean_s_measured"].notna().all()
    assert table["sent_simulated"].iloc[0] == table["sent_measured"].iloc[0] - 40


def test_records_that_do_not_tell_seed_and_wait_get_those_of_the_config():
    record = simulated_record(GRID[0])
    record["provenance"]["settings"] = {}
    table, _ = checked([record], max_wait_s=WAIT_S, seed=MEASURING_SETTINGS["seed"])
    assert table["latency_p99_s_error"].iloc[0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: r["window"]["timeline"].clear(), "no phase warm_up"),
        (lambda r: r["identity"].update(workload_settings={"kind": "rate", "trace": "gone.txt"}), "gone.txt"),
    ],
)
def test_a_record_that_cannot_be_simulated_is_told_and_the_others_are(spoil, words):
    records = [simulated_record(c) for c in GRID[:3]]
    measurements = table_of(records)
    spoil(records[0])
    table = check_table(TRUE, records, measurements, drop_flags=[], max_wait_s=1.0, seed=0)
    reasons = table.set_index("configuration")["reason"]
    assert words in reasons[GRID[0].id]
    assert reasons.isna().sum() == 2


def test_configurations_out_of_the_profile_and_records_that_were_not_given_are_told():
    records = [simulated_record(c) for c in GRID]
    table = without_noise()
    narrow = make_profile(table[~((table["variant"] == "resnet50") & (table["batch"] == 4))])
    found, _ = checked(records, narrow)
    lost = found["configuration"].str.contains("resnet50-b4")
    assert found.loc[lost, "reason"].str.contains("is not in the profile").all()
    assert found.loc[~lost, "reason"].isna().all()
    found = check_table(TRUE, records[1:], table_of(records), drop_flags=[], max_wait_s=1.0, seed=0)
    assert found["reason"].dropna().tolist() == ["the record is not among those that were given"]


@pytest.mark.parametrize(
    ("columns", "lost", "words"),
    [
        (["energy_j"], {"net_j_per_request", "gross_j_per_request"}, "has no energy of"),
        (["idle_w"], {"net_j_per_request", "gross_j_per_request"}, "power of waiting replicas"),
        (["host_idle_w"], {"gross_j_per_request"}, "power of the bare host"),
        (["latency_mean_s"], set(METRICS), "no mean latency"),
    ],
)
def test_what_the_profile_does_not_tell_is_null_with_the_reason(columns, lost, words):
    table, errors = checked(
        [simulated_record(c) for c in GRID[:3]], make_profile(without_noise().drop(columns=columns))
    )
    for metric in METRICS:
        assert table[f"{metric}_simulated"].isna().all() == (metric in lost)
    assert table["reason"].str.contains(words).all()
    assert errors.set_index("metric").loc[sorted(lost), "bias"].isna().all()


def test_a_load_so_low_that_nothing_is_completed_is_no_error_of_0():
    record = simulated_record(GRID[0], workload=load(0.3))
    record["window"]["end_monotonic_s"] = record["window"]["start_monotonic_s"] + 1e-6
    record["service"]["sent"] = 0
    table, _ = checked([record])
    assert "no request is completed in the simulated window" in table["reason"].iloc[0]
    assert np.isnan(table["net_j_per_request_simulated"].iloc[0])


def test_estimated_energy_is_called_so():
    profile = make_profile(without_noise(evidence="estimated"))
    table, errors = checked([simulated_record(c, evidence="estimated") for c in GRID], profile)
    assert set(table["evidence"]) == {"estimated"}
    lines = [line for line in told(profile, table, errors).splitlines() if "_j_per_request" in line]
    assert len(lines) == 2
    assert all("_j_per_request (estimated): off by" in line for line in lines)


# --- the script ---


@pytest.mark.parametrize("open_loop", [True, False])
def test_the_script_writes_both_tables(open_loop, tmp_path):
    from ipa_energy.study import load_study
    from test_analysis_scripts import main_of

    make = simulated_record if open_loop else (lambda c: make_record(c, latency_s=1.0, net_j_per_request=1.0))
    records = [make(c) for c in GRID]
    paths = [str(path) for path in write_study(tmp_path / "records", records)]
    inputs = {"profile": str(tmp_path / "profile.csv"), "measurements": str(tmp_path / "measurements.csv")}
    write_profile(TRUE, inputs["profile"])
    tables.write_csv(inputs["measurements"], table_of(records))
    outputs = {"check": str(tmp_path / "check.csv"), "errors": str(tmp_path / "check_errors.csv")}
    stages = {"detect": {"variant": ["ssd300_vgg16"]}, "classify": {"variant": ["resnet18"]}}
    study = load_study({"experiment": "x", "grid": {"stages": stages}}).settings
    main_of("check_simulation")(
        paths,
        inputs,
        outputs,
        ipa=study["ipa"],
        platforms=study["grid"]["platform"],
        analysis=study["analysis"],
        max_wait_s=study["max_wait_s"],
        seed=study["seed"],
    )
    assert len(tables.read_csv(outputs["check"])) == len(GRID) * open_loop
    errors = tables.read_csv(outputs["errors"])
    assert len(errors) == len(METRICS) * open_loop
    if open_loop:
        assert errors["bias"].abs().max() == pytest.approx(0, abs=1e-9)
