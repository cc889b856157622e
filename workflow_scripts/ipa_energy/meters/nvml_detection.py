"""How often a GPU updates its energy counter and its power fields, found by watching them when the meter is opened.

In: the GPUs' channels. Out: in each channel the updates of its counter and of its power fields. Nothing is assumed:
what did not change, or changed at no rate that can be told, has no period.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ipa_energy.meters.nvml_channel import Channel
from ipa_energy.meters.nvml_edges import POLL_S
from ipa_energy.meters.nvml_power import PowerSeries
from ipa_energy.meters.nvml_updates import ChangeWatch, update_period

DETECT_S = 1.5
"""Longest time for detection: at 100 ms enough for ten gaps, at 500 ms for two."""
DETECT_TICKS = 11
"""Ticks of the counter after which detection has seen enough."""
DETECT_CHANGES = 4
"""Changes of a power field that are waited for, where it changes at all."""


@dataclass(slots=True)
class _Watched:
    """What detection sees of one power field: changes of its value, and of the driver's time stamp."""

    series: PowerSeries
    values: ChangeWatch = field(default_factory=ChangeWatch)
    stamps: ChangeWatch = field(default_factory=ChangeWatch)
    unstamped_changes: int = 0

    def see(self, power_w: float, stamp_us: int | None, asked_s: float, answered_s: float) -> None:
        changed = self.values.see(power_w, asked_s, answered_s)
        stamped = self.stamps.see(stamp_us, asked_s, answered_s)
        self.unstamped_changes += changed is not None and stamped is None

    @property
    def enough(self) -> bool:
        changes = max(len(self.values.ticks), len(self.stamps.ticks))
        return changes == 0 or changes >= DETECT_CHANGES

    def conclude(self) -> None:
        """A stamp is an update's where it stays over several polls and no value changes without it."""
        stamps = len(self.stamps.ticks)
        self.series.stamped = stamps > 1 and self.stamps.polls >= 3 * stamps and not self.unstamped_changes
        if self.series.stamped:
            self.series.updates = update_period(self.stamps.ticks, "the driver's time stamps")
        else:
            self.series.updates = update_period(self.values.ticks, "changes of the value", values_repeat=True)


def detect_updates(channels: Sequence[Channel]) -> None:
    """Find the update periods of all counters and power fields, in 1.5 s at most.

    A counter that stands still all the time isn't used where power can be integrated instead.
    """
    watched = {channel.name: [_Watched(series) for series in channel.powers] for channel in channels}
    for channel in channels:
        channel.read_counter()
    since_s = time.monotonic()
    while time.monotonic() - since_s < DETECT_S:
        time.sleep(POLL_S)
        for channel in channels:
            channel.read_counter()
            asked_s = time.monotonic()
            readings = channel.gpu.read_powers([series.power for series in channel.powers])
            answered_s = time.monotonic()
            for seen, reading in zip(watched[channel.name], readings, strict=True):
                if reading.power_w is not None:
                    seen.see(reading.power_w, reading.stamp_us, asked_s, answered_s)
        if all(_enough(channel, watched[channel.name]) for channel in channels):
            break
    for channel in channels:
        for seen in watched[channel.name]:
            seen.conclude()
        if channel.counted:
            channel.updates = update_period(channel.watch.ticks, "changes of the counter")
            if not channel.watch.ticks and channel.powers:
                channel.fault = (
                    f"the energy counter stood still at {channel.counter_mj} mJ for {DETECT_S:g} s at opening"
                )


def _enough(channel: Channel, watched: Sequence[_Watched]) -> bool:
    if channel.counted:
        return len(channel.watch.ticks) >= DETECT_TICKS and all(seen.enough for seen in watched)
    return bool(watched) and max(len(watched[0].values.ticks), len(watched[0].stamps.ticks)) >= DETECT_TICKS
