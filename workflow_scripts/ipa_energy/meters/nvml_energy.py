"""From what was read of a GPU in a window to its energy: the figure, its checks, uncertainty and doubts.

The figure is the difference of the energy counter between two of its ticks. Beside it, as checks, stand the integrals
of the named power fields over the same window. Which part of the signal either sees is not documented, so their ratio
is a result and no correction. A GPU whose counter can't be used has the integral of its first field as its figure.

Parts of the standard uncertainty (k = 1), each in joules over the window of length T with energy E and power P = E/T:

- ``gain``: 5 %/√3 of E. Boards of one model differ by about ±5 % (Yang, Adámek and Armour, SC'24, results for more than
  70 GPUs). Common to all windows on one board.
- ``offset``: 5 W/√3 · T. 5 W is what NVIDIA states; a few workstation and consumer boards of the study lie beyond it.
  Common to all windows on one board.
- ``edges``, counter: P · √(w₁²/12 + w₂²/12 + j²), where w is the time between the two polls that a tick lies between,
  and j the jitter of the gaps between ticks (0 where fewer than three were seen): whether a late tick is a late reading
  of the sensor (no error) or a late publication (an error of the edge) can't be told, so it counts as the latter. A gap
  lies between two ticks, so j holds both edges. Integral: P · u · √(2/12), one update u at each end.
- ``sampling``, integral only: s/√n · T of the n independent *updates* seen, not of polls. Of a sensor that sees only a
  part of each period this is the scatter of that part; phase-locked load is a bias that it doesn't hold.
- ``disagreement``, counter only: |E - E'|/√3, with E' the first check there is, as mean power over T. The truth may lie
  on either side of the counter as far away as the second figure does: a rectangle with that half-width.
"""

from __future__ import annotations

import math

from ipa_energy.meters.base import Check, Doubt, Energy
from ipa_energy.meters.nvml_channel import Channel, Edge
from ipa_energy.meters.nvml_device import MODULE_SCOPE
from ipa_energy.meters.nvml_power import PowerSeries, superchip
from ipa_energy.meters.nvml_updates import IRREGULAR

GAIN = 0.05 / math.sqrt(3)
OFFSET_W = 5.0 / math.sqrt(3)
EDGE_TOLERANCE = 0.005
"""A tick that may be off by more than this part of the window, and by more than polls usually are, is a doubt."""
LEAST_COVERED = 0.9
"""Least part of the asked-for window that the ticks seen must span when an edge had no tick of its own."""


def counter_energy(channel: Channel) -> Energy:
    """Energy by the counter between the channel's edges; None with the reason where it was lost."""
    begin, end = channel.begin, channel.end
    doubts = [Doubt("edge_off_tick", f"{edge}: {why}") for edge, why in channel.off_tick.items()] + _lost(channel)
    asked_begin_s, asked_end_s = channel.asked_s
    if channel.lost or begin is None or end is None or end.time_s <= begin.time_s:
        reason = channel.lost or f"NVML energy counter stood still for the whole window of {_span(channel)}"
        if not asked_begin_s:
            reason = "no window was begun"
        checks = _checks(channel, asked_begin_s, asked_end_s)
        return Energy(
            channel.name, None, asked_begin_s, asked_end_s, checks=checks, reason=reason, doubts=tuple(doubts)
        )
    window_s = end.time_s - begin.time_s
    checks = _checks(channel, begin.time_s, end.time_s)
    asked_s = asked_end_s - asked_begin_s
    if channel.off_tick and window_s < LEAST_COVERED * asked_s:
        reason = f"NVML energy counter stood still for {asked_s - window_s:.2f} s of the window of {_span(channel)}"
        return Energy(channel.name, None, begin.time_s, end.time_s, checks=checks, reason=reason, doubts=tuple(doubts))
    energy_j = (end.counter_mj - begin.counter_mj) / 1e3
    doubts += _wide(channel, begin, end) + _irregular(channel)
    jitter_s = (channel.updates.jitter_s if channel.updates else None) or 0.0
    uncertainty = {
        "gain": GAIN * energy_j,
        "offset": OFFSET_W * window_s,
        "edges": energy_j / window_s * math.hypot(begin.width_s / math.sqrt(12), end.width_s / math.sqrt(12), jitter_s),
    }
    second = next((check for check in checks if check.energy_j is not None), None)
    if second is not None and second.energy_j is not None:
        second_w = second.energy_j / (second.window_s or window_s)
        uncertainty["disagreement"] = abs(energy_j - second_w * window_s) / math.sqrt(3)
    notes = "; ".join(doubt.detail for doubt in doubts if doubt.flag == "edge_off_tick")
    return Energy(channel.name, energy_j, begin.time_s, end.time_s, uncertainty, checks, notes or None, tuple(doubts))


def integral_energy(channel: Channel) -> Energy:
    """Energy by the integral of the channel's first power field; None with the reason where that was lost."""
    main, *others = channel.powers
    begin_s, end_s = (channel.begin.time_s, channel.end.time_s) if channel.begin and channel.end else channel.asked_s
    figure = main.integral(begin_s, end_s) if channel.begin else Check(main.method, None, reason="no window was begun")
    checks = tuple(series.integral(begin_s, end_s) for series in others)
    doubts = tuple(_lost(channel))
    if main.period_s is None:
        doubts += (Doubt("irregular_updates", f"no update period of {main.power.label} could be detected"),)
    if figure.energy_j is None:
        return Energy(channel.name, None, begin_s, end_s, checks=checks, reason=figure.reason, doubts=doubts)
    window_s = end_s - begin_s if figure.window_s is None else figure.window_s
    uncertainty = {
        "gain": GAIN * figure.energy_j,
        "offset": OFFSET_W * window_s,
        "edges": figure.energy_j / window_s * main.edge_s * math.sqrt(2 / 12),
    }
    sampling_w = main.sampling_w(window_s)
    reason = None
    if sampling_w is None:
        reason = "fewer than two updates of power were seen in the window, so their scatter is unknown"
    else:
        uncertainty["sampling"] = sampling_w * window_s
    # A 1 s average tells only of the end of the window, and the figure's edges say so.
    return Energy(channel.name, figure.energy_j, end_s - window_s, end_s, uncertainty, checks, reason, doubts)


def _checks(channel: Channel, begin_s: float, end_s: float) -> tuple[Check, ...]:
    return tuple(_comparable(channel, series, series.integral(begin_s, end_s)) for series in channel.powers)


def _comparable(channel: Channel, series: PowerSeries, check: Check) -> Check:
    """On a superchip the module's power is no second figure for the GPU's counter: it holds the CPU too."""
    if series.power.scope != MODULE_SCOPE or not superchip(channel.gpu.name) or check.energy_j is None:
        return check
    reason = f"not comparable: {check.energy_j:.4g} J are of the whole module, CPU and GPU"
    return Check(check.method, None, check.window_s, reason)


def _lost(channel: Channel) -> list[Doubt]:
    main = channel.powers[0] if channel.fault is not None and channel.powers else None
    return [Doubt("check_lost", series.lost) for series in channel.powers if series.lost and series is not main]


def _wide(channel: Channel, begin: Edge, end: Edge) -> list[Doubt]:
    tolerated_s = max(channel.precise_s, 2 * EDGE_TOLERANCE * (end.time_s - begin.time_s))
    return [
        Doubt("edge_off_tick", f"{name}: the tick is known to {edge.width_s * 1e3:.0f} ms only (busy host or driver)")
        for name, edge in (("begin", begin), ("end", end))
        if edge.width_s > tolerated_s and name not in channel.off_tick
    ]


def _irregular(channel: Channel) -> list[Doubt]:
    updates = channel.updates
    if updates is None or updates.period_s is None:
        seen = updates.ticks if updates else 0
        return [Doubt("irregular_updates", f"no update period could be told from {seen} ticks of the counter")]
    if not updates.irregular:
        return []
    detail = (
        f"gaps between {updates.ticks} ticks of the counter spread over more than ±{IRREGULAR:.0%} of their median, "
        f"{updates.period_s:.3f} s"
    )
    return [Doubt("irregular_updates", detail)]


def _span(channel: Channel) -> str:
    return f"{channel.asked_s[1] - channel.asked_s[0]:.3f} s"
