"""Windows on NVML's energy counter whose edges lie on the instants at which the counter changes.

The counter moves in steps (100 ms or so on datacentre parts), so a window cut at arbitrary instants is wrong by up to
one step's energy. In: the GPUs' channels. Out: for every channel the two edges of its window, each a change of the
counter that was seen: by polls 1 ms apart while the window is opened or closed, else by the samples in between, whose
distance then is the width of the interval that the edge lies in.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ipa_energy.meters.base import PowerSample
from ipa_energy.meters.nvml_channel import Channel, Edge

POLL_S = 0.001
POWER_POLL_S = 0.02
"""How often power is read while an edge is waited for: often enough for updates every 100 ms."""


def sample(channels: Sequence[Channel]) -> list[PowerSample]:
    """Power of every GPU; reads the counters too, so that resets and the counter's last change are seen.

    A window that could not begin on a tick begins at the first change seen here.
    """
    for channel in channels:
        edge = channel.read_counter()
        if edge is not None and channel.begin is None:
            channel.begin = edge
    return [reading for channel in channels if (reading := channel.read_power()) is not None]


def align(channels: Sequence[Channel]) -> dict[str, Edge]:
    """The next tick of every counter, by channel name; without those that were lost or did not tick in time.

    A tick that polls caught only roughly is kept while a better one may come. Power is read on meanwhile.
    """
    for channel in channels:
        channel.read_counter()
        channel.read_power()
    pending = {channel.name for channel in channels if channel.counted}
    edges: dict[str, Edge] = {}
    since_s = power_s = time.monotonic()
    while pending and time.monotonic() - since_s < max(c.wait_s for c in channels if c.name in pending):
        time.sleep(POLL_S)
        for channel in channels:
            edge = channel.read_counter()
            if channel.name not in pending:
                continue
            if edge is not None and (channel.name not in edges or edge.width_s < edges[channel.name].width_s):
                edges[channel.name] = edge
                channel.read_power()
                if edge.width_s <= channel.precise_s:
                    pending.discard(channel.name)
            if not channel.counted:
                pending.discard(channel.name)
        if time.monotonic() - power_s >= POWER_POLL_S:
            power_s = time.monotonic()
            for channel in channels:
                channel.read_power()
    return {name: edge for name, edge in edges.items() if any(c.name == name and c.counted for c in channels)}


def begin_window(channels: Sequence[Channel]) -> None:
    """Set the begin of every channel: a tick of its counter, or the moment after all ticks where it has no counter."""
    for channel in channels:
        channel.clear()
    edges = align(channels)
    for channel in channels:
        channel.begin = edges.get(channel.name)
        if channel.counted and channel.begin is None:
            channel.off_tick["begin"] = f"{_no_tick(channel)} the first change that samples saw is taken"
        if channel.fault is not None:
            channel.begin = Edge(time.monotonic(), 0, 0.0)
        channel.asked_s = (time.monotonic(), time.monotonic())


def end_window(channels: Sequence[Channel]) -> None:
    """Set the end of every channel: a tick, else the last change seen; the moment after all ticks without a counter."""
    call_s = time.monotonic()
    sample(channels)
    edges = align(channels)
    for channel in channels:
        channel.asked_s = (channel.asked_s[0], call_s)
        channel.end = edges.get(channel.name)
        if channel.counted and channel.end is None:
            channel.end = channel.last
            channel.off_tick["end"] = f"{_no_tick(channel)} the last change that samples saw is taken"
        if channel.fault is not None:
            channel.end = Edge(time.monotonic(), 0, 0.0)


def _no_tick(channel: Channel) -> str:
    return f"no tick of the energy counter within {channel.wait_s:.1f} s;"
