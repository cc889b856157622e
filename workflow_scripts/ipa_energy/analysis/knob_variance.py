"""Share of the variance of each metric that each knob, and each pair of knobs, stands for: the table ``knobs.csv``.

Panels (:mod:`.panel`) go in. Within a cell, the means of the configurations are decomposed by a type II analysis of
variance (:mod:`.anova`) with the knobs as categories, on logarithms, so that a share is one of relative differences
(accuracy stays on its own scale where it is not positive). Nothing is said about other levels of a knob than those that
were measured.

What a term is tested against: the scatter between repetitions, pooled over configurations, where there is any. It is
the error of the means whatever the model leaves out, and it is known even when the terms use up all degrees of freedom.
Without repetitions only what the terms leave over can stand for the error; it holds higher interactions, too, so that
such tests find too little rather than too much.

The intervals hold the share that a term has apart from this error, and come from noncentral chi-squared distributions
(:func:`.anova.share_interval`); with one or two degrees of freedom of the error they hold it more rarely than they say.
Configurations are not resampled: the grid was chosen, not drawn, and a resampled grid is another design, with other
combinations missing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from ipa_energy.analysis import anova
from ipa_energy.analysis.cells import CELL, in_cells
from ipa_energy.analysis.holm import holm
from ipa_energy.analysis.panel import ENERGY, RAW, Panel, describe_balance, panels

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

METRICS: Mapping[str, str] = {
    "accuracy": "accuracy",
    "latency_p99": "latency_p99",
    "cost": "cost",
    "throughput": "throughput",
    "gross_energy": ENERGY,
    "net_energy": ENERGY,
}
"""The metrics of the table, and their names in a panel."""

RESIDUAL = "residual"
"""The term that stands for what no other term explains: higher interactions, and noise."""

MAX_COLUMNS = 1000
"""Contrasts of all terms together, above which interactions are left out."""

COLUMNS = (
    *CELL,
    *("energy", "evidence", "metric", "term", "order", "df", "sum_squares", "share", "share_lo", "share_hi", "omega2"),
    *("f", "p", "p_holm", "error", "error_df", "n_configurations", "n_possible", "reason"),
)
_TEXT = (*CELL, "energy", "evidence", "metric", "term", "error", "reason")
_WHOLE = ("order", "df", "error_df", "n_configurations", "n_possible")

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class _Response:
    """Means of one metric, shape (n,), and the variance of a single repetition with its degrees of freedom."""

    name: str
    means: Floats
    within: float
    degrees: int


@dataclass(frozen=True, slots=True)
class _Model:
    """The factors of a grid, what they are called, the terms that can be told apart, and remarks for the reader."""

    codes: Ints
    names: tuple[str, ...]
    terms: tuple[anova.Term, ...]
    notes: Mapping[str, str]
    remarks: tuple[str, ...]

    @property
    def possible(self) -> int:
        """Combinations of the levels that occur."""
        return math.prod(int(column.max()) + 1 for column in self.codes.T)

    def label(self, term: anova.Term) -> str:
        return " x ".join(self.names[factor] for factor in term)


def knobs_table(
    measurements: pd.DataFrame, *, confidence: float, drop_flags: list[str], found: Sequence[Panel] | None = None
) -> pd.DataFrame:
    """The table of all cells: the columns of :data:`COLUMNS`. A cell without energy has one row that says so.

    ``found`` are the panels of ``measurements``, where they are known already.
    """
    found = list(panels(measurements, drop_flags)) if found is None else found
    rows = knob_rows(found, confidence)
    known = {panel.cell for panel in found}
    for cell, group in in_cells(measurements, drop_flags).groupby(CELL, sort=True):
        if tuple(map(str, cell)) not in known:
            why = "no usable record has an energy" if group["usable"].any() else "no usable record"
            rows.append(dict(zip(CELL, cell, strict=True)) | {"n_configurations": 0, "reason": why})
    return as_table(rows)


def as_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows of :func:`knob_rows` as a table, whose types do not depend on what happens to be null."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = dict.fromkeys(_TEXT, "str") | dict.fromkeys(_WHOLE, "Int64")
    return frame.astype({name: kinds.get(name, "float64") for name in COLUMNS})


def knob_rows(found: Iterable[Panel], confidence: float) -> list[dict[str, Any]]:
    """One row per metric and term of every panel; metrics other than energy from the first panel of each cell.

    ``share`` is the term's sum of squares over the total (eta squared); in a grid with missing combinations the shares
    need not add up to 1, because what two terms explain together belongs to neither. ``omega2`` is the share without
    what noise alone would give, 0 at least; ``share_lo`` and ``share_hi`` hold both. ``p_holm`` is adjusted over the
    terms of a metric. ``error`` says what the F test divides by: ``repetitions`` or ``residual``.
    """
    rows: list[dict[str, Any]] = []
    seen: set[tuple[str, ...]] = set()
    for panel in found:
        metrics = [name for name in METRICS if METRICS[name] != ENERGY] if panel.cell not in seen else []
        seen.add(panel.cell)
        rows += _panel_rows(panel, [*metrics, f"{panel.energy}_energy"], confidence)
    return rows


def _panel_rows(panel: Panel, metrics: list[str], confidence: float) -> list[dict[str, Any]]:
    cell = dict(zip(CELL, panel.cell, strict=True))
    balance = describe_balance(panel.knobs)
    shared = {"n_configurations": balance["present"], "n_possible": balance["possible"]}
    rows: list[dict[str, Any]] = []
    usable: list[_Response] = []
    for metric in metrics:
        head = cell | _kind_of(panel, metric) | shared
        response, why = _response(panel, metric)
        if response is None:
            rows.append(head | {"reason": why})
        else:
            usable.append(response)
    if not usable:
        return rows
    model, found = _fitted(panel, np.column_stack([response.means for response in usable]))
    noise = float(np.mean(1 / panel.repetitions))
    for at, response in enumerate(usable):
        head = cell | _kind_of(panel, response.name) | shared | {"n_possible": model.possible}
        rows += [head | line for line in _lines(response, model, found, at, noise=noise, confidence=confidence)]
        if response.name.endswith("_energy") and panel.left_out:
            rows[-1]["reason"] += (
                f"; {panel.left_out} records are left out, as a figure that is not positive has no log"
            )
    return sorted(rows, key=lambda row: metrics.index(row["metric"]))


def _kind_of(panel: Panel, metric: str) -> dict[str, Any]:
    kind = {"metric": metric}
    if metric.endswith("_energy"):
        kind |= {"energy": panel.energy} | ({"evidence": panel.evidence} if panel.evidence else {})
    return kind


def _response(panel: Panel, metric: str) -> tuple[_Response | None, str | None]:
    """The logs of a metric, or why there is nothing to decompose."""
    name = METRICS[metric]
    if name not in panel.names or not len(panel.configurations):
        return None, f"no usable record has a figure for {metric.replace('_', ' ')} and all other metrics"
    if len(panel.configurations) < 2:
        return None, "one configuration; nothing varies"
    if not len(panel.knobs.columns):
        return None, "no knob varies"
    column = panel.column(name)
    means, within, degrees = panel.mean_of(name), float(panel.within[column, column]), panel.degrees
    if name in RAW and bool((means > 0).all()):
        # To first order the log of a mean scatters like the mean itself, relative to it.
        within /= float(np.exp(2 * np.mean(np.log(means))))
        means = np.log(means)
    if np.ptp(means) <= _ROUNDING * max(1.0, float(np.max(np.abs(means)))):
        return None, f"{metric.replace('_', ' ')} is the same in all configurations"
    return _Response(metric, means, within, degrees), None


def _fitted(panel: Panel, responses: Floats) -> tuple[_Model, anova.Anova]:
    """The largest model of main effects and two-way interactions that the grid can carry, fitted to ``responses``."""
    codes, names, notes = _factors(panel.knobs)
    mains: list[anova.Term] = [(factor,) for factor in range(len(names))]
    pairs: list[anova.Term] = list(itertools.combinations(range(len(names)), 2))
    levels = [int(column.max()) + 1 for column in codes.T]
    simple = anova.type_two(codes, responses, mains)
    remark = None
    if not pairs:
        return _Model(codes, names, tuple(mains), notes, ()), simple
    if (columns := anova.columns_of(levels, [*mains, *pairs])) > MAX_COLUMNS:
        remark = f"interactions are left out, as all terms together have {columns} contrasts, of at most {MAX_COLUMNS}"
    else:
        full = anova.type_two(codes, responses, [*mains, *pairs])
        if any(a.df < b.df for a, b in zip(full.lines, simple.lines, strict=False)):
            remark = f"interactions are left out, as {len(codes)} configurations can't tell them from the knobs alone"
        elif full.residual_df < 1 and panel.degrees < 1:
            remark = f"interactions are left out, as {len(codes)} configurations leave nothing to test them against"
        else:
            return _Model(codes, names, (*mains, *pairs), notes, ()), full
    return _Model(codes, names, tuple(mains), notes, (remark,)), simple


def _factors(knobs: pd.DataFrame) -> tuple[Ints, tuple[str, ...], dict[str, str]]:
    """Levels by number, names of the knobs that are kept, and what is to be said of each.

    Of knobs that always change together only the first is kept.
    """
    codes: dict[str, Ints] = {}
    together: dict[str, list[str]] = {}
    notes: dict[str, str] = {}
    for name in map(str, knobs.columns):
        code = np.asarray(pd.factorize(knobs[name], use_na_sentinel=False)[0], dtype=np.int64)
        levels = int(code.max()) + 1
        for kept, other in codes.items():
            most = int(other.max()) + 1
            pairs = len(np.unique(other * levels + code))
            if pairs == levels == most:
                together.setdefault(kept, []).append(name)
                break
            if pairs == most:
                notes[name] = f"follows from {kept}"
            elif pairs == levels:
                notes[kept] = f"follows from {name}"
        else:
            codes[name] = code
    notes |= {kept: f"always changes together with {', '.join(others)}" for kept, others in together.items()}
    return np.column_stack(list(codes.values())), tuple(codes), notes


def _lines(
    response: _Response, model: _Model, found: anova.Anova, at: int, *, noise: float, confidence: float
) -> list[dict[str, Any]]:
    """The rows of one metric: terms, then :data:`RESIDUAL`. ``noise`` is the mean of 1 / repetitions."""
    total, residual = float(found.total[at]), float(found.residual[at])
    error = _error(response, residual, found.residual_df, total, noise)
    n = len(response.means)
    rows = []
    for line in found.lines:
        label = model.label(line.term)
        squares = float(line.squares[at])
        row = {"term": label, "order": len(line.term), "df": line.df, "reason": _why(model.notes.get(label), line)}
        if line.df:
            row |= {"sum_squares": squares, "share": squares / total}
            rest, rest_df = total - squares, n - 1 - line.df
            if error.kind == RESIDUAL:
                rest, rest_df = rest - residual, rest_df - found.residual_df
            row |= _tested(squares, line.df, max(rest, 0.0), rest_df, error=error, total=total, n=n, level=confidence)
        rows.append(row)
    tested = [row for row in rows if "p" in row]
    if tested:
        for row, p in zip(tested, holm(np.array([row["p"] for row in tested], dtype=float)), strict=True):
            row["p_holm"] = float(p)
    last: dict[str, Any] = {"term": RESIDUAL, "df": found.residual_df, "sum_squares": residual}
    last |= {"share": residual / total}
    if error.kind == "repetitions" and found.residual_df:
        rest = max(total - residual, 0.0)
        rest_df = n - 1 - found.residual_df
        last |= _tested(residual, found.residual_df, rest, rest_df, error=error, total=total, n=n, level=confidence)
    overlap = 1 - sum(row["share"] for row in [*rows, last] if "share" in row)
    remarks = [*model.remarks, *([error.reason] if error.reason else []), _balance(n, model, overlap)]
    return [*rows, last | {"reason": "; ".join(remarks)}]


@dataclass(frozen=True, slots=True)
class _Error:
    """Variance of the error of a configuration mean (None: unknown), its degrees of freedom, and where it is from."""

    variance: float | None
    df: int
    kind: str | None
    reason: str | None = None


def _error(response: _Response, residual: float, residual_df: int, total: float, noise: float) -> _Error:
    if response.degrees > 0:
        if response.within * noise * len(response.means) <= _ROUNDING * total:
            return _Error(0.0, response.degrees, "repetitions", "repetitions are equal, so there is no error")
        return _Error(response.within * noise, response.degrees, "repetitions")
    if residual_df < 1:
        return _Error(None, 0, None, "no repetitions, and the knobs leave nothing over: no error is known")
    if residual <= 0:
        return _Error(0.0, residual_df, RESIDUAL, "the terms explain everything, so there is no error")
    return _Error(residual / residual_df, residual_df, RESIDUAL)


def _tested(
    squares: float, df: int, rest: float, rest_df: int, *, error: _Error, total: float, n: int, level: float
) -> dict[str, Any]:
    share = squares / total
    if error.variance is None:
        return {}
    shown: dict[str, Any] = {"error": error.kind, "error_df": error.df}
    if error.variance == 0:
        return shown | {"share_lo": share, "share_hi": share, "omega2": share}
    omega2 = max(0.0, (squares - df * error.variance) / (total + error.variance))
    lo, hi = anova.share_interval(
        squares, df, rest, rest_df, error=error.variance, error_df=error.df, n=n, confidence=level
    )
    f = squares / df / error.variance
    return shown | {
        "share_lo": min(lo, omega2, share),
        "share_hi": max(hi, share),
        "omega2": omega2,
        "f": f,
        "p": float(special.fdtrc(df, error.df, f)),
    }


def _why(note: str | None, line: anova.Line) -> str | None:
    if line.df == line.full_df:
        return note
    if line.df == 0:
        text = "the grid can't tell it from the other terms"
    else:
        text = f"the grid shows {line.df} of its {line.full_df} contrasts apart from the other terms"
    return f"{note}; {text}" if note else text


def _balance(n: int, model: _Model, overlap: float) -> str:
    if n == model.possible:
        return f"complete grid of {n} combinations"
    text = f"{n} of {model.possible} combinations"
    if abs(overlap) < 0.005:
        return f"{text}; the shares add up to 1 all the same"
    more = "less" if overlap > 0 else "more"
    return f"{text}, so that the shares add up to {abs(overlap):.0%} {more} than 1"
