"""The tables: every record becomes a row, what is bad is named, figures survive the way through CSV."""

import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from ipa_energy.analysis import aggregate, rows, tables
from ipa_energy.plan import GRID
from ipa_energy.record import Reading, read_records
from synthetic_records import (
    PRICES,
    make_record,
    synthetic_study,
    video_grid,
    write_damaged,
    write_study,
)

ONE = video_grid()[0]
SMALL = video_grid(classifiers=("resnet18", "resnet50"), batches=(1,))


def reading_of(records):
    return Reading(tuple((Path(f"{i:05}.json"), record) for i, record in enumerate(records)), ())


def table_of(records, prices=PRICES):
    return tables.measurements_table(reading_of(records), prices)


def test_every_record_is_a_row_failed_and_not_run_ones_too_with_nulls_not_zeros():
    records = [
        make_record(ONE, latency_s=0.1, net_j_per_request=2.0, order=0),
        make_record(
            ONE, latency_s=0.1, net_j_per_request=2.0, order=1, block=2, state="failed", reason="out of memory"
        ),
        make_record(ONE, latency_s=0.1, net_j_per_request=2.0, order=2, block=3, state="not_run", weights=None),
    ]
    table = table_of(records)
    assert table["state"].tolist() == ["ok", "failed", "not_run"]
    assert table.loc[1, "reason"] == "out of memory"
    assert table.loc[2, "weights"] == rows.UNKNOWN_WEIGHTS
    for name in ("sent", "throughput_rps", "latency_p99_s", "pas", "gross_j", "net_j_per_request", "evidence", "flags"):
        assert table.loc[[1, 2], name].isna().all(), name
    # What is known without running stays.
    assert table["detect.variant"].notna().all()
    assert table["usd_per_hour"].tolist() == [0.08] * 3


def test_a_row_holds_the_figures_of_its_record():
    record = make_record(ONE, latency_s=0.125, net_j_per_request=2.5, flags=["foreign_cpu", "short_window"])
    row = table_of([record]).iloc[0]
    assert row["configuration"] == ONE.id
    assert row["detect.variant"] == ONE.stages[0].variant
    assert row["latency_p99_s"] == 0.125
    assert row["detect.batch_fill"] == 1.0
    assert row["net_j_per_request"] == 2.5
    assert row["gross_j"] == record["energy"]["gross_j"]
    assert row["cpu_package_0.net_j"] == record["energy"]["domains"][0]["net_j"]
    assert row["flags"] == "foreign_cpu;short_window"
    assert row["detect.accuracy"] * row["classify.accuracy"] == pytest.approx(row["pas"])
    assert row["tries"] == 1


def test_costs_follow_todays_prices_not_those_of_the_record():
    record = make_record(ONE, latency_s=0.1, net_j_per_request=1.0, throughput_rps=4.0)
    row = table_of([record], {"core_hour_usd": 0.36, "gpu_hour_usd": 9.0}).iloc[0]
    assert row["usd_per_hour"] == pytest.approx(2 * 0.36)
    assert row["usd_per_1000_requests"] == pytest.approx(2 * 0.36 / 3600 / 4.0 * 1000)


def test_rank_normalised_accuracy_is_ipa_v1s_sum_of_r_over_m_minus_1():
    grid = video_grid(
        detectors=("ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"),
        classifiers=("resnet50",),
        batches=(1,),
    )
    table = table_of(synthetic_study("coupled", grid, blocks=1))
    found = table.set_index("detect.variant")["pas_rank"].to_dict()
    # The single classifier scores 1.
    assert found == {
        "ssdlite320_mobilenet_v3_large": 1.0,
        "fasterrcnn_mobilenet_v3_large_320_fpn": 1.5,
        "ssd300_vgg16": 2.0,
    }


def test_damaged_and_alien_files_are_named_and_the_rest_is_read(tmp_path):
    records = synthetic_study("coupled", SMALL, blocks=2)
    good = write_study(tmp_path / "odd: name", records)
    bad = write_damaged(tmp_path / "odd: name" / "bad", records[0])
    paths = [*bad, *good]
    reading = tables.accept(read_records(paths))
    refused = tables.refused_table(paths, reading)
    assert refused["path"].tolist() == [str(path) for path in bad]
    assert refused["reason"].str.len().min() > 0
    assert "schema_version is 99" in refused.set_index("path").loc[str(bad[0]), "reason"]
    assert len(tables.measurements_table(reading, PRICES)) == len(records)


def test_a_duplicate_is_refused_by_name_and_the_first_in_path_order_is_kept():
    first = make_record(ONE, latency_s=0.1, net_j_per_request=1.0)
    second = make_record(ONE, latency_s=0.2, net_j_per_request=2.0)
    elsewhere = make_record(ONE, latency_s=0.3, net_j_per_request=3.0, host="host-b")
    paths = [Path("b.json"), Path("a.json"), Path("c.json")]
    reading = tables.accept(Reading(tuple(zip(paths, [second, first, elsewhere], strict=True)), ()))
    assert [str(path) for path, _ in reading.records] == ["a.json", "c.json"]
    refused = tables.refused_table(paths, reading)
    assert refused["path"].tolist() == ["b.json"]
    assert "duplicate of a.json" in refused["reason"][0]
    # The table refuses it by itself too.
    table = tables.measurements_table(Reading(tuple(zip(paths, [second, first, elsewhere], strict=True)), ()), PRICES)
    assert sorted(table["latency_p99_s"]) == [0.1, 0.3]


def test_a_record_whose_id_contradicts_its_knobs_is_refused():
    record = make_record(ONE, latency_s=0.1, net_j_per_request=1.0)
    record["identity"]["configuration_id"] = "something-else"
    reading = tables.accept(reading_of([record]))
    assert not reading.records
    assert "'something-else'" in reading.refused[0]


def test_no_record_at_all_gives_empty_tables_with_their_columns(tmp_path):
    table = table_of([])
    assert len(table) == 0
    configurations = aggregate.configurations_table(table, 0.95, [])
    assert len(configurations) == 0
    for name, frame in {"m": table, "c": configurations, "a": aggregate.anchor_table(table)}.items():
        tables.write_csv(tmp_path / name, frame)
        assert list(tables.read_csv(tmp_path / name).columns) == list(frame.columns)


def test_csv_keeps_every_digit_every_null_and_odd_names(tmp_path):
    records = synthetic_study("independent", SMALL, blocks=2, workloads=("NA", "7"))
    records.append(make_record(ONE, latency_s=0.1, net_j_per_request=1.0, block=9, state="failed"))
    table = table_of(records)
    tables.write_csv(tmp_path / "m.csv", table)
    pd.testing.assert_frame_equal(tables.read_csv(tmp_path / "m.csv"), table)
    configurations = aggregate.configurations_table(table, 0.95, [])
    tables.write_csv(tmp_path / "c.csv", configurations)
    pd.testing.assert_frame_equal(
        tables.read_csv(tmp_path / "c.csv"), configurations, check_dtype=False, check_exact=True
    )


def test_configurations_average_usable_grid_records_only():
    keep = [
        make_record(ONE, latency_s=x, net_j_per_request=1.0, block=b) for b, x in enumerate((0.1, 0.2, 0.6), start=1)
    ]
    others = [
        make_record(ONE, latency_s=9.0, net_j_per_request=9.0, block=4, flags=["foreign_cpu"]),
        make_record(ONE, latency_s=0.1, net_j_per_request=9.0, block=5, state="failed"),
        make_record(ONE, latency_s=0.1, net_j_per_request=9.0, block=6, state="not_run"),
        make_record(ONE, latency_s=9.0, net_j_per_request=9.0, block=1, role="anchor-first"),
    ]
    others.append(make_record(ONE, latency_s=0.3, net_j_per_request=None, block=7, flags=["short_window"]))
    row = aggregate.configurations_table(table_of(keep + others), 0.95, ["foreign_cpu"]).iloc[0]
    counts = ["n", "n_recorded", "n_flagged", "n_dropped", "n_failed", "n_not_run", "n_gross", "n_net"]
    assert row[counts].tolist() == [4, 7, 2, 1, 1, 1, 4, 3]
    assert row["latency_p99_s"] == pytest.approx(0.3)
    lo, hi = stats.t.interval(0.95, 3, loc=0.3, scale=stats.sem([0.1, 0.2, 0.6, 0.3]))
    assert (row["latency_p99_s_lo"], row["latency_p99_s_hi"]) == pytest.approx((lo, hi))
    assert row["net_j_per_request"] == 1.0


def test_one_repetition_has_a_mean_but_no_interval():
    table = table_of([make_record(ONE, latency_s=0.1, net_j_per_request=1.0)])
    row = aggregate.configurations_table(table, 0.95, []).iloc[0]
    assert row["latency_p99_s"] == 0.1
    assert math.isnan(row["latency_p99_s_lo"])
    assert math.isnan(row["latency_p99_s_hi"])


def test_hosts_and_weights_are_never_averaged_together():
    records = [
        make_record(ONE, latency_s=0.1, net_j_per_request=1.0, host=host, weights=weights, experiment=weights)
        for host in ("a", "b")
        for weights in ("random", "pretrained")
    ]
    assert len(aggregate.configurations_table(table_of(records), 0.95, [])) == 4


@given(
    st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=2, max_size=20).filter(lambda v: max(v) - min(v) > 1e-3),
    st.floats(0.6, 0.99),
)
def test_t_interval_agrees_with_statsmodels(values, confidence):
    mean, lo, hi = aggregate.t_interval([*values, math.nan], confidence)
    expected = DescrStatsW(values).tconfint_mean(alpha=1 - confidence)
    assert mean == pytest.approx(sum(values) / len(values), rel=1e-9, abs=1e-6)
    assert (lo, hi) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_anchors_show_drift_relative_to_their_mean_and_failed_ones_have_none():
    records = [
        make_record(ONE, latency_s=0.1, net_j_per_request=e, block=b, role=role, order=i)
        for i, (b, role, e) in enumerate([(1, "anchor-first", 1.0), (1, "anchor-last", 1.2), (2, "anchor-first", 1.1)])
    ]
    records.append(
        make_record(ONE, latency_s=1, net_j_per_request=1, block=2, role="anchor-last", order=9, state="failed")
    )
    records.append(make_record(ONE, latency_s=0.1, net_j_per_request=50.0, block=1, role=GRID, order=5))
    anchors = aggregate.anchor_table(table_of(records))
    assert anchors["net_j_per_request_deviation"].tolist()[:3] == pytest.approx([1 / 1.1 - 1, 1.2 / 1.1 - 1, 0.0])
    assert anchors["net_j_per_request_deviation"].isna().tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("kinds", "together"),
    [
        (["measured", "measured"], "measured"),
        (["estimated", None, "none"], "estimated"),
        (["measured", "estimated"], "mixed"),
        (["mixed"], "mixed"),
        ([None, math.nan], None),
    ],
)
def test_evidence_of_several_energies(kinds, together):
    assert aggregate.evidence_of(kinds) == together
