"""The host's measurement lock: one measurement at a time on a machine, whoever runs it.

A resource of the scheduler keeps the jobs of one workflow apart; only a lock of the operating system keeps two
workflows apart, or an orphan of a killed one. It is an flock, so the kernel frees it with the process that holds it.
The file says in words who holds it, for those who wait.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ipa_energy.names import printable

LOCK_VARIABLE = "IPA_ENERGY_LOCK"
LOCK_FILE = Path("/tmp/ipa-energy.measurement.lock")
"""Not under TMPDIR, which often differs between users and jobs of one host."""

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW  # a link planted in a shared folder must not make us write elsewhere
_NAME_LOOKS = 5
_POLL_S = 0.1
_REMIND_S = 60.0


def lock_path() -> Path:
    """The lock file: the same for all users and workflows of a host, unless IPA_ENERGY_LOCK names another."""
    return Path(os.environ.get(LOCK_VARIABLE) or LOCK_FILE)


def _open(path: Path) -> int:
    with suppress(FileNotFoundError):
        # Without O_CREAT: a sticky folder such as /tmp refuses that for a file of another user.
        return _open_existing(path)
    with suppress(FileExistsError):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
        os.fchmod(handle, 0o666)
        return handle
    return _open_existing(path)


def _open_existing(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | _FLAGS)
    except PermissionError:
        return os.open(path, os.O_RDONLY | _FLAGS)


def _holder(handle: int) -> str:
    for _ in range(_NAME_LOOKS):
        try:
            facts = json.loads(os.pread(handle, 4096, 0))
            # The clock of the day may have been set back since; this one is the same for all processes of a host.
            held_s = time.monotonic() - facts["since_monotonic_s"]
            pid = int(facts["pid"])
            return f"process {pid} ({printable(facts['what'])}), for {held_s:.0f} s{_condition(pid)}"
        except (ValueError, KeyError, TypeError):
            time.sleep(_POLL_S)  # its holder may have taken it this instant, and is about to write
    return "a process that left no name"


def _condition(pid: int) -> str:
    """What keeps the process from going on, as far as it can be seen."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""
    return f"; it is stopped: kill -CONT {pid}, or kill {pid}" if state in "Tt" else ""


@contextmanager
def measurement_lock(what: str, say: Callable[[str], None], still_wanted: Callable[[], None]) -> Iterator[float]:
    """Hold the host's lock for the block; ``what`` tells others what is being measured.

    Waits as long as it takes, and says through ``say`` for whom, at once and every minute; ``still_wanted`` is called
    all the while and ends the wait by raising. Yields the seconds waited.
    """
    path = lock_path()
    handle = _open(path)
    began_s = time.monotonic()
    reminded_s = began_s - _REMIND_S
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                still_wanted()
                now_s = time.monotonic()
                if now_s - reminded_s >= _REMIND_S:
                    say(f"waiting for the measurement lock {path}: held by {_holder(handle)}")
                    reminded_s = now_s
                time.sleep(_POLL_S)
        with suppress(OSError):  # a lock file of another user can be held, but not written
            os.ftruncate(handle, 0)
            facts = {"pid": os.getpid(), "what": what, "since_monotonic_s": time.monotonic()}
            os.pwrite(handle, json.dumps(facts).encode(), 0)
        yield time.monotonic() - began_s
    finally:
        os.close(handle)
