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

from ipa_energy.configuration import StageKnobs
from ipa_energy.ipa.arrival_times import arrivals_in_counts
from ipa_energy.ipa.controller import controller
from ipa_energy.ipa.deciding import LEAST_RPS, Setting, choose_by
from ipa_energy.ipa.live_log import lost, oversubscribed_s, start_s
from ipa_energy.ipa.outcome import FIGURES, figures, intervals
from ipa_energy.ipa.predictors import Predictor
from ipa_energy.ipa.profile import Profile
from ipa_energy.ipa.run_log import Log
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
    "lost": "Requests of the load that were neither completed nor dropped.",
    "settled": "Whether no switch was under way when the idle phase after the run began.",
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


def simulated(content: Mapping[str, Any], setting: Setting, predictor: Predictor) -> Log:
    """The simulation of a run: its arrivals, its method and predictor, its first configuration.

    Replicas start as fast as they did in the run, in the median.
    """
    counts = np.array(content["counts"], dtype=np.int64)
    decide = controller(
        lambda history_rps: max(LEAST_RPS, predictor(history_rps)), choose_by(setting, content["method"]).choose
    )
    return simulate(
        setting.curves,
        arrivals_in_counts(counts, content["arrival_seed"]),
        float(len(counts)),
        tuple(StageKnobs(**knobs) for knobs in content["initial"]),
        decide,
        replace(setting.rules, start_s=start_s(content), seed=int(content["arrival_seed"][0])),
        np.array(content["before"], dtype=float),
    )


def rows_of(content: Mapping[str, Any], real: Log | None, sim: Log | None, profile: Profile) -> list[dict[str, Any]]:
    """Rows of one run; ``real`` and ``sim`` are its log and its simulation's. One row where nothing ran."""
    row = {key: content[key] for key in ("method", "predictor", "load", "run", "state", "reason")}
    if real is None or sim is None:
        return [row | {"how": REAL}]
    record = content["record"]
    energy = record["energy"]
    cores = int(record["provenance"]["cores_available"])
    row |= {"start_s": start_s(content), "settled": content["settled"], "lost": lost(content)}
    row["oversubscribed_s"] = oversubscribed_s(real, cores)
    row["flags"] = ";".join(dict.fromkeys(flag["flag"] for flag in record["quality"]["flags"])) or None
    metered = {key: energy[key] for key in ("net_j", "gross_j", "net_j_per_request", "gross_j_per_request")}
    nothing = dict.fromkeys(("busy_j", "waiting_j", "base_j"))
    told = figures(real, content["sla_s"], profile.host_idle_w)
    without = dict.fromkeys(("lost", "settled", "oversubscribed_s", "flags"))
    return [
        row
        | told
        | metered
        | nothing
        | {"energy_reason": energy["reason"] or "", "how": REAL, "evidence": energy["evidence"]},
        row | told | {"how": COMPOSED, "evidence": profile.evidence},
        row
        | without
        | figures(sim, content["sla_s"], profile.host_idle_w)
        | {"how": SIMULATED, "evidence": profile.evidence},
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


def intervals_of(content: Mapping[str, Any], real: Log, sim: Log) -> pd.DataFrame:
    """The intervals of a run, real and simulated, one below the other, after ``method``, ``run`` and ``how``."""
    parts = [(REAL, intervals(real, content["sla_s"])), (SIMULATED, intervals(sim, content["sla_s"]))]
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
        lines.append(
            f"{title}: {int(real['completed'])} of {int(real['requests'])} requests served, {int(real['lost'])} lost, "
            f"{int(real['dropped'])} dropped, {int(real['late'])} late (simulated {int(sim['late'])}), "
            f"{int(real['changes'])} changes; mean latency {_seconds(real['latency_mean_s'])} "
            f"(simulated {_seconds(sim['latency_mean_s'])}); {_energy_words(real)} (from the profile, simulated: "
            f"{_energy_words(sim)})."
        )
    return "\n".join(lines)


def _seconds(value: Any) -> str:
    return "unknown" if pd.isna(value) else f"{float(value):.3g} s"


def _energy_words(row: pd.Series[Any]) -> str:
    word = {"measured": "", "mixed": "partly estimated "}.get(str(row["evidence"]), "estimated ")
    net = row["net_j_per_request"]
    return "net energy unknown" if pd.isna(net) else f"{word}net energy {net:.3g} J/request"
