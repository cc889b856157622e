"""From a recording to its result: a JSON-ready dictionary, all of whose keys docs/characterise.md explains."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ipa_energy.characterise.bootstrap import Interval
from ipa_energy.characterise.channels import COUNTER, COUNTER_LABEL, FIELDS
from ipa_energy.characterise.recording import Phase, Recording
from ipa_energy.characterise.response import Response, estimate_response
from ipa_energy.characterise.steady import Comparison, Course, compare, course, level, noise_w, ratio, settling
from ipa_energy.characterise.updates import Readings, Updates, find_updates
from ipa_energy.characterise.verdict import Verdict, judge, unidentified
from ipa_energy.characterise.window import LONGEST_S, Observations, WindowFit, fit_window
from ipa_energy.meters.nvml_coverage import known_coverage

Levels = dict[str, dict[str, Interval | None]]
Spans = dict[str, dict[str, tuple[float, float]]]

SCHEMA_VERSION = 1
STEADY = (
    "idle_bare_slow",
    "idle_bare",
    "idle_context",
    "full",
    "idle_after_full",
    "idle_context_after",
    "idle_bare_after",
)
"""Phases in which power is steady, once the first half of each is over."""
LONGEST_PERIOD_S = 0.5
EARLIEST_END_S = -0.002
"""A window that ends later than this after its update says that the clocks of load and polls do not agree."""
LARGEST_IDLE_CHANGE = 0.02


def analyse(recording: Recording) -> dict[str, Any]:
    """The result of a recording. The same recording gives the same result: all random draws are seeded."""
    facts = recording.facts
    paths, stuck = courses_of(recording)
    channels: dict[str, Any] = {}
    for number, name in enumerate([COUNTER, *FIELDS]):
        if name in facts["refused"]:
            channels[name] = _refused(name, facts["refused"][name])
        elif name in recording.readings:
            random = np.random.default_rng([facts["settings"]["seed"], number])
            channels[name] = _channel(recording, name, random) | {"level_reason": stuck.get(name)}
    spans = _spans(recording, paths, channels)
    levels = {
        phase: {name: level(paths[name], *span) for name, span in by_name.items()} for phase, by_name in spans.items()
    }
    result = {
        "schema_version": SCHEMA_VERSION,
        **{key: facts[key] for key in ("started_utc", "gpu", "driver", "nvml", "host", "settings", "load")},
        "published": known_coverage(facts["gpu"]["name"]),
        "channels": channels,
        "levels_w": levels,
        "comparison": _comparison(recording, levels, paths, spans),
        "settling": _settling(recording, paths),
        "noise_w": {
            name: {phase: noise_w(path, *_settled(recording, phase)) for phase in ("idle_context", "full")}
            for name, path in paths.items()
        },
        "caveats": _caveats(recording, channels, levels),
    }
    plain: dict[str, Any] = _plain(result)
    return plain


def _refused(name: str, reason: str) -> dict[str, Any]:
    label = COUNTER_LABEL if name == COUNTER else FIELDS[name].label
    return {
        "label": label, "unit": None, "polls": None, "updates": None, "window": None, "response": None,
        "verdict": unidentified(f"this GPU does not have it ({reason})"), "level_reason": reason,
    }  # fmt: skip


def _load_span(recording: Recording, name: str) -> tuple[float, float]:
    """Begin and end of what the load did in a phase, from its own log (s)."""
    phase = recording.phase(name)
    times_s = recording.log.times_s
    inside = times_s[(times_s >= phase.begin_s) & (times_s <= phase.end_s)]
    return float(inside[0]), float(inside[-1])


def _run_in_s(begin_s: float, end_s: float) -> float:
    """How much of the sequence is left out at its begin.

    Readings there still show what was before, with another idle level: a GPU clocks down when it has nothing to do.
    """
    return min(LONGEST_S, (end_s - begin_s) / 4)


def observe(updates: Updates, counter: bool, begin_s: float) -> Observations:
    """The updates after ``begin_s`` as power, with each counter increment's share of a usual period."""
    if counter:
        times_s, gaps_s, powers_w = updates.increments()
        usual_s = float(np.median(gaps_s)) if gaps_s.size else updates.period_s
        seen = Observations(times_s, powers_w, gaps_s / usual_s, usual_s)
    else:
        times_s = updates.times_s
        seen = Observations(times_s, updates.values / 1e3, np.ones(times_s.size), updates.period_s)
    return seen.rows(seen.times_s >= begin_s)


def _channel(recording: Recording, name: str, random: np.random.Generator) -> dict[str, Any]:
    facts = recording.facts["channels"][name]
    begin_s, end_s = _load_span(recording, "sequence")
    readings = recording.readings[name].between(begin_s, end_s)
    found: dict[str, Any] = {
        "label": facts["label"],
        "unit": facts["unit"],
        "polls": _polls(readings) | {"failed": facts["failed_polls"], "failure": facts["failure"]},
        "updates": None,
        "window": None,
        "response": None,
    }
    counter = facts["unit"] == "mJ"
    if readings.values.size == 0:
        return found | {"verdict": unidentified(f"no poll was answered during the sequence ({facts['failure']})")}
    try:
        updates = find_updates(readings)
        found["updates"] = _updates(updates)
        seen = observe(updates, counter, begin_s + _run_in_s(begin_s, end_s))
        window = fit_window(recording.log, seen, random)
        found["window"] = asdict(window) | {"delay_s": window.shape.delay_s, "rise_s": _rise_s(window)}
        response = estimate_response(recording.log, seen, window.shape, random)
        found["response"] = response
    except ValueError as error:
        return found | {"verdict": unidentified(str(error))}
    return found | {"verdict": _judge(counter, updates, seen, window, response)}


def _judge(counter: bool, updates: Updates, seen: Observations, window: WindowFit, response: Response) -> Verdict:
    return judge(counter, seen.period_s, updates.resolved, window, response)


def _rise_s(window: WindowFit) -> float:
    """Time from 10 to 90 % of the fitted step response."""
    after_s = np.linspace(window.shape.delay_s, window.shape.memory_s + 2 * window.shape.ramp_s, 4000)
    step = window.shape.step(after_s)
    low_s, high_s = np.interp([0.1, 0.9], step, after_s)
    return float(high_s - low_s)


def _polls(readings: Readings) -> dict[str, Any]:
    if readings.values.size < 2:
        return {"count": int(readings.values.size), "median_gap_s": None, "p99_gap_s": None, "median_call_s": None}
    gaps_s = np.diff(readings.asked_s)
    return {
        "count": int(readings.values.size),
        "median_gap_s": float(np.median(gaps_s)),
        "p99_gap_s": float(np.quantile(gaps_s, 0.99)),
        "median_call_s": float(np.median(readings.answered_s - readings.asked_s)),
    }


def _updates(updates: Updates) -> dict[str, Any]:
    return {
        "count": int(updates.times_s.size),
        "period_s": updates.period_s,
        "spacing_p05_s": updates.spacing_low_s,
        "spacing_p95_s": updates.spacing_high_s,
        "jitter_s": updates.jitter_s,
        "even": updates.even,
        "resolved": updates.resolved,
    }


def courses_of(recording: Recording) -> tuple[dict[str, Course], dict[str, str]]:
    """The course of every channel, and why others have none."""
    paths, stuck = {}, {}
    for name, readings in recording.readings.items():
        try:
            paths[name] = course(readings, recording.facts["channels"][name]["unit"])
        except ValueError as error:
            stuck[name] = str(error)
    return paths, stuck


def _settled(recording: Recording, name: str) -> tuple[float, float]:
    """The part of a phase in which power is steady: its second half, less the end (an update may reach over it)."""
    begin_s, end_s = _load_span(recording, name) if name == "full" else _span(recording.phase(name))
    return (begin_s + end_s) / 2, end_s - min(0.1 * (end_s - begin_s), LONGEST_PERIOD_S)


def _span(phase: Phase) -> tuple[float, float]:
    return phase.begin_s, phase.end_s


def _spans(recording: Recording, paths: dict[str, Course], channels: dict[str, Any]) -> Spans:
    """Where mean power is taken, by phase and channel (s); in the sequence each channel's own delay is taken out."""
    spans: Spans = {phase: dict.fromkeys(paths, _settled(recording, phase)) for phase in STEADY}
    begin_s, end_s = _load_span(recording, "sequence")
    cut_s = _run_in_s(begin_s, end_s)
    late_s = {name: _late_s(channels[name]) for name in paths}
    spans["sequence"] = {name: (begin_s + cut_s + late, end_s - cut_s + late) for name, late in late_s.items()}
    return spans


def _late_s(channel: dict[str, Any]) -> float:
    """How much later than the load a channel's course is; 0 where that is unknown."""
    if channel["window"] is None:
        return 0.0
    # A counter's increment is spread over the period before the update, a field's value is held over the one after.
    half_s: float = channel["updates"]["period_s"] / 2
    lag_s = float(channel["window"]["mean_lag_s"]["value"])
    return lag_s - half_s if channel["unit"] == "mJ" else lag_s + half_s


def _comparison(recording: Recording, levels: Levels, paths: dict[str, Course], spans: Spans) -> dict[str, Any]:
    """Every power field against the counter, or without a counter against the first field."""
    names = list(paths)
    if not names:
        return {"against": None, "channels": {}}
    random = np.random.default_rng([recording.facts["settings"]["seed"], 99])
    against = names[0]
    idle, full = levels["idle_context"], levels["full"]
    compared: dict[str, Any] = {}
    for name in names[1:]:
        four = idle[against], idle[name], full[against], full[name]
        line: Comparison | None = None
        if all(four):
            line = compare((four[0], four[1]), (four[2], four[3]), random)  # type: ignore[arg-type]
        compared[name] = {
            "gain": line.gain if line else None,
            "offset_w": line.offset_w if line else None,
            "mean_power_ratio": {
                phase: ratio(paths[name], span[name], paths[against], span[against]) for phase, span in spans.items()
            },
        }
    return {"against": against, "channels": compared}


def _settling(recording: Recording, paths: dict[str, Course]) -> dict[str, Any]:
    began_s, ended_s = _load_span(recording, "full")
    spans = {
        "after_load_begins": (began_s, _settled(recording, "full")[1]),
        "after_load_ends": (ended_s, recording.phase("idle_after_full").end_s),
        "after_context": _span(recording.phase("idle_context")),
    }
    return {what: {name: settling(path, *span) for name, path in paths.items()} for what, span in spans.items()}


def _caveats(recording: Recording, channels: dict[str, Any], levels: Levels) -> list[str]:
    facts = recording.facts
    said = []
    if facts["load"]["kind"] != "cuda":
        said.append("no GPU was loaded: power came from a load file, so this result says nothing about any board")
    if facts["foreign_processes"]:
        named = ", ".join(f"{p['pid']} ({p['name'] or 'name unknown'})" for p in facts["foreign_processes"])
        said.append(f"other processes came onto the GPU meanwhile: {named}")
    if "compute_processes" in facts["unreadable"]:
        why = facts["unreadable"]["compute_processes"]
        said.append(f"processes can't be listed here ({why}): others may have loaded the GPU")
    slowed = {reason for e in facts["environment"] for reason in e.get("event_reasons") or ()} - {"gpu_idle"}
    if slowed:
        said.append(f"the driver gave reasons for lowered clocks: {', '.join(sorted(slowed))}")
    excess = facts["load"]["edges"]["host_less_device_s"]
    if excess and excess["p95"] - excess["p05"] > 0.002:
        said.append(
            f"pulses were {excess['p05'] * 1e3:.1f} to {excess['p95'] * 1e3:.1f} ms longer by the host's clock than by "
            "the device's: the instants of the load are uncertain by that much"
        )
    for name, channel in channels.items():
        window = channel["window"]
        if window and channel["verdict"].basis == "window" and window["delay_s"] < EARLIEST_END_S:
            said.append(f"{name}: the window seems to end {-window['delay_s'] * 1e3:.1f} ms after the update")
        if channel["polls"] and channel["polls"]["failed"]:
            said.append(f"{name}: {channel['polls']['failed']} polls failed, first with: {channel['polls']['failure']}")
    said += _idle_changes(levels)
    return said


def _idle_changes(levels: Levels) -> list[str]:
    said = []
    name = next(iter(levels["idle_bare"]), None)
    pairs = pairwise(("idle_bare_slow", "idle_bare", "idle_bare_after"))
    words = ("polling every millisecond instead of every 100 ms changed", "the load left behind a changed")
    for (before, after), what in zip(pairs, words, strict=True):
        one, two = (levels[phase].get(name) if name else None for phase in (before, after))
        apart = one and two and (one.high < two.low or two.high < one.low)
        if one and two and apart and abs(two.value - one.value) > LARGEST_IDLE_CHANGE * one.value:
            said.append(f"{what} bare idle power by {two.value - one.value:+.1f} W ({name})")
    return said


def _plain(value: Any) -> Any:
    """Only what JSON has: dataclasses as mappings, arrays as lists, numpy's numbers as Python's; NaN is refused."""
    if is_dataclass(value) and not isinstance(value, type):
        return {key: _plain(getattr(value, key)) for key in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return value
