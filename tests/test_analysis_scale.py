"""Many records: read in parts and by several processes, the tables are those of reading one after the other."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa_energy.analysis import aggregate, association, cells, coupling, intake, tables
from ipa_energy.configuration import Configuration, Platform, StageKnobs
from ipa_energy.record import Reading, read_records, write_record
from synthetic_records import (
    ESTIMATE,
    NVML,
    PRICES,
    RAPL,
    make_record,
    synthetic_study,
    video_grid,
    write_damaged,
    write_study,
)

SMALL = video_grid(classifiers=("resnet18", "resnet50"))
OTHER = Configuration("other", (StageKnobs("classify", "resnet34", 2, 1, 1),), Platform(device="cuda"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Studies of several hosts, meters and pipelines, damaged files, duplicates, contradictions; in a mixed order."""
    folder = tmp_path_factory.mktemp("records")
    records = synthetic_study("coupled", SMALL, blocks=2, anchor=True)
    records += synthetic_study("independent", SMALL, blocks=2, host="host-b", domains=[NVML, ESTIMATE])
    records += [
        make_record(OTHER, latency_s=0.1, net_j_per_request=1.0, block=b, order=b, experiment=name, domains=[RAPL])
        for b in (1, 2)
        for name in ("other", "another")
    ]
    records += [
        make_record(SMALL[0], latency_s=0.1, net_j_per_request=None, block=8, state="failed", host="host-c"),
        make_record(SMALL[0], latency_s=0.1, net_j_per_request=None, block=9, evidence="none", flags=["a", "b"]),
    ]
    found = []
    for i, record in enumerate(records):
        found += write_study(folder / record["identity"]["experiment"] / f"{i % 7}", [record])
    found += write_damaged(folder / "bad", records[0])
    twice, contradicting = copy.deepcopy(records[3]), copy.deepcopy(records[5])
    contradicting["identity"]["configuration_id"] = "something"
    for name, record in {"0: twice": twice, "zz twice": twice, "id": contradicting}.items():
        write_record(folder / f"{name}.json", record)
        found.append(folder / f"{name}.json")
    found += [folder / "missing.json", found[4]]
    return [str(path) for path in sorted(found, key=lambda path: hash_of(path, folder))]


def hash_of(path, folder):
    return sum(map(ord, str(path.relative_to(folder)))) % 97, str(path)


def test_parts_give_the_table_and_the_refusals_of_reading_one_by_one(paths, monkeypatch):
    reading = tables.accept(read_records(paths))
    expected = tables.measurements_table(reading, PRICES)
    assert len(reading.refused) >= 9
    for chunk in (1, 7, 10**6):
        monkeypatch.setattr(intake, "_CHUNK", chunk)
        table, refused = intake.read_measurements(paths, PRICES)
        pd.testing.assert_frame_equal(table, expected, check_exact=True)
        assert refused == reading.refused


def test_processes_change_neither_table_nor_refusals(paths, monkeypatch):
    monkeypatch.setattr(intake, "_CHUNK", 20)
    table, refused = intake.read_measurements(paths, PRICES)
    monkeypatch.setattr(intake, "_SPREAD_FROM", 10)
    spread, told = intake.read_measurements(paths, PRICES, processes=2)
    pd.testing.assert_frame_equal(spread, table, check_exact=True)
    assert told == refused


def test_rows_name_the_files_as_they_were_given(paths):
    table, _ = intake.read_measurements(paths, PRICES)
    assert set(table["path"]) <= set(paths)
    row = table.iloc[0]
    identity = json.loads(Path(row["path"]).read_text())["identity"]
    assert (identity["configuration_id"], identity["order"]) == (row["configuration"], row["order"])


def test_a_number_that_no_table_can_hold_is_refused_by_name_and_the_rest_is_read(tmp_path):
    records = synthetic_study("coupled", SMALL[:2], blocks=2)
    records[0]["service"]["sent"] = 10**30
    records[1]["energy"]["gross_j"] = 10**400
    records[2]["service"]["throughput_rps"] = 10**400
    paths = [str(path) for path in write_study(tmp_path, records)]
    table, refused = intake.read_measurements(paths, PRICES)
    assert [line.partition(": ")[0] for line in refused] == paths[:3]
    for line, words in zip(refused, ("sent is 1000", "gross_j is 1000", "too large for a table"), strict=True):
        assert words in line
    assert table["path"].tolist() == paths[3:]
    with pytest.raises(ValueError, match="sent is 1000"):
        tables.measurements_table(read_records(paths), PRICES)


def test_no_file_at_all_gives_an_empty_table_with_its_columns():
    table, refused = intake.read_measurements([], PRICES, processes=2)
    assert (len(table), refused) == (0, ())
    assert {"path", "order", "usd_per_hour"} <= set(table.columns)


def configurations_one_by_one(measurements, confidence, drop_flags):
    """The configurations table, group by group."""
    fixed = [name for name in measurements.columns if name.endswith(".accuracy")]
    fixed += ["pas", "pas_rank", "cores", "gpus", "usd_per_hour"]
    rows = []
    for key, group in cells.in_cells(measurements, drop_flags).groupby(["configuration", *cells.CELL], sort=True):
        chosen, ok = group[group["usable"]], group["state"] == "ok"
        row = dict(zip(["configuration", *cells.CELL], key, strict=True))
        row |= {name: group[name].iloc[0] for name in tables.knob_columns(measurements)}
        row |= {
            "n": len(chosen),
            "n_recorded": len(group),
            "n_flagged": int((ok & group["flags"].notna()).sum()),
            "n_dropped": int((ok & group["dropping"]).sum()),
            "n_other_settings": int(group["other_way"].notna().sum()),
            "n_failed": int((group["state"] == "failed").sum()),
            "n_not_run": int((group["state"] == "not_run").sum()),
            "n_gross": int(chosen["gross_j_per_request"].notna().sum()),
            "n_net": int(chosen["net_j_per_request"].notna().sum()),
        }
        row |= {name: next(iter(group[name].dropna()), None) for name in fixed}
        row["evidence"] = aggregate.evidence_of(chosen["evidence"])
        for metric in aggregate.METRICS:
            names = (metric, f"{metric}_lo", f"{metric}_hi")
            row |= dict(zip(names, aggregate.t_interval(chosen[metric], confidence), strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def test_configurations_all_at_once_are_those_of_one_by_one(paths, tmp_path):
    records = [record for _, record in tables.accept(read_records(paths)).records]
    for i, record in enumerate(records):
        if i % 11 == 0:
            record["provenance"]["protocol_digest"] = "1" * 64
        if i % 5 == 0 and record["energy"] is not None:
            record["energy"]["net_j_per_request"] = None
            record["quality"]["flags"] = [{"flag": "late", "value": 1.0, "threshold": 0.5, "meaning": "x"}]
    reading = Reading(tuple((Path(f"{i:05}"), record) for i, record in enumerate(records)), ())
    measurements = tables.measurements_table(reading, PRICES)
    for flags in ([], ["late"]):
        table = aggregate.configurations_table(measurements, 0.9, flags)
        expected = configurations_one_by_one(measurements, 0.9, flags)
        assert {"mixed", "measured"} <= set(table["evidence"].dropna())
        for name, frame in {"table": table, "expected": expected}.items():
            tables.write_csv(tmp_path / name, frame)
        assert (tmp_path / "table").read_text() == (tmp_path / "expected").read_text()


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-1e6, 1e6) | st.just(math.nan)), max_size=40))
def test_intervals_of_many_groups_are_those_of_each(drawn):
    index = np.array([group for group, _ in drawn], dtype=np.int64)
    values = np.array([value for _, value in drawn], dtype=float)
    found = np.array(aggregate.t_intervals(values, index, 5, 0.95)).T
    for group in range(5):
        expected = [math.nan if x is None else x for x in aggregate.t_interval(values[index == group], 0.95)]
        assert found[group] == pytest.approx(expected, rel=1e-12, abs=1e-9, nan_ok=True)


def cells_one_by_one(grid, drop_flags):
    """(record, meters) to what else in_cells says, record by record."""
    energetic = grid[grid["meters"].notna()]
    entries = []
    for record, row in grid.iterrows():
        place = (energetic[cells.PLACE] == row[cells.PLACE]).all(axis=1)
        same = place & (energetic["configuration"] == row["configuration"])
        sets = [row["meters"]] if isinstance(row["meters"], str) else sorted(set(energetic.loc[same, "meters"]))
        for meters in sets or sorted(set(energetic.loc[place, "meters"])) or [cells.NO_METERS]:
            flags = row["flags"].split(";") if isinstance(row["flags"], str) else []
            way = tuple(row[name] if isinstance(row[name], str) else "" for name in cells.WAY)
            dropping = bool(set(flags) & set(drop_flags))
            own = isinstance(row["meters"], str)
            start = row["start_utc"] if isinstance(row["start_utc"], str) else ""
            where = (*(row[name] for name in cells.PLACE), meters)
            entries.append((where, record, dropping, row["state"] == "ok" and not dropping, own, way, start))
    told = {}
    for where, record, dropping, candidate, _, way, _ in entries:
        voters = [e for e in entries if e[0] == where and e[3]]
        voters = [e for e in voters if e[4]] or voters
        votes = {}
        for *_, cast, start in voters:
            count, last = votes.get(cast, (0, ""))
            votes[cast] = (count + 1, max(last, start))
        other = None
        if candidate:
            common = max(votes, key=lambda w: (*votes[w], w))
            words = ["settings"] * (way[:2] != common[:2]) + ["measuring code"] * (way[2] != common[2])
            other = " and ".join(words) or None
        told[record, where[-1]] = (dropping, candidate and other is None, other)
    return told


@settings(max_examples=35, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(SMALL[:2]),
            st.sampled_from([[RAPL], [ESTIMATE], None, ()]),
            st.sampled_from(["host-a", "host-b"]),
            st.sampled_from("012"),
            st.sampled_from([1, 2]),
            st.booleans(),
        ),
        min_size=1,
        max_size=9,
    )
)
def test_cells_are_those_of_one_by_one(drawn):
    records = []
    for i, (configuration, domains, host, code, seed, flagged) in enumerate(drawn):
        state = {"domains": domains} if domains is not None else {"state": "failed"}
        record = make_record(
            configuration,
            latency_s=0.1,
            net_j_per_request=1.0,
            block=i + 1,
            order=i // 2,
            host=host,
            settings={"seed": seed},
            flags=["late"] * flagged,
            **state,
        )
        record["provenance"]["protocol_digest"] = code * 64
        records.append(record)
    reading = Reading(tuple((Path(f"{i:05}"), record) for i, record in enumerate(records)), ())
    grid = tables.measurements_table(reading, PRICES)
    celled = cells.in_cells(grid, ["late"])
    found = {
        (row["record"], row["meters"]): (
            row["dropping"],
            row["usable"],
            row["other_way"] if isinstance(row["other_way"], str) else None,
        )
        for _, row in celled.iterrows()
    }
    assert found == cells_one_by_one(grid, ["late"])
    assert list(celled["record"]) == sorted(celled["record"])


def test_processes_change_no_pairwise_statistic(paths, monkeypatch):
    measurements, _ = intake.read_measurements(paths, PRICES)
    how = {"confidence": 0.95, "bootstrap": 100, "drop_flags": [], "seed": 3}
    alone = coupling.pairwise_table(measurements, **how)
    monkeypatch.setattr(coupling, "_SPREAD_FROM", 1)
    spread = coupling.pairwise_table(measurements, **how, processes=2)
    pd.testing.assert_frame_equal(spread, alone, check_exact=True)
    assert set(alone["resamples"].dropna()) == {100}


def many_measurements(n, repetitions=2, seed=0):
    """Measurements of one cell with ``n`` configurations, where energy follows latency in part."""
    rng = np.random.default_rng(seed)
    latency, own = rng.lognormal(0, 1, n), rng.lognormal(0, 0.3, n)
    frame = pd.DataFrame({"configuration": [f"c{i:05}" for i in range(n)]})
    frame = pd.concat([frame] * repetitions, ignore_index=True)
    latency_s = np.tile(latency, repetitions) * rng.lognormal(0, 0.05, len(frame))
    energy_j = np.tile(latency**0.5 * own, repetitions) * rng.lognormal(0, 0.05, len(frame))
    figures = {
        "latency_p99_s": latency_s,
        "latency_mean_s": 0.8 * latency_s,
        "pas": np.tile(rng.uniform(0, 1, n).round(1), repetitions),
        "usd_per_1000_requests": latency_s,
        "cores": 2,
        "throughput_rps": 1 / latency_s,
        "gross_j_per_request": energy_j,
        "net_j_per_request": np.nan,
    }
    texts = dict.fromkeys(("settings_digest", "workload_settings", "protocol_digest"), "same")
    texts |= {"pipeline": "video", "workload": "w", "host": "h", "weights": "random", "meters": "rapl"}
    texts |= {"role": "grid", "state": "ok", "evidence": "measured", "start_utc": "2026-01-01T00:00:00Z"}
    return frame.assign(**figures, **texts, flags=None)


def test_fewer_resamples_of_a_large_cell_give_the_intervals_of_all(monkeypatch):
    monkeypatch.setattr(coupling, "METRICS", coupling.METRICS[:2])
    measurements = many_measurements(4000)
    how = {"confidence": 0.95, "bootstrap": 800, "drop_flags": [], "seed": 3}
    reduced = coupling.pairwise_table(measurements, **how)
    monkeypatch.setattr(association, "_FULL", 10**9)
    full = coupling.pairwise_table(measurements, **how)
    assert reduced["resamples"].dropna().tolist() == [200, 200]
    assert full["resamples"].dropna().tolist() == [800, 800]
    for row, all_of_them in zip(reduced[:2].to_dict("records"), full[:2].to_dict("records"), strict=True):
        for name in ("tau", "spearman", "isotonic_r2"):
            assert row[name] == all_of_them[name]
            width = all_of_them[f"{name}_hi"] - all_of_them[f"{name}_lo"]
            for bound in (f"{name}_lo", f"{name}_hi"):
                assert row[bound] == pytest.approx(all_of_them[bound], abs=0.2 * width), bound
        assert row["isotonic_r2_chance"] == pytest.approx(all_of_them["isotonic_r2_chance"], abs=1e-3)
