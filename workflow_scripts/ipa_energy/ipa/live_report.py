"""Live runs beside their simulation: the same load, arrivals, predictor and method, in reality and in the simulation.

Contents of live files (:mod:`ipa_energy.live_record`) go in. A row for each run says how it was had: ``real`` (served
by the engine, energies from the meters), ``composed`` (the same run, energies put together from the profile) and
``simulated`` (everything from the profile, with the time that starting a replica really took).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ipa_energy.ipa.adaptation_study import LEAST_RPS, Setting, choose_by
from ipa_energy.ipa.arrival_times import arrivals_in_counts
from ipa_energy.ipa.controller import controller
from ipa_energy.ipa.outcome import FIGURES, figures, intervals
from ipa_energy.ipa.predictors import Predictor
from ipa_energy.ipa.run_log import Configuration, Log
from ipa_energy.ipa.settings import METHOD_NAMES
from ipa_energy.ipa.simulation import simulate

REAL, COMPOSED, SIMULATED = "real", "composed", "simulated"

COLUMNS = {
    "method": "Way to decide.",
    "predictor": "Name of the predictor.",
    "load": "Name of the load.",
    "run": "Which run of the method.",
    "how": f"`{REAL}`, `{COMPOSED}` or `{SIMULATED}`.",
    "state": "`ok`, `failed` or `not_run`.",
    "reason": "Why there are no figures.",
    "evidence": "What stands behind the energies.",
    "start_s": "Median time from starting a replica until it could serve, in s.",
    "oversubscribed_s": "How long living replicas had more threads than the host has cores, in s.",
    "flags": "Flags of the quality gates, joined by `;`.",
    **FIGURES,
}
"""Columns of the table of live runs."""

COMPARED = (
    *("completed", "late", "latency_mean_s", "latency_p95_s", "latency_p99_s", "accuracy_pas", "cost_mean", "changes"),
    *("net_j_per_request", "gross_j_per_request"),
)
ERROR_COLUMNS = ("method", "run", "figure", "real", "composed", "simulated", "error_composed", "error_simulated")


def simulated(content: Mapping[str, Any], setting: Setting, predictor: Predictor, initial: Configuration) -> Log:
    """The simulation of a run: its arrivals, its method and predictor, its first configuration.

    Replicas start as fast as they did on average in the run.
    """
    seed = int(content["seed"])
    counts = np.array(content["counts"], dtype=np.int64)
    decide = controller(
        lambda history_rps: max(LEAST_RPS, predictor(history_rps)), choose_by(setting, content["method"]).choose
    )
    return simulate(
        setting.curves,
        arrivals_in_counts(counts, (seed, 0)),
        float(len(counts)),
        initial,
        decide,
        replace(setting.rules, start_s=float(content["start_s"]), seed=seed),
        np.array(content["before"], dtype=float),
    )


def rows_of(
    content: Mapping[str, Any], log: Log | None, host_idle_w: float | None, evidence: str
) -> list[dict[str, Any]]:
    """Rows of one run; ``log`` is its simulation, ``evidence`` that of the profile. One row where nothing ran."""
    row = {key: content[key] for key in ("method", "predictor", "load", "run", "state", "reason")}
    if content["state"] != "ok" or log is None:
        return [row | {"how": REAL}]
    record = content["record"]
    energy = record["energy"]
    row |= {key: content[key] for key in ("start_s", "oversubscribed_s")}
    row["flags"] = ";".join(dict.fromkeys(flag["flag"] for flag in record["quality"]["flags"])) or None
    metered = {key: energy[key] for key in ("net_j", "gross_j", "net_j_per_request", "gross_j_per_request")}
    nothing = dict.fromkeys(("busy_j", "waiting_j", "base_j"))
    real = content["figures"] | metered | nothing | {"energy_reason": energy["reason"] or ""}
    return [
        row | real | {"how": REAL, "evidence": energy["evidence"]},
        row | content["figures"] | {"how": COMPOSED, "evidence": evidence},
        row | figures(log, content["sla_s"], host_idle_w) | {"how": SIMULATED, "evidence": evidence},
    ]


def table_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """All rows with the columns :data:`COLUMNS`."""
    return pd.DataFrame(rows, columns=list(COLUMNS))


def errors_table(table: pd.DataFrame) -> pd.DataFrame:
    """Of every run and compared figure: real, composed and simulated, and the relative errors of the last two."""
    rows = []
    for (method, run), group in table[table["state"] == "ok"].groupby(["method", "run"], sort=False):
        by = group.set_index("how")
        for figure in COMPARED:
            real, composed, sim = (by[figure].get(how) for how in (REAL, COMPOSED, SIMULATED))
            rows.append((method, run, figure, real, composed, sim, _relative(composed, real), _relative(sim, real)))
    return pd.DataFrame(rows, columns=list(ERROR_COLUMNS)).astype(
        dict.fromkeys(("real", "composed", "simulated", "error_composed", "error_simulated"), "float64")
    )


def _relative(value: Any, real: Any) -> float | None:
    return None if pd.isna(value) or pd.isna(real) or not real else float(value) / float(real) - 1


def intervals_of(content: Mapping[str, Any], log: Log) -> pd.DataFrame:
    """The intervals of a run, real and simulated, one below the other, after ``method``, ``run`` and ``how``."""
    parts = [(REAL, pd.DataFrame(content["intervals"])), (SIMULATED, intervals(log, content["sla_s"]))]
    return pd.concat(
        [part.assign(how=how, method=content["method"], run=content["run"]) for how, part in parts], ignore_index=True
    )


def in_words(table: pd.DataFrame) -> str:
    """A sentence or two for each run."""
    lines = []
    for (method, run), group in table.groupby(["method", "run"], sort=False):
        title = f"Live, {METHOD_NAMES[str(method)]} under {group['load'].iloc[0]}, {run}"
        if (group["state"] != "ok").any():
            lines.append(f"{title}: {group['state'].iloc[0]}, {group['reason'].iloc[0]}")
            continue
        real, sim = (group[group["how"] == how].iloc[0] for how in (REAL, SIMULATED))
        lost = int(real["requests"] - real["completed"] - real["dropped"])
        lines.append(
            f"{title}: {int(real['completed'])} of {int(real['requests'])} requests served, {lost} lost, "
            f"{int(real['dropped'])} dropped, {int(real['late'])} late (simulated {int(sim['late'])}), "
            f"{int(real['changes'])} changes; mean latency {real['latency_mean_s']:.3g} s "
            f"(simulated {sim['latency_mean_s']:.3g} s); {_energy_words(real)} (from the profile, simulated: "
            f"{_energy_words(sim)})."
        )
    return "\n".join(lines)


def _energy_words(row: pd.Series[Any]) -> str:
    word = {"measured": "", "mixed": "partly estimated "}.get(str(row["evidence"]), "estimated ")
    net = row["net_j_per_request"]
    return "net energy unknown" if pd.isna(net) else f"{word}net energy {net:.3g} J/request"
