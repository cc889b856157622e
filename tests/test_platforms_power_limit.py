"""Power limits of the stub's GPUs: set, verified and put back on every way out, and by the next run after a crash."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import time
from dataclasses import replace

import pytest

from ipa_energy.platforms import journal, restore_left_behind
from ipa_energy.platforms.power_limit import power_limit
from ipa_energy.platforms.signals import Terminated, unwound_by_signals
from meter_fixtures import build_nvml_stub
from platform_fixtures import GPUS, Platform

GPU = GPUS[0]
ENTRY = f"power_limit.{GPU}.json"


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return build_nvml_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def platform(library, tmp_path):
    return Platform(tmp_path, library)


def cap(watts=300, *gpus):
    return {"caps": [[list(gpus) or [GPU], watts]]}


def test_a_limit_is_set_read_back_journalled_and_put_back(platform):
    inside, after = platform.run(**cap(300))
    assert inside["limits"][GPU] == {
        "min_w": 200,
        "max_w": 400,
        "default_w": 400,
        "requested_w": 300,
        "enforced_w": 300,
    }
    assert inside["journal"] == [ENTRY]
    assert after == {
        "error": None,
        "said": [],
        "requested_w": {GPU: 400},
        "journal": [],
        "handlers_as_before": True,
    }
    assert stat.S_IMODE(platform.journal.stat().st_mode) == 0o1777


def test_the_earlier_limit_comes_back_not_the_default(platform):
    platform.set_limit(350)
    inside, after = platform.run(**cap(225.5))
    assert inside["requested_w"] == {GPU: 225.5}
    assert after["requested_w"] == {GPU: 350}


@pytest.mark.parametrize("watts", [199.9, 400.1])
def test_a_limit_out_of_range_is_refused_with_the_range(platform, watts):
    (after,) = platform.run(**cap(watts))
    name, text = after["error"]
    assert name == "PowerLimitRefused"
    assert f"{watts:g} W" in text
    assert "200 to 400 W" in text
    assert platform.limits_w() in ([], [400])
    assert platform.entries() == []


@pytest.mark.parametrize("watts", [None, float("nan"), "300"])
def test_what_is_not_watts_is_an_error_of_the_caller(watts):
    with pytest.raises(ValueError, match="do not call it"), power_limit([GPU], watts, "a test", print):
        pass


@pytest.mark.parametrize("gpus", [[], [GPU, GPU]])
def test_every_gpu_is_named_once(gpus):
    with pytest.raises(ValueError, match="each once"), power_limit(gpus, 300, "a test", print):
        pass


def test_without_permission_it_is_refused_and_the_way_out_is_named(platform):
    platform.script("no_permission 1")
    (after,) = platform.run(**cap(300))
    name, text = after["error"]
    assert name == "PowerLimitRefused"
    assert "root or CAP_SYS_ADMIN" in text
    assert f"nvidia-smi -i {GPU} -pl 300" in text
    assert after["journal"] == []


def test_a_limit_that_an_administrator_set_is_verified_and_accepted_without_permission(platform):
    platform.set_limit(300)
    platform.script("no_permission 1")
    inside, after = platform.run(**cap(300))
    assert inside["limits"][GPU]["enforced_w"] == 300
    assert inside["journal"] == []
    assert (after["error"], after["requested_w"]) == (None, {GPU: 300})


@pytest.mark.parametrize("preset", [True, False])
def test_a_limit_that_the_driver_does_not_enforce_is_refused_and_put_back(platform, preset):
    if preset:
        platform.set_limit(300)
    platform.script("enforced_max 298.9")
    (after,) = platform.run(**cap(300))
    assert after["error"][0] == "PowerLimitRefused"
    assert "took 300 W and enforces 298.9 W" in after["error"][1]
    assert after["requested_w"] == {GPU: 300 if preset else 400}
    assert after["journal"] == []


def test_a_watt_of_rounding_is_the_same_limit(platform):
    platform.script("enforced_max 299.2")
    inside, after = platform.run(**cap(300))
    assert inside["limits"][GPU]["enforced_w"] == 299.2
    assert (after["error"], after["requested_w"]) == (None, {GPU: 400})


@pytest.mark.parametrize(
    ("line", "reason"),
    [("mig 1", "MIG enabled"), ("error set_limit 3", "Not Supported"), ("init_error 9", "Driver Not Loaded")],
)
def test_what_can_not_be_capped_is_refused_with_the_reason(platform, line, reason):
    platform.script(line)
    (after,) = platform.run(**cap(300))
    assert after["error"][0] == "PowerLimitRefused"
    assert reason in after["error"][1]
    assert after["journal"] == []


def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(platform):
    (after,) = platform.run(**cap(300, GPUS[3]))
    assert after["error"][0] == "PowerLimitRefused"
    assert f"GPU {GPUS[3]} can't be found" in after["error"][1]
    assert GPU in after["error"][1].partition("GPUs of this host")[2]


def test_without_a_journal_nothing_is_changed(platform):
    platform.journal.write_text("not a folder")
    driver = platform.start(**cap(300))
    output, _ = driver.communicate(timeout=60)
    after = json.loads(output)
    assert after["error"][0] == "PowerLimitRefused"
    assert "is not a folder" in after["error"][1]
    assert platform.limits_w() in ([], [400])


@pytest.mark.parametrize(("within", "code"), [("raise", 0), ("exit", 5)])
def test_an_exception_within_the_block_puts_the_limit_back(platform, within, code):
    driver = platform.start(**cap(300), within=within)
    output, _ = driver.communicate(timeout=60)
    lines = [json.loads(line) for line in output.splitlines()]
    assert driver.returncode == code
    assert lines[0]["requested_w"] == {GPU: 300}
    if within == "raise":
        assert lines[1]["error"][0] == "ZeroDivisionError"
        assert lines[1]["said"] == []
    assert platform.limits_w() == [400]
    assert platform.entries() == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_puts_the_limit_back_and_still_ends_the_process(platform, signum):
    with platform.waiting(**cap(300)) as (driver, inside):
        assert inside["requested_w"] == {GPU: 300}
        driver.send_signal(signum)
        driver.communicate(timeout=20)
        assert driver.returncode == -signum
    assert platform.limits_w() == [400]
    assert platform.entries() == []


def test_a_handler_that_was_there_before_is_called(platform):
    with platform.waiting(**cap(300), handler="exits") as (driver, _):
        driver.send_signal(signal.SIGTERM)
        driver.communicate(timeout=20)
        assert driver.returncode == 7
    assert platform.limits_w() == [400]
    assert platform.entries() == []


def test_a_handler_that_does_not_end_the_process_leaves_the_limit_to_the_block(platform):
    driver = platform.start(**cap(300), handler="notes", within="flag")
    driver.stdout.readline()
    driver.send_signal(signal.SIGTERM)
    output, errors = driver.communicate(timeout=20)
    still, after = [json.loads(line) for line in output.splitlines()]
    assert (driver.returncode, errors) == (0, "")
    assert still["still"] == {GPU: 300}
    assert after["requested_w"] == {GPU: 400}
    assert after["handlers_as_before"]


def test_an_ignored_signal_stays_ignored(platform):
    with platform.waiting(**cap(300), handler="ignores") as (driver, _):
        driver.send_signal(signal.SIGTERM)
        driver.send_signal(signal.SIGINT)  # comes second and ends it: the first did nothing
        driver.communicate(timeout=20)
        assert driver.returncode == -signal.SIGINT
    assert platform.limits_w() == [400]


def test_signals_wait_while_something_is_half_done():
    done = []
    earlier = signal.signal(signal.SIGTERM, lambda *_: done.append("handled"))
    try:
        with unwound_by_signals() as shield:
            with shield.held():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("half")
                done.append("whole")
            done.append("after")
            shield.hold_to_end()
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("put back")
        assert done == ["half", "whole", "handled", "after", "put back", "handled"]
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_a_burst_of_signals_does_not_hit_the_way_out():
    done = []

    def end(*_):
        done.append("handled")
        raise InterruptedError

    def block():
        with unwound_by_signals():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("put back")

    earlier = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(InterruptedError):
            block()
        assert done == ["handled", "put back", "handled"]
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_nested_blocks_all_unwind_before_the_default_action_is_taken():
    done = []
    with unwound_by_signals():  # in the place of the default action, which would end this test
        try:
            with unwound_by_signals():
                try:
                    os.kill(os.getpid(), signal.SIGHUP)
                finally:
                    done.append("inner")
        except Terminated as error:
            done.append(error.signum)
    assert done == ["inner", signal.SIGHUP]


def test_in_another_thread_the_limit_is_put_back_too(platform):
    inside, after = platform.run(**cap(300), thread=True, within="raise")
    assert inside["requested_w"] == {GPU: 300}
    assert after["requested_w"] == {GPU: 400}
    assert after["journal"] == []


def test_a_forked_child_that_leaves_the_block_does_not_undo_it(platform):
    _, child, after = platform.run(**cap(300), within="fork")
    assert child["after_child"] == {GPU: 300}
    assert (after["error"], after["requested_w"], after["journal"]) == (None, {GPU: 400}, [])


def test_two_gpus_are_set_and_put_back_together(platform):
    platform.script(gpus=3)
    inside, after = platform.run(**cap(300, GPUS[0], GPUS[2]))
    assert inside["requested_w"] == {GPUS[0]: 300, GPUS[1]: 400, GPUS[2]: 300}
    assert len(inside["journal"]) == 2
    assert set(after["requested_w"].values()) == {400}
    assert after["journal"] == []


def test_when_the_second_gpu_is_refused_the_first_is_as_it_was(platform):
    platform.script(gpus=2)
    with platform.waiting(**cap(350, GPUS[1])) as (driver, _):
        (after,) = platform.run(**cap(300, GPUS[0], GPUS[1]))
        assert after["error"][0] == "PowerLimitRefused"
        assert f"process {driver.pid} (the driver" in after["error"][1]
        assert after["requested_w"] == {GPUS[0]: 400, GPUS[1]: 350}


def test_the_limit_of_a_living_process_is_not_touched(platform):
    with platform.waiting(**cap(300)) as (driver, _):
        assert platform.command("restore") == ["nothing was left behind"]
        assert platform.limits_w() == [300]
        assert platform.entries() == [ENTRY]
        assert any("its process lives" in line for line in platform.command("show"))
        driver.terminate()
        driver.communicate(timeout=20)
    assert platform.limits_w() == [400]


def test_what_a_killed_process_left_is_put_back_by_the_next_run_and_told(platform):
    pid = platform.killed(**cap(300))
    assert platform.limits_w() == [300]
    assert any("its process is gone" in line for line in platform.command("show"))
    (line,) = platform.command("restore")
    assert f"power_limit of {GPU}: power limit put back from 300 W to 400 W" in line
    assert f"process {pid} (the driver" in line
    assert platform.limits_w() == [400]
    assert platform.entries() == []
    assert platform.command("restore") == ["nothing was left behind"]
    assert "  nothing is changed" in platform.command("show")


def test_the_next_cap_puts_back_first_what_a_killed_process_left(platform):
    platform.killed(**cap(300))
    inside, after = platform.run(**cap(250))
    assert inside["requested_w"] == {GPU: 250}
    assert after["requested_w"] == {GPU: 400}  # the earlier limit of the first, not the 300 W it left
    assert "put back from 300 W to 400 W" in after["said"][0]


def test_a_process_with_the_same_id_and_another_start_is_not_the_owner(platform):
    platform.killed(**cap(300))
    platform.edit(process={"pid": os.getpid()})
    (line,) = platform.command("restore")
    assert "put back" in line
    assert platform.limits_w() == [400]


def test_a_zombie_is_gone(platform):
    with platform.waiting(**cap(300)) as (driver, _):
        driver.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT)
        (line,) = platform.command("restore")
        assert "put back" in line


def test_a_limit_that_somebody_changed_since_is_left_alone(platform):
    platform.killed(**cap(300))
    platform.set_limit(250)
    (line,) = platform.command("restore")
    assert "is 250 W and no longer the 300 W" in line
    assert "left alone" in line
    assert platform.limits_w() == [250]
    assert platform.entries() == []


def test_an_entry_whose_change_was_never_made_is_dropped(platform):
    platform.killed(**cap(300))
    platform.set_limit(400)
    (line,) = platform.command("restore")
    assert "already back at 400 W" in line
    assert platform.entries() == []


def test_after_a_reboot_an_entry_is_only_dropped(platform):
    platform.killed(**cap(300))
    platform.edit(process={"boot_id": "another"})
    (line,) = platform.command("restore")
    assert "started anew" in line
    assert platform.limits_w() == [300]
    assert platform.entries() == []


def test_an_entry_of_a_container_is_kept_and_told(platform):
    platform.killed(**cap(300))
    platform.edit(process={"pid_namespace": "pid:[1]"})
    (line,) = platform.command("restore", expect=1)
    assert "another pid namespace" in line
    assert platform.limits_w() == [300]
    assert platform.entries() == [ENTRY]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("no_permission 1", "no permission to put the power limit back from 300 W to 400 W; as root"),
        ("error set_limit 999", "Unknown Error"),
        ("gpus 0", "can't be found"),
        ("init_error 9", "Driver Not Loaded"),
    ],
)
def test_what_can_not_be_put_back_now_is_kept_for_later(platform, line, reason):
    platform.killed(**cap(300))
    platform.script(line)
    (told,) = platform.command("restore", expect=1)
    assert reason in told
    assert "stays" in told
    assert platform.entries() == [ENTRY]
    platform.script()
    (told,) = platform.command("restore")
    assert "put back" in told
    assert platform.limits_w() == [400]


def test_a_limit_changed_within_the_block_makes_it_lost(platform):
    _, after = platform.run(**cap(300), within="change")
    assert after["error"] == [
        "PowerLimitLost",
        f"GPU {GPU} did not keep its limit of 300 W: at the end 250 W were requested and 250 W enforced",
    ]
    assert after["requested_w"] == {GPU: 250}
    assert after["journal"] == []


def test_a_gpu_lost_within_the_block_is_told_and_left_to_the_next_run(platform):
    lost = platform.folder / "lost"
    platform.script(f"lost {lost}")
    driver = platform.start(**cap(300), within="lose", lost=str(lost), stay=True)
    driver.stdout.readline()
    after = json.loads(driver.stdout.readline())
    try:
        assert after["error"][0] == "PowerLimitLost"
        assert "GPU is lost" in after["error"][1]
        assert after["journal"] == [ENTRY]
        lost.unlink()
        (line,) = platform.command("restore")  # the process lives, but it has given up
        assert "put back" in line
    finally:
        driver.kill()
        driver.communicate()
    assert platform.limits_w() == [400]
    assert platform.entries() == []


def test_killed_at_any_moment_the_next_run_finds_the_limit_as_it_was(platform):
    draw = random.Random(3)
    kills, left = 0, 0
    while kills < 6 or (left < 2 and kills < 60):
        kills += 1
        driver = platform.start(**cap(300), times=1000)
        driver.stdout.readline()
        time.sleep(draw.uniform(0, 0.05))
        driver.kill()
        driver.communicate()
        left += len(platform.entries())
        platform.command("restore")
        assert platform.limits_w() == [400]
        assert platform.entries() == []
    assert left > 0  # some of the kills came while the limit was changed


@pytest.fixture
def entry(tmp_path, monkeypatch):
    """The entry of a process that is gone, in a journal of this process."""
    monkeypatch.setenv(journal.JOURNAL_VARIABLE, str(tmp_path / "journal"))
    journal.make_folder()
    made = journal.new_entry("power_limit", GPU, {"earlier_mw": 400_000, "set_mw": 300_000}, "a test")
    made = replace(made, process=replace(made.process, started="0"))
    journal.write(made)
    return made


def test_an_entry_is_read_as_it_was_written_by_everybody(entry):
    path = journal.file_of("power_limit", GPU)
    assert journal.read(path) == entry
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert journal.state(entry) == "dead"
    assert journal.state(replace(entry, process=journal.this_process())) == "alive"


def forge_kind(path):
    path.write_text(path.read_text().replace('"power_limit"', '"clocks"'))
    path.rename(path.with_name(f"clocks.{GPU}.json"))


def forge_link(path):
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (lambda path: path.chmod(0o666), "others than its owner may write it"),
        (forge_link, "symbolic link"),
        (lambda path: path.with_suffix(".second").hardlink_to(path), "not a file of its own"),
        (lambda path: path.write_text("{"), "look at it and remove it"),
        (lambda path: path.write_text('{"kind": "power_limit"}'), "missing"),
        (lambda path: path.rename(path.with_name(f"power_limit.{GPUS[1]}.json")), "which its name is not"),
        (forge_kind, "known are power_limit, mps"),
    ],
)
def test_an_entry_that_may_be_forged_is_named_and_not_followed(entry, forge, reason):
    forge(journal.file_of("power_limit", GPU))
    said = []
    (restoration,) = restore_left_behind(said.append)
    assert restoration.outcome == "kept"
    assert said == [restoration.line]
    assert reason in said[0]
    assert str(journal.folder()) in said[0]
    assert len(list(journal.folder().glob("*.json"))) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_root_does_not_follow_an_entry_of_another_user(entry):
    os.chown(journal.file_of("power_limit", GPU), 65534, 65534)
    said = []
    assert [restoration.outcome for restoration in restore_left_behind(said.append)] == ["kept"]
    assert "user 65534" in said[0]


def test_one_process_at_a_time_works_on_the_journal(entry, monkeypatch):
    monkeypatch.setattr(journal, "_LOCK_S", 0.1)
    said = []
    with journal.locked():
        (restoration,) = restore_left_behind(said.append)
    assert restoration.outcome == "kept"
    assert "another process has held the journal" in said[0]


def test_without_a_journal_nothing_was_left_behind(platform):
    assert platform.command("restore") == ["nothing was left behind"]
    assert not platform.journal.exists()


def test_the_journal_is_one_for_the_host_and_outlives_tmp(monkeypatch):
    monkeypatch.delenv(journal.JOURNAL_VARIABLE, raising=False)
    assert str(journal.folder()) == "/var/tmp/ipa-energy.platform"
