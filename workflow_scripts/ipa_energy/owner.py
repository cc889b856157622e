"""The workflow's process: what a measurement belongs to, and ends with.

The workflow claims ownership when it is parsed; its jobs inherit the claim in their environment, watch that process and
stop when it is gone, also after ``kill -9``. On a cluster each job parses the workflow itself and so is its own owner.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OWNER_VARIABLE = "IPA_ENERGY_WORKFLOW_PID"


class WorkflowGoneError(RuntimeError):
    """The workflow that wanted this measurement is dead."""


def started_at(pid: int) -> str:
    """When a process started, in clock ticks since boot: tells it from a later one with the same id.

    Raises FileNotFoundError when there is no such process.
    """
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


def claim_of(pid: int) -> str:
    """The claim of process ``pid``, as the environment carries it."""
    return f"{pid}:{started_at(pid)}"


def claim() -> None:
    """Make this process the owner of everything it starts from now on."""
    os.environ[OWNER_VARIABLE] = claim_of(os.getpid())


def owner_pid() -> int:
    """Process id of the workflow that runs us; our own where none does. Raises WorkflowGoneError when it is dead."""
    text = os.environ.get(OWNER_VARIABLE, "")
    if not text:
        return os.getpid()
    pid = int(text.split(":")[0])
    try:
        alive = claim_of(pid) == text
    except (FileNotFoundError, ProcessLookupError):
        alive = False
    if not alive:
        raise WorkflowGoneError(f"the workflow (process {pid}) ended before this measurement")
    return pid


class Owner:
    """The living owner; ``descriptor`` is a pidfd that is ready once it is dead, None where we own ourselves."""

    def __init__(self, pid: int, descriptor: int | None) -> None:
        self.pid = pid
        self.descriptor = descriptor

    def check(self) -> None:
        """Raise WorkflowGoneError when the owner is dead."""
        if self.descriptor is not None and select.select([self.descriptor], [], [], 0)[0]:
            raise WorkflowGoneError(f"the workflow (process {self.pid}) ended during the measurement")


@contextmanager
def watched_owner() -> Iterator[Owner]:
    """Watch the owner for the block. Raises WorkflowGoneError when it is dead already."""
    pid = owner_pid()
    if pid == os.getpid():
        yield Owner(pid, None)
        return
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        raise WorkflowGoneError(f"the workflow (process {pid}) ended before this measurement") from None
    try:
        yield Owner(pid, descriptor)
    finally:
        os.close(descriptor)
