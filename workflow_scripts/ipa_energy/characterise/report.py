"""The result of a characterisation as text for the terminal."""

from __future__ import annotations

import textwrap
from typing import Any

WIDTH = 110


def text(result: dict[str, Any]) -> str:
    """What was found, in a page."""
    gpu = result["gpu"]
    lines = [f"{gpu['name']} ({gpu['uuid']}), driver {result['driver']}, VBIOS {gpu['vbios'] or 'unknown'}", ""]
    answered = {name: c for name, c in result["channels"].items() if c["polls"]}
    for name, channel in answered.items():
        lines += _channel(name, channel)
    absent = [name for name in result["channels"] if name not in answered]
    if absent:
        lines += _wrapped(f"not answered by this GPU: {', '.join(absent)}")
    if result["published"]:
        known = result["published"]
        lines += _wrapped(
            f"published for such boards: instant power sees {known['window_ms']:g} of {known['period_ms']:g} ms "
            f"({known['source']})"
        )
    lines += ["", *_powers(result, list(answered)), "", *_settlings(result, list(answered))]
    if result["caveats"]:
        lines += ["", "Mind:", *(line for caveat in result["caveats"] for line in _wrapped(caveat, "- "))]
    return "\n".join(lines)


def _wrapped(words: str, mark: str = "") -> list[str]:
    return textwrap.wrap(words, WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark))


def _channel(name: str, channel: dict[str, Any]) -> list[str]:
    lines = _wrapped(f"{name:16s} {channel['verdict']['text']}")
    updates, window = channel["updates"], channel["window"]
    if updates:
        regular = "evenly" if updates["even"] else f"with a jitter of {updates['jitter_s'] * 1e3:.2f} ms"
        rate = f"every {updates['period_s'] * 1e3:.2f} ms, {regular}" if updates["resolved"] else "at about every poll"
        lines.append(f"{'':16s} updated {rate}; {updates['count']} updates")
    if window:
        lag, ramp = window["mean_lag_s"], window["ramp_s"]
        lines.append(
            f"{'':16s} mean lag {_ms(lag)}, rise from 10 to 90 % {window['rise_s'] * 1e3:.1f} ms, ramp {_ms(ramp)}, "
            f"R² {window['r2']:.4f}"
        )
    return lines


def _ms(figure: dict[str, float]) -> str:
    return f"{figure['value'] * 1e3:.1f} ms ({figure['low'] * 1e3:.1f}-{figure['high'] * 1e3:.1f})"


def _figure(figure: dict[str, float] | None, digits: int = 1) -> str:
    if figure is None:
        return "-"
    return f"{figure['value']:.{digits}f} ± {(figure['high'] - figure['low']) / 2:.{digits}f}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    lines = []
    for first, *rest in [head, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return lines


def _powers(result: dict[str, Any], names: list[str]) -> list[str]:
    levels, compared = result["levels_w"], result["comparison"]
    phases = ["idle_bare_slow", "idle_bare", "idle_context", "full", "sequence"]
    rows = [[name, *(_figure(levels[phase].get(name)) for phase in phases)] for name in names]
    lines = ["Mean power (W, with 95 % interval; in the sequence that is the scatter of the load)"]
    lines += _table(["", "bare, rarely polled", "bare", "with context", "full load", "sequence"], rows)
    rows = []
    for name, line in compared["channels"].items():
        ratios = line["mean_power_ratio"]
        rows.append(
            [name, _figure(line["gain"], 4), _figure(line["offset_w"], 2)]
            + [_figure(ratios[phase], 4) for phase in ("full", "sequence")]
        )
    if rows:
        lines += ["", f"Compared with {compared['against']} (reading = gain × {compared['against']} + offset)"]
        lines += _table(["", "gain", "offset (W)", "ratio at full load", "in the sequence"], rows)
    return lines


def _settlings(result: dict[str, Any], names: list[str]) -> list[str]:
    found = result["settling"]

    def cell(settled: dict[str, Any] | None) -> str:
        if settled is None:
            return "-"
        return settled["reason"] if settled["time_s"] is None else f"{settled['time_s']:.2f}"

    rows = [[name, *(cell(found[what].get(name)) for what in found)] for name in names]
    return [
        "Time until power stays within 5 % of its later level (s)",
        *_table(["", *(what.replace("_", " ") for what in found)], rows),
    ]
