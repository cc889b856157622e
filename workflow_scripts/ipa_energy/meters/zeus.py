"""A second opinion on the same windows by Zeus (https://ml.energy/zeus), the extra ``zeus``; never counted in a total.

Zeus reads the counters that the NVML and RAPL meters read, and treats them by its own rules: window edges where they
fall, wraps of RAPL counted by a process that looks once a second, no reason beside a figure that is missing. So its
figure is a check of our arithmetic and not of the sensor. What is known to go wrong in release 0.16.0 becomes None with
a reason: no device, 0 J, negative energy, and RAPL's wraps near a window edge, where Zeus's count of them lags behind.

Zeus runs in a process of its own (:mod:`ipa_energy.meters.zeus_server`): it is not imported here, and its prints,
warnings, loggers and helpers stay there and end with it. Frameworks are not synchronised (``sync_execution=False``),
because the measured work runs in other processes.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

from ipa_energy.meters.base import Domain, Energy, Meter, MeterUnavailable, PowerSample

START_LIMIT_S = 60.0
"""Longest wait for Zeus to be imported and to start its helpers: scientific Python from a cold disk."""
CALL_LIMIT_S = 10.0
CLOSE_LIMIT_S = 5.0
WRAP_LAG_S = 5.0
"""Zeus's helper looks for wraps once a second. Five times that leaves room for a power above the window's mean, and for
a busy host."""
RAPL_PERIOD_S = 0.001


@dataclass(frozen=True, slots=True)
class Source:
    """What Zeus reads for one domain: the ``part`` of its result and the index there.

    ``range_j`` is where the counter wraps (None: never), ``period_s`` its update period as the counted meter states it.
    """

    domain: Domain
    part: str
    index: int
    range_j: float | None
    period_s: float | None


class ZeusError(Exception):
    """Zeus's process failed, or said that Zeus did."""


class ZeusMeter:
    """Zeus's figures for those domains of the meters ``others`` that Zeus covers too, under the same names."""

    name = "zeus"

    def __init__(self, others: Sequence[Meter]) -> None:
        """Start Zeus on the devices that ``others`` measure; takes some seconds. Raises MeterUnavailable."""
        if util.find_spec("zeus") is None:
            raise MeterUnavailable("Zeus is not installed; pip install 'ipa-energy[zeus]'")
        domains = {domain.name: domain for other in others for domain in other.domains if domain.counted}
        facts = [other.provenance() for other in others]
        boards = {name: gpu["nvml_index"] for fact in facts for name, gpu in fact.get("gpus", {}).items()}
        zones = {name: zone for fact in facts for name, zone in fact.get("zones", {}).items()}
        wanted = [name for name in domains if name in boards or name in zones]
        if not wanted:
            raise MeterUnavailable("no GPU and no CPU counter is measured on which Zeus could give a second opinion")
        self._process = _Process(boards[name] for name in wanted if name in boards)
        try:
            found = self._process.answer(START_LIMIT_S)
            gpus, left_out = _gpu_sources([domains[name] for name in wanted if name in boards], found)
            cpus, more = _cpu_sources([domains[name] for name in wanted if name in zones], zones, found)
            self._sources, self._left_out = (*gpus, *cpus), left_out | more
            if not self._sources:
                raise MeterUnavailable(f"Zeus {found['version']} can't be used: {'; '.join(self._left_out.values())}")
            indices = [sorted({s.index for s in sources}) for sources in (gpus, cpus)]
            opened = self._process.call("open", *indices, limit_s=START_LIMIT_S)
        except ZeusError as error:
            self.close()
            raise MeterUnavailable(f"Zeus can't be used: {error}") from error
        except BaseException:
            self.close()
            raise
        self.process_ids: tuple[int, ...] = tuple(opened["pids"])
        """Zeus's process and its helpers: their CPU time is the measurement's own."""
        self._version = found["version"]
        self._boards = boards
        self.domains = tuple(_domain(source, self._version) for source in self._sources)
        self._begun: dict[str, Any] = {}
        self._lost: str | None = "no window was begun"
        self._call_s = 0.0

    def begin(self) -> None:
        """Open a window; returns once Zeus has taken its readings."""
        self._call_s, self._lost = time.monotonic(), None
        try:
            self._begun = self._process.call("begin")
        except ZeusError as error:
            self._lost = f"Zeus could not begin the window: {error}"

    def sample(self) -> list[PowerSample]:
        """Nothing: Zeus reads the counters at both edges only."""
        return []

    def end(self) -> list[Energy]:
        """Close the window; Zeus's figure for every domain, or the reason why it is none."""
        if self._lost is None:
            try:
                ended = self._process.call("end")
                return [_energy(source, self._begun, ended) for source in self._sources]
            except ZeusError as error:
                self._lost = f"Zeus could not end the window: {error}"
        begin_s, end_s = self._call_s, time.monotonic()
        return [Energy(domain.name, None, begin_s, end_s, reason=self._lost) for domain in self.domains]

    def environment(self) -> dict[str, Any]:
        """Nothing: the meters that Zeus is compared with tell of their devices."""
        return {}

    def provenance(self) -> dict[str, Any]:
        """Version; Zeus's index and NVML's for every GPU, Zeus's index of every CPU; domains left out; its messages."""
        return {
            "version": self._version,
            "gpu_indices": {s.domain.name: s.index for s in self._sources if s.part == "gpu"},
            "nvml_indices": {s.domain.name: self._boards[s.domain.name] for s in self._sources if s.part == "gpu"},
            "cpu_indices": {s.domain.name: s.index for s in self._sources if s.part != "gpu"},
            "left_out": self._left_out,
            "messages": self._process.messages() or None,
        }

    def close(self) -> None:
        """End Zeus and its helpers. Safe to call twice."""
        self._process.close()


class _Process:
    """Zeus's process: requests and answers, its messages, its end."""

    def __init__(self, boards: Iterable[int]) -> None:
        library = str(Path(__file__).resolve().parents[2])
        environ = os.environ | {
            # Zeus numbers GPUs by NVML and reads nothing but indices here; an empty list keeps it off all GPUs.
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, boards)),
            "PYTHONPATH": os.pathsep.join(filter(None, [library, os.environ.get("PYTHONPATH")])),
        }
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as Zeus runs
        self._unread = b""
        self._closed = False
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "ipa_energy.meters.zeus_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environ,
            start_new_session=True,  # a group of its own, which can be ended as a whole
        )

    def call(self, request: str, *arguments: Any, limit_s: float | None = None) -> Any:
        """Zeus's answer to ``request``. Raises ZeusError."""
        if self._closed:
            raise ZeusError("its process has been closed")
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps([request, arguments]).encode() + b"\n")
            self._child.stdin.flush()
        except OSError as error:
            raise ZeusError(self._ended()) from error
        return self.answer(CALL_LIMIT_S if limit_s is None else limit_s)

    def answer(self, limit_s: float) -> Any:
        """The next answer. Raises ZeusError when it is one of failure, or none comes within ``limit_s``."""
        assert self._child.stdout is not None
        descriptor, give_up_s = self._child.stdout.fileno(), time.monotonic() + limit_s
        while b"\n" not in self._unread:
            ready, _, _ = select.select([descriptor], [], [], max(give_up_s - time.monotonic(), 0.0))
            if not ready:
                self.close()  # a late answer would be taken for that to the next request
                raise ZeusError(f"it did not answer within {limit_s:g} s")
            received = os.read(descriptor, 65536)
            if not received:
                raise ZeusError(self._ended())
            self._unread += received
        line, self._unread = self._unread.split(b"\n", 1)
        answer = json.loads(line)
        if "error" in answer:
            raise ZeusError(answer["error"])
        return answer

    def _ended(self) -> str:
        return f"its process ended unasked; its last words: {self.messages() or 'none'}"

    def messages(self) -> str:
        """The last of what Zeus and its helpers printed or warned."""
        if self._log.closed:
            return ""
        end = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(end - 2000, 0))
        return self._log.read().decode(errors="replace").strip()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        with suppress(OSError):  # it is dead already, with a request unread
            child.stdin.close()
        _wait_for_exit(child.pid, CLOSE_LIMIT_S)
        # Not reaped yet, so the group's number is still its own and no other's.
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        self._log.close()


def _wait_for_exit(pid: int, limit_s: float) -> None:
    """Wait until our child ``pid`` has ended, without reaping it."""
    descriptor = os.pidfd_open(pid)
    try:
        select.select([descriptor], [], [], limit_s)
    finally:
        os.close(descriptor)


def _gpu_sources(domains: Sequence[Domain], found: Mapping[str, Any]) -> tuple[list[Source], dict[str, str]]:
    sources, left_out = [], {}
    for index, domain in enumerate(domains):  # Zeus was shown these GPUs, in this order
        if index >= len(found["gpus"]):
            left_out[domain.name] = f"Zeus finds no GPU for {domain.name}: {found['no_gpu'] or 'no reason given'}"
        elif found["gpus"][index] is not None:
            left_out[domain.name] = f"{domain.name}: {found['gpus'][index]}"
        else:
            sources.append(Source(domain, "gpu", index, None, domain.period_s))
    return sources, left_out


def _cpu_sources(
    domains: Sequence[Domain], zones: Mapping[str, Any], found: Mapping[str, Any]
) -> tuple[list[Source], dict[str, str]]:
    sources, left_out = [], {}
    for domain in domains:
        zone = zones[domain.name]
        # A package is intel-rapl:N, its memory intel-rapl:N:M; Zeus shows memory together with its package.
        package = ":".join(Path(zone["path"]).name.split(":")[:2])
        if package in found["cpus"]:
            part = "dram" if domain.covers == "dram" else "cpu"
            sources.append(Source(domain, part, found["cpus"].index(package), zone["range_j"], RAPL_PERIOD_S))
        else:
            left_out[domain.name] = f"Zeus finds no CPU for {domain.name}: {found['no_cpu'] or f'no zone {package}'}"
    return sources, left_out


def _domain(source: Source, version: str) -> Domain:
    if source.part == "gpu":
        how = "NVML energy counter, window edges where they fall"
    else:
        how = "RAPL counter by powercap, wraps counted by a process that polls it"
    method = f"Zeus {version} (ZeusMonitor): {how}"
    domain = source.domain
    return Domain(domain.name, domain.covers, domain.boundary, method, "measured", source.period_s, counted=False)


def _energy(source: Source, begun: Mapping[str, Any], ended: Mapping[str, Any]) -> Energy:
    index = str(source.index)
    (begin_before_s, begin_after_s), (end_before_s, end_after_s) = begun["time_s"], ended["time_s"]
    begin_s, end_s = (begin_before_s + begin_after_s) / 2, (end_before_s + end_after_s) / 2
    energy_j = ended[source.part].get(index)
    reason = fault(energy_j, begun.get(source.part, {}).get(index), source.range_j, end_s - begin_s)
    if reason is not None:
        return Energy(source.domain.name, None, begin_s, end_s, reason=reason)
    parts = {}
    if source.period_s is not None:
        widths_s = [source.period_s + after - before for before, after in (begun["time_s"], ended["time_s"])]
        parts = {"edges": energy_j / (end_s - begin_s) * math.hypot(*widths_s) / math.sqrt(12)}
    return Energy(source.domain.name, energy_j, begin_s, end_s, parts)


def fault(energy_j: float | None, begin_j: float | None, range_j: float | None, window_s: float) -> str | None:
    """Why Zeus's figure for a window of ``window_s`` can't be taken; None where nothing speaks against it.

    ``begin_j`` is the counter with the wraps that Zeus had counted when the window began, ``range_j`` where it wraps;
    both None for a counter that never does.
    """
    if energy_j is None:
        return "Zeus gave no figure, and no reason"
    if energy_j == 0:
        return f"Zeus gave 0 J for a window of {window_s:.3f} s: it saw no update of the counter"
    if energy_j < 0:
        cause = "the counter restarted" if range_j is None else "it missed a wrap, or the counter restarted"
        return f"Zeus gave {energy_j:.6g} J, less than nothing: {cause}"
    if begin_j is None or range_j is None:
        return None
    # Just after a wrap the counter is low, and Zeus may not have counted that wrap yet: a whole range too much or less.
    lag_j = WRAP_LAG_S * energy_j / window_s
    for edge, counter_j in (("begin", begin_j % range_j), ("end", (begin_j + energy_j) % range_j)):
        if counter_j < lag_j:
            return (
                f"Zeus's count of wraps may lag at the {edge} of the window: the counter stood at {counter_j:.6g} J, "
                f"less than {WRAP_LAG_S:g} s after a wrap"
            )
    return None
