"""Adaptation of a study: every method with every predictor, several times, over one load, in the simulation.

A profile, the section ``ipa`` of the config and a load go in; a row of figures for each run and a table of the
intervals of the first ones come out. All methods get the same arrivals and the same streams of noise in a run, so that
they are compared in pairs. All but the times of decisions follows from the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ipa_energy.ipa.arrival_times import arrivals_in_counts
from ipa_energy.ipa.controller import nearest
from ipa_energy.ipa.deciding import LEAST_RPS, Remembered, Setting, choose_by, first_configuration
from ipa_energy.ipa.loads import derived_seed
from ipa_energy.ipa.options import Input, make_options
from ipa_energy.ipa.outcome import FIGURES, figures, intervals
from ipa_energy.ipa.predictors import Predictor
from ipa_energy.ipa.run_log import Configuration, Log
from ipa_energy.ipa.settings import prices, usable_methods
from ipa_energy.ipa.simulation import simulate
from ipa_energy.ipa.ticks import Floats

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
