"""The rows of savings: what each input's choice and its energy-aware counterpart are, and what the one saves.

A panel and the terms of the question go in (:class:`Study`); out come, for one scope, a row for each input and the row
of their mean. :mod:`.decision` says what is asked and decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ipa_energy.analysis import choices, honest_ratios
from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.choices import Figures, Limits, Tolerances
from ipa_energy.analysis.honest_ratios import Chosen, Way
from ipa_energy.analysis.panel import ENERGY, Panel, halves
from ipa_energy.analysis.reference_inputs import ReferenceInput, derived_inputs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GRID, FEASIBLE, SPACE = "grid", "feasible", "space"
SCOPES = (FEASIBLE, GRID)
"""Scopes that are decided on; that of IPA's composed space (:mod:`ipa_energy.ipa.space_savings`) only informs."""

NEEDED = ("accuracy", "latency_p99", "cost", "throughput")

_SIDES = ("baseline", "choice")
_FIGURES = ("accuracy", "latency_p99_s", "cost", "energy_j_per_request")
_INTERVALS = ("saving", "own_saving", "saving_max", "regret", "price_latency", "price_cost")

COLUMNS = (
    *CELL,
    *("energy", "evidence", "scope", "input", "rate_rps", "sla_s", "given_by", "n_configurations", "n_feasible"),
    *("n_references", "n_with_alternative", "n_alternatives", "cost_unit"),
    *(name for side in _SIDES for name in (side, *(f"{side}_{figure}" for figure in _FIGURES))),
    *(name for interval in _INTERVALS for name in (interval, f"{interval}_lo", f"{interval}_hi")),
    "reason",
)
"""Columns of the rows. Savings, regrets and prices are fractions; ``input`` is null in a row of means."""

_TEXT = (*CELL, "energy", "evidence", "scope", "input", "given_by", "cost_unit", *_SIDES, "reason")
_WHOLE = ("n_configurations", "n_feasible", "n_references", "n_with_alternative", "n_alternatives")

NO_REPETITIONS = "one repetition each, so that a saving can't be told from noise; measure at least 2 blocks"
_NO_ALTERNATIVE = "no other configuration is within the tolerances: there is nothing to choose"


@dataclass(frozen=True, slots=True)
class Study:
    """A panel's configurations that can be asked about, and the terms of the question."""

    panel: Panel
    places: Ints
    figures: Figures
    weights: Mapping[str, Any]
    tolerances: Tolerances
    inputs: tuple[ReferenceInput, ...]
    repeated: bool


def study_of(panel: Panel, wanted: list[ReferenceInput], weights: Mapping[str, Any], tolerances: Tolerances) -> Study:
    """What can be asked: of configurations with two repetitions or more, or of all where there are none of them."""
    repeated = panel.repetitions >= 2 if panel.degrees > 0 else np.zeros(len(panel.repetitions), dtype=bool)
    places = np.flatnonzero(repeated if repeated.sum() >= 2 else np.ones(len(repeated), dtype=bool)).astype(np.int64)
    figures = _figures(panel, panel.means[places], places, weights)
    if not any(len(choices.feasible(figures, given)) for given in wanted):
        wanted = [*wanted, *derived_inputs(np.exp(figures.throughput), np.exp(figures.latency))]
    return Study(panel, places, figures, weights, tolerances, tuple(wanted), bool(repeated.sum() >= 2))


def _figures(panel: Panel, table: Floats, places: Ints, weights: Mapping[str, Any]) -> Figures:
    """Figures of the rows of ``table``, shape (m, metrics), which belong to the configurations at ``places``."""
    column = {name: table[:, panel.column(name)] for name in panel.names}
    # US$ per hour from US$ per 1000 requests, at so many requests per second.
    usd_per_hour = column["cost"] + column["throughput"] + math.log(3.6)
    batches = [name for name in panel.knobs.columns if str(name).endswith(".batch")]
    return Figures(
        accuracy=column["accuracy"],
        latency=column["latency_p99"],
        cost=column["cost"],
        price=column["cores"] if _price_unit(panel, weights) == "cores" else usd_per_hour,
        throughput=column["throughput"],
        energy=column[ENERGY],
        batch=panel.knobs[batches].to_numpy(dtype=float)[places].sum(axis=1),
    )


def _price_unit(panel: Panel, weights: Mapping[str, Any]) -> str:
    return "cores" if weights["cost"] == "cores" and "cores" in panel.names else "usd_per_hour"


def ways_of(study: Study, splits: int, seed: int) -> Iterator[Way]:
    """Every split of the repetitions, both ways round."""
    panel, rng = study.panel, np.random.default_rng(seed)
    variances = {
        name: float(panel.within[panel.column(metric), panel.column(metric)])
        for name, metric in (("latency", "latency_p99"), ("cost", "cost"), ("energy", ENERGY))
    }
    # Cores and US$ per hour are as configured; what repetitions seem to change of them is rounding.
    variances["price"] = 0.0
    for _ in range(splits):
        first, second, n_first, n_second, _ = halves(panel, rng)
        one, other = (_figures(panel, table, study.places, study.weights) for table in (first, second))
        yield Way(one, other, n_second, variances)
        yield Way(other, one, n_first, variances)


def choose(figures: Figures, study: Study, scope: str) -> Chosen:
    """The choices that these figures lead to: one of each input, or of each configuration optimal without energy."""
    metrics = np.column_stack([figures.accuracy, figures.latency, figures.cost])
    hint = choices.foretold(metrics, figures.energy)
    if scope == GRID:
        base = choices.optimal_without_energy(figures.accuracy, figures.latency, figures.cost)
        return _around(figures, figures.cost, base, np.arange(len(hint)), hint, study.tolerances)
    made = []
    for given in study.inputs:
        among = choices.feasible(figures, given)
        if len(among) == 0:
            nothing = np.array([-1], dtype=np.int64)
            made.append(Chosen(nothing, nothing, nothing, nothing))
            continue
        base = np.array([choices.without_energy(figures, given, among, study.weights)], dtype=np.int64)
        made.append(_around(figures, figures.price, base, among, hint, study.tolerances))
    return Chosen(
        *(
            np.concatenate([getattr(one, name) for one in made]).astype(np.int64)
            for name in ("base", "aware", "hinted", "least")
        )
    )


def _around(figures: Figures, cost: Floats, base: Ints, among: Ints, hint: Floats, tolerances: Tolerances) -> Chosen:
    """What knowing energy, or only the hint of it, makes of the choices at ``base``, among the places ``among``."""
    within = choices.limits(base, figures.accuracy, figures.latency, cost, tolerances)
    anything = np.full(len(base), np.inf)
    only_accuracy = Limits(within.accuracy, anything, anything)
    metrics = figures.accuracy[among], figures.latency[among], cost[among]
    return Chosen(
        base,
        among[choices.least_within(figures.energy[among], *metrics, within)],
        among[choices.least_within(hint[among], *metrics, within)],
        among[choices.least_within(figures.energy[among], *metrics, only_accuracy)],
    )


def _alternatives(figures: Figures, study: Study, chosen: Chosen, scope: str) -> Ints:
    """How many other configurations lie within the tolerances around each baseline; 0 without a baseline."""
    if scope == GRID:
        within = choices.limits(chosen.base, figures.accuracy, figures.latency, figures.cost, study.tolerances)
        return choices.count_within(figures.accuracy, figures.latency, figures.cost, within) - 1
    counts = np.zeros(len(chosen.base), dtype=np.int64)
    for at, given in enumerate(study.inputs):
        if chosen.base[at] < 0:
            continue
        among, base = choices.feasible(figures, given), chosen.base[at : at + 1]
        within = choices.limits(base, figures.accuracy, figures.latency, figures.price, study.tolerances)
        of = figures.accuracy[among], figures.latency[among], figures.price[among]
        counts[at] = choices.count_within(*of, within)[0] - 1
    return counts


def scope_rows(
    study: Study, ways: list[Way], scope: str, confidence: float, shared: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for each input (none in the scope ``grid``), and the row of their mean."""
    shown = choose(study.figures, study, scope)
    counts = _alternatives(study.figures, study, shown, scope)
    served = shown.base >= 0
    start: dict[str, Any] = study.panel.key | {
        "evidence": study.panel.evidence,
        "scope": scope,
        "n_configurations": len(study.places),
        "cost_unit": "usd_per_1000_requests" if scope == GRID else _price_unit(study.panel, study.weights),
    }
    mean = start | {"n_references": int(served.sum()), "n_with_alternative": int((counts > 0).sum())}
    if served.any():
        gain = study.figures.energy[shown.aware] - study.figures.energy[shown.base]
        largest = int(np.argmin(np.where(served, gain, np.inf)))
        mean |= _sides(study, shown, largest, scope)
    single = [] if scope == GRID else [start | _of_input(study, shown, counts, at) for at in range(len(study.inputs))]
    chosen = [choose(way.choosing, study, scope) for way in ways]
    if scope == FEASIBLE:
        # Without an alternative on all repetitions there is no choice, whatever half of them makes of it.
        chosen = [one.only_where(counts > 0) for one in chosen]
        given_by = {given.given_by for given, there in zip(study.inputs, served, strict=True) if there}
        mean["given_by"] = given_by.pop() if len(given_by) == 1 else None
    if not ways:
        for row in (*single, mean):
            row.setdefault("reason", NO_REPETITIONS)
        return single, mean
    if not served.any() or not any((one.base >= 0).any() for one in chosen):
        return single, mean | {"reason": "nothing measured can serve any of the inputs"}
    pairs = list(zip(ways, chosen, strict=True))
    prices = ("latency", "cost") if scope == GRID else ("latency", "price")
    quantile = _student(study.panel, shared)
    mean |= honest_ratios.estimates(pairs, honest_ratios.mean, quantile, 0, prices)
    best = [(way, honest_ratios.largest(way, one)) for way, one in pairs]
    most = [honest_ratios.each(way, "energy", one.aware, one.base) for way, one in best]
    mean |= honest_ratios.interval("saving_max", most, 0, quantile, -1)
    for at in np.flatnonzero(served) if single else ():
        quantile = _student(study.panel, confidence)
        found = honest_ratios.estimates(pairs, honest_ratios.each, quantile, int(at), prices)
        single[at].update(found)
        if not found:
            single[at]["reason"] = "no half of the repetitions finds a configuration that serves it"
    return [_priced(row) for row in single], _priced(mean)


def _priced(row: dict[str, Any]) -> dict[str, Any]:
    """The price of the objective is the cost of its scope."""
    return {name.replace("price_price", "price_cost"): value for name, value in row.items()}


def _student(panel: Panel, confidence: float) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, panel.degrees))


def _of_input(study: Study, shown: Chosen, counts: Ints, at: int) -> dict[str, Any]:
    given = study.inputs[at]
    row: dict[str, Any] = {
        "input": given.name,
        "rate_rps": given.rate_rps,
        "sla_s": given.sla_s,
        "given_by": given.given_by,
        "n_feasible": len(choices.feasible(study.figures, given)),
        "n_references": int(shown.base[at] >= 0),
    }
    if shown.base[at] < 0:
        why = f"no configuration sustains {given.rate_rps:g} requests/s with a p99 latency of at most {given.sla_s:g} s"
        return row | {"reason": why}
    row |= {"n_with_alternative": int(counts[at] > 0), "n_alternatives": int(counts[at])}
    row |= _sides(study, shown, at, FEASIBLE)
    return row if counts[at] else row | {"reason": _NO_ALTERNATIVE}


def _sides(study: Study, shown: Chosen, at: int, scope: str) -> dict[str, Any]:
    """The baseline and the energy-aware choice of one reference, on all repetitions, with their figures."""
    figures, row = study.figures, dict[str, Any]()
    cost = figures.cost if scope == GRID else figures.price
    for side, place in zip(_SIDES, (shown.base[at], shown.aware[at]), strict=True):
        values = figures.accuracy[place], *(math.exp(of[place]) for of in (figures.latency, cost, figures.energy))
        row[side] = study.panel.configurations[study.places[place]]
        row |= {f"{side}_{name}": float(value) for name, value in zip(_FIGURES, values, strict=True)}
    return row


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table with the columns and kinds of :data:`COLUMNS`."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = dict.fromkeys(_TEXT, "str") | dict.fromkeys(_WHOLE, "Int64")
    return frame.astype({name: kinds.get(name, "float64") for name in COLUMNS})
