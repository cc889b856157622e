"""The journal of what was changed on this host and has to be put back: one JSON file per changed device.

An entry is on disk before the change and goes when the change is undone and verified, so what a killed process left
behind is known to the next run, of whichever user. An entry whose process lives is never touched. The folder is shared
by all users of the host like /tmp; who wrote an entry is read from the file's owner, not from what it says.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ipa_energy.files import write_text
from ipa_energy.owner import started_at

JOURNAL_VARIABLE = "IPA_ENERGY_JOURNAL"
JOURNAL_FOLDER = Path("/var/tmp/ipa-energy.platform")
"""Not under /tmp, which may be private to a service or emptied while a change lasts."""

_LARGEST_BYTES = 65536
_LOCK_S = 30.0


class JournalError(RuntimeError):
    """The journal can't be used, so nothing may be changed."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process of this host and no other: ids come again, a start time and a boot don't."""

    pid: int
    started: str
    boot_id: str
    pid_namespace: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One change: ``kind`` says who can undo it, ``change`` holds what that needs. ``uid`` owns the file.

    ``given_up`` marks a change that its living process failed to undo and will not try to again.
    """

    kind: str
    device: str
    change: dict[str, Any]
    what: str
    process: Process
    time_utc: str
    given_up: bool = False
    uid: int = -1

    @property
    def by(self) -> str:
        """Who made the change, in words."""
        return f"process {self.process.pid} ({self.what}, {self.time_utc})"


Outcome = Literal["restored", "dropped", "kept"]


@dataclass(frozen=True, slots=True)
class Restoration:
    """What became of an entry: undone, no longer valid, or kept because it could not be undone; and a line why."""

    kind: str
    device: str
    outcome: Outcome
    line: str


Restorer = Callable[[Entry, bool], tuple[Outcome, str]]
"""Undoes an entry; the flag says that the host was started anew since. Gives the outcome and a sentence."""


def folder() -> Path:
    """The journal's folder: one for the whole host, unless IPA_ENERGY_JOURNAL names another. It may not exist."""
    return Path(os.environ.get(JOURNAL_VARIABLE) or JOURNAL_FOLDER)


def file_of(kind: str, device: str) -> Path:
    """The file of the entry of a device."""
    return folder() / f"{kind}.{re.sub(r'[^A-Za-z0-9_-]', '_', device)[:150]}.json"


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _pid_namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())


def this_process() -> Process:
    """The calling process."""
    return Process(os.getpid(), started_at(os.getpid()), _boot_id(), _pid_namespace())


def new_entry(kind: str, device: str, change: dict[str, Any], what: str) -> Entry:
    """An entry of the calling process, now; not written yet."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Entry(kind, device, change, what, this_process(), now, uid=os.geteuid())


def state(entry: Entry) -> Literal["alive", "dead", "rebooted", "unknown"]:
    """What became of the process of an entry; unknown where it belongs to another pid namespace (a container)."""
    process = entry.process
    if process.boot_id != _boot_id():
        return "rebooted"
    if entry.given_up:
        return "dead"
    if process.pid_namespace != _pid_namespace():
        return "unknown"
    try:
        facts = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return _state_of_hidden(process.pid)
    ended = facts[0] in "ZX" or facts[19] != process.started
    return "dead" if ended else "alive"


def _state_of_hidden(pid: int) -> Literal["alive", "dead"]:
    # /proc may hide other users' processes (hidepid): one that is there may be ours, so it counts as alive.
    try:
        os.kill(pid, 0)
    except PermissionError:
        return "alive"
    except ProcessLookupError:
        return "dead"
    return "alive"


def make_folder() -> Path:
    """The journal's folder, made for all users where it is missing. Raises JournalError when it can't be used."""
    path = folder()
    try:
        with suppress(FileExistsError):
            path.mkdir(parents=True)
        facts = path.lstat()
        if not stat.S_ISDIR(facts.st_mode):
            raise JournalError(f"the journal {path} is not a folder; remove it")
        if facts.st_uid == os.geteuid() and stat.S_IMODE(facts.st_mode) != 0o1777:
            path.chmod(0o1777)
    except OSError as error:
        raise JournalError(f"the journal's folder can't be made: {error}; {JOURNAL_VARIABLE} names another") from error
    return path


@contextmanager
def locked() -> Iterator[None]:
    """Keep other processes from changing the journal for the block. The folder must exist. Raises JournalError."""
    path = folder()
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise JournalError(f"the journal {path} can't be opened: {error}") from error
    try:
        deadline_s = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise JournalError(f"another process has held the journal {path} for {_LOCK_S:g} s") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def write(entry: Entry) -> None:
    """Put an entry on disk; :func:`make_folder` and :func:`locked` come before. Raises JournalError."""
    path = file_of(entry.kind, entry.device)
    facts = asdict(entry)
    del facts["uid"]
    try:
        write_text(path, json.dumps(facts, indent=1) + "\n")
        path.chmod(0o644)
    except OSError as error:
        raise JournalError(f"the journal can't be written: {error}; chmod 1777 {path.parent} as its owner") from error


def drop(entry: Entry) -> None:
    """Take an entry from the journal. Raises OSError, for one that another user wrote."""
    file_of(entry.kind, entry.device).unlink(missing_ok=True)


def give_up(entry: Entry) -> None:
    """Let the next run undo an entry although its process still lives. Under the lock; raises JournalError."""
    write(replace(entry, given_up=True))


def conclude(entry: Entry, what: str, outcome: Outcome, sentence: str) -> str | None:
    """Close the entry of a change that was undone, or leave it to the next run; why the latter, or None.

    ``what`` names the device for people, ``sentence`` says what undoing it came to.
    """
    try:
        with locked():
            if outcome == "kept":
                give_up(entry)
            else:
                drop(entry)
    except (JournalError, OSError) as error:
        return f"{what}: {sentence}; its journal entry can't be changed: {error}"
    return f"{what}: {sentence}; the next run tries again" if outcome == "kept" else None


def read(path: Path) -> Entry:
    """Read one entry. Raises ValueError for what is no entry or may be forged, OSError when it can't be read."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, encoding="utf-8") as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise ValueError("not a file of its own")
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError("others than its owner may write it")
        text = file.read(_LARGEST_BYTES)
    try:
        raw = json.loads(text)
        raw["process"] = Process(**raw["process"])
        entry = Entry(**raw, uid=facts.st_uid)
        entry.by  # noqa: B018 - shows that all is there that people are told
        if not isinstance(entry.change, dict) or not isinstance(entry.process.pid, int):
            raise ValueError("fields of the wrong type")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"fields are missing, unknown or of the wrong type: {error}") from error
    if file_of(entry.kind, entry.device).name != path.name:
        raise ValueError(f"it is about {entry.kind} of {entry.device}, which its name is not")
    return entry


def find(kind: str, device: str) -> Entry | None:
    """The entry of a device; None without one. Raises JournalError when there is one that can't be read."""
    path = file_of(kind, device)
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise JournalError(f"the journal's entry {path} can't be used ({error}); look at it and remove it") from error


def read_all() -> Iterator[tuple[Path, Entry | str]]:
    """All entries, in the order of their names; a sentence in place of one that can't be used."""
    for path in sorted(folder().glob("*.json")):
        try:
            yield path, read(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            yield path, f"{error}; look at it and remove it"


def settle(entry: Entry, restorer: Restorer) -> Restoration | None:
    """Undo an entry whose process is gone, under the lock; None where the process lives."""
    condition = state(entry)
    if condition == "alive":
        return None
    path = file_of(entry.kind, entry.device)
    if condition == "unknown":
        sentence = f"{entry.by} belongs to another pid namespace, a container's; undo it there, or remove {path}"
        return Restoration(entry.kind, entry.device, "kept", f"{entry.kind} of {entry.device}: {sentence}")
    outcome, sentence = restorer(entry, condition == "rebooted")
    if outcome == "kept":
        sentence += f"; its journal entry {path} stays"
    else:
        try:
            drop(entry)
        except OSError as error:
            outcome, sentence = "kept", f"{sentence}; its journal entry can't be removed: {error}"
    return Restoration(entry.kind, entry.device, outcome, f"{entry.kind} of {entry.device}: {sentence}")
