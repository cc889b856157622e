"""What has to hold after a fault: each function gives a line for everything that is wrong, and none where it holds."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ipa_energy.record import RecordError, read_record

from .ground import Ended, Ground

SHARED_MEMORY = Path("/dev/shm")
OF_OTHERS = ("torchinductor_", "snakemake")
"""Torch's cache, which stays by design, and a folder of Snakemake's own, which its kill leaves."""


@dataclass(frozen=True)
class Before:
    """What was there before the restart: records by path with their digest, and files of shared memory."""

    records: Mapping[Path, str]
    shared_memory: frozenset[str]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def look_before(ground: Ground) -> Before:
    records = {path: digest(path) for path in ground.checkout.records()}
    return Before(records, frozenset(path.name for path in SHARED_MEMORY.iterdir()))


def no_process_left(ground: Ground) -> list[str]:
    return [f"a process is left: {words}" for words in ground.wait_until_quiet()]


def lock_is_free(ground: Ground) -> list[str]:
    if not ground.checkout.lock.exists():
        return []
    with ground.checkout.lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ["the measurement lock is held"]
    return []


def records_are_whole(ground: Ground) -> list[str]:
    """Every file under a record's name is a valid record, at any time."""
    problems = []
    for path in ground.checkout.records():
        try:
            read_record(path)
        except RecordError as error:
            problems.append(f"half-written: {error}")
    return problems


def restart_finished(ended: Ended) -> list[str]:
    return [] if ended.code == 0 else [f"the restart ended with {ended.code}: {ended.output[-1500:]}"]


def records_are_those_of_the_plan(ground: Ground) -> list[str]:
    planned, there = set(ground.planned()), set(ground.checkout.records())
    return [f"no record: {path.name} of {path.parent.name}" for path in sorted(planned - there)] + [
        f"a record that is not planned: {path}" for path in sorted(there - planned)
    ]


def nothing_half_written(ground: Ground) -> list[str]:
    """No temporary file under results/, and a trace beside every record."""
    problems = [f"a temporary file is left: {path.name}" for path in sorted(ground.results.rglob("*.part"))]
    for path in ground.checkout.records():
        trace = ground.results / "traces" / path.relative_to(ground.results / "records").with_suffix(".parquet")
        if not trace.exists():
            problems.append(f"a record without its trace: {path}")
    return problems


def none_measured_twice(ground: Ground) -> list[str]:
    """The history holds one entry for every record, and it is that record."""
    problems = []
    for path in ground.checkout.records():
        kept = ground.results / "history" / path.relative_to(ground.results / "records").parent
        entries = sorted(kept.glob(f"{path.stem}.*.json"))
        if len(entries) != 1:
            problems.append(f"{len(entries)} entries in the history for {path.parent.name} {path.name}")
        elif digest(entries[0]) != digest(path):
            problems.append(f"the record is not the one in the history: {path}")
    return problems


def earlier_records_stayed(ground: Ground, before: Before) -> list[str]:
    return [
        f"a record that was complete before is another one now: {path.name}"
        for path, earlier in before.records.items()
        if not path.exists() or digest(path) != earlier
    ]


def no_temporary_files(ground: Ground, before: Before) -> list[str]:
    left = [path.name for path in ground.temporary.iterdir() if not path.name.startswith(OF_OTHERS)]
    shared = [path.name for path in SHARED_MEMORY.iterdir() if path.name not in before.shared_memory]
    return [f"left in the folder of temporary files: {name}" for name in left] + [
        f"left in shared memory: {name}" for name in shared
    ]


def no_cap_left(ground: Ground) -> list[str]:
    entries = sorted(ground.journal.glob("*.json")) if ground.journal.exists() else []
    return [f"the platform's journal still holds {path.name}" for path in entries]


def at_once(ground: Ground) -> list[str]:
    """What holds as soon as the faulty run has ended, before anything is started again."""
    return [*no_process_left(ground), *lock_is_free(ground), *records_are_whole(ground)]


def after_restart(ground: Ground, before: Before, ended: Ended) -> list[str]:
    """What holds once the same command was given again."""
    checks: Iterable[list[str]] = (
        restart_finished(ended),
        no_process_left(ground),
        lock_is_free(ground),
        records_are_whole(ground),
        records_are_those_of_the_plan(ground),
        nothing_half_written(ground),
        none_measured_twice(ground),
        earlier_records_stayed(ground, before),
        no_temporary_files(ground, before),
        no_cap_left(ground),
    )
    return [problem for problems in checks for problem in problems]
