"""What stands behind joint coupling: partial correlations, variance inflation, and knobs that carry what is left over.

A panel and the ratios of :mod:`.joint` go in; small tables come out. They describe; the verdict rests on the spread.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.api import OLS, add_constant
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.outliers_influence import variance_inflation_factor

from ipa_energy.analysis import association
from ipa_energy.analysis.joint import predictors
from ipa_energy.analysis.panel import ENERGY, Panel


def partial_table(panel: Panel, confidence: float) -> pd.DataFrame:
    """Partial correlation of log energy with each metric given the others, and the metric's variance inflation.

    One row per metric: ``metric``, ``partial_r`` with its Fisher interval, ``p``, ``vif`` (Belsley, Kuh and Welsch
    1980: from about 10 on a metric says what the others say together, and its partial correlation means little).
    Linear, on configuration means.
    """
    names, n = predictors(panel), len(panel.configurations)
    columns = ["metric", "partial_r", "partial_r_lo", "partial_r_hi", "p", "vif", "reason"]
    kinds = dict.fromkeys(columns, "float64") | {"metric": "str", "reason": "str"}
    if n < len(names) + 4 or not names or association.is_constant(np.exp(panel.mean_of(ENERGY))):
        reason = f"{n} configurations are too few for {len(names)} metrics, or nothing varies"
        told = [{"metric": name, "reason": reason} for name in names]
        return pd.DataFrame(told, columns=columns).astype(kinds)
    x = panel.means[:, [panel.column(name) for name in names]]
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    kept = _independent(x)
    design = add_constant(x[:, kept])
    fit = OLS(panel.mean_of(ENERGY), design).fit()
    degrees = n - len(kept) - 1
    quantile = float(stats.norm.ppf((1 + confidence) / 2))
    rows: list[dict[str, object]] = []
    for i, name in enumerate(names):
        if i not in kept:
            rows.append({"metric": name, "reason": "an exact function of the metrics above"})
            continue
        at = kept.index(i) + 1
        t = float(fit.tvalues[at])
        r = t / math.sqrt(t * t + degrees)
        z, half = math.atanh(min(max(r, -1 + 1e-12), 1 - 1e-12)), quantile / math.sqrt(degrees - 1)
        rows.append(
            {
                "metric": name,
                "partial_r": r,
                "partial_r_lo": math.tanh(z - half),
                "partial_r_hi": math.tanh(z + half),
                "p": float(fit.pvalues[at]),
                "vif": float(variance_inflation_factor(design, at)),
            }
        )
    return pd.DataFrame(rows, columns=columns).astype(kinds)


def _independent(x: NDArray[np.float64]) -> list[int]:
    """Columns of standardised ``x`` that are no linear function of those before, to a millionth of their variance."""
    kept: list[int] = []
    for i in range(x.shape[1]):
        others = x[:, kept]
        rest = x[:, i] - others @ np.linalg.lstsq(others, x[:, i], rcond=None)[0] if kept else x[:, i]
        if float(np.mean(rest**2)) > 1e-6:
            kept.append(i)
    return kept


def _told_apart(knobs: pd.DataFrame) -> list[str]:
    """The knobs, without those that always change together with one before them."""
    kept: dict[tuple[int, ...], str] = {}
    for name in knobs.columns:
        kept.setdefault(tuple(pd.factorize(knobs[name])[0].tolist()), str(name))
    return list(kept.values())


def residual_knobs(panel: Panel, matched: pd.DataFrame) -> pd.DataFrame:
    """Which knobs carry what accuracy, latency and cost leave over: type II analysis of variance of the log ratios.

    One row per knob that varies: ``knob``, ``df``, ``omega2`` (share of the variance of the ratios, less what chance
    gives a factor of as many levels; Hays 1963), ``p``, and ``favours``, the level with the lowest energy.
    """
    columns = ["knob", "df", "omega2", "p", "favours", "saving", "reason"]
    kinds = dict.fromkeys(columns, "float64") | {"knob": "str", "favours": "str", "reason": "str", "df": "Int64"}
    knobs, n = _told_apart(panel.knobs), len(matched)
    levels = sum(panel.knobs[name].nunique() - 1 for name in knobs)
    if n >= levels + 3 and knobs and not float(np.std(np.log(matched["ratio"]))) > 0:
        rows = [{"knob": k, "reason": "nothing is left over"} for k in knobs]
        return pd.DataFrame(rows, columns=columns).astype(kinds)
    if n < levels + 3 or not knobs:
        rows = [{"knob": k, "reason": f"{n} configurations are too few for {levels + 1} levels"} for k in knobs]
        return pd.DataFrame(rows, columns=columns).astype(kinds)
    frame = panel.knobs.astype(str).set_axis([f"k{i}" for i in range(len(knobs))], axis=1)
    frame["y"] = np.log(matched["ratio"].to_numpy())
    fit = ols("y ~ " + " + ".join(f"C(k{i})" for i in range(len(knobs))), frame).fit()
    table = anova_lm(fit, typ=2)
    error = float(table.loc["Residual", "sum_sq"] / table.loc["Residual", "df"])
    total = float(((frame["y"] - frame["y"].mean()) ** 2).sum())
    found: list[dict[str, object]] = []
    for i, knob in enumerate(knobs):
        term = table.loc[f"C(k{i})"]
        by_level = frame.groupby(f"k{i}")["y"].mean()
        found.append(
            {
                "knob": knob,
                "df": int(term["df"]),
                "omega2": max(0.0, float(term["sum_sq"] - term["df"] * error) / (total + error)),
                "p": float(term["PR(>F)"]) if pd.notna(term["PR(>F)"]) else None,
                "favours": str(by_level.idxmin()),
                "saving": 1 - math.exp(float(by_level.min() - by_level.mean())),
            }
        )
    return pd.DataFrame(found, columns=columns).astype(kinds)
