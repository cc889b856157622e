"""Adaptation of a study: every method with every predictor, several times, over one load, in the simulation.

A profile, the section ``ipa`` of the config and a load go in; a row of figures for each run and a table of the
intervals of the first ones come out. All methods get the same arrivals and the same streams of noise in a run, so that
they are compared in pairs. All but the times of decisions follows from the seed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from ipa_energy.ipa.arrival_times import arrivals_in_counts
from ipa_energy.ipa.controller import Choose, chooser, nearest
from ipa_energy.ipa.loads import derived_seed
from ipa_energy.ipa.options import Input, make_options
from ipa_energy.ipa.outcome import FIGURES, figures, intervals
from ipa_energy.ipa.predictors import Predictor
from ipa_energy.ipa.profile import Profile
from ipa_energy.ipa.profile_table import ProfileError
from ipa_energy.ipa.run_log import Configuration, Log, Rules
from ipa_energy.ipa.service import Curves, service_curves
from ipa_energy.ipa.settings import Ipa, method, options_for, prices, sla_s, usable_methods
from ipa_energy.ipa.simulation import simulate
from ipa_energy.ipa.ticks import LARGEST, Floats, Ints, from_ticks

LEAST_RPS = 0.1
"""Decisions are never made for less: energy per request doesn't exist at 0, and a request in 10 s, an interval of
IPA's, is as good as none."""

ANY_SLA_S = LARGEST - 1

COLUMNS = {
    "load": "Name of the load.",
    "predictor": "Name of the predictor.",
    "method": "Way to decide.",
    "seed": "Number of the run, from 1: the same number has the same arrivals. Empty for a method that can't run.",
    "sla_s": "Bound on the end-to-end latency, in s.",
    "evidence": "What stands behind the energies: `measured`, `estimated`, `mixed`, `unknown` or `none`.",
    "reason": "Why the method can't run.",
    "start_reason": "Why the run began with the configuration of the largest throughput; empty where one was feasible.",
    **FIGURES,
}
"""Columns of the table of runs."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all runs over a load share; ``counts`` has shape (seconds,)."""

    load: str
    counts: Ints
    profile: Profile
    ipa: Ipa
    usd: Mapping[str, float]
    sla_s: float
    curves: Curves
    rules: Rules

    @property
    def adaptation(self) -> Mapping[str, Any]:
        """The section ``ipa.adaptation``."""
        section: Mapping[str, Any] = self.ipa["adaptation"]
        return section


def setting_of(
    load: str, counts: Ints, profile: Profile, ipa: Ipa, usd: Mapping[str, float], max_wait_s: float
) -> Setting:
    """The setting by the config. Service times are means, with the noise that the config names.

    Raises ProfileError where the noise is to come from the profile and can't.
    """
    adaptation = ipa["adaptation"]
    try:
        curves = service_curves(
            profile,
            noise="p99" if adaptation["noise"] is None else adaptation["noise"],
            prices=prices(ipa, usd),
        )
    except ProfileError as error:
        if adaptation["noise"] is not None:
            raise
        raise ProfileError(f"ipa.adaptation.noise is null: {error}, 0 for none") from error
    rules = Rules(adaptation["interval_s"], adaptation["start_s"], max_wait_s, adaptation["drop_after_s"])
    return Setting(load, counts, profile, ipa, usd, sla_s(adaptation["sla_s"], profile, ipa, usd), curves, rules)


@dataclass(slots=True)
class Remembered:
    """A way to choose that solves a rate once, and what each answer took in real seconds to find the first time."""

    choose: Choose
    known: dict[float, tuple[Sequence[Configuration], float]] = field(default_factory=dict)

    def __call__(self, rate_rps: float) -> tuple[Sequence[Configuration], float]:
        """The best configurations for a rate, and the seconds that were saved by knowing them already."""
        if rate_rps in self.known:
            return self.known[rate_rps]
        begin_s = time.perf_counter()
        found = self.choose(rate_rps)
        self.known[rate_rps] = found, time.perf_counter() - begin_s
        return found, 0.0


def choose_by(setting: Setting, name: str) -> Remembered:
    """The method ``name`` as a way to choose a configuration for a rate within the setting's SLA."""
    ipa = setting.ipa
    return Remembered(
        chooser(
            setting.profile,
            setting.sla_s,
            ipa["replicas"],
            method(name, ipa),
            prices=prices(ipa, setting.usd),
            latency=ipa["latency"],
        )
    )


def first_configuration(setting: Setting, name: str, choose: Remembered) -> tuple[Configuration, str | None]:
    """What the pipeline starts with, and why it is not the method's choice, if it isn't.

    It is the method's choice for the largest second of the first interval: a system that was set up for the load that
    it begins with. Where nothing is feasible for that, it is what the method chooses for the largest rate that it can
    sustain at all, whatever the SLA.
    """
    seconds = max(1, math.ceil(setting.rules.interval_s))
    rate_rps = max(LEAST_RPS, float(setting.counts[:seconds].max()))
    found, _ = choose(rate_rps)
    if found:
        return found[0], None
    given = Input(rate_rps, setting.sla_s)
    binding = method(name, setting.ipa)(options_for(setting.profile, given, setting.ipa, setting.usd)).binding
    return _largest_throughput(setting, name, rate_rps), None if binding is None else binding.reason


def _largest_throughput(setting: Setting, name: str, rate_rps: float) -> Configuration:
    """The method's choice for the largest rate, up to this, for which it finds any; by bisection over the options'."""
    options = options_for(setting.profile, Input(rate_rps, ANY_SLA_S), setting.ipa, setting.usd)
    rates = np.unique(np.concatenate([from_ticks(stage.throughput) for stage in options.stages]))
    rates = np.append(rates[rates < rate_rps], rate_rps)

    def best(rate: float) -> Configuration | None:
        given = Input(rate, ANY_SLA_S)
        solution = method(name, setting.ipa)(options_for(setting.profile, given, setting.ipa, setting.usd))
        return None if solution.best is None else solution.best.stages

    low, high = 0, len(rates) - 1  # every configuration sustains the smallest
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if best(float(rates[middle])) is not None else (low, middle - 1)
    found = best(float(rates[low]))
    assert found is not None
    return found


@dataclass(frozen=True, slots=True)
class Run:
    """One simulated run: its log, and the rate in requests per second that each decision prepared for."""

    log: Log
    predicted_rps: Floats


def run(setting: Setting, choose: Remembered, predictor: Predictor, initial: Configuration, seed: int) -> Run:
    """Simulate the load once; ``seed`` is of arrivals and noise.

    A predictor sees nothing from before the begin. The time of a decision is that of the prediction and of solving, as
    if nothing were remembered.
    """
    predicted: list[float] = []
    spared_s: list[float] = []

    def decide(at_s: float, history_rps: Floats, current: Configuration) -> Configuration | None:  # noqa: ARG001
        rate_rps = max(LEAST_RPS, predictor(history_rps))
        found, seconds = choose(rate_rps)
        predicted.append(rate_rps)
        spared_s.append(seconds)
        return nearest(found, current)

    arrivals_s = arrivals_in_counts(setting.counts, seed)
    rules = replace(setting.rules, seed=seed)
    log = simulate(setting.curves, arrivals_s, float(len(setting.counts)), initial, decide, rules)
    decisions = tuple(
        replace(decision, decide_s=decision.decide_s + seconds)
        for decision, seconds in zip(log.decisions, spared_s, strict=True)
    )
    return Run(replace(log, decisions=decisions), np.array(predicted))


def simulate_all(setting: Setting, predictors: Mapping[str, Predictor], seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All runs of a load: their figures (:data:`COLUMNS`), and the intervals of the first predictor and first seed.

    Intervals are those of :func:`.outcome.intervals` after ``method``, ``predictor`` and ``evidence``, with
    ``rate_rps`` (what arrived), ``peak_rps`` (its largest second) and ``predicted_rps`` (what was prepared for; null
    for the first).
    """
    ipa, adaptation = setting.ipa, setting.adaptation
    given = Input(1.0, setting.sla_s)  # whether energies are known doesn't depend on the rate, unless it is 0
    options = make_options(
        setting.profile, given, ipa["replicas"], prices=prices(ipa, setting.usd), latency=ipa["latency"]
    )
    usable, reasons = usable_methods(adaptation["methods"], options, ipa)
    fixed = {"load": setting.load, "sla_s": setting.sla_s, "evidence": setting.profile.evidence}
    seeds = [derived_seed(seed, "adaptation", number) for number in range(adaptation["seeds"])]
    starts = {}
    for name in usable:
        choose = choose_by(setting, name)
        starts[name] = choose, *first_configuration(setting, name, choose)
    rows, parts = [], []
    for place, (predictor_name, predictor) in enumerate(predictors.items()):
        for name in adaptation["methods"]:
            row = fixed | {"predictor": predictor_name, "method": name}
            if name not in usable:
                rows.append(row | {"reason": reasons[name]})
                continue
            choose, initial, why = starts[name]
            for number, one in enumerate(seeds, start=1):
                made = run(setting, choose, predictor, initial, one)
                told = figures(made.log, setting.sla_s, setting.profile.host_idle_w)
                rows.append(row | {"seed": number, "start_reason": why} | told)
                if place == 0 and number == 1:
                    parts.append(_intervals(setting, made, predictor_name, name))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({"seed": "Int64"}), pd.concat(parts, ignore_index=True) if parts else _no_intervals(setting)


def _intervals(setting: Setting, made: Run, predictor: str, name: str) -> pd.DataFrame:
    table = intervals(made.log, setting.sla_s)
    seconds = (table["end_s"] - table["begin_s"]).to_numpy()
    whole = np.minimum(table["begin_s"].to_numpy().astype(int), len(setting.counts) - 1)
    peaks = np.maximum.reduceat(setting.counts, whole)
    first = {"method": name, "predictor": predictor, "evidence": setting.profile.evidence}
    load = {
        "rate_rps": table["arrived"].to_numpy() / seconds,
        "peak_rps": peaks,
        "predicted_rps": np.concatenate([[np.nan], made.predicted_rps]),
    }
    at = list(table.columns).index("arrived")
    return pd.concat(
        [pd.DataFrame(first, index=table.index), table.iloc[:, :at], pd.DataFrame(load), table.iloc[:, at:]], axis=1
    )


def _no_intervals(setting: Setting) -> pd.DataFrame:
    """The columns without a row, where no method can run."""
    columns = [
        "method",
        "predictor",
        "evidence",
        "begin_s",
        "end_s",
        "rate_rps",
        "peak_rps",
        "predicted_rps",
        "arrived",
        "late",
    ]
    columns += ["dropped", "accuracy_pas", "cores", "cost", "busy_j", "waiting_j"]
    columns += [f"{stage}.{knob}" for stage in setting.curves for knob in ("variant", "batch", "replicas", "threads")]
    return pd.DataFrame(columns=columns)
