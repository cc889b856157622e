"""What an energy-aware choice saves: at accuracy, latency and cost as good as those of the choice that ignores energy.

A panel goes in (:mod:`.panel`); out comes a row for each input (rate and SLA), a row for the mean over them, a row for
the mean over all choices that anybody could make who ignores energy (the configurations that are Pareto-optimal in
accuracy, latency and cost), and a decision on both means.

Noise must not look like a saving: the least of many noisy energies is too low. So choices are made with one half of the
repetitions and their energies are taken from the other half, both ways round, for a few random splits. Given the
choices, a mean saving is a linear combination of means over the half that evaluates, on the log scale, so its standard
error follows from the variance within configurations; a configuration that appears in several choices is counted with
its whole weight. The ways share repetitions, so their standard errors are averaged, as for errors that move together.

Part of a saving needs no joules: where energy is a function of the metrics, a tolerance of 5 % in cost may halve
latency and energy with it. ``own_saving`` is what is left: the lesser of the saving against the baseline and the saving
against the choice that follows the energy which the metrics foretell (:func:`.choices.foretold`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ipa_energy.analysis import choices
from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.choices import DEFAULT_WEIGHTS, Figures, Limits, Tolerances
from ipa_energy.analysis.panel import ENERGY, Panel, halves
from ipa_energy.analysis.reference_inputs import ReferenceInput, derived_inputs, given_inputs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GRID, FEASIBLE, SPACE = "grid", "feasible", "space"
SCOPES = (FEASIBLE, GRID)
"""Scopes that are decided on. The third, of IPA's composed space (:mod:`ipa_energy.ipa.space_savings`), only informs."""

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

_NO_REPETITIONS = "one repetition each, so that a saving can't be told from noise; measure at least 2 blocks"
_NO_ALTERNATIVE = "no other configuration is within the tolerances: there is nothing to choose"


@dataclass(frozen=True, slots=True)
class Savings:
    """Rows of :data:`COLUMNS` and the decision on one cell and energy.

    ``saving`` is the mean own saving of the scope that ``scope`` names, a fraction of the energy per request, with the
    bounds that were compared with the threshold; None where there is none.
    """

    rows: pd.DataFrame
    decision: Literal["coupled", "decoupled", "inconclusive"]
    reason: str
    scope: str | None = None
    saving: float | None = None
    saving_lo: float | None = None
    saving_hi: float | None = None


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Places of the choices of one scope, each of shape (references,); all -1 where an input has no baseline."""

    base: Ints
    aware: Ints
    hinted: Ints
    least: Ints


@dataclass(frozen=True, slots=True)
class _Way:
    """One half chose; ``energy``, ``latency``, ``cost`` are the log means of the other, with their error variances."""

    choosing: Figures
    evaluating: Figures
    repetitions: Ints
    variances: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Difference:
    """A log ratio and its standard error, one for each reference or one for their mean."""

    value: Floats
    error: Floats


@dataclass(frozen=True, slots=True)
class _Study:
    """A panel's configurations that can be asked about, and the terms of the question."""

    panel: Panel
    places: Ints
    figures: Figures
    weights: Mapping[str, Any]
    tolerances: Tolerances
    inputs: tuple[ReferenceInput, ...]
    repeated: bool


def weights_of(ipa: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a choice from the config's section ``ipa``: without energy, with its scales and its cost."""
    named = {name: ipa["weights"][name] for name in ("alpha", "beta", "gamma") if name in ipa.get("weights", {})}
    return dict(DEFAULT_WEIGHTS) | named | {name: ipa[name] for name in ("scales", "cost") if name in ipa}


def savings(
    panel: Panel,
    *,
    inputs: Mapping[str, tuple[float, float]] | None = None,
    weights: Mapping[str, Any] | None = None,
    tolerances: Mapping[str, float] | None = None,
    confidence: float = 0.95,
    saving_threshold: float = 0.05,
    min_configurations: int = 8,
    splits: int = 3,
    seed: int = 0,
) -> Savings:
    """Savings of energy-aware choices in one cell and the decision on them.

    ``inputs`` map a name to (rate in requests/s, SLA on p99 latency in s). Without any, or where none of them can be
    served, reference inputs are derived from the measurements (:mod:`.reference_inputs`). ``weights`` override
    :data:`.choices.DEFAULT_WEIGHTS`; ``tolerances`` are fractions of ``accuracy``, ``latency`` and ``cost``. The cost
    is US$ per 1000 requests in the scope ``grid`` and what the objective counts in the scope ``feasible``.

    ``decoupled`` when the lower bound of the mean own saving reaches ``saving_threshold`` in one of the two scopes,
    ``coupled`` when the upper bound stays below it in both. The intervals of means are shared between the scopes
    (Bonferroni), so that of a scope has the level 1 - (1 - ``confidence``) / 2; intervals of single inputs have
    ``confidence``. Raises ValueError for inputs, weights or tolerances out of range.
    """
    if splits < 1:
        raise ValueError(f"splits is {splits}: give 1 or more")
    wanted = given_inputs(inputs or {})
    allowed = Tolerances(**(tolerances or {}))
    lacking = [name for name in NEEDED if name not in panel.names]
    if lacking:
        return _silent(panel, f"no figures for {', '.join(lacking)}")
    if len(panel.configurations) < 2:
        return _silent(panel, f"{len(panel.configurations)} configuration: there is nothing to choose from")
    study = _study(panel, wanted, dict(DEFAULT_WEIGHTS) | dict(weights or {}), allowed)
    ways = list(_ways(study, splits, seed)) if study.repeated else []
    shared = 1 - (1 - confidence) / 2
    rows, means = [], {}
    for scope in SCOPES:
        single, mean = _scope_rows(study, ways, scope, confidence, shared)
        rows += [*single, mean]
        means[scope] = mean
    return _decided(_frame(rows), means, study, saving_threshold, min_configurations)


def _study(panel: Panel, wanted: list[ReferenceInput], weights: Mapping[str, Any], tolerances: Tolerances) -> _Study:
    """What can be asked: of configurations with two repetitions or more, or of all where there are none of them."""
    repeated = panel.repetitions >= 2 if panel.degrees > 0 else np.zeros(len(panel.repetitions), dtype=bool)
    places = np.flatnonzero(repeated if repeated.sum() >= 2 else np.ones(len(repeated), dtype=bool)).astype(np.int64)
    figures = _figures(panel, panel.means[places], places, weights)
    if not any(len(choices.feasible(figures, given)) for given in wanted):
        wanted = [*wanted, *derived_inputs(np.exp(figures.throughput), np.exp(figures.latency))]
    return _Study(panel, places, figures, weights, tolerances, tuple(wanted), bool(repeated.sum() >= 2))


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


def _ways(study: _Study, splits: int, seed: int) -> Iterator[_Way]:
    """Every split of the repetitions, both ways round."""
    panel, rng = study.panel, np.random.default_rng(seed)
    variance = {"latency": "latency_p99", "cost": "cost", "energy": ENERGY}
    variances = {name: float(panel.within[at, at]) for name, at in ((n, panel.column(m)) for n, m in variance.items())}
    for _ in range(splits):
        first, second, n_first, n_second, _ = halves(panel, rng)
        one, other = (_figures(panel, table, study.places, study.weights) for table in (first, second))
        yield _Way(one, other, n_second, variances)
        yield _Way(other, one, n_first, variances)


def _choose(figures: Figures, study: _Study, scope: str) -> _Chosen:
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
            made.append(_Chosen(nothing, nothing, nothing, nothing))
            continue
        base = np.array([choices.without_energy(figures, given, among, study.weights)], dtype=np.int64)
        made.append(_around(figures, figures.price, base, among, hint, study.tolerances))
    return _Chosen(
        *(
            np.concatenate([getattr(one, name) for one in made]).astype(np.int64)
            for name in ("base", "aware", "hinted", "least")
        )
    )


def _around(figures: Figures, cost: Floats, base: Ints, among: Ints, hint: Floats, tolerances: Tolerances) -> _Chosen:
    """What knowing energy, or only the hint of it, makes of the choices at ``base``, among the places ``among``."""
    within = choices.limits(base, figures.accuracy, figures.latency, cost, tolerances)
    anything = np.full(len(base), np.inf)
    only_accuracy = Limits(within.accuracy, anything, anything)
    metrics = figures.accuracy[among], figures.latency[among], cost[among]
    return _Chosen(
        base,
        among[choices.least_within(figures.energy[among], *metrics, within)],
        among[choices.least_within(hint[among], *metrics, within)],
        among[choices.least_within(figures.energy[among], *metrics, only_accuracy)],
    )


def _alternatives(figures: Figures, study: _Study, chosen: _Chosen, scope: str) -> Ints:
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


def _each(way: _Way, name: str, plus: Ints, minus: Ints) -> _Difference:
    """Log ratio of a metric at ``plus`` to that at ``minus``, shape (references,); NaN where a place is -1."""
    values, there = getattr(way.evaluating, name), plus >= 0
    inverse = 1 / way.repetitions
    variance = way.variances[name] * np.where(plus == minus, 0.0, inverse[plus] + inverse[minus])
    return _Difference(
        np.where(there, values[plus] - values[minus], np.nan), np.where(there, np.sqrt(variance), np.nan)
    )


def _mean(way: _Way, name: str, plus: Ints, minus: Ints) -> _Difference:
    """The mean log ratio over references, shape (1,), as one linear combination of configuration means."""
    there = plus >= 0
    n, count = len(way.repetitions), max(1, int(there.sum()))
    weight = (np.bincount(plus[there], minlength=n) - np.bincount(minus[there], minlength=n)) / count
    value = weight @ getattr(way.evaluating, name)
    error = math.sqrt(way.variances[name] * float(np.sum(weight**2 / way.repetitions)))
    return _Difference(np.array([value if there.any() else np.nan]), np.array([error if there.any() else np.nan]))


def _largest(way: _Way, chosen: _Chosen) -> Ints:
    """The place among the references, shape (1,), of what looks like the largest saving to the half that chose."""
    gain = np.where(chosen.base >= 0, way.choosing.energy[chosen.aware] - way.choosing.energy[chosen.base], np.inf)
    return np.array([int(np.argmin(gain))], dtype=np.int64)


def _scope_rows(
    study: _Study, ways: list[_Way], scope: str, confidence: float, shared: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for each input (none in the scope ``grid``), and the row of their mean."""
    shown = _choose(study.figures, study, scope)
    counts = _alternatives(study.figures, study, shown, scope)
    served = shown.base >= 0
    start = study.panel.key | {
        "evidence": study.panel.evidence,
        "scope": scope,
        "n_configurations": len(study.places),
        "cost_unit": "usd_per_1000_requests" if scope == GRID else _price_unit(study.panel, study.weights),
    }
    mean = start | {"n_references": int(served.sum()), "n_with_alternative": int((counts > 0).sum())}
    if served.any():
        largest = int(np.argmin(np.where(served, _gain(study.figures, shown), np.inf)))
        mean |= _sides(study, shown, largest, scope)
    single = [] if scope == GRID else [start | _of_input(study, shown, counts, at) for at in range(len(study.inputs))]
    chosen = [_choose(way.choosing, study, scope) for way in ways]
    if scope == FEASIBLE:
        # Without an alternative on all repetitions there is no choice, whatever half of them makes of it.
        chosen = [_settled(one, counts > 0) for one in chosen]
        given_by = {given.given_by for given, there in zip(study.inputs, served, strict=True) if there}
        mean["given_by"] = given_by.pop() if len(given_by) == 1 else None
    if not ways:
        mean["reason"] = _NO_REPETITIONS
        single = [row | {"reason": row.get("reason") or _NO_REPETITIONS} for row in single]
        return single, mean
    if not served.any() or not any((one.base >= 0).any() for one in chosen):
        return single, mean | {"reason": "nothing measured can serve any of the inputs"}
    pairs = list(zip(ways, chosen, strict=True))
    mean |= _estimates(pairs, _mean, scope, _student(study.panel, shared), 0)
    best = [_picked(way, one) for way, one in pairs]
    mean |= _interval(
        "saving_max",
        [_each(way, "energy", one.aware, one.base) for way, one in best],
        0,
        _student(study.panel, shared),
        -1,
    )
    for at, row in enumerate(single):
        if served[at]:
            row |= _estimates(pairs, _each, scope, _student(study.panel, confidence), at)
            if "saving" not in row:
                row["reason"] = "no half of the repetitions finds a configuration that serves it"
    return single, mean


def _gain(figures: Figures, chosen: _Chosen) -> Floats:
    return np.asarray(figures.energy[chosen.aware] - figures.energy[chosen.base], dtype=float)


def _picked(way: _Way, chosen: _Chosen) -> tuple[_Way, _Chosen]:
    at = _largest(way, chosen)
    return way, _Chosen(chosen.base[at], chosen.aware[at], chosen.hinted[at], chosen.least[at])


def _settled(chosen: _Chosen, may: NDArray[np.bool_]) -> _Chosen:
    return _Chosen(
        chosen.base, np.where(may, chosen.aware, chosen.base), np.where(may, chosen.hinted, chosen.base), chosen.least
    )


def _student(panel: Panel, confidence: float) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, panel.degrees))


def _estimates(pairs: list[tuple[_Way, _Chosen]], of: Any, scope: str, quantile: float, at: int) -> dict[str, Any]:
    """Savings, regret and price of one reference or of the mean, with intervals."""
    plain = _interval("saving", [of(way, "energy", c.aware, c.base) for way, c in pairs], at, quantile, -1)
    own = _interval("own_saving", [of(way, "energy", c.aware, c.hinted) for way, c in pairs], at, quantile, -1)
    found = plain | {name: min(own[name], plain[name.removeprefix("own_")]) for name in own}
    found |= _interval("regret", [of(way, "energy", c.base, c.least) for way, c in pairs], at, quantile, 1)
    found |= _interval("price_latency", [of(way, "latency", c.least, c.base) for way, c in pairs], at, quantile, 1)
    if scope == GRID:
        found |= _interval("price_cost", [of(way, "cost", c.least, c.base) for way, c in pairs], at, quantile, 1)
    return found


def _interval(name: str, ways: list[_Difference], at: int, quantile: float, sign: int) -> dict[str, Any]:
    """The mean over the ways that have it of a log ratio, as a fraction: exp(x) - 1, or 1 - exp(x) for sign -1."""
    values = [(float(way.value[at]), float(way.error[at])) for way in ways if math.isfinite(way.value[at])]
    if not values:
        return {}
    value, error = (sum(part) / len(values) for part in zip(*values, strict=True))
    # The last + 0.0 makes a zero of a negative zero.
    fractions = [sign * math.expm1(min(value + side * quantile * error, 700.0)) + 0.0 for side in (-1, 0, 1)]
    return {name: fractions[1], f"{name}_lo": min(fractions), f"{name}_hi": max(fractions)}


def _of_input(study: _Study, shown: _Chosen, counts: Ints, at: int) -> dict[str, Any]:
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


def _sides(study: _Study, shown: _Chosen, at: int, scope: str) -> dict[str, Any]:
    """The baseline and the energy-aware choice of one reference, on all repetitions, with their figures."""
    figures, row = study.figures, {}
    cost = figures.cost if scope == GRID else figures.price
    for side, place in zip(_SIDES, (shown.base[at], shown.aware[at]), strict=True):
        values = figures.accuracy[place], *(math.exp(of[place]) for of in (figures.latency, cost, figures.energy))
        row[side] = study.panel.configurations[study.places[place]]
        row |= {f"{side}_{name}": float(value) for name, value in zip(_FIGURES, values, strict=True)}
    return row


def _silent(panel: Panel, reason: str) -> Savings:
    """No answer: one row for each scope that says why."""
    start = panel.key | {"evidence": panel.evidence, "n_configurations": len(panel.configurations), "reason": reason}
    return Savings(_frame([start | {"scope": scope} for scope in SCOPES]), "inconclusive", reason)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = dict.fromkeys(_TEXT, "str") | dict.fromkeys(_WHOLE, "Int64")
    return frame.astype({name: kinds.get(name, "float64") for name in COLUMNS})


def _decided(
    rows: pd.DataFrame, means: Mapping[str, Mapping[str, Any]], study: _Study, threshold: float, least: int
) -> Savings:
    """The rule, on the rows of means."""
    count = len(study.places)
    if count < least:
        repeated = " with two repetitions" if count < len(study.panel.configurations) else ""
        return Savings(rows, "inconclusive", f"{count} configurations{repeated}; the rule asks for {least}")
    if not study.repeated:
        return Savings(rows, "inconclusive", _NO_REPETITIONS)
    speaking = {
        scope: row
        for scope, row in means.items()
        if "own_saving" in row and 2 * row["n_with_alternative"] >= row["n_references"]
    }
    told: dict[str, str] = {}
    for scope, row in means.items():
        what = "inputs" if scope == FEASIBLE else "configurations that are optimal without energy"
        if scope in speaking:
            lo, hi = row["own_saving_lo"], row["own_saving_hi"]
            told[scope] = f"mean saving {row['own_saving']:.1%} [{lo:.1%}, {hi:.1%}] over {row['n_references']} {what}"
        elif "own_saving" in row:
            told[scope] = (
                f"only {row['n_with_alternative']} of {row['n_references']} {what} have an alternative within the "
                "tolerances"
            )
        else:
            told[scope] = str(row["reason"])

    def found(decision: Literal["coupled", "decoupled", "inconclusive"], scope: str | None, reason: str) -> Savings:
        if scope is None:
            return Savings(rows, decision, reason)
        row = speaking[scope]
        return Savings(rows, decision, reason, scope, row["own_saving"], row["own_saving_lo"], row["own_saving_hi"])

    above = [scope for scope, row in speaking.items() if row["own_saving_lo"] >= threshold]
    if above:
        best = max(above, key=lambda scope: float(speaking[scope]["own_saving_lo"]))
        return found("decoupled", best, f"{told[best]}, lower bound at or above {threshold:.0%}")
    widest = max(speaking, key=lambda scope: float(speaking[scope]["own_saving_hi"]), default=None)
    both = "; ".join(told[scope] for scope in SCOPES)
    if len(speaking) == len(SCOPES) and widest is not None and speaking[widest]["own_saving_hi"] < threshold:
        return found("coupled", widest, f"{both}; upper bounds below {threshold:.0%}")
    reaches = f"; not all upper bounds are below {threshold:.0%}" if speaking else ""
    return found("inconclusive", widest, both + reaches)
