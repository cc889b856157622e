"""External logs: what is read from files of every format, and what is said about those that can't be read."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_energy.external.formats import read_log
from ipa_energy.external.settings import PRESETS, LogError, faults, log_settings, matching_files
from ipa_energy.external.timestamps import StampError, to_seconds

from external_logs import log_config  # isort: skip

FRAMEVIEW = """\
Application,GPU,CPU,Resolution,ProcessID,TimeInSeconds,PCAT Power Total(W),NV Pwr(W) (API),CPU Package Power(W)
app.exe,RTX,CPU,1x1,1,0.5,NA,120.1,NA
app.exe,RTX,CPU,1x1,1,0.6,180.25,121.1,NA
app.exe,RTX,CPU,1x1,1,0.7,181.75,122.1,NA
app.exe,RTX,CPU,1x1,1,0.8,182.5,123.1,NA
"""

POWERSENSOR3 = """\
marker time dt_micro device_timestamp current0 voltage0 power0 current1 voltage1 power1 power_total
S 0.00512 51 411 1.02 12.01 12.25 0.5 3.3 1.65 13.9
S 0.00517 50 462 1.04 12.01 12.49 0.5 3.3 1.65 14.14
M begin
S 0.00522 50 513 1.05 12.01 12.61 0.5 3.3 1.65 14.26
M 0.005 0.006 3 "kernel one"
S 0.00527 50 564 1.05 12.01 12.61 0.5 3.3 1.65 14.26
"""


def read(path, **changes):
    (series,) = read_log(log_settings("wall", log_config(path, **changes)))
    return series


def log(tmp_path, text, name="log.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_frameview_logs_have_relative_times_and_na_where_there_was_no_reading(tmp_path):
    path = log(tmp_path, FRAMEVIEW, "FrameView_app_2026_05_01T120000_Log.csv")
    settings = log_settings(
        "pcat", {"files": str(path), "preset": "frameview", "time": {"start_utc": "2026-05-01T12:00:00Z"}}
    )
    (series,) = read_log(settings)
    start_s = datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp()
    assert series.time_s == pytest.approx([start_s + x for x in (0.6, 0.7, 0.8)], abs=1e-6)
    assert series.power_w.tolist() == [180.25, 181.75, 182.5]
    assert (series.counts.rows, series.counts.missing) == (4, 1)
    assert (settings.covers, settings.value) == ("gpu", "instant")


def test_a_column_of_a_preset_can_be_replaced(tmp_path):
    path = log(tmp_path, FRAMEVIEW)
    settings = {
        "files": str(path),
        "preset": "frameview",
        "columns": {"power": "NV Pwr(W) (API)"},
        "time": {"start_utc": "2026-05-01T12:00:00Z"},
    }
    (series,) = read_log(log_settings("api", settings))
    assert series.power_w.tolist() == [120.1, 121.1, 122.1, 123.1]


def test_powersensor3_dumps_are_read_without_their_markers(tmp_path):
    path = log(tmp_path, POWERSENSOR3, "dump.txt")
    settings = {"files": str(path), "preset": "powersensor3", "time": {"start_utc": "1970-01-01T00:00:00Z"}}
    (series,) = read_log(log_settings("ps3", settings))
    assert series.time_s.tolist() == [0.00512, 0.00517, 0.00522, 0.00527]
    assert series.power_w.tolist() == [13.9, 14.14, 14.26, 14.26]
    assert series.counts.rows == 4


@pytest.mark.parametrize(
    ("preset", "header"),
    [
        ("ipmi", "timestamp,watts"),
        ("ipmi", "time,Instantaneous power reading"),
        ("redfish", "timestamp,PowerConsumedWatts"),
        ("redfish", "Timestamp,PowerWatts"),
    ],
)
def test_exports_of_a_bmc_are_means_before_their_time_stamp(tmp_path, preset, header):
    path = log(tmp_path, f"{header}\n2026-05-01T12:00:00Z,238\n2026-05-01T12:00:01+00:00,240\n")
    settings = log_settings("bmc", {"files": str(path), "preset": preset})
    (series,) = read_log(settings)
    assert series.power_w.tolist() == [238, 240]
    assert (settings.covers, series.value) == ("node", "mean_before")
    assert series.time_s[0] == datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp()


def test_every_preset_says_where_its_format_comes_from():
    assert all(preset.source and preset.boundary for preset in PRESETS.values())


@pytest.mark.parametrize(("unit", "watts"), [("W", 1500.0), ("mW", 1.5), ("kW", 1.5e6), (None, 1500.0)])
def test_units(tmp_path, unit, watts):
    path = log(tmp_path, "time,power\n1,1500\n2,1500\n")
    assert read(path, unit=unit).power_w.tolist() == [watts, watts]


@pytest.mark.parametrize(
    ("pattern", "stamps"),
    [
        ("unix_s", ("1777636800.25", "1777636801.25")),
        ("unix_ms", ("1777636800250", "1777636801250")),
        ("unix_us", ("1777636800250000", "1777636801250000")),
        ("unix_ns", ("1777636800250000000", "1777636801250000000")),
        ("iso", ("2026-05-01T12:00:00.250Z", "2026-05-01 14:00:01.25+02:00")),
        ("%d.%m.%Y %H:%M:%S.%f %z", ("01.05.2026 12:00:00.25 +0000", "01.05.2026 14:00:01.25 +0200")),
    ],
)
def test_formats_of_the_time(tmp_path, pattern, stamps):
    path = log(tmp_path, "time,power\n" + "".join(f"{stamp},5\n" for stamp in stamps))
    start_s = datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp()
    assert read(path, time={"format": pattern}).time_s == pytest.approx([start_s + 0.25, start_s + 1.25], abs=1e-5)


def test_local_times_need_a_zone_and_take_it(tmp_path):
    path = log(tmp_path, "time,power\n2026-05-01 14:00:00,5\n2026-05-01 14:00:01,5\n")
    start_s = datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp()
    for zone in ("Europe/Berlin", "+02:00", "UTC+02:00"):
        assert read(path, time={"format": "iso", "zone": zone}).time_s.tolist() == [start_s, start_s + 1]
    with pytest.raises(LogError, match=r"log\.csv, line 2, column 'time': .* names no zone; set time\.zone"):
        read(path, time={"format": "iso"})


def seconds(stamps, zone="Europe/Berlin"):
    return to_seconds(pd.Series(stamps, dtype="str"), "iso", zone, None)


def test_a_night_in_which_clocks_are_put_back_goes_on_without_a_break():
    # 2026-10-25 03:00 CEST becomes 02:00 CET.
    begin = datetime(2026, 10, 24, 23, 30, tzinfo=UTC)
    instants = [begin + timedelta(minutes=minute) for minute in range(0, 180, 5)]
    stamps = [instant.astimezone(ZoneInfo("Europe/Berlin")).strftime("%Y-%m-%d %H:%M:%S") for instant in instants]
    assert len(set(stamps)) < len(stamps)
    assert seconds(stamps).tolist() == [instant.timestamp() for instant in instants]


@given(st.integers(0, 3600 * 5), st.integers(2, 400), st.sampled_from([30, 60, 300]))
def test_local_times_across_both_changes_of_a_year_are_told_apart(start, rows, period_s):
    zone = ZoneInfo("Europe/Berlin")
    repeated = datetime(2026, 10, 25, tzinfo=UTC), datetime(2026, 10, 25, 2, tzinfo=UTC)
    for day in (datetime(2026, 3, 28, 22, tzinfo=UTC), datetime(2026, 10, 24, 22, tzinfo=UTC)):
        instants = [day + timedelta(seconds=start + period_s * row) for row in range(rows)]
        local = [instant.astimezone(zone).replace(tzinfo=None) for instant in instants]
        stamps = [time.isoformat() for time in local]
        if repeated[0] <= instants[0] and instants[-1] < repeated[1] and local == sorted(local):
            with pytest.raises(StampError, match="comes twice"):
                seconds(stamps)
        else:
            assert seconds(stamps).tolist() == [instant.timestamp() for instant in instants]


def test_what_could_be_two_instants_or_none_is_refused():
    with pytest.raises(StampError, match=r"2026-10-25 02:10:00 in Europe/Berlin comes twice.* time\.zone as an offset"):
        seconds(["2026-10-25 02:10:00", "2026-10-25 02:20:00"])
    # An hour is missing, before the repeated part or after it.
    with pytest.raises(StampError, match="comes twice"):
        seconds(["2026-10-25 01:55:00", "2026-10-25 02:00:00", "2026-10-25 02:55:00", "2026-10-25 03:00:00"])
    with pytest.raises(StampError, match="no local time 2026-03-29 02:30:00 in Europe/Berlin"):
        seconds(["2026-03-29 01:30:00", "2026-03-29 02:30:00"])
    assert (
        seconds(["2026-10-25 02:55:00", "2026-10-25 03:00:00"])[0]
        == datetime(2026, 10, 25, 1, 55, tzinfo=UTC).timestamp()
    )
    assert (
        seconds(["2026-10-25 01:55:00", "2026-10-25 02:00:00"])[1]
        == datetime(2026, 10, 25, 0, 0, tzinfo=UTC).timestamp()
    )


def test_missing_and_negative_readings_are_left_out_and_counted(tmp_path):
    rows = "1,10\n2,NA\n3,-4\n4,\n5,inf\n6,20\n7,nan\n\n8,30\n,5\n"
    series = read(log(tmp_path, f"time,power\n{rows}"))
    assert series.time_s.tolist() == [1, 6, 8]
    assert series.power_w.tolist() == [10, 20, 30]
    counts = series.counts
    assert (counts.rows, counts.missing, counts.negative) == (9, 5, 1)


def test_rows_out_of_order_are_sorted_and_those_of_one_instant_averaged(tmp_path):
    series = read(log(tmp_path, "time,power\n3,30\n1,10\n2,20\n2,26\n4,40\n"))
    assert series.time_s.tolist() == [1, 2, 3, 4]
    assert series.power_w.tolist() == [10, 23, 30, 40]
    assert (series.counts.out_of_order, series.counts.duplicates) == (1, 1)


def test_several_files_are_one_log(tmp_path):
    log(tmp_path, "time,power\n3,30\n4,40\n", "b.csv")
    log(tmp_path, "time,power\n1,10\n2,20\n", "a.csv")
    series = read(tmp_path / "*.csv")
    assert series.power_w.tolist() == [10, 20, 30, 40]
    # In any order: files are no rows out of order.
    series = read([str(tmp_path / "b.csv"), str(tmp_path / "a.csv")])
    assert series.power_w.tolist() == [10, 20, 30, 40]
    assert series.counts.out_of_order == 0


def test_files_with_relative_times_have_clocks_of_their_own(tmp_path):
    log(tmp_path, "time,power\n0,1\n1,2\n", "a.csv")
    log(tmp_path, "time,power\n0,3\n1,4\n", "b.csv")
    config = log_config(tmp_path / "*.csv") | {
        "time": {
            "format": "relative_s",
            "start_utc": {"a.csv": "1970-01-01T00:00:10Z", "b.csv": "1970-01-01T00:01:00Z"},
        }
    }
    first, second = read_log(log_settings("x", config))
    assert (first.time_s.tolist(), second.time_s.tolist()) == ([10, 11], [60, 61])
    config["time"]["start_utc"].pop("b.csv")
    with pytest.raises(LogError, match=r"no start for b\.csv; it has a\.csv"):
        read_log(log_settings("x", config))
    config["time"]["start_utc"] = "1970-01-01T00:00:10Z"
    assert any("for 2 files" in fault for fault in faults({"x": config}))


def test_files_without_header_decimal_commas_and_lines_before_the_header(tmp_path):
    series = read(
        log(tmp_path, "Meter 7\nfirmware 3\n1;x;10,5\n2;x;11,25\n"),
        columns={"time": 1, "power": 3},
        separator=";",
        decimal=",",
        skip_rows=2,
    )
    assert (series.time_s.tolist(), series.power_w.tolist()) == ([1, 2], [10.5, 11.25])
    series = read(log(tmp_path, "\ufeffMeter 7\n time , power \n1, 10\n2, 11\n"), skip_rows=1)
    assert series.power_w.tolist() == [10, 11]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "time,power\n1,10\n2,238 Watts\n",
            r"log\.csv, line 3, column 'power': the power '238 Watts' is no number; set",
        ),
        (
            "time,power\n1,10\n\nsoon,11\n",
            r"log\.csv, line 4, column 'time': the time 'soon' is no number; set time\.format",
        ),
        ("time,power\n1,10\nnan,11\n2,\n", r"1 usable reading\(s\) in 3 rows, 2 of them missing or negative"),
        ("stamp,watts\n1,10\n", r"no time column 'time'; it has 'stamp', 'watts'\. Set columns\.time to one of them"),
        ("time,watts\n1,10\n", r"no power column 'power'; it has 'time', 'watts'"),
        ("time,power\n1,10\n2,3,4\n", r"Expected 2 fields in line 3, saw 3.*Set separator"),
        ("time,power\n1,10,4,5\n2,3\n", "Length of header or names does not match.*Set separator and skip_rows"),
        ("", r"can't be read as a table with separator ','"),
        ("time,power\n1,NA\n2,NA\n", r"0 usable reading\(s\) in 2 rows, 2 of them missing"),
    ],
)
def test_what_can_not_be_read_is_named_with_file_line_and_value(tmp_path, text, words):
    with pytest.raises(LogError, match=words):
        read(log(tmp_path, text))


def test_a_file_in_another_encoding_is_refused_by_name(tmp_path):
    (tmp_path / "log.csv").write_bytes("time,power,Gerät\n1,2,ä\n".encode("latin-1"))
    with pytest.raises(LogError, match=r"log\.csv can't be read.*save it as UTF-8"):
        read(tmp_path / "log.csv")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"files": "nowhere/*.csv"}, r"files is 'nowhere/\*\.csv', which names no file"),
        ({"preset": "watts-up"}, r"preset is 'watts-up'; allowed: null or one of frameview, ipmi"),
        ({"columns": {"power": "power"}}, r"columns\.time is missing"),
        ({"columns": {"time": "time"}}, r"columns\.power is missing"),
        ({"columns": {"time": "time", "power": 2}}, "mixes a name and a number"),
        ({"unit": "hp"}, r"unit is 'hp'; allowed: one of W, mW, kW"),
        ({"time": {"format": "unix"}}, r"time\.format is 'unix'; allowed: one of iso, unix_s"),
        ({"time": {"format": "%H:%M:%S"}}, "must hold the date"),
        ({"time": {"format": "iso", "zone": "Mars/Olympus"}}, r"time\.zone is 'Mars/Olympus'; allowed: an IANA name"),
        ({"time": {"format": "relative_s"}}, r"time\.start_utc is missing"),
        ({"time": {"format": "relative_s", "start_utc": "noon"}}, r"time\.start_utc is 'noon'; allowed: ISO 8601"),
    ],
)
def test_settings_that_can_not_be_used_are_named_with_what_is_allowed(tmp_path, changes, words):
    path = log(tmp_path, "time,power\n1,2\n")
    config = log_config(path) | changes
    with pytest.raises(LogError, match=words):
        log_settings("wall", config)
    assert len(faults({"wall": config})) == 1
    assert faults({"wall": log_config(path)}) == []


def test_energy_can_only_come_from_a_log_that_there_is(tmp_path):
    logs = {"wall": log_config(log(tmp_path, "time,power\n1,2\n"))}
    assert faults(logs, "wall") == faults(logs, "record") == []
    assert faults(logs, "bmc") == ["analysis.energy_from is 'bmc'; allowed: one of record, wall"]
    assert "must match" in faults({"record": logs["wall"]})[0]


def test_a_file_that_two_patterns_name_is_read_once(tmp_path):
    path = log(tmp_path, "time,power\n1,2\n")
    assert matching_files([str(path), str(tmp_path / "*.csv")]) == [str(path)]


def test_of_a_wide_file_the_same_columns_are_read(tmp_path):
    others = [f"core {number}" for number in range(60)]
    header = ",".join(["marker", *others[:30], "time", *others[30:], "power"])
    rows = "".join(",".join(["S", *["0"] * 30, str(t), *["0"] * 30, str(10 * t)]) + "\n" for t in range(2000))
    series = read(log(tmp_path, f"{header}\n{rows}"))
    assert series.power_w.tolist() == [10.0 * t for t in range(2000)]
    headless = read(log(tmp_path, rows), columns={"time": 32, "power": 63})
    assert headless.power_w.tolist() == series.power_w.tolist()
    with pytest.raises(LogError, match="no time column 'stamp'; it has 'marker', 'core 0'"):
        read(log(tmp_path, f"{header}\n{rows}"), columns={"time": "stamp", "power": "power"})


def test_a_million_rows_are_read_in_one_go(tmp_path):
    times = np.arange(1_000_000) * 0.1
    pd.DataFrame({"time": times, "power": 100.0}).to_csv(tmp_path / "log.csv", index=False)
    series = read(tmp_path / "log.csv")
    assert len(series.time_s) == 1_000_000
    assert series.period_s == pytest.approx(0.1)
