"""Runs meters over windows on a thread of its own, so that what is being measured is never blocked by the measuring.

In: open meters and a sample period. Out: for every window a :class:`WindowReading`. A window is asked for with
:meth:`Recorder.open` and closed with :meth:`Recorder.close`; both return at once. ``opened_event`` and ``finished``
tell when the edges are set, which takes up to an update period of the slowest counter: until ``finished``, go on with
the work that is measured. A meter that fails gives None and a reason for its domains; the others go on.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ipa_energy.meters.base import Energy, Meter, PowerSample

EDGE_TIMEOUT_S = 30.0
"""Longest wait for the meters at the edges of an idle window: far beyond any counter's period."""
ENVIRONMENT_PERIOD_S = 1.0
"""How often temperatures, clocks and processes are looked at within a window: they change slowly and cost calls."""


@dataclass(frozen=True, slots=True)
class WindowReading:
    """What the meters gave for one window.

    ``energies`` in the order of the meters and their domains. ``late_samples`` counts samples that came more than half
    a period late, and those left out because a whole period was missed. ``sampler_cpu_s`` is the CPU time of the
    sampling thread, edges included. ``environments`` are (time in s, readings by meter name): the first and the last
    taken just outside the window, the others about :data:`ENVIRONMENT_PERIOD_S` apart within it.
    """

    energies: tuple[Energy, ...]
    samples: list[PowerSample]
    sample_count: int
    late_samples: int
    sampler_cpu_s: float
    environments: tuple[tuple[float, dict[str, Any]], ...]


@dataclass(slots=True)
class _Window:
    opened: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)
    reading: WindowReading | None = None
    error: BaseException | None = None


class Recorder:
    """Windows over ``meters``, one after the other, sampled every ``sample_period_s`` (s) on a daemon thread.

    The meters stay the caller's: they are not closed here, and must not be used elsewhere while a window is open.
    """

    def __init__(self, meters: Sequence[Meter], sample_period_s: float) -> None:
        """Start the thread. Raises ValueError when the period isn't positive."""
        if sample_period_s <= 0:
            raise ValueError(f"sample_period_s is {sample_period_s}, must be positive")
        self._meters = tuple(meters)
        self._period_s = sample_period_s
        self._window: _Window | None = None
        self._requests: queue.SimpleQueue[_Window | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="energy-meters", daemon=True)
        self._thread.start()

    def open(self) -> None:
        """Ask for a window; returns at once. Raises RuntimeError while the last one isn't finished."""
        if self._window is not None and not self._window.finished.is_set():
            raise RuntimeError("a window is open already: close it and wait until it is finished")
        if not self._thread.is_alive():
            raise RuntimeError("this recorder has been shut down")
        self._window = _Window()
        self._requests.put(self._window)

    def close(self) -> None:
        """Ask for the end of the window; returns at once."""
        self._current().closing.set()

    @property
    def opened_event(self) -> threading.Event:
        """Set once every meter has begun the window asked for last."""
        return self._current().opened

    @property
    def finished(self) -> threading.Event:
        """Set once every meter has ended the window asked for last."""
        return self._current().finished

    def result(self, timeout_s: float) -> WindowReading:
        """The closed window's figures. Raises TimeoutError when the meters don't end it within ``timeout_s``."""
        window = self._current()
        if not window.finished.wait(timeout_s):
            state = "did not end the window" if window.closing.is_set() else "have an open window that nobody closed"
            raise TimeoutError(f"the meters {state} within {timeout_s:g} s")
        if window.reading is None:
            raise RuntimeError("the sampling thread failed") from window.error
        return window.reading

    def abandon(self, timeout_s: float = EDGE_TIMEOUT_S) -> None:
        """End an open window whose figures nobody wants, so that another can be opened; nothing without one."""
        if self._window is not None:
            self._window.closing.set()
            self._window.finished.wait(timeout_s)

    def measure_for(self, duration_s: float) -> WindowReading:
        """Measure for ``duration_s`` and block meanwhile: for idle windows. Raises TimeoutError when a meter hangs."""
        self.open()
        opened = self.opened_event.wait(EDGE_TIMEOUT_S)
        if opened:
            self.finished.wait(duration_s)
        self.close()
        if not opened:
            raise TimeoutError(f"the meters did not begin a window within {EDGE_TIMEOUT_S:g} s")
        return self.result(EDGE_TIMEOUT_S)

    def shutdown(self, timeout_s: float = 5.0) -> None:
        """End an open window and the thread. Safe to call twice."""
        if self._window is not None:
            self._window.closing.set()
        self._requests.put(None)
        self._thread.join(timeout_s)

    def __enter__(self) -> Recorder:
        """The recorder itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Shut the recorder down."""
        self.shutdown()

    def _current(self) -> _Window:
        if self._window is None:
            raise RuntimeError("no window was opened")
        return self._window

    def _serve(self) -> None:
        while (window := self._requests.get()) is not None:
            try:
                window.reading = self._record(window)
            except BaseException as error:  # nobody may wait for this thread in vain
                window.error = error
            finally:
                window.opened.set()
                window.finished.set()

    def _record(self, window: _Window) -> WindowReading:
        cpu_s = time.thread_time()
        failures: dict[str, str] = {}
        samples: list[PowerSample] = []
        environments = [self._environment()]
        begin_s = time.monotonic()
        for meter in self._meters:
            self._guard(meter, "begin", failures)
        window.opened.set()
        taken, late = self._sample_until_closed(window, failures, samples, environments)
        energies: list[Energy] = []
        for meter in self._meters:
            ended = self._guard(meter, "end", failures)
            if meter.name in failures:
                end_s, reason = time.monotonic(), failures[meter.name]
                ended = [Energy(domain.name, None, begin_s, end_s, reason=reason) for domain in meter.domains]
            energies += ended
        environments.append(self._environment())
        return WindowReading(
            energies=tuple(energies),
            samples=samples,
            sample_count=taken,
            late_samples=late,
            sampler_cpu_s=time.thread_time() - cpu_s,
            environments=tuple(environments),
        )

    def _sample_until_closed(
        self,
        window: _Window,
        failures: dict[str, str],
        samples: list[PowerSample],
        environments: list[tuple[float, dict[str, Any]]],
    ) -> tuple[int, int]:
        start_s, due, taken, late = time.monotonic(), 0, 0, 0
        while not window.closing.wait(max(start_s + due * self._period_s - time.monotonic(), 0.0)):
            behind = (time.monotonic() - start_s) / self._period_s - due
            late += int(behind > 0.5)
            for meter in self._meters:
                samples += self._guard(meter, "sample", failures)
            taken += 1
            if time.monotonic() - environments[-1][0] >= ENVIRONMENT_PERIOD_S:
                environments.append(self._environment())
            # Periods that passed altogether are not made up for: bunched samples would say nothing new.
            following = max(due + 1, int((time.monotonic() - start_s) / self._period_s))
            late += following - (due + 1)
            due = following
        return taken, late

    def _guard(self, meter: Meter, call: str, failures: dict[str, str]) -> list[Any]:
        """One call of a meter; after its first failure in a window the meter is left alone until the next."""
        if meter.name in failures:
            return []
        try:
            return list(getattr(meter, call)() or [])
        except Exception as error:
            failures[meter.name] = f"{meter.name} failed in {call}(): {type(error).__name__}: {error}"
            return []

    def _environment(self) -> tuple[float, dict[str, Any]]:
        readings: dict[str, Any] = {}
        for meter in self._meters:
            try:
                readings[meter.name] = meter.environment()
            except Exception as error:
                readings[meter.name] = {"error": f"{type(error).__name__}: {error}"}
        return time.monotonic(), readings
