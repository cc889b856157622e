"""External logs in the tables: one row per record and log, beside the energies of the records or in their place."""

import copy
import importlib.util
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from ipa_energy.analysis import aggregate, tables
from ipa_energy.external.join import join_external
from ipa_energy.external.settings import LogError, log_settings
from ipa_energy.external.tables import CLOCK_COLUMNS, COLUMNS, external_tables
from ipa_energy.record import Reading
from synthetic_records import PRICES, write_study

from external_logs import campaign, log_config, readings, write_log  # isort: skip

SCRIPTS = Path(__file__).resolve().parents[1] / "workflow_scripts"


def made(tmp_path, ran, name="wall", offset_s=4.0, **changes):
    """Settings of a log of the campaign, written with a clock that is ``offset_s`` behind the host's."""
    path = write_log(tmp_path / f"{name}.csv", *readings(ran.truth, offset_s=offset_s))
    return log_settings(name, log_config(path, **changes))


def paths_of(records):
    return [(f"{number}.json", record) for number, record in enumerate(records)]


def measurements_of(records):
    reading = Reading(tuple((Path(path), record) for path, record in paths_of(records)), ())
    return tables.measurements_table(reading, PRICES)


def test_every_record_is_cut_from_every_log(tmp_path):
    ran = campaign(8, seed=1)
    logs = [made(tmp_path, ran), made(tmp_path, ran, "bmc", offset_s=-31.0)]
    external, clocks = external_tables(logs, paths_of(ran.records))
    assert list(external.columns) == list(COLUMNS)
    assert list(clocks.columns) == list(CLOCK_COLUMNS)
    assert external["log"].tolist() == ["wall"] * 8 + ["bmc"] * 8
    assert external["path"].tolist() == [path for path, _ in paths_of(ran.records)] * 2
    assert clocks["offset_s"].tolist() == pytest.approx([4.0, -31.0], abs=0.5)
    for (begin_s, end_s), (_, row) in zip(ran.windows * 2, external.iterrows(), strict=True):
        true_j = ran.truth.mean_w(begin_s, end_s) * (end_s - begin_s)
        assert row["gross_j"] == pytest.approx(true_j, abs=3 * row["uncertainty_j"])
        assert row["net_j"] == pytest.approx(true_j - 90 * (end_s - begin_s), abs=3 * row["net_uncertainty_j"])
        assert row["offset_method"] == "estimated"
        assert row["offset_uncertainty_s"] > 0


def test_records_stay_as_they_are(tmp_path):
    ran = campaign(3, seed=1)
    before = copy.deepcopy(ran.records)
    external_tables([made(tmp_path, ran)], paths_of(ran.records))
    assert ran.records == before


def test_the_tables_survive_their_csv(tmp_path):
    ran = campaign(8, seed=1)
    for name, table in zip(("e", "c"), external_tables([made(tmp_path, ran)], paths_of(ran.records)), strict=True):
        tables.write_csv(tmp_path / name, table)
        back = tables.read_csv(tmp_path / name)
        pd.testing.assert_frame_equal(back, table, check_dtype=False, check_exact=True)


def test_a_log_of_one_host_is_not_cut_to_records_of_another(tmp_path):
    ran, other = campaign(6, seed=1), campaign(6, seed=2, host="host-b")
    records = paths_of(ran.records + other.records)
    with pytest.raises(LogError, match=r"wall\.host is missing, and the records come from host-a, host-b"):
        external_tables([made(tmp_path, ran)], records)
    with pytest.raises(LogError, match=r"wall\.host is 'host-c', and the records come from host-a, host-b"):
        external_tables([made(tmp_path, ran, host="host-c")], records)
    external, clocks = external_tables([made(tmp_path, ran, host="host-a")], records)
    assert set(external["host"]) == {"host-a"}
    assert len(external) == 6
    assert clocks["records"].tolist() == [6]
    joined = join_external(
        measurements_of([record for _, record in records]),
        external,
        {"wall": made(tmp_path, ran, host="host-a")},
        "wall",
    )
    there = joined["host"] == "host-a"
    assert joined.loc[there, "gross_j"].notna().all()
    for name in ("gross_j", "net_j", "gross_j_per_request", "mean_w", "uncertainty_j", "meters", "evidence"):
        assert joined.loc[~there, name].isna().all(), name


def test_an_unknown_offset_gives_no_energy_but_the_reason(tmp_path):
    ran = campaign(4, seed=1)
    time_s, power_w = readings(ran.truth)
    path = write_log(tmp_path / "flat.csv", time_s, np.full_like(power_w, 100.0))
    external, clocks = external_tables([log_settings("flat", log_config(path))], paths_of(ran.records))
    assert external["gross_j"].isna().all()
    assert set(external["flags"]) == {"offset_unknown"}
    assert external["reason"].str.contains("the offset of the log's clock is unknown: .*no step").all()
    assert clocks["offset_method"].tolist() == ["unknown"]
    assert clocks["offset_s"].isna().all()
    # A user who knows the offset may say so.
    external, _ = external_tables([log_settings("flat", log_config(path, offset_s=0.0))], paths_of(ran.records))
    assert external["mean_w"].tolist() == pytest.approx([100.0] * 4)
    assert external["offset_uncertainty_s"].isna().all()
    assert external["clock_uncertainty_j"].isna().all()


def test_records_without_a_window_have_a_row_with_the_reason(tmp_path):
    ran = campaign(6, seed=1)
    settings = made(tmp_path, ran)
    failed = ran.records[2]
    failed["window"], failed["energy"], failed["service"] = None, None, None
    failed["status"] = {"state": "failed", "reason": "ran out of memory"}
    external, _ = external_tables([settings], paths_of(ran.records))
    assert external["gross_j"].isna().tolist() == [False, False, True, False, False, False]
    assert external["reason"][2] == "the record has no window: ran out of memory"
    joined = join_external(measurements_of(ran.records), external, {"wall": settings}, "wall")
    assert pd.isna(joined.loc[2, "meters"])


def test_files_with_relative_times_each_serve_the_records_they_cover(tmp_path):
    # Two recordings, each of half the campaign, started by hand: their starts are known to a minute.
    ran = campaign(8, seed=6)
    middle_s = (ran.windows[3][1] + ran.windows[4][0]) / 2
    starts = {}
    for name, begin_s, end_s, wrong_s in (("a.csv", None, middle_s, 20.0), ("b.csv", middle_s, None, -35.0)):
        time_s, power_w = readings(ran.truth, begin_s=begin_s, end_s=end_s)
        write_log(tmp_path / name, time_s - time_s[0], power_w)
        starts[name] = datetime.fromtimestamp(time_s[0] + wrong_s, UTC).isoformat()
    config = log_config(tmp_path / "?.csv", time={"format": "relative_s", "start_utc": starts})
    external, clocks = external_tables([log_settings("bench", config)], paths_of(ran.records))
    assert clocks["offset_s"].tolist() == pytest.approx([-20.0, 35.0], abs=0.6)
    for (begin_s, end_s), (_, row) in zip(ran.windows, external.iterrows(), strict=True):
        assert row["mean_w"] == pytest.approx(ran.truth.mean_w(begin_s, end_s), rel=0.02)
    assert external["offset_s"].tolist() == pytest.approx([-20.0] * 4 + [35.0] * 4, abs=0.6)


def test_what_was_dropped_from_a_log_is_counted(tmp_path):
    ran = campaign(4, seed=1)
    time_s, power_w = readings(ran.truth)
    text = [f"{w:.3f}" for w in power_w]
    text[5], text[9], text[12] = "NA", "-3", ""
    lines = ["time,power", *(f"{s:.6f},{w}" for s, w in zip(time_s, text, strict=True)), f"{time_s[20]:.6f},80"]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(lines) + "\n")
    _, clocks = external_tables([log_settings("wall", log_config(path))], paths_of(ran.records))
    (row,) = clocks.to_dict("records")
    assert (row["rows"], row["missing"], row["negative"]) == (len(time_s) + 1, 2, 1)
    assert (row["duplicates"], row["out_of_order"]) == (1, 1)


def test_by_default_a_log_stands_beside_the_energies_of_the_records(tmp_path):
    ran = campaign(6, seed=1)
    settings = made(tmp_path, ran)
    external, _ = external_tables([settings], paths_of(ran.records))
    plain = measurements_of(ran.records)
    joined = join_external(plain, external, {"wall": settings})
    assert [name for name in joined if name not in plain] == ["wall.gross_j", "wall.net_j"]
    pd.testing.assert_frame_equal(joined[plain.columns], plain)
    assert joined["wall.gross_j"].tolist() == external["gross_j"].tolist()
    at = joined.columns.get_loc("wall.gross_j")
    assert joined.columns[at - 1] == "cpu_package_0.net_j"
    assert join_external(plain, None, {}) is plain


def test_energies_from_a_log_replace_those_of_the_records_and_are_not_added(tmp_path):
    ran = campaign(6, seed=1)
    logs = {"wall": made(tmp_path, ran), "bmc": made(tmp_path, ran, "bmc")}
    external, _ = external_tables(list(logs.values()), paths_of(ran.records))
    external.loc[1, "flags"] = "gap"
    external.loc[2, ["gross_j", "net_j", "uncertainty_j"]] = np.nan
    plain = measurements_of(ran.records)
    joined = join_external(plain, external, logs, "wall")
    rows = external[external["log"] == "wall"]
    for name in (
        "gross_j",
        "net_j",
        "mean_w",
        "idle_bare_w",
        "idle_bare_after_w",
        "uncertainty_j",
        "net_uncertainty_j",
    ):
        assert joined[name].tolist() == pytest.approx(rows[name].tolist(), nan_ok=True), name
    assert joined["gross_j_per_request"].tolist() == pytest.approx(
        (rows["gross_j"] / plain["completed"].astype(float)).tolist(), nan_ok=True
    )
    assert pd.isna(joined.loc[2, "gross_j_per_request"])
    assert set(joined["meters"]) == {"node:external(wall)"}
    assert set(joined["evidence"]) == {"measured"}
    # What the record's meters said stays in its own columns.
    assert joined["cpu_package_0.gross_j"].tolist() == plain["cpu_package_0.gross_j"].tolist()
    assert joined["bmc.gross_j"].notna().all()
    assert joined.loc[1, "flags"] == "external_gap"
    assert joined.loc[1, "verdict"] == "flagged"
    assert joined["verdict"].tolist().count("flagged") == 1
    # Such records form a cell of their own, and can be dropped by that flag.
    configurations = aggregate.configurations_table(joined, 0.95, ["external_gap"])
    assert configurations["meters"].tolist() == ["node:external(wall)"]
    assert (configurations["n"].tolist(), configurations["n_gross"].tolist()) == ([5], [4])


def test_a_log_may_not_be_called_like_a_domain_or_be_unknown(tmp_path):
    ran = campaign(4, seed=1)
    settings = made(tmp_path, ran, "cpu_package_0")
    external, _ = external_tables([settings], paths_of(ran.records))
    with pytest.raises(LogError, match="give the log another name"):
        join_external(measurements_of(ran.records), external, {"cpu_package_0": settings})
    with pytest.raises(LogError, match=r"energy_from is 'wall'; allowed: one of record, cpu_package_0"):
        join_external(measurements_of(ran.records), external, {"cpu_package_0": settings}, "wall")


def test_no_record_at_all_gives_empty_tables(tmp_path):
    settings = made(tmp_path, campaign(2, seed=1))
    external, clocks = external_tables([settings], [])
    assert len(external) == 0
    assert "no record with an idle and a busy phase" in clocks["reason"][0]
    assert list(join_external(measurements_of([]), external, {"wall": settings})["wall.gross_j"]) == []


def main_of(name):
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.mark.parametrize("energy_from", ["record", "wall"])
def test_the_scripts_carry_a_log_from_its_file_to_the_configurations(tmp_path, energy_from, capsys):
    ran = campaign(6, seed=1)
    paths = [str(path) for path in write_study(tmp_path / "records", ran.records)]
    write_log(tmp_path / "wall.csv", *readings(ran.truth, offset_s=4.0))
    logs = {"wall": log_config(tmp_path / "wall.csv")}
    out = {name: str(tmp_path / f"{name}.csv") for name in ("external", "clocks")}
    main_of("cut_external_logs")(paths, out, logs)
    assert "wall: energy for 6 of 6 records" in capsys.readouterr().out
    made_ = {name: str(tmp_path / f"{name}.csv") for name in ("measurements", "configurations", "anchors", "refused")}
    analysis = {"confidence": 0.95, "drop_flags": [], "energy_from": energy_from}
    main_of("aggregate_records")(paths, made_, PRICES, analysis, external=out["external"], external_logs=logs)
    measurements = tables.read_csv(made_["measurements"])
    assert measurements["wall.gross_j"].notna().all()
    same = measurements["gross_j"].tolist() == measurements["wall.gross_j"].tolist()
    assert same == (energy_from == "wall")
    (row,) = tables.read_csv(made_["configurations"]).to_dict("records")
    assert row["n"] == row["n_gross"] == 6
    assert row["meters"] == ("node:external(wall)" if same else "cpu_package_0:rapl")


def test_the_workflow_cuts_a_log_to_a_folder_of_records(checkout):
    ran = campaign(8, seed=1)
    write_study(checkout.folder / "measured", ran.records)
    write_log(checkout.folder / "wall.csv", *readings(ran.truth, offset_s=4.0))
    config = yaml.safe_load(checkout.configure().read_text()) | {
        "records": "measured",
        "external_logs": {"wall": log_config("wall.csv")},
        "analysis": {"energy_from": "wall"},
    }
    (checkout.folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    results = checkout.folder / "results/tiny"
    output = checkout.run("results/tiny/measurements.csv")
    assert "Cut the external power logs" in output
    external, measurements = (tables.read_csv(results / f"{name}.csv") for name in ("external", "measurements"))
    assert external["gross_j"].notna().all()
    assert len(external) == len(measurements) == 8
    assert set(measurements["meters"]) == {"node:external(wall)"}
    assert tables.read_csv(results / "external_clocks.csv")["offset_s"][0] == pytest.approx(4.0, abs=0.5)
    # A log that goes on is cut again, and without logs nobody asks for the rule.
    with (checkout.folder / "wall.csv").open("a") as file:
        file.write("9999999999,1\n")
    assert "cut_external_logs" in checkout.run("-n")
    without = {key: value for key, value in config.items() if key not in ("external_logs", "analysis")}
    (checkout.folder / "tiny.yaml").write_text(yaml.safe_dump(without))
    assert "cut_external_logs" not in checkout.run("-n")


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ({"files": "nowhere.csv"}, "external_logs.wall.files is 'nowhere.csv', which names no file"),
        ({"time": {"format": "iso", "zone": "Mars"}}, "external_logs.wall.time.zone is 'Mars'"),
    ],
)
def test_a_log_that_can_not_be_used_stops_the_workflow_before_any_job(log, words):
    from ipa_energy.study import ConfigError, load_study
    from tiny import tiny_config

    with pytest.raises(ConfigError, match="The config can't be used") as error:
        load_study(tiny_config(external_logs={"wall": log_config(__file__) | log}))
    assert words in str(error.value)
