"""An estimate of CPU power for machines on which nothing measures it. It is a model, not a meter.

``P = idle_w + watts_per_core * busy cores``, where busy cores come from the whole host's ``/proc/stat``. It exists so
that the workflow runs end to end everywhere, and every figure from it is labelled *estimated*. It is no evidence about
energy: modelled power follows busy time by construction, so that energy can't disagree with latency and throughput here
even where it would on a real machine.
"""

from __future__ import annotations

import os
import time
from typing import Any

import psutil

from ipa_energy.meters.base import Domain, Energy, PowerSample

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
"""Granularity of CPU accounting in /proc/stat, 10 ms on Linux."""
BUSY = ("user", "nice", "system", "irq", "softirq")
"""States in which a core of this host works. ``guest`` is a part of ``user``; ``steal`` is somebody else's time;
``idle`` and ``iowait`` are waiting."""


def busy_core_s() -> float:
    """Core seconds that all cores of the host have worked since boot."""
    times = psutil.cpu_times()
    return float(sum(getattr(times, state, 0.0) for state in BUSY))


class EstimateMeter:
    """Modelled CPU energy of the host, one domain ``cpu``."""

    name = "estimate"

    def __init__(self, idle_w: float, watts_per_core: float, relative_uncertainty: float) -> None:
        """Take the model's parameters: W of the idle CPU, W per busy core, standard uncertainty as a fraction."""
        self.idle_w = idle_w
        self.watts_per_core = watts_per_core
        self.relative_uncertainty = relative_uncertainty
        self._begin = self._last = (0.0, 0.0)
        self.domains: tuple[Domain, ...] = (
            Domain(
                name="cpu",
                covers="cpu",
                boundary="CPU of the whole host, modelled; not memory, fans, disks, network, power supply",
                method=f"estimated: {idle_w:g} W + {watts_per_core:g} W per busy core, busy time from /proc/stat",
                evidence="estimated",
                period_s=TICK_S,
            ),
        )

    def begin(self) -> None:
        """Open a window."""
        self._begin = self._last = _reading()

    def sample(self) -> list[PowerSample]:
        """Modelled mean power since the last sample; none when less than two accounting ticks have passed."""
        now = _reading()
        span_s, busy_s = now[0] - self._last[0], now[1] - self._last[1]
        if span_s < 2 * TICK_S:
            return []
        self._last = now
        return [PowerSample(now[0], "cpu", self.idle_w + self.watts_per_core * max(busy_s, 0.0) / span_s)]

    def end(self) -> list[Energy]:
        """Close the window."""
        (begin_s, begin_busy_s), (end_s, end_busy_s) = self._begin, _reading()
        if end_busy_s < begin_busy_s:
            reason = "busy time in /proc/stat went backwards (a CPU was taken offline?)"
            return [Energy("cpu", None, begin_s, end_s, reason=reason)]
        energy_j = self.idle_w * (end_s - begin_s) + self.watts_per_core * (end_busy_s - begin_busy_s)
        return [Energy("cpu", energy_j, begin_s, end_s, {"model": self.relative_uncertainty * energy_j})]

    def environment(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def provenance(self) -> dict[str, Any]:
        """The model's parameters."""
        return {
            "idle_w": self.idle_w,
            "watts_per_core": self.watts_per_core,
            "relative_uncertainty": self.relative_uncertainty,
        }

    def close(self) -> None:
        """Nothing to release."""


def _reading() -> tuple[float, float]:
    return time.monotonic(), busy_core_s()
