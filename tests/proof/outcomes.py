"""What a tool made of a scenario: its figures beside the truth of its own window, and what it said of them.

The truth of a GPU is the integral of the scripted power between the edges of the tool's window: those that our meters
state, or the middle of the two calls that begin and end another tool's window. Where in such a call the tool reads is
not known; ``slack_j`` is what that may amount to. The truth of a CPU is what its counters were fed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipa_energy import environment, gates
from ipa_energy.aliasing import window_locking
from ipa_energy.config_schema import config_schema
from ipa_energy.meters.base import Doubt

from .scenarios import CpuScenario, Expect, GpuScenario, Scenario

ROUNDING_J = 3e-6
"""Two readings of a CPU's counter, each cut to whole microjoules, and the sum of them."""
LEFT_ASIDE = {"min_window_s": 0.0, "min_batches": 0, "min_meter_periods": 0}
"""The windows here are shorter than any that counts: the flag ``short_window`` would stand beside every figure."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure in J, or None and the reason; the truth, how far that is uncertain, and the step of the counter."""

    part: str
    energy_j: float | None
    truth_j: float | None
    slack_j: float = 0.0
    step_j: float | None = None
    reason: str | None = None

    @property
    def error_j(self) -> float | None:
        """Figure less truth."""
        return None if self.energy_j is None or self.truth_j is None else self.energy_j - self.truth_j


@dataclass(frozen=True, slots=True)
class Outcome:
    """``said`` is what the tool said of its own accord, an exception among it; ``flags`` are ours."""

    scenario: Scenario
    tool: str
    figures: tuple[Figure, ...]
    flags: tuple[str, ...] = ()
    said: str = ""


def of_ours(scenario: Scenario, tool: str, played: Mapping[str, Any]) -> Outcome:
    """Our meters' outcome, with the flags that the quality gates raise at their default thresholds."""
    answers = played["answers"]
    fault = _exception(answers)
    result = answers["end"]["result"] if "end" in answers and not fault else {"energies": [], "unavailable": []}
    missing = "; ".join(reason for _, reason in result["unavailable"]) or fault
    figures = []
    for energy, domain in zip(result["energies"], result.get("domains", []), strict=True):
        part, name = domain["covers"], energy["domain"]
        if isinstance(scenario, GpuScenario):
            gpu = result["provenance"]["nvml"]["gpus"][name]["nvml_index"]
            truth_j = scenario.truth_j(gpu, energy["begin_s"], energy["end_s"], played["truth"]["epoch_s"])
            figures.append(Figure(part, energy["energy_j"], truth_j, reason=energy["reason"]))
        else:
            zone = played["truth"][result["provenance"]["rapl"]["zones"][name]["path"]]
            figures.append(
                Figure(part, energy["energy_j"], zone["energy_j"], 0.0, zone["step_uj"] / 1e6, energy["reason"])
            )
    if not figures:
        figures = [Figure(part, None, None, reason=missing) for part in scenario.parts]
    flags = tuple(dict.fromkeys(flag.name for flag in _flags(scenario, result, played["truth"])))
    return Outcome(scenario, tool, tuple(figures), flags, missing or "")


def _flags(scenario: Scenario, result: Mapping[str, Any], truth: Mapping[str, Any] | None) -> list[gates.Flag]:
    schema = config_schema()["properties"]["gates"]["properties"]
    thresholds = {key: definition["default"] for key, definition in schema.items()} | LEFT_ASIDE
    pairs = list(zip(result["energies"], result.get("domains", []), strict=True))
    gpus = environment.gpu_readings(result.get("environments", ()))
    batch_s = scenario.batch_s if isinstance(scenario, GpuScenario) else None
    seen = gates.Observations(
        window_s=scenario.window_s,
        fewest_batches=0,
        coarsest_period_s=None,
        steady_before=True,
        drift=None,
        foreign_cores=0.0,
        idle_before_and_after_w=(),
        samples=0,
        late_samples=0,
        served_fraction=None,
        busiest_utilisation=0.0,
        cores_wanted=0,
        cores_available=0,
        throttle_counts=(None, None),
        gpu_throttle_reasons=(),
        foreign_gpu_processes=tuple(
            process
            for readings in gpus.values()
            for process in environment.others(readings, environment.FOREIGN_KINDS, ())
        ),
        gpu_processes_hidden=False,
        graphics_processes=(),
        clock_changes=tuple((name, environment.clock_change(readings)) for name, readings in gpus.items()),
        temperature_changes_c=(),
        check_ratios=tuple(_ratios(result["energies"])),
        phase_locking=tuple(_locking(pairs, truth["epoch_s"], batch_s)) if batch_s and truth else (),
        doubts=tuple(Doubt(**doubt) for energy, _ in pairs for doubt in energy["doubts"]),
    )
    return gates.raised(seen, thresholds)


def _ratios(energies: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    for energy in energies:
        own_s = energy["end_s"] - energy["begin_s"]
        for check in energy["checks"]:
            if energy["energy_j"] is not None and check["energy_j"] and own_s > 0:
                check_w = check["energy_j"] / (check["window_s"] or own_s)
                yield check["method"], energy["energy_j"] / own_s / check_w


def _locking(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], epoch_s: float, batch_s: float
) -> Iterator[tuple[str, float | None]]:
    """Phase locking with a load whose batches begin at the epoch and every ``batch_s`` from then on."""
    for energy, domain in pairs:
        first, last = (math.floor((time_s - epoch_s) / batch_s) for time_s in (energy["begin_s"], energy["end_s"]))
        batches_s = [epoch_s + number * batch_s for number in range(first, last + 2)]
        if domain["period_s"]:
            edges = (energy["begin_s"], energy["end_s"], domain["period_s"])
            yield energy["domain"], window_locking(*edges, batches_s)


_LOG_PREFIX = re.compile(r"^\[codecarbon \w+ @ [\d:]+\]\s*|^\S+\.py:\d+: ")


def of_rival(scenario: Scenario, tool: str, played: Mapping[str, Any], noise: Sequence[str]) -> Outcome:
    """Another tool's outcome, its figures added up over what it tells apart; ``noise`` marks what it always says."""
    answers = played["answers"]
    fault = _exception(answers)
    told = "".join(answer["told"] for answer in answers.values()).splitlines()
    lines = [_LOG_PREFIX.sub("", line).strip() for line in told if not any(word in line for word in noise)]
    said = " ".join(dict.fromkeys(filter(None, [fault, *lines])))
    result = {} if fault else answers["end"]["result"]
    figures = []
    for part in scenario.parts:
        found = (result.get(part) or {}).values()
        energy_j = sum(found) if found else None
        truth_j, slack_j = _truth(scenario, part, played)
        estimate = None if energy_j is None else result.get("estimated", {}).get(part)
        figures.append(Figure(part, energy_j, truth_j, slack_j, reason=estimate))
    return Outcome(scenario, tool, tuple(figures), said=said)


def _exception(answers: Mapping[str, Any]) -> str | None:
    return next((answer["exception"] for answer in answers.values() if "exception" in answer), None)


def _truth(scenario: Scenario, part: str, played: Mapping[str, Any]) -> tuple[float | None, float]:
    if played["truth"] is None or not scenario.measurable:
        return None, 0.0
    if isinstance(scenario, CpuScenario):
        return sum(zone["energy_j"] for zone in played["truth"].values() if zone["part"] == part), 0.0
    (begin_from_s, begin_to_s), (end_from_s, end_to_s) = (played["answers"][k]["time_s"] for k in ("begin", "end"))
    begin_s, end_s = (begin_from_s + begin_to_s) / 2, (end_from_s + end_to_s) / 2
    epoch_s = played["truth"]["epoch_s"]
    truth_j = sum(scenario.truth_j(gpu, begin_s, end_s, epoch_s) for gpu in range(scenario.gpus))
    return truth_j, (begin_to_s - begin_from_s + end_to_s - end_from_s) / 2 * scenario.peak_w


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """Of several plays of one scenario to one tool, the one whose figures are farthest off; a missing one is nearer."""

    def off(outcome: Outcome) -> float:
        return max(abs(f.error_j / f.truth_j) if f.error_j is not None and f.truth_j else 0.0 for f in outcome.figures)

    return max(outcomes, key=off)


def tolerated_j(scenario: Scenario, figure: Figure) -> float:
    """How far our figure may be off: a fraction for a GPU, counter steps for a CPU."""
    assert figure.truth_j is not None
    expect = _expected(scenario, figure.part)
    if figure.step_j is not None:
        return expect.tolerance * figure.step_j + ROUNDING_J
    return expect.tolerance * abs(figure.truth_j)


def _expected(scenario: Scenario, part: str) -> Expect:
    if isinstance(scenario, CpuScenario) and part == "dram" and scenario.expect_dram is not None:
        return scenario.expect_dram
    return scenario.expect


def silently_wrong(outcome: Outcome) -> list[str]:
    """Figures of ours that are off by more than they may, and beside which stands no flag, doubt or reason."""
    return [
        f"{figure.part}: {figure.energy_j} J of {figure.truth_j} J"
        for figure in outcome.figures
        if figure.error_j is not None
        and abs(figure.error_j) > tolerated_j(outcome.scenario, figure)
        and not outcome.flags
        and not figure.reason
    ]


def problems(outcome: Outcome) -> list[str]:
    """How our outcome differs from what the scenario expects; empty when it does not."""
    scenario, found = outcome.scenario, []
    flags = set(outcome.flags)
    wanted = set(scenario.expect.flags)
    if not wanted <= flags:
        found.append(f"no flag {', '.join(sorted(wanted - flags))}")
    if scenario.expect.kind == "within" and flags - wanted:
        found.append(f"unexpected flag {', '.join(sorted(flags - wanted))}")
    for figure in outcome.figures:
        expect = _expected(scenario, figure.part)
        if expect.kind == "null":
            if figure.energy_j is not None:
                found.append(f"{figure.part}: {figure.energy_j} J where no figure can be had")
            elif expect.says not in (figure.reason or ""):
                found.append(f"{figure.part}: the reason is {figure.reason!r}, without {expect.says!r}")
        elif figure.error_j is None:
            found.append(f"{figure.part}: no figure ({figure.reason})")
        elif expect.kind == "within" and abs(figure.error_j) > tolerated_j(scenario, figure):
            found.append(
                f"{figure.part}: {figure.energy_j} J of {figure.truth_j} J, "
                f"{tolerated_j(scenario, figure):.3g} J allowed"
            )
    return found
