"""What the measurement lock says of its holder to those who wait."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from ipa_energy.lock import lock_path, measurement_lock

HOLDER = """
import time
from ipa_energy.lock import measurement_lock
with measurement_lock("somebody's study", print, lambda: None):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _own_lock(tmp_path, monkeypatch):
    monkeypatch.setenv("IPA_ENERGY_LOCK", str(tmp_path / "lock"))


class EnoughError(Exception):
    """Ends the wait of the test."""


def waiting():
    """What is said by one who waits for a lock that is held."""
    said = []

    def still_wanted():
        if said:
            raise EnoughError

    with pytest.raises(EnoughError), measurement_lock("mine", said.append, still_wanted):
        pass
    return said[0]


def test_a_stopped_holder_is_named_with_what_to_do():
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert f"process {holder.pid} (somebody's study)" in (running := waiting())
        assert "it is stopped" not in running
        holder.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        assert f"it is stopped: kill -CONT {holder.pid}, or kill {holder.pid}" in waiting()
    finally:
        holder.kill()
        holder.communicate()


def test_how_long_it_is_held_does_not_hang_on_the_time_of_day(monkeypatch):
    taken, done = threading.Event(), threading.Event()

    def hold():
        with measurement_lock("first", print, lambda: None):
            taken.set()
            done.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert taken.wait(30)
        monkeypatch.setattr(time, "time", lambda: 0.0)
        held_s = int(waiting().rsplit(", for ", 1)[1].split()[0])
        assert 0 <= held_s < 30
    finally:
        done.set()
        holder.join()


@pytest.mark.parametrize("left", ['{"pid": 1, "what": "a study of yesterday", "since_monotonic_s": -5}', "", "{half"])
def test_what_a_dead_holder_left_in_the_file_keeps_nobody_waiting(left):
    lock_path().write_text(left)
    with measurement_lock("mine", print, lambda: None) as waited_s:
        assert waited_s < 5
        assert json.loads(lock_path().read_text())["what"] == "mine"
