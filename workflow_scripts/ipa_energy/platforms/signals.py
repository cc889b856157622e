"""Signals that end a process, as exceptions: so that what was changed is put back before the process goes.

SIGTERM and SIGHUP by default end Python without unwinding anything, and a Ctrl-C may hit the clean-up itself. Within
:func:`unwound_by_signals` the first become an exception in the main thread, and all wait while something is half done.
Whoever handled a signal before still does: its handler is called, or its default action taken once all is put back.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
IMPATIENCE_S = 2.0
"""Signals that follow one which raised within this time wait: a burst of them must not hit the way out. Later ones act,
so that a second Ctrl-C still ends a block that hangs while it is left."""


class Terminated(BaseException):
    """A signal whose default action ends the process came; ``by`` is the shield that will take that action."""

    def __init__(self, signum: int, by: Shield) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.by = by


class Shield:
    """Lets ending signals wait. Without handlers of its own (not the main thread) it does nothing."""

    def __init__(self) -> None:
        self._holds = 0
        self._waiting: list[int] = []
        self._earlier: dict[int, Callable[[int, FrameType | None], object] | int] = {}
        self._raised_s = -math.inf

    @contextmanager
    def held(self) -> Iterator[None]:
        """Signals that come within the block act at its end."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        while self._waiting and not self._holds:
            self._act(self._waiting.pop(0), None)

    def hold_to_end(self) -> None:
        """From now on signals wait until all is put back."""
        self._holds += 1

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._holds or time.monotonic() < self._raised_s + IMPATIENCE_S:
            self._waiting.append(signum)
        else:
            self._act(signum, frame)

    def _act(self, signum: int, frame: FrameType | None) -> None:
        earlier = self._earlier[signum]
        try:
            if not callable(earlier):
                raise Terminated(signum, self)
            earlier(signum, frame)
        except BaseException:
            self._raised_s = time.monotonic()
            raise

    def _install(self) -> None:
        for signum in ENDING:
            earlier = signal.getsignal(signum)
            # None: set from C, not ours to chain. Ignored (nohup): it does not end the process.
            if earlier is not None and earlier is not signal.SIG_IGN:
                self._earlier[signum] = earlier
                signal.signal(signum, self._handle)

    def _remove(self) -> None:
        for signum, earlier in self._earlier.items():
            signal.signal(signum, earlier)


@contextmanager
def unwound_by_signals() -> Iterator[Shield]:
    """Within the block SIGINT, SIGTERM and SIGHUP unwind the stack instead of ending the process at once.

    Handlers are installed in the main thread only. A signal that was handled before by a Python function still is:
    that function decides whether it raises. One with the default action raises :class:`Terminated` and takes the
    default action when the block is left, so that the parent sees the process ended by that signal.
    """
    shield = Shield()
    if threading.current_thread() is not threading.main_thread():
        yield shield
        return
    terminated: Terminated | None = None
    try:
        shield._install()
        yield shield
    except Terminated as error:
        if error.by is not shield:
            raise
        terminated = error
        shield._waiting.insert(0, error.signum)
    finally:
        shield._remove()
        for signum in shield._waiting:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            os.kill(os.getpid(), signum)
    if terminated is not None:  # the signal is blocked and did not end us: nothing after the block may run all the same
        raise SystemExit(128 + terminated.signum)
