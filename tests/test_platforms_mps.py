"""MPS daemons: started for a block, answering, and ended on every way out, and by the next run after a crash.

The daemon is a stand-in that behaves like NVIDIA's; the rest is real: processes, signals, sockets, files.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from ipa_energy.platforms.journal import JOURNAL_VARIABLE
from ipa_energy.platforms.mps import BINARY, FOLDERS, PIPE, mps_daemon
from meter_fixtures import STUBS, build_nvml_stub
from platform_fixtures import GPUS, Platform

GPU = GPUS[0]


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return build_nvml_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def platform(library, tmp_path):
    made = Platform(tmp_path, library)
    binary = tmp_path / "bin" / BINARY
    binary.parent.mkdir()
    # The kernel names a script's process after the script only where the interpreter is named outright.
    binary.write_text(f"#!{sys.executable} -IS\n" + (STUBS / "mps_control.py").read_text())
    binary.chmod(0o755)
    yield made
    for process in having(JOURNAL_VARIABLE, made.journal):  # of a test that failed
        process.kill()


def having(variable: str, value: object) -> list[psutil.Process]:
    """All processes that run with this value of an environment variable."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable) == str(value) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # which is for its parent to bury
    except psutil.NoSuchProcess:
        return False


def gone(pipe) -> bool:
    return not having(PIPE, pipe) and not Path(pipe).parent.exists()


def share(percentage=None, *gpus):
    return {"mps": [list(gpus) or [GPU], percentage]}


def test_a_daemon_answers_within_the_block_and_is_gone_after_it(platform):
    inside, server, after = platform.run(**share(), within="serve", env={"MPS_STUB": "slow"})
    environment = inside["mps"]["environment"]
    pipe = Path(environment[PIPE])
    assert pipe.parent.parent == FOLDERS
    assert len(f"{pipe}/control_privileged".encode()) <= 107
    assert environment["CUDA_VISIBLE_DEVICES"] == GPU
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in environment
    assert inside["journal"] == [f"mps._tmp_{pipe.parent.name.replace('.', '_')}.json"]
    assert server["server"] > 0
    assert (after["error"], after["said"], after["journal"]) == (None, [], [])
    assert after["handlers_as_before"]
    assert gone(pipe)
    assert not runs(server["server"])


def test_two_daemons_do_not_meet(platform):
    platform.script(gpus=2)
    with platform.waiting(**share(None, GPUS[0])) as (driver, first):
        second, after = platform.run(**share(None, GPUS[0], GPUS[1]))
        assert second["mps"]["environment"][PIPE] != first["mps"]["environment"][PIPE]
        assert second["mps"]["environment"]["CUDA_VISIBLE_DEVICES"] == f"{GPUS[0]},{GPUS[1]}"
        assert after["error"] is None
        assert len(having(PIPE, first["mps"]["environment"][PIPE])) == 1  # the first is untouched
        driver.terminate()
        driver.communicate(timeout=30)
    assert gone(first["mps"]["environment"][PIPE])


def test_a_thread_percentage_is_set_and_read_back(platform):
    inside, after = platform.run(**share(37.5))
    assert inside["mps"]["environment"]["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "37.5"
    assert after["error"] is None
    (after,) = platform.run(**share(37.5), env={"MPS_STUB": "full"})
    assert after["error"] == [
        "MpsRefused",
        "no MPS: a thread percentage of 37.5 was asked for, and the daemon has '100.0'",
    ]
    assert after["journal"] == []


@pytest.mark.parametrize("percentage", [0, -1, 100.5, float("nan")])
def test_a_percentage_that_can_not_be_is_an_error_of_the_caller(percentage):
    with pytest.raises(ValueError, match="thread percentage"), mps_daemon([GPU], "a test", print, percentage):
        pass


@pytest.mark.parametrize(
    ("lines", "env", "reason"),
    [
        (["mig 1"], {}, "MIG enabled"),
        (["compute_mode 2"], {}, "compute mode is PROHIBITED"),
        (["architecture 4"], {}, "want a Volta GPU"),
        (["gpus 0"], {}, "can't be found"),
        ([], {"CUDA_MPS_PIPE_DIRECTORY": "/tmp/nvidia-mps"}, "CUDA_MPS_PIPE_DIRECTORY=/tmp/nvidia-mps is set already"),
        ([], {"MPS_STUB": "refuses"}, "-d ended with code 1; its log ends with: [Control"),
        ([], {"IPA_ENERGY_JOURNAL": "/dev/null/journal"}, "the journal's folder can't be made"),
    ],
)
def test_where_mps_can_not_be_had_the_reason_is_given_and_nothing_left(platform, lines, env, reason):
    platform.script(*lines)
    (after,) = platform.run(**share(50), env=env)
    assert after["error"][0] == "MpsRefused"
    assert reason in after["error"][1]
    assert after["journal"] == []
    assert having(JOURNAL_VARIABLE, platform.journal) == []


def test_without_the_executable_it_is_named(platform):
    (platform.folder / "bin" / BINARY).unlink()
    (after,) = platform.run(**share(), env={"PATH": str(platform.folder / "bin")})
    assert after["error"][0] == "MpsRefused"
    assert f"{BINARY} is not on the PATH" in after["error"][1]


def test_a_daemon_that_dies_at_once_is_refused_with_its_log(platform):
    (after,) = platform.run(**share(), env={"MPS_STUB": "dies"}, seconds={"_START_S": 0.5})
    assert after["error"][0] == "MpsRefused"
    assert "does not answer" in after["error"][1]
    assert "Failed to start" in after["error"][1]
    assert after["journal"] == []


@pytest.mark.parametrize("within", ["raise", "serve exit"])
def test_an_exception_within_the_block_ends_the_daemon(platform, within):
    driver = platform.start(**share(), within=within)
    output, _ = driver.communicate(timeout=60)
    inside = json.loads(output.splitlines()[0])
    assert gone(inside["mps"]["environment"][PIPE])
    assert platform.entries() == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_undoes_both_changes_and_still_ends_the_process(platform, signum):
    with platform.waiting(caps=[[[GPU], 300]], **share()) as (driver, inside):
        assert inside["requested_w"] == {GPU: 300}
        assert len(platform.entries()) == 2
        driver.send_signal(signum)
        driver.communicate(timeout=30)
        assert driver.returncode == -signum
    assert gone(inside["mps"]["environment"][PIPE])
    assert platform.limits_w() == [400]
    assert platform.entries() == []


def test_a_daemon_that_ends_within_the_block_makes_it_lost(platform):
    inside, after = platform.run(**share(), within="kill_daemon")
    assert after["error"] == ["MpsLost", "the MPS daemon ended before its block did"]
    assert after["journal"] == []
    assert gone(inside["mps"]["environment"][PIPE])


def test_a_server_that_outlives_its_daemon_is_ended(platform):
    inside, server, after = platform.run(**share(), within="serve kill_daemon")
    assert after["error"][0] == "MpsLost"
    assert not runs(server["server"])
    assert gone(inside["mps"]["environment"][PIPE])


def test_a_forked_child_that_leaves_the_block_does_not_end_the_daemon(platform):
    inside, _, after = platform.run(**share(), within="fork")
    assert after["error"] is None  # it still answered at the end
    assert gone(inside["mps"]["environment"][PIPE])


def test_the_daemon_of_a_living_process_is_not_touched(platform):
    with platform.waiting(**share()) as (driver, inside):
        pipe = inside["mps"]["environment"][PIPE]
        assert platform.command("restore") == ["nothing was left behind"]
        assert [process.pid for process in having(PIPE, pipe)] == [inside["mps"]["pid"]]
        assert any("its process lives" in line for line in platform.command("show"))
        driver.terminate()
        driver.communicate(timeout=30)
    assert gone(pipe)


def kill_within(platform, **wanted):
    with platform.waiting(**wanted) as (driver, inside):
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    return driver.pid, inside["mps"]


def test_what_a_killed_process_left_is_ended_by_the_next_run_and_told(platform):
    pid, mps = kill_within(platform, **share())
    assert runs(mps["pid"])
    (line,) = platform.command("restore")
    assert f"ended the control daemon and servers (process {mps['pid']})" in line
    assert f"process {pid} (the driver" in line
    assert gone(mps["environment"][PIPE])
    assert platform.entries() == []
    assert platform.command("restore") == ["nothing was left behind"]


def test_a_cap_and_a_daemon_are_both_put_back_by_the_next_run(platform):
    _, mps = kill_within(platform, caps=[[[GPU], 300]], **share())
    lines = platform.command("restore")
    assert len(lines) == 2
    assert platform.limits_w() == [400]
    assert gone(mps["environment"][PIPE])


def test_a_daemon_left_behind_is_ended_although_its_executable_is_gone(platform):
    _, mps = kill_within(platform, **share())
    (platform.folder / "bin" / BINARY).unlink()
    (line,) = platform.command("restore")
    assert "ended the" in line
    assert gone(mps["environment"][PIPE])


def test_a_stubborn_daemon_is_killed(platform):
    inside, after = platform.run(**share(), env={"MPS_STUB": "stubborn"}, seconds={"_QUIT_S": 0.3, "_KILL_S": 0.3})
    assert after["error"] is None
    assert gone(inside["mps"]["environment"][PIPE])
    assert platform.entries() == []


def test_a_daemon_that_ended_since_leaves_an_entry_that_is_dropped(platform):
    _, mps = kill_within(platform, **share())
    os.kill(mps["pid"], signal.SIGKILL)
    deadline_s = time.monotonic() + 10
    while having(PIPE, mps["environment"][PIPE]) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    (line,) = platform.command("restore")
    assert "no daemon runs any more" in line
    assert gone(mps["environment"][PIPE])


def test_an_entry_names_no_folder_for_removal_but_one_of_ours(platform):
    _, mps = kill_within(platform, **share())
    os.kill(mps["pid"], signal.SIGKILL)
    (path,) = platform.journal.glob("*.json")
    mine = platform.folder / "mine"
    mine.mkdir()
    platform.edit(device=str(mine))
    path.rename(path.with_name(f"mps.{str(mine).replace('/', '_').replace('.', '_')}.json"))
    platform.command("restore")
    assert mine.is_dir()
    assert platform.entries() == []
    shutil.rmtree(Path(mps["environment"][PIPE]).parent)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_nobody_ends_what_an_entry_of_another_user_names(platform):
    _, mps = kill_within(platform, **share())
    (path,) = platform.journal.glob("*.json")
    os.chown(path, 65534, 65534)
    (line,) = platform.command("restore")
    assert "no daemon runs any more" in line  # none of that user's
    assert runs(mps["pid"])
    os.kill(mps["pid"], signal.SIGKILL)
    shutil.rmtree(Path(mps["environment"][PIPE]).parent)
