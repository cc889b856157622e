"""GPU power limits: read, set for the length of a block, verified, and put back on any way out of it.

A limit that can't be set, or that the driver does not enforce, is refused with the reason (:class:`PowerLimitRefused`):
such a configuration was not run, it was not run at the default. Setting needs root or CAP_SYS_ADMIN; without it a limit
that an administrator set beforehand is verified and accepted. A limit is lost when the driver is unloaded, at the
latest at a reboot.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ipa_energy.platforms import journal
from ipa_energy.platforms.gpus import GpuUnavailable, handle_of, mig_enabled, opened_nvml
from ipa_energy.platforms.journal import Entry, Outcome
from ipa_energy.platforms.signals import Shield, unwound_by_signals

KIND = "power_limit"
TOLERANCE_W = 1.0
"""Boards may round a limit; a difference of more than this from what was asked for is another limit."""
SETTLE_S = 1.0
"""How long the enforced limit may take to follow the requested one. Chosen: the vendor names no time."""


class PowerLimitRefused(Exception):  # noqa: N818 - a state of the host, not a fault
    """The limit can't be had here. The text names the limit and the reason, and what would make it possible."""


class PowerLimitLost(RuntimeError):  # noqa: N818 - a state of the host, not a fault
    """The limit was set, but did not hold to the end of the block, or could not be put back."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Power limits of one GPU in watts: what may be set, what is asked for, and what the driver enforces."""

    min_w: float
    max_w: float
    default_w: float
    requested_w: float
    enforced_w: float


def read_limits(nvml: Any, handle: Any) -> Limits:
    """The limits of a GPU, which needs no privilege. Raises ``NVMLError`` where the GPU has none."""
    low_mw, high_mw = nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
    return Limits(
        low_mw / 1e3,
        high_mw / 1e3,
        nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle) / 1e3,
        nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1e3,
        nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
    )


@contextmanager
def power_limit(
    uuids: Sequence[str], limit_w: float, what: str, say: Callable[[str], None]
) -> Iterator[dict[str, Limits]]:
    """Cap the GPUs ``uuids`` at ``limit_w`` watts for the block; yields their limits as read back, by UUID.

    ``what`` tells other processes what the cap is for; ``say`` gets lines for people. There is no limit that means
    "untouched": leave the call out. Raises PowerLimitRefused before the block when any of the GPUs can't be capped (all
    are then as they were), PowerLimitLost after it when a cap did not hold or could not be put back.
    """
    if not uuids or len(set(uuids)) != len(uuids):
        raise ValueError(f"power_limit wants GPUs, each once, and got {list(uuids)}")
    if not isinstance(limit_w, int | float) or not math.isfinite(limit_w):
        raise ValueError(f"power_limit wants watts and got {limit_w!r}; to leave a GPU as it is, do not call it")
    with unwound_by_signals() as shield, ExitStack() as caps:
        try:
            nvml = caps.enter_context(opened_nvml())
            limits = {uuid: caps.enter_context(_capped(nvml, uuid, limit_w, what, say, shield)) for uuid in uuids}
        except GpuUnavailable as error:
            raise PowerLimitRefused(f"limit of {limit_w:g} W: {error}") from error
        yield limits


@contextmanager
def _capped(
    nvml: Any, uuid: str, limit_w: float, what: str, say: Callable[[str], None], shield: Shield
) -> Iterator[Limits]:
    pid = os.getpid()
    handle = handle_of(nvml, uuid)
    if mig_enabled(nvml, handle):
        raise PowerLimitRefused(
            f"limit of {limit_w:g} W for GPU {uuid}: it has MIG enabled, and a limit holds for the whole GPU, whose "
            "other slices others may use; an administrator can switch MIG off with nvidia-smi -mig 0"
        )
    entry: Entry | None = None
    completed = False
    try:
        with shield.held():
            entry = _set(nvml, uuid, handle, limit_w, what, say)
        yield _read_back(nvml, uuid, handle, limit_w)
        completed = True
    finally:
        if os.getpid() == pid:  # a child that was forked within the block leaves it too, and must not undo it
            shield.hold_to_end()
            drift = _drift(nvml, uuid, handle, limit_w) if completed else None
            trouble = (_leave(nvml, handle, entry, say) if entry else None) or drift
            if trouble:
                say(trouble)
            if trouble and completed:
                raise PowerLimitLost(trouble)


def _set(nvml: Any, uuid: str, handle: Any, limit_w: float, what: str, say: Callable[[str], None]) -> Entry | None:
    """Journal the change and make it; None where the limit is what was asked for already, and nothing is changed."""
    limit_mw = round(limit_w * 1e3)
    asked = f"limit of {limit_w:g} W for GPU {uuid}"
    try:
        journal.make_folder()
        with journal.locked():
            _settle_earlier(uuid, asked, say)
            limits = read_limits(nvml, handle)
            if not limits.min_w <= limit_w <= limits.max_w:
                raise PowerLimitRefused(
                    f"{asked}: outside of what can be set, {limits.min_w:g} to {limits.max_w:g} W "
                    f"(default {limits.default_w:g} W); choose one within"
                )
            earlier_mw = round(limits.requested_w * 1e3)
            if earlier_mw == limit_mw:
                return None
            entry = journal.new_entry(KIND, uuid, {"earlier_mw": earlier_mw, "set_mw": limit_mw}, what)
            journal.write(entry)
            try:
                nvml.nvmlDeviceSetPowerManagementLimit(handle, limit_mw)
            except nvml.NVMLError as error:
                if _put_back(nvml, handle, entry)[0] == "kept":
                    journal.give_up(entry)
                else:
                    journal.drop(entry)
                if error.value != nvml.NVML_ERROR_NO_PERMISSION:
                    raise
                raise PowerLimitRefused(
                    f"{asked}: no permission to set it, now {limits.requested_w:g} W. Setting needs root or "
                    f"CAP_SYS_ADMIN; or an administrator sets it beforehand (nvidia-smi -i {uuid} -pl {limit_w:g}), "
                    "and it is then only verified"
                ) from error
            return entry
    except nvml.NVMLError as error:
        raise PowerLimitRefused(f"{asked}: NVML says {error}") from error
    except (journal.JournalError, OSError) as error:
        raise PowerLimitRefused(f"{asked}: {error}") from error


def _settle_earlier(uuid: str, asked: str, say: Callable[[str], None]) -> None:
    entry = journal.find(KIND, uuid)
    if entry is None:
        return
    restoration = journal.settle(entry, restore)
    if restoration is None:
        raise PowerLimitRefused(f"{asked}: {entry.by} holds another limit on it")
    say(restoration.line)
    if restoration.outcome == "kept":
        raise PowerLimitRefused(f"{asked}: what an earlier process left behind stands in the way: {restoration.line}")


def _read_back(nvml: Any, uuid: str, handle: Any, limit_w: float) -> Limits:
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        try:
            limits = read_limits(nvml, handle)
        except nvml.NVMLError as error:
            raise PowerLimitRefused(f"limit of {limit_w:g} W for GPU {uuid}: not readable: {error}") from error
        if _holds(limits, limit_w):
            return limits
        if time.monotonic() >= deadline_s:
            raise PowerLimitRefused(
                f"limit of {limit_w:g} W for GPU {uuid}: the driver took {limits.requested_w:g} W and enforces "
                f"{limits.enforced_w:g} W"
            )
        time.sleep(0.05)


def _holds(limits: Limits, limit_w: float) -> bool:
    return max(abs(limits.requested_w - limit_w), abs(limits.enforced_w - limit_w)) <= TOLERANCE_W


def _drift(nvml: Any, uuid: str, handle: Any, limit_w: float) -> str | None:
    try:
        limits = read_limits(nvml, handle)
    except nvml.NVMLError as error:
        return f"GPU {uuid} can't say whether it kept its limit of {limit_w:g} W: {error}"
    if _holds(limits, limit_w):
        return None
    return (
        f"GPU {uuid} did not keep its limit of {limit_w:g} W: at the end {limits.requested_w:g} W were requested and "
        f"{limits.enforced_w:g} W enforced"
    )


def _leave(nvml: Any, handle: Any, entry: Entry, say: Callable[[str], None]) -> str | None:
    """Put the limit back and close the journal entry; why that could not be done, or None."""
    outcome, sentence = _put_back(nvml, handle, entry)
    if outcome == "dropped":
        say(f"GPU {entry.device}: {sentence}")
    return journal.conclude(entry, f"GPU {entry.device}", outcome, sentence)


def _put_back(nvml: Any, handle: Any, entry: Entry) -> tuple[Outcome, str]:
    earlier_mw, set_mw = int(entry.change["earlier_mw"]), int(entry.change["set_mw"])
    earlier, was_set = f"{earlier_mw / 1e3:g} W", f"{set_mw / 1e3:g} W"
    try:
        present_mw = nvml.nvmlDeviceGetPowerManagementLimit(handle)
        if present_mw == earlier_mw:
            return "dropped", f"the power limit is already back at {earlier}"
        if abs(present_mw - set_mw) > TOLERANCE_W * 1e3:
            return "dropped", (
                f"the power limit is {present_mw / 1e3:g} W and no longer the {was_set} that {entry.by} had set: "
                f"somebody else changed it since, so it is left alone (before it was {earlier})"
            )
        nvml.nvmlDeviceSetPowerManagementLimit(handle, earlier_mw)
        present_mw = nvml.nvmlDeviceGetPowerManagementLimit(handle)
    except nvml.NVMLError_NoPermission:
        return "kept", (
            f"no permission to put the power limit back from {was_set} to {earlier}; as root: "
            "python -m ipa_energy.platforms restore"
        )
    except nvml.NVMLError as error:
        return "kept", f"the power limit can't be put back from {was_set} to {earlier}: {error}"
    if present_mw != earlier_mw:
        return "kept", f"the power limit was to be put back to {earlier} and is {present_mw / 1e3:g} W"
    return "restored", f"power limit put back from {was_set} to {earlier}"


def restore(entry: Entry, rebooted: bool) -> tuple[Outcome, str]:
    """Undo the power limit that a dead process left: outcome and a sentence, see :func:`journal.settle`."""
    if rebooted:
        return "dropped", f"{entry.by} had set a power limit; it went with the driver when the host was started anew"
    if entry.uid not in (0, os.geteuid()):  # else any user could have root set a limit
        return "kept", f"user {entry.uid} set a power limit and must undo it (python -m ipa_energy.platforms restore)"
    try:
        with opened_nvml() as nvml:
            outcome, sentence = _put_back(nvml, handle_of(nvml, entry.device), entry)
    except GpuUnavailable as error:
        return "kept", f"{entry.by} had set a power limit, which can't be looked at: {error}"
    except (KeyError, TypeError, ValueError) as error:
        return "kept", f"the entry does not say what to undo: {error!r}"
    return outcome, sentence if outcome == "dropped" else f"{sentence}; {entry.by} ended without doing so"
