"""Records and files: whole or not there, valid or refused by name."""

import copy
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa_energy import digest
from ipa_energy.cost import usd_per_1000_requests, usd_per_hour
from ipa_energy.files import atomic_path, put_in_place, seconds_ahead, write_text
from ipa_energy.layout import record_path
from ipa_energy.quick_schema import quick_check
from ipa_energy.record import (
    MAX_BYTES,
    SCHEMA_FILE,
    RecordError,
    fault,
    finite,
    read_record,
    read_records,
    write_record,
)

from synthetic_records import make_record, video_grid  # isort: skip


@pytest.fixture
def record():
    return make_record(video_grid()[0], latency_s=0.5, net_j_per_request=2.0)


def test_a_record_survives_its_file(tmp_path, record):
    write_record(tmp_path / "deep" / "r.json", record)
    assert read_record(tmp_path / "deep" / "r.json") == record
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["r.json"]


def test_an_invalid_record_is_never_written(tmp_path, record):
    del record["energy"]
    with pytest.raises(RecordError, match="'energy' is a required property"):
        write_record(tmp_path / "r.json", record)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(tmp_path, record, value):
    record["service"]["throughput_rps"] = value
    with pytest.raises(RecordError, match="refusing to write"):
        write_record(tmp_path / "r.json", record)
    (tmp_path / "r.json").write_text(json.dumps(record))
    with pytest.raises(RecordError, match=r"r\.json"):
        read_record(tmp_path / "r.json")


def test_damaged_and_alien_records_are_named_and_the_rest_is_read(tmp_path, record):
    write_record(tmp_path / "good.json", record)
    text = (tmp_path / "good.json").read_text()
    (tmp_path / "cut.json").write_text(text[: len(text) // 2])
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "alien.json").write_text('{"schema_version": 99}')
    (tmp_path / "list.json").write_text("[1, 2]")
    changed = copy.deepcopy(record)
    changed["service"]["throughput_rps"] = "fast"
    (tmp_path / "typed.json").write_text(json.dumps(changed))
    reading = read_records([*sorted(tmp_path.iterdir()), tmp_path / "missing.json"])
    assert [path.name for path, _ in reading.records] == ["good.json"]
    refused = "\n".join(reading.refused)
    assert len(reading.refused) == 7
    for name in ("cut", "empty", "binary", "alien", "list", "typed", "missing"):
        assert f"{name}.json" in refused
    assert "schema_version is 99" in refused
    assert "throughput_rps" in refused


def test_fault_is_none_for_a_valid_record(record):
    assert fault(record) is None


QUICKLY_VALID = quick_check(json.loads(SCHEMA_FILE.read_text()))
RECORDS = [
    make_record(video_grid()[0], latency_s=0.5, net_j_per_request=2.0, flags=["foreign_cpu"]),
    make_record(video_grid()[0], latency_s=0.5, net_j_per_request=2.0, state="failed", weights=None),
]
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from(
        [10**400, 2.0, 1.5, -0.0, 1e308, float("inf"), "", "grid", "ok", "measured", "é", [], {}, [1], {"a": 1}]
    ),
)


def places(data):
    """Every (container, key) inside parsed JSON."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        yield data, key
        yield from places(value)


@settings(max_examples=400)
@given(st.data())
def test_the_quick_check_agrees_with_jsonschema_on_broken_records(data):
    record = copy.deepcopy(data.draw(st.sampled_from(RECORDS)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = list(places(record))
        container, key = at[data.draw(st.integers(0, len(at) - 1))]
        change = data.draw(st.sampled_from(["set", "delete", "add", "nest"]))
        if change == "set":
            container[key] = data.draw(leaves)
        elif change == "delete":
            del container[key]
        elif change == "add" and isinstance(container, dict):
            container["more"] = data.draw(leaves)
        else:
            container[key] = [copy.deepcopy(container[key])]
    record = json.loads(json.dumps(record))
    assert QUICKLY_VALID(record) == (fault(record) is None)


@given(leaves)
def test_the_quick_check_agrees_with_jsonschema_on_what_is_no_record(data):
    assert not QUICKLY_VALID(data)
    assert fault(data) is not None


def test_the_quick_check_is_used_for_the_schema_of_records_and_answers_yes():
    assert all(QUICKLY_VALID(record) for record in RECORDS)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "unevaluatedProperties": False},
        {"properties": {"a": {"prefixItems": [{"type": "null"}]}}},
        {"oneOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": {}}},
        {"items": {"additionalProperties": {"dependentRequired": {}}}},
        {"items": [{"type": "null"}]},
    ],
)
def test_a_schema_with_words_that_drafts_read_differently_is_never_checked_quickly(schema):
    assert not quick_check(schema)({})
    assert not quick_check(schema)([])


def test_files_that_break_the_reader_are_refused_by_name(tmp_path, record):
    record["identity"]["experiment"] = "half \ud800 pair"
    contents = {
        "surrogate.json": (json.dumps(record), "surrogates not allowed"),
        "deep.json": ("[" * 10**5, "recursion"),
        "digits.json": ('{"schema_version": ' + "1" * 10**4 + "}", "digits"),
    }
    for name, (text, _) in contents.items():
        (tmp_path / name).write_text(text)
    with (tmp_path / "huge.json").open("wb") as sparse:
        sparse.truncate(MAX_BYTES + 1)
    (tmp_path / "folder.json").mkdir()
    contents |= {"huge.json": ("", "more than any record"), "folder.json": ("", "directory")}
    for name, (_, reason) in contents.items():
        (line,) = read_records([tmp_path / name]).refused
        assert line.startswith(f"{tmp_path / name}: not readable as JSON (")
        assert reason in line


def test_a_whole_surrogate_pair_is_text(tmp_path, record):
    record["status"]["reason"] = "😀"
    write_record(tmp_path / "r.json", record)
    assert "\\ud83d" in (tmp_path / "r.json").read_text()
    assert read_record(tmp_path / "r.json") == record


@given(st.one_of(st.none(), st.floats()))
def test_finite_lets_only_finite_numbers_through(value):
    result = finite(value)
    assert result is None or (result == value and abs(result) < float("inf"))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "f.txt"
    write_text(target, "old")

    def failing_write():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        failing_write()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f.txt"]


def test_a_killed_writer_leaves_nothing_under_the_name_and_its_half_goes_with_the_next_one(tmp_path):
    source = (
        "import sys, time\nfrom ipa_energy.files import atomic_path\n"
        f"with atomic_path({str(tmp_path / 'f.txt')!r}) as t:\n"
        "    t.write_text('half'); print('writing', flush=True); time.sleep(60)"
    )
    writer = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    write_text(tmp_path / "f.txt", "another's")  # the other writer lives, and what it writes is its own
    assert len(list(tmp_path.glob(".f.txt.*.part"))) == 1
    (tmp_path / "f.txt").unlink()
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert not (tmp_path / "f.txt").exists()
    write_text(tmp_path / "f.txt", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["f.txt"]


@pytest.mark.parametrize("links", [True, False])
def test_what_is_put_in_place_replaces_what_was_there_and_its_source_stays(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    write_text(tmp_path / "first", "first")
    write_text(tmp_path / "second", "second")
    for name in ("first", "second", "second"):
        put_in_place(tmp_path / name, tmp_path / "records" / "r.json")
        assert (tmp_path / "records" / "r.json").read_text() == name
    write_text(tmp_path / "records" / "r.json", "third")
    assert [(tmp_path / name).read_text() for name in ("first", "second")] == ["first", "second"]
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["r.json"]


def test_files_from_the_future_show_that_the_clock_was_set_back(tmp_path):
    assert seconds_ahead(tmp_path / "none") == seconds_ahead(tmp_path) == 0
    write_text(tmp_path / "now", "")
    assert seconds_ahead(tmp_path) < 1
    write_text(tmp_path / "later", "")
    os.utime(tmp_path / "later", (time.time() + 3600,) * 2)
    assert seconds_ahead(tmp_path) == pytest.approx(3600, abs=60)


def test_cost_is_what_is_occupied_times_its_price():
    prices = {"core_hour_usd": 0.04, "gpu_hour_usd": 2.5}
    assert usd_per_hour(4, 1, prices) == pytest.approx(2.66)
    assert usd_per_1000_requests(3.6, 10.0) == pytest.approx(0.1)
    assert usd_per_1000_requests(3.6, 0.0) is None


def test_record_paths_are_readable():
    path = record_path("e", "saturated", "video+a-b1-r1-t1", "block1")
    assert path == "results/e/records/saturated/video+a-b1-r1-t1/block1.json"


def test_the_digest_ignores_comments_docstrings_and_layout_but_not_code():
    plain = "def f(x):\n    return x + 1\n"
    dressed = '"""Doc."""\n\n# why\n"""More."""\n\ndef f( x ):\n    """Doc."""\n    return (x + 1)  # note\n'
    assert digest._meaning(plain) == digest._meaning(dressed)
    assert digest._meaning(plain) != digest._meaning(plain.replace("+ 1", "+ 2"))


def test_the_digest_covers_all_that_measures_and_nothing_that_draws():
    names = {str(p.relative_to(digest._LIBRARY)) for p in digest._files(digest.MEASURING_CODE)}
    assert {"measurement.py", "energy.py", "serving/engine.py", "meters/estimate.py", "pipelines/video.py"} <= names
    assert not any("analysis" in n or "figures" in n for n in names)
    assert digest.protocol_digest() == digest.protocol_digest()
    assert len(digest.protocol_digest()) == 12


def test_the_digest_of_ipa_covers_what_its_steps_use_and_nothing_that_measures():
    names = {str(p.relative_to(digest._LIBRARY)) for p in digest._files(digest.IPA_CODE)}
    assert {"ipa/space.py", "ipa/simulation.py", "figures/space.py", "serving/batching.py", "cost.py"} <= names
    assert not {"measurement.py", "serving/engine.py", "live.py"} & names
    assert len({digest.ipa_digest(), digest.analysis_digest(), digest.protocol_digest()}) == 3


LOCKER = """
import sys, time
from ipa_energy.lock import measurement_lock
with measurement_lock(sys.argv[1], lambda text: print(text, flush=True), lambda: None):
    print("held", time.monotonic(), flush=True)
    time.sleep(float(sys.argv[2]))
    print("left", time.monotonic(), flush=True)
"""


def _locker(tmp_path, what, seconds):
    environment = os.environ | {"IPA_ENERGY_LOCK": str(tmp_path / "lock")}
    return subprocess.Popen(
        [sys.executable, "-c", LOCKER, what, str(seconds)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_the_second_waits_for_the_lock_and_says_for_whom(tmp_path):
    first = _locker(tmp_path, "experiment A", 1.0)
    assert first.stdout.readline().startswith("held")
    second = _locker(tmp_path, "experiment B", 0.0)
    waiting = second.stdout.readline()
    assert f"process {first.pid} (experiment A)" in waiting
    left_s = float(first.stdout.readline().split()[1])
    assert float(second.stdout.readline().split()[1]) >= left_s
    first.wait(), second.wait()


def test_the_lock_of_a_killed_holder_is_free(tmp_path):
    first = _locker(tmp_path, "doomed", 60)
    assert first.stdout.readline().startswith("held")
    first.kill()
    first.wait()
    began_s = time.monotonic()
    second = _locker(tmp_path, "next", 0.0)
    assert second.stdout.readline().startswith("held")
    assert time.monotonic() - began_s < 10
    second.wait()
