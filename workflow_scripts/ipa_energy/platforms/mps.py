"""CUDA MPS for the length of a block: one control daemon of our own, for one user, ended on any way out.

The daemon gets pipe and log folders of its own, so it meets no other one, and needs no privilege for the processes of
the user who starts it. A CUDA program that finds no daemon runs all the same, without MPS and without a word: so the
daemon has to answer before the block begins and still when it ends, and anything else is refused (:class:`MpsRefused`,
:class:`MpsLost`). The compute mode is left as it is, so nothing keeps a program off the GPU that did not get the
environment given here. Commands, variables and files: NVIDIA, "Multi-Process Service", tools and interface reference.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ipa_energy.platforms import journal
from ipa_energy.platforms.gpus import GpuUnavailable, handle_of, mig_enabled, opened_nvml
from ipa_energy.platforms.journal import Entry, Outcome
from ipa_energy.platforms.signals import unwound_by_signals

KIND = "mps"
BINARY = "nvidia-cuda-mps-control"
FOLDERS = Path("/tmp")
"""Not under TMPDIR: the daemon's sockets lie here, and the path of a socket has at most 107 bytes."""
PREFIX = "ipa-energy.mps."
PIPE, LOG, PERCENTAGE = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"

_PROCESSES = "nvidia-cuda-mps"
"""How the names of control daemon and server begin; the kernel keeps no more than these 15 characters."""
_START_S, _COMMAND_S, _QUIT_S, _KILL_S = 15.0, 10.0, 10.0, 3.0


class MpsRefused(Exception):  # noqa: N818 - a state of the host, not a fault
    """The GPUs can't be shared through MPS here. The text says why, and what would make it possible."""


class MpsLost(RuntimeError):  # noqa: N818 - a state of the host, not a fault
    """MPS was there when the block began, but not to its end, or its daemon could not be ended."""


@dataclass(frozen=True, slots=True)
class Mps:
    """A running control daemon. A process becomes its tenant by having ``environment`` when it starts CUDA."""

    environment: Mapping[str, str]
    control_pid: int


@contextmanager
def mps_daemon(
    uuids: Sequence[str], what: str, say: Callable[[str], None], thread_percentage: float | None = None
) -> Iterator[Mps]:
    """Run a control daemon for the GPUs ``uuids`` within the block.

    ``thread_percentage`` limits each tenant to that share of the multiprocessors (Volta and newer), and is read back
    from the daemon. ``what`` tells other processes what the daemon is for; ``say`` gets lines for people. Tenants have
    to be gone when the block ends: the daemon's server is ended with it. Raises MpsRefused before the block, MpsLost
    after it.
    """
    binary = _check_host(uuids, thread_percentage)
    pid = os.getpid()
    with unwound_by_signals() as shield:
        entry: Entry | None = None
        completed = False
        try:
            with shield.held():
                entry = _journal(what)
            environment = _environment(Path(entry.device), uuids, thread_percentage)
            yield Mps(environment, _start(binary, environment, thread_percentage))
            completed = True
        finally:
            if entry is not None and os.getpid() == pid:
                shield.hold_to_end()
                lost = completed and _ask(binary, environment, "get_server_list") is None
                trouble = _leave(entry) or ("the MPS daemon ended before its block did" if lost else None)
                if trouble:
                    say(trouble)
                if trouble and completed:
                    raise MpsLost(trouble)


def _check_host(uuids: Sequence[str], thread_percentage: float | None) -> str:
    """The daemon's executable. Raises MpsRefused where MPS can't be had, ValueError for what is never possible."""
    if not uuids:
        raise ValueError("mps_daemon wants the UUIDs of GPUs and got none")
    if thread_percentage is not None and not 0 < thread_percentage <= 100:
        raise ValueError(f"a thread percentage is above 0 and at most 100, and not {thread_percentage!r}")
    binary = shutil.which(BINARY)
    if binary is None:
        raise MpsRefused(f"no MPS: {BINARY} is not on the PATH; it comes with NVIDIA's driver (its compute utilities)")
    for name in (PIPE, LOG, PERCENTAGE):
        if name in os.environ:
            raise MpsRefused(f"no MPS: {name}={os.environ[name]} is set already, for another daemon; unset it")
    try:
        with opened_nvml() as nvml:
            for uuid in uuids:
                reason = _why_not(nvml, handle_of(nvml, uuid), thread_percentage)
                if reason:
                    raise MpsRefused(f"no MPS on GPU {uuid}: {reason}")
    except GpuUnavailable as error:
        raise MpsRefused(f"no MPS: {error}") from error
    return binary


def _why_not(nvml: Any, handle: Any, thread_percentage: float | None) -> str | None:
    if mig_enabled(nvml, handle):
        return "it has MIG enabled, and NVML has no power of a slice; an administrator can switch it off (-mig 0)"
    with suppress(nvml.NVMLError):
        if nvml.nvmlDeviceGetComputeMode(handle) == nvml.NVML_COMPUTEMODE_PROHIBITED:
            return "its compute mode is PROHIBITED; an administrator can set it to DEFAULT (nvidia-smi -c 0)"
    with suppress(nvml.NVMLError):
        if thread_percentage is not None and nvml.nvmlDeviceGetArchitecture(handle) < nvml.NVML_DEVICE_ARCH_VOLTA:
            return "thread percentages want a Volta GPU or a newer one"
    return None


def _journal(what: str) -> Entry:
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=FOLDERS))
    try:
        (folder / "pipe").mkdir()
        (folder / "log").mkdir()
        journal.make_folder()
        with journal.locked():
            entry = journal.new_entry(KIND, str(folder), {}, what)
            journal.write(entry)
    except (journal.JournalError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise MpsRefused(f"no MPS: {error}") from error
    return entry


def _environment(folder: Path, uuids: Sequence[str], thread_percentage: float | None) -> dict[str, str]:
    # UUIDs, because the daemon numbers anew, for its clients, the GPUs that it was given.
    environment = {PIPE: f"{folder}/pipe", LOG: f"{folder}/log", "CUDA_VISIBLE_DEVICES": ",".join(uuids)}
    return environment if thread_percentage is None else environment | {PERCENTAGE: f"{thread_percentage:g}"}


def _start(binary: str, environment: Mapping[str, str], thread_percentage: float | None) -> int:
    """Start the daemon and wait until it answers; its process id. Raises MpsRefused."""
    try:
        done = subprocess.run(
            [binary, "-d"],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # not a pipe: the daemon inherits it, and would keep it open
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is for us alone
            timeout=_START_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MpsRefused(f"no MPS: the control daemon did not start: {error}{_log(environment)}") from error
    if done.returncode != 0:
        raise MpsRefused(f"no MPS: {binary} -d ended with code {done.returncode}{_log(environment)}")
    deadline_s = time.monotonic() + _START_S
    while _ask(binary, environment, "get_server_list") is None:
        if time.monotonic() > deadline_s:
            raise MpsRefused(f"no MPS: the control daemon does not answer after {_START_S:g} s{_log(environment)}")
        time.sleep(0.05)
    if thread_percentage is not None:
        answer = _ask(binary, environment, "get_default_active_thread_percentage")
        if answer is None or not _is_number(answer, thread_percentage):
            raise MpsRefused(
                f"no MPS: a thread percentage of {thread_percentage:g} was asked for, and the daemon has {answer!r}"
            )
    try:
        return int(Path(environment[PIPE], f"{BINARY}.pid").read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise MpsRefused(f"no MPS: the daemon left no process id: {error}") from error


def _is_number(text: str, expected: float) -> bool:
    try:
        return abs(float(text) - expected) < 0.05
    except ValueError:
        return False


def _ask(binary: str, environment: Mapping[str, str], command: str) -> str | None:
    """The daemon's answer to one command; None when there is no daemon, or none that answers."""
    try:
        done = subprocess.run(
            [binary],
            env=os.environ | environment,
            input=command + "\n",
            capture_output=True,
            text=True,
            start_new_session=True,
            timeout=_COMMAND_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _log(environment: Mapping[str, str]) -> str:
    with suppress(OSError):
        lines = Path(environment[LOG], "control.log").read_text(encoding="utf-8", errors="replace").splitlines()
        if lines:
            return "; its log ends with: " + " / ".join(lines[-3:])
    return ""


def _leave(entry: Entry) -> str | None:
    """End the daemon and close the journal entry; why that could not be done, or None."""
    outcome, sentence = _end(entry)
    return journal.conclude(entry, "MPS", outcome, sentence)


def _end(entry: Entry) -> tuple[Outcome, str]:
    """End what runs for an entry's pipe folder: by its command, then by SIGTERM, then by SIGKILL."""
    folder = Path(entry.device)
    pipe = str(folder / "pipe")
    found = _processes_of(pipe, entry.uid)
    named = "control daemon and servers (" + (", ".join(f"process {process.pid}" for process in found) or "none") + ")"
    binary = shutil.which(BINARY)
    quitting = False
    if found and binary and entry.uid == os.geteuid():  # another user's socket is not spoken to
        quitting = _ask(binary, {PIPE: pipe, LOG: str(folder / "log")}, "quit") is not None
    left = _wait(pipe, entry.uid, _QUIT_S if quitting else 0.0)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with suppress(psutil.Error):
                end(process)
        left = _wait(pipe, entry.uid, _KILL_S if left else 0.0)
    if left:
        return "kept", "these can't be ended: " + ", ".join(f"{one.name()} (process {one.pid})" for one in left)
    if _is_ours(folder, entry.uid):
        shutil.rmtree(folder, ignore_errors=True)
    return ("restored", f"ended the {named}") if found else ("dropped", "no daemon runs any more")


def _is_ours(folder: Path, uid: int) -> bool:
    # An entry says which folder to remove, and may have been written by somebody else than this code.
    with suppress(OSError):
        return folder.parent == FOLDERS and folder.name.startswith(PREFIX) and folder.lstat().st_uid == uid
    return False


def _wait(pipe: str, uid: int, timeout_s: float) -> list[psutil.Process]:
    """The daemon's processes that are left once none is, or after ``timeout_s``."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        left = _processes_of(pipe, uid)
        if not left or time.monotonic() >= deadline_s:
            return left
        time.sleep(0.05)


def _processes_of(pipe: str, uid: int) -> list[psutil.Process]:
    """Control daemon and servers of a pipe folder: by their names, their user and their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            named = process.name().startswith(_PROCESSES) and process.uids().real == uid
            if named and process.status() != psutil.STATUS_ZOMBIE and process.environ().get(PIPE) == pipe:
                found.append(process)
    return found


def restore(entry: Entry, rebooted: bool) -> tuple[Outcome, str]:
    """End the daemon that a dead process left: outcome and a sentence, see :func:`journal.settle`."""
    if not rebooted and os.geteuid() not in (0, entry.uid):
        return "kept", f"user {entry.uid} started a daemon and must end it (python -m ipa_energy.platforms restore)"
    outcome, sentence = _end(entry)
    return outcome, f"{sentence}; {entry.by} ended without doing so"
