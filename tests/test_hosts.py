"""A study on several hosts: whole blocks in turn, jobs that run where they belong, hosts kept apart in the tables."""

import copy
import csv
import dataclasses
from pathlib import Path

import pytest
import yaml

from ipa_energy.analysis.aggregate import configurations_table
from ipa_energy.analysis.boards import with_boards
from ipa_energy.analysis.tables import measurements_table
from ipa_energy.host import host_name, same_host
from ipa_energy.place import WrongPlaceError, here, take_place
from ipa_energy.plan import write_plan
from ipa_energy.record import Reading
from ipa_energy.study import ConfigError, load_study

from meter_fixtures import STUBS, build_nvml_stub, run_python  # isort: skip
from synthetic_records import NVML, PRICES, synthetic_study  # isort: skip

ROOT = Path(__file__).parents[1]
CONFIG = yaml.safe_load((ROOT / "config/config.yaml").read_text())
GPU = "GPU-5f3c1a2b-0d4e-4c7a-9b1f-2e6d8c7a4b90"


def study(hosts, blocks=4, **settings):
    return load_study(copy.deepcopy(CONFIG) | {"hosts": hosts, "blocks": blocks, "anchor": True} | settings)


# --- the plan ---


def test_blocks_go_to_the_hosts_in_turn_and_stay_whole():
    plan = study({"b": None, "a": {"gpu": GPU}, "c": {}}).plan
    assert {(m.block, m.host, m.gpu) for m in plan} == {
        (1, "b", None),
        (2, "a", GPU),
        (3, "c", None),
        (4, "b", None),
    }
    of_block = {block: [m for m in plan if m.block == block] for block in range(1, 5)}
    assert len({frozenset(m.key[:2] for m in members) for members in of_block.values()}) == 1
    assert all({"anchor-first", "anchor-last"} <= {m.role for m in members} for members in of_block.values())


def test_naming_hosts_leaves_the_run_order_as_it_was():
    without = study(None).plan
    assert all((m.host, m.gpu) == (None, None) for m in without)
    assert [dataclasses.replace(m, host=None, gpu=None) for m in study({"a": {}, "b": {}}).plan] == list(without)


def test_the_plans_file_says_where_each_measurement_belongs(tmp_path):
    for hosts, expected in (({"a": {"gpu": GPU}}, {("a", GPU)}), (None, {("", "")})):
        write_plan(tmp_path / "plan.csv", study(hosts).plan)
        with (tmp_path / "plan.csv").open() as file:
            assert {(row["host"], row["gpu"]) for row in csv.DictReader(file)} == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hosts": {"a": {}, "b": {}, "c": {}}, "blocks": 2}, ["3 hosts", "blocks is 2", "at least 3"]),
        ({"hosts": {"a": {"gpu": "0"}}}, ["hosts.a.gpu", "'0'", "GPU-"]),
        ({"hosts": {"a;reboot": {}}}, ["a;reboot"]),
        ({"hosts": {"a": {"board": GPU}}}, ["hosts.a", "gpu"]),
        ({"hosts": {}}, ["hosts", "at least one"]),
        ({"hosts": {"node01": {}, "Node01.example.org": {}}}, ["node01 and Node01.example.org", "same host"]),
    ],
)
def test_hosts_that_can_not_be_used_are_refused_by_name(settings, words):
    with pytest.raises(ConfigError) as refused:
        study(**settings)
    assert all(word in str(refused.value) for word in words)


def test_hosts_beyond_the_blocks_are_no_fault_where_nothing_is_measured(tmp_path):
    assert study({"a": {}, "b": {}}, blocks=1, records=str(tmp_path), ipa={}).places[1].host == "b"


# --- the job runs where it belongs ---


def test_no_host_has_the_sign_that_joins_merged_hosts(monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "rack+1")
    assert host_name() == "rack_1"


def test_a_job_on_another_host_measures_nothing_and_says_where_it_belongs(monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "node02")
    take_place(None, None)
    take_place("node02", None)
    take_place("NODE02.cluster.example", None)  # a scheduler's short name is of the same host
    with pytest.raises(WrongPlaceError, match=r"belongs to host node01, and runs on node02.*hosts"):
        take_place("node01", None)
    assert not same_host("node02.a.example", "node02.b.example")
    assert here(["node01", "node02.cluster.example"]) == "node02.cluster.example"
    assert here(["node01"]) is None


@pytest.fixture(scope="module")
def three_boards(tmp_path_factory):
    """Run the driver on a host of three GPUs of the stub, by what it says of the one that is named."""
    library, file = build_nvml_stub(tmp_path_factory.mktemp("nvml")), tmp_path_factory.mktemp("boards") / "nvml.txt"
    file.write_text("gpus 3\n")

    def run(gpu, **environment):
        env = {"LD_LIBRARY_PATH": str(library), "NVML_STUB": str(file)} | environment
        return run_python(STUBS / "place_driver.py", gpu, env=env)

    return run


def test_the_named_board_is_the_one_that_is_used_and_measured(three_boards):
    uuid = "GPU-20000000-feed-beef-0000-000000000001"
    for given, before in ((uuid, "0"), (uuid.upper(), "0,1,2"), (uuid[:8], "")):
        told = three_boards(given, CUDA_VISIBLE_DEVICES=before)
        assert told == {"visible": uuid, "measured": {"gpu_0": uuid}}


def test_a_board_that_is_not_there_is_an_error_that_names_those_that_are(three_boards):
    told = three_boards("GPU-deadbeef")["error"]
    assert "GPU-deadbeef" in told
    assert "shows no such GPU" in told
    assert all(f"GPU-{number}0000000" in told for number in (1, 2, 3))
    assert "several GPUs" in three_boards("GPU-")["error"]
    assert "can't be listed" in three_boards(GPU, LD_LIBRARY_PATH="")["error"]


# --- boards of one host ---


def on_board(records, *uuids):
    """The same records, measured on GPUs of these UUIDs; those that failed know none."""
    for record in records:
        if record["status"]["state"] == "ok":
            gpus = {f"gpu_{at}": {"uuid": uuid} for at, uuid in enumerate(uuids)}
            record["provenance"]["meters"] = {"nvml": {"gpus": gpus}}
    return records


def table_of(*studies):
    records = [record for records in studies for record in records]
    return measurements_table(
        Reading(tuple((Path(f"{i:05}.json"), record) for i, record in enumerate(records)), ()), PRICES
    )


def test_boards_of_one_host_are_never_averaged_as_one():
    one, other = "GPU-aaaaaaaa-1", "GPU-bbbbbbbb-2"
    records = [on_board(synthetic_study("coupled", domains=[NVML], seed=7), uuid) for uuid in (one, other)]
    measurements = table_of(*records)
    assert len(measurements) == sum(map(len, records))  # no duplicates of each other
    assert set(measurements["host"]) == {"host-a"}
    assert set(measurements["gpu_uuid"]) == {one, other}
    table = configurations_table(measurements, 0.95, [])
    assert set(table["host"]) == {"host-a GPU-aaaaaaaa", "host-a GPU-bbbbbbbb"}
    assert set(table["n"]) == {3}
    assert set(with_boards(with_boards(measurements))["host"]) == set(table["host"])


def test_a_failed_record_stands_with_the_board_of_its_block():
    one, other = "GPU-aaaaaaaa-1", "GPU-aaaaaaaa-2"  # alike for as long as names are cut
    studies = []
    for uuid in (one, other):
        records = synthetic_study("coupled", domains=[NVML], experiment=f"on-{uuid}")
        records[3]["status"], records[3]["energy"] = {"state": "failed", "reason": "out of memory"}, None
        studies.append(on_board(records, uuid, "GPU-cccccccc-3"))
    named = with_boards(table_of(*studies))
    assert named.groupby("host").size().to_dict() == {
        f"host-a {one},GPU-cccccccc-3": len(studies[0]),
        f"host-a {other},GPU-cccccccc-3": len(studies[1]),
    }


def test_a_host_with_one_board_or_none_keeps_its_name():
    measurements = table_of(
        on_board(synthetic_study("coupled", host="host-a", domains=[NVML]), "GPU-aaaaaaaa-1"),
        synthetic_study("coupled", host="host-b"),
    )
    assert with_boards(measurements) is measurements
