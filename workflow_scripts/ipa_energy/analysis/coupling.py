"""Pairwise coupling: energy per request against accuracy, latency, cost and throughput, cell by cell.

A *cell* is a workload on a host with one kind of weights and one set of meters, for gross or for net energy; hosts that
are merged as blocks (:mod:`.merging`) are one more. The measurements table goes in; out comes one row per cell and
metric with Kendall's tau-b, Spearman's rho and isotonic R2 over configurations, each with a cluster-bootstrap interval,
Holm-adjusted p-values, and what chance and replicate noise do to them. A statistic that can't be had is null, with the
reason in words.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from ipa_energy.analysis import association
from ipa_energy.analysis.aggregate import evidence_of
from ipa_energy.analysis.cells import CELL, PLACE, in_cells
from ipa_energy.analysis.holm import holm
from ipa_energy.analysis.merging import mergings

ENERGIES = {"gross": "gross_j_per_request", "net": "net_j_per_request"}
"""The energies of which coupling is asked, and their columns, in joules per request."""


@dataclass(frozen=True, slots=True)
class _Bootstrap:
    """How intervals are made: confidence level, number of resamples, and what the random numbers depend on."""

    confidence: float
    resamples: int
    seed: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric that IPA weighs or sees: its column, and its family in the verdict (None: shown for context only)."""

    name: str
    column: str
    family: str | None


METRICS = (
    Metric("accuracy", "pas", "accuracy"),
    Metric("latency_p99", "latency_p99_s", "latency"),
    Metric("latency_mean", "latency_mean_s", "latency"),
    Metric("cost", "usd_per_1000_requests", "cost"),
    Metric("cores", "cores", "cost"),
    Metric("throughput", "throughput_rps", None),
)
FAMILIES = ("accuracy", "latency", "cost")

MIN_POINTS = 3
"""Two points always lie on a monotone curve."""

MAX_PERMUTATIONS = 1000
"""A mean over so many permutations is exact to under 0.01."""

_SPREAD_FROM = 3000
"""With fewer measurements the statistics are there before other processes have started."""

COLUMNS = (
    *CELL,
    *("energy", "evidence", "family", "metric", "n_configurations", "n_repetitions_min", "n_repetitions_max"),
    *("metric_min", "metric_max", "tau", "tau_lo", "tau_hi", "tau_p", "tau_p_holm"),
    *("spearman", "spearman_lo", "spearman_hi", "isotonic_r2", "isotonic_r2_lo", "isotonic_r2_hi"),
    *("isotonic_direction", "isotonic_r2_chance", "isotonic_r2_corrected", "isotonic_p", "resamples"),
    *("energy_reliability", "energy_reliability_lo", "metric_reliability", "metric_reliability_lo", "reason"),
)
_TEXT = (*CELL, "energy", "evidence", "family", "metric", "isotonic_direction", "reason")
_WHOLE = ("n_configurations", "n_repetitions_min", "n_repetitions_max", "resamples")


def pairwise_table(
    measurements: pd.DataFrame,
    *,
    confidence: float,
    bootstrap: int,
    drop_flags: list[str],
    seed: int,
    processes: int = 1,
) -> pd.DataFrame:
    """Coupling statistics of every cell, energy and metric: the columns of :data:`COLUMNS`.

    ``isotonic_r2_chance`` is the mean R2 of shuffled data and ``isotonic_r2_corrected`` = (R2 - chance) / (1 - chance),
    which is 0 on average for unrelated data (in-sample R2 is not: its curve bends after the noise). ``isotonic_p`` is
    the permutation p-value. Reliabilities are those of the configuration means; null without repetitions. Holm's
    adjustment is over the tau tests of a cell. Statistics depend on ``seed`` and on the data of their own row only, and
    not on ``processes``. ``resamples`` are those of the intervals: ``bootstrap``, or fewer where thousands of
    configurations make each of them more exact (:func:`ipa_energy.analysis.association.enough_resamples`).
    """
    tasks: list[tuple[dict[str, Any], pd.DataFrame, Metric, _Bootstrap]] = []
    celled = in_cells(measurements, drop_flags)
    cells = [(key, group[group["usable"]], tuple(ENERGIES)) for key, group in _cells(celled)]
    cells += [(merging.cell, merging.rows, merging.energies) for merging in mergings(celled)]
    for key, chosen, energies in cells:
        for energy in energies:
            column = ENERGIES[energy]
            names = (*key, energy)
            cell: dict[str, Any] = dict(zip([*CELL, "energy"], names, strict=True))
            cell["evidence"] = evidence_of(chosen.loc[chosen[column].notna(), "evidence"])
            how = _Bootstrap(confidence, bootstrap, (seed, *names))
            tasks += [(cell, chosen[["configuration", column, m.column]], m, how) for m in METRICS]
    if processes > 1 and len(measurements) >= _SPREAD_FROM:
        pairs = Parallel(n_jobs=processes)(delayed(_row)(*task) for task in tasks)
    else:
        pairs = [_row(*task) for task in tasks]
    rows: list[dict[str, Any]] = []
    for _, cell_pairs in itertools.groupby(filter(None, pairs), key=lambda pair: [pair[n] for n in (*CELL, "energy")]):
        rows += _holm(list(cell_pairs))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = dict.fromkeys(_TEXT, "str") | dict.fromkeys(_WHOLE, "Int64")
    return frame.astype({name: kinds.get(name, "float64") for name in COLUMNS})


def _row(cell: dict[str, Any], chosen: pd.DataFrame, metric: Metric, how: _Bootstrap) -> dict[str, Any] | None:
    pair = _pair(chosen, cell["energy"], metric, how=how)
    return None if pair is None else cell | {"metric": metric.name, "family": metric.family} | pair


def _cells(grid: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
    """The cells of the grid; one without any usable record is kept only where its host and workload have no better."""
    cells: list[tuple[Any, pd.DataFrame]] = list(grid.groupby(CELL, sort=True))
    load = len(PLACE) - 1  # pipeline, workload and host, whatever the weights
    filled = {key[:load] for key, group in cells if group["usable"].any()}
    return [(key, group) for key, group in cells if group["usable"].any() or key[:load] not in filled]


def _generator(*names: object) -> np.random.Generator:
    """A generator of its own for each pair, so that adding a metric or a host changes no other figure."""
    return np.random.default_rng(list(hashlib.sha256("\0".join(map(str, names)).encode()).digest()))


def _pair(chosen: pd.DataFrame, energy: str, metric: Metric, *, how: _Bootstrap) -> dict[str, Any] | None:
    """Statistics of one pair; None for a metric that is not worth a row (cores that never vary: cost says it all)."""
    rows = chosen[["configuration", ENERGIES[energy], metric.column]].dropna()
    if metric.name == "cores" and rows["cores"].nunique() < 2:
        return None
    pair: dict[str, Any] = {"n_configurations": rows["configuration"].nunique()}
    if rows.empty:
        return pair | {"reason": _why_empty(chosen, energy, metric)}
    index = np.unique(rows["configuration"].to_numpy(dtype=object), return_inverse=True)[1]
    clusters = association.Clusters.of(rows[[ENERGIES[energy], metric.column]].to_numpy(dtype=float), index)
    y, x = association.without_rounding(clusters.means).T
    pair |= {
        "n_repetitions_min": int(clusters.sizes.min()),
        "n_repetitions_max": int(clusters.sizes.max()),
        "metric_min": float(x.min()),
        "metric_max": float(x.max()),
    }
    for name, side in (("energy", 0), ("metric", 1)):
        if (found := association.reliability(clusters, side, how.confidence)) is not None:
            pair |= {f"{name}_reliability": found.value, f"{name}_reliability_lo": found.lo}
    if len(clusters) < MIN_POINTS:
        pair["reason"] = f"{_count(len(clusters), 'configuration')}; statistics need at least {MIN_POINTS}"
    elif association.is_constant(x):
        pair["reason"] = f"{metric.name} is the same in all configurations, so nothing can go with it"
    elif association.is_constant(y):
        pair["reason"] = f"{energy} energy per request is the same in all configurations"
    else:
        resamples = association.enough_resamples(how.resamples, len(clusters), how.confidence)
        pair |= _statistics(x, y, clusters, how=_Bootstrap(how.confidence, resamples, (*how.seed, metric.name)))
    return pair


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _why_empty(chosen: pd.DataFrame, energy: str, metric: Metric) -> str:
    if chosen.empty:
        return "no usable record"
    if chosen[ENERGIES[energy]].notna().sum() == 0:
        return f"no usable record has a {energy} energy"
    if chosen[metric.column].notna().sum() == 0:
        return f"no usable record has a figure for {metric.name}"
    return f"no usable record has both a {energy} energy and a figure for {metric.name}"


def _statistics(
    x: association.Floats, y: association.Floats, clusters: association.Clusters, *, how: _Bootstrap
) -> dict[str, Any]:
    tau, fit, rho = association.kendall(x, y), association.monotone_fit(x, y), association.spearman(x, y)
    chance = association.permutation_chance(
        x, y, min(how.resamples, MAX_PERMUTATIONS), _generator(*how.seed, "permutation")
    )
    if tau is None or fit is None or chance is None:  # neither side is constant, which the caller has seen to
        raise ValueError(f"statistics of constant data were asked for: {how.seed}")
    found: dict[str, Any] = {
        "resamples": how.resamples,
        "tau": tau[0],
        "tau_p": tau[1],
        "spearman": rho,
        "isotonic_r2": fit.r2,
        "isotonic_direction": fit.direction,
        "isotonic_r2_chance": chance.mean_r2,
        "isotonic_r2_corrected": (fit.r2 - chance.mean_r2) / (1 - chance.mean_r2) if chance.mean_r2 < 1 else None,
        "isotonic_p": chance.p,
    }
    draws: dict[str, list[float]] = {"tau": [], "spearman": [], "isotonic_r2": []}
    for means in association.resampled_means(clusters, how.resamples, _generator(*how.seed, "bootstrap")):
        drawn_y, drawn_x = association.without_rounding(means).T
        drawn = association.strength(drawn_x, drawn_y)
        if drawn is None:  # one configuration drawn n times says nothing
            continue
        for name, values in draws.items():
            values.append(getattr(drawn, name))
    if len(draws["tau"]) < how.resamples / 2:
        return found | {"reason": "no intervals: most bootstrap resamples hold a single value"}
    for name, values in draws.items():
        lo, hi = association.percentile_interval(values, how.confidence)
        # Resampling adds noise and ties of its own, which moves a statistic near its limit off the estimate; the bound
        # then moves out to the estimate, so that an interval always holds what it is the interval of.
        found[f"{name}_lo"], found[f"{name}_hi"] = min(lo, found[name]), max(hi, found[name])
    return found


def _holm(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Holm's step-down adjustment of the tau p-values of one cell."""
    tested = [pair for pair in pairs if pair.get("tau_p") is not None]
    if tested:
        adjusted = holm(np.array([pair["tau_p"] for pair in tested], dtype=float))
        for pair, p in zip(tested, adjusted, strict=True):
            pair["tau_p_holm"] = float(p)
    return pairs
