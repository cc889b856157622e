"""Joint coupling: how much energy varies between configurations of equal accuracy, latency and cost.

A panel goes in (:mod:`.panel`); out come the spread of energy that accuracy, latency and cost together leave over, with
replicate noise and the noise of the metrics taken out (:mod:`.surface`), its share of all that energy varies, how well
the metrics predict energy against what noise allows, and the ratio of each configuration's energy to what its metrics
predict. The spread is a standard deviation of log energy: 0.05 means that energy differs by about 5 % between
configurations that are alike in everything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ipa_energy.analysis import association, surface
from ipa_energy.analysis.coupling import FAMILIES, METRICS
from ipa_energy.analysis.needed import NOTHING, Needed, data_needed, in_words
from ipa_energy.analysis.outcomes import COUPLED, DECOUPLED, INCONCLUSIVE
from ipa_energy.analysis.panel import ENERGY, Panel, halves
from ipa_energy.analysis.wording import join_words, modelled

Floats = NDArray[np.float64]

SPLITS = 4
"""Random splits of the repetitions into halves that are averaged; with two repetitions there is one."""

MAX_LEFT_OUT = 0.1
"""Share of records without a logarithm (net energy at or below zero) above which what is left is no fair sample."""

_MOST_JACKKNIFED = 2000
"""Up to this many configurations intervals are BCa; above, the mean is normal and its t-interval is the same."""

_MIN_POINTS = 6


@dataclass(frozen=True, slots=True)
class Spread:
    """A standard deviation of log energy between configurations with its interval; all in log units, 0.05 is 5 %."""

    value: float
    lo: float
    hi: float


@dataclass(frozen=True, slots=True)
class Joint:
    """Joint evidence of a panel: a row for ``joint.csv``, one per configuration for ``matched.csv``, and the decision.

    ``spread`` is None where it can't be had; ``reason`` then says why, else what the decision rests on.
    """

    decision: str
    reason: str
    spread: Spread | None
    needed: Needed
    summary: dict[str, Any]
    matched: pd.DataFrame


SUMMARY_COLUMNS = (
    *("n_configurations", "n_repetitions_min", "n_repetitions_max", "metrics"),
    *("total_spread", "total_spread_lo", "total_spread_hi", "spread", "spread_lo", "spread_hi", "noise"),
    *("unexplained", "unexplained_lo", "unexplained_hi", "cv_r2", "noise_ceiling", "repetitions_needed"),
    *("configurations_needed", "drift", "drift_p", "decision", "decision_reason"),
)


def predictors(panel: Panel) -> list[str]:
    """Metrics of the families accuracy, latency and cost that differ between the configurations."""
    named = [m.name for m in METRICS if m.family is not None and m.name in panel.names]
    return [name for name in named if not association.is_constant(np.exp(panel.mean_of(name)))]


def joint(
    panel: Panel,
    *,
    spread_threshold: float,
    confidence: float,
    min_configurations: int,
    bootstrap: int,
    seed: int,
) -> Joint:
    """The joint evidence. ``decoupled`` when the lower bound of the spread exceeds ``spread_threshold``, ``coupled``
    when the upper bound stays below it, else ``inconclusive`` with the repetitions that would decide it.

    The lower bound is of an estimate freed of the surface's own error, and of the lower of two surfaces; the upper
    bound is of one that contains this error. So a surface that is too stiff or too loose leaves the question open
    rather than answering it. Nothing is decided where energy itself hardly varies: then there is nothing to be told.
    """
    n, k = len(panel.configurations), panel.column(ENERGY)
    names = predictors(panel)
    summary: dict[str, Any] = dict.fromkeys(SUMMARY_COLUMNS)
    summary |= {
        "n_configurations": n,
        "n_repetitions_min": int(panel.repetitions.min()) if n else None,
        "n_repetitions_max": int(panel.repetitions.max()) if n else None,
        "metrics": " + ".join(names) or None,
        "noise": math.sqrt(panel.within[k, k]) if panel.degrees else None,
    }
    for trend in panel.trends:
        if trend.metric == ENERGY:
            summary["drift"] = trend.slope
            summary["drift_p"] = trend.p
    empty = pd.DataFrame(columns=["configuration", "ratio", "ratio_lo", "ratio_hi"])
    word = modelled(panel.evidence)
    obstacle = _obstacle(panel, names, min_configurations)
    if obstacle is not None and (n < _MIN_POINTS or not names or panel.degrees == 0):
        return _closed(summary, obstacle, empty)
    rng = np.random.default_rng(seed)
    made = [_split(panel, names, rng) for _ in range(SPLITS if panel.repetitions.max() > 2 else 1)]
    if len(made[0].product) < _MIN_POINTS:
        return _closed(summary, obstacle or "fewer than 6 configurations were repeated", empty)
    corrected, raw = (np.mean([getattr(s, name) for s in made], axis=0) for name in ("corrected", "product"))
    total = np.mean([s.total for s in made], axis=0)
    interval = _Interval(confidence, bootstrap, seed)
    value = _root(float(corrected.mean()))
    # A mean product below zero says that the noise fell on opposite sides, not that there is nothing: the width stays.
    above = interval(raw)[1] - min(float(raw.mean()), 0.0)
    spread = Spread(value, min(_root(interval(corrected)[0]), value), max(_root(above), value))
    all_of_it = Spread(_root(float(total.mean())), *map(_root, interval(total)))
    summary |= {
        **dict(zip(("spread", "spread_lo", "spread_hi"), (spread.value, spread.lo, spread.hi), strict=True)),
        **dict(
            zip(
                ("total_spread", "total_spread_lo", "total_spread_hi"),
                (all_of_it.value, all_of_it.lo, all_of_it.hi),
                strict=True,
            )
        ),
        **_shares(corrected, total, interval),
        **_prediction(panel, names),
    }
    noise = float(np.mean([s.noise for s in made]))
    matched = _matched(panel, names, noise, confidence)
    if obstacle is None and all_of_it.hi < spread_threshold:
        obstacle = (
            f"{word}energy itself varies by no more than {all_of_it.hi:.1%} over these configurations, less than "
            f"{spread_threshold:.0%}: nothing could be told apart by it; a wider grid is needed"
        )
    if obstacle is not None:
        return _closed(summary, obstacle, matched, spread)
    told = (
        f"at equal {_words(names)}, {word}energy still varies by {spread.value:.1%} [{spread.lo:.1%}, {spread.hi:.1%}]"
    )
    if spread.hi < spread_threshold and all_of_it.lo <= spread_threshold:
        why = (
            f"{told}; but it may vary by as little as {all_of_it.lo:.1%} over all configurations, so that little "
            "could be told apart by it"
        )
        return _open(summary, INCONCLUSIVE, why, spread, matched)
    if spread.hi < spread_threshold:
        return _open(summary, COUPLED, f"{told}, less than {spread_threshold:.0%}", spread, matched)
    if spread.lo > spread_threshold:
        if panel.same_order:
            why = "every block ran in the same order, so that drift can't be told from configurations"
            return _closed(summary, f"{told}, but {why}; measure in randomised order", matched, spread)
        if panel.groups > 1:
            why = f"{panel.groups} groups of blocks share no configuration, so that their levels can't be compared"
            return _closed(summary, f"{told}, but {why}; measure some configurations in each", matched, spread)
        lower = _single_curve(panel, names, rng)
        lo = _root(interval(lower)[0])
        if lo > spread_threshold:
            return _open(summary, DECOUPLED, f"{told}, more than {spread_threshold:.0%}", spread, matched)
        why = f"{told}, but a single monotone curve could leave as little as {lo:.1%}"
        return _open(summary, INCONCLUSIVE, why, spread, matched)
    needed = data_needed(spread.value, corrected, noise, panel, threshold=spread_threshold, confidence=confidence)
    summary |= {"repetitions_needed": needed.repetitions, "configurations_needed": needed.configurations}
    why = f"{told}, which reaches across {spread_threshold:.0%}; {in_words(needed, panel)}"
    return _open(summary, INCONCLUSIVE, why, spread, matched, needed)


def _words(names: list[str]) -> str:
    return join_words(list(dict.fromkeys(m.family for m in METRICS if m.name in names and m.family)))


def _closed(summary: dict[str, Any], reason: str, matched: pd.DataFrame, spread: Spread | None = None) -> Joint:
    return _open(summary, INCONCLUSIVE, reason, spread, matched)


def _open(
    summary: dict[str, Any],
    decision: str,
    reason: str,
    spread: Spread | None,
    matched: pd.DataFrame,
    needed: Needed = NOTHING,
) -> Joint:
    row = summary | {"decision": decision, "decision_reason": reason}
    return Joint(decision, reason, spread, needed, row, matched)


def _obstacle(panel: Panel, names: list[str], least: int) -> str | None:
    n = len(panel.configurations)
    records = int(panel.repetitions.sum())
    if panel.left_out > MAX_LEFT_OUT * (records + panel.left_out):
        return (
            f"{panel.left_out} of {records + panel.left_out} records are left out ({panel.why_left_out}), so that "
            "the rest is no fair sample"
        )
    if n == 0:
        return "no usable record has energy, latency and cost"
    present = {m.family for m in METRICS if m.name in panel.names}
    if missing := [family for family in FAMILIES if family not in present]:
        return f"no usable record has a figure above zero for {join_words(missing)}"
    if n < least:
        return f"{n} configuration{'s' * (n > 1)}; the rule asks for {least}"
    if panel.degrees == 0 or panel.repetitions.max() < 2:
        return "one repetition each, so replicate noise is unknown; measure at least 2 blocks"
    if np.mean(panel.repetitions >= 2) < 0.5:
        return "fewer than half of the configurations were repeated; measure at least 2 blocks"
    if not names:
        return "accuracy, latency and cost are the same in all configurations, so nothing can go with them"
    return None


@dataclass(frozen=True, slots=True)
class _Split:
    product: Floats
    corrected: Floats
    total: Floats
    noise: float


def _split(panel: Panel, names: list[str], rng: np.random.Generator) -> _Split:
    """Products of the residuals of two halves per configuration, and the variance of one repetition's residual."""
    columns, energy = [panel.column(name) for name in names], panel.column(ENERGY)
    a, b, count_a, count_b, _ = halves(panel, rng)
    within = panel.within[np.ix_(columns, columns)]
    left, right = (
        surface.residuals(half[:, columns], half[:, energy], within * np.mean(1 / counts))
        for half, counts in ((a, count_a), (b, count_b))
    )
    product = left.residual * right.residual
    # Leaving a point out enlarges its residual by 1 / (1 - leverage): exact for least squares, close for the ridge.
    shrink = np.sqrt((1 - left.leverage) * (1 - right.leverage))
    centred_a, centred_b = (half[:, energy] - half[:, energy].mean() for half in (a, b))
    difference = float(
        np.var(left.residual * np.sqrt(1 - left.leverage) - right.residual * np.sqrt(1 - right.leverage))
    )
    noise = difference / float(np.mean(1 / count_a + 1 / count_b))
    n = len(product)
    return _Split(product, product * shrink, centred_a * centred_b * n / (n - 1), noise)


def _single_curve(panel: Panel, names: list[str], rng: np.random.Generator) -> Floats:
    columns, energy = [panel.column(name) for name in names], panel.column(ENERGY)
    a, b, *_ = halves(panel, rng)
    return surface.single_curve(a[:, columns], a[:, energy]) * surface.single_curve(b[:, columns], b[:, energy])


@dataclass(frozen=True, slots=True)
class _Interval:
    """Confidence interval of the mean of independent, skewed values: BCa bootstrap (Efron 1987), or t when many."""

    confidence: float
    resamples: int
    seed: int

    def __call__(self, values: Floats) -> tuple[float, float]:
        mean, n = float(values.mean()), len(values)
        if np.ptp(values) <= 1e-15:
            return mean, mean
        if n > _MOST_JACKKNIFED:
            half = float(stats.t.ppf((1 + self.confidence) / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
            return mean - half, mean + half
        found = stats.bootstrap(
            (values,),
            np.mean,
            n_resamples=self.resamples,
            confidence_level=self.confidence,
            method="BCa",
            rng=np.random.default_rng(self.seed),
            vectorized=True,
        ).confidence_interval
        return float(found.low), float(found.high)


def _root(variance: float) -> float:
    """Standard deviation; 0 for an estimate below zero, which means that nothing was found."""
    return math.sqrt(max(variance, 0.0))


def _shares(rest: Floats, total: Floats, interval: _Interval) -> dict[str, Any]:
    """Share of the variance of energy that the metrics leave unexplained, both without noise; a ratio of two means."""
    if total.mean() <= 0:
        return {}
    share = float(rest.mean() / total.mean())
    # The delta method's linear form of a ratio, resampled like any mean.
    lo, hi = interval(share + (rest - share * total) / total.mean())
    return {
        "unexplained": min(max(share, 0.0), 1.0),
        "unexplained_lo": min(max(lo, 0.0), 1.0),
        "unexplained_hi": min(max(hi, 0.0), 1.0),
    }


def _prediction(panel: Panel, names: list[str]) -> dict[str, Any]:
    """Cross-validated R2 of the surface on the means of all repetitions, and the R2 that noise in energy allows."""
    residual, y = _residual_of_means(panel, names), panel.mean_of(ENERGY)
    spread = float(np.sum((y - y.mean()) ** 2))
    noise = panel.within[panel.column(ENERGY), panel.column(ENERGY)] * float(np.sum(1 / panel.repetitions))
    return {
        "cv_r2": 1 - float(np.sum(residual**2)) / spread if spread > 0 else None,
        "noise_ceiling": max(0.0, 1 - noise / spread) if spread > 0 else None,
    }


def _residual_of_means(panel: Panel, names: list[str]) -> Floats:
    columns = [panel.column(name) for name in names]
    noise = panel.within[np.ix_(columns, columns)] * float(np.mean(1 / panel.repetitions))
    return surface.residuals(panel.means[:, columns], panel.mean_of(ENERGY), noise).residual


def _matched(panel: Panel, names: list[str], noise: float, confidence: float) -> pd.DataFrame:
    """Energy of every configuration over what its metrics predict, as a ratio, with the interval of replicate noise."""
    residual = _residual_of_means(panel, names)
    half = float(stats.t.ppf((1 + confidence) / 2, panel.degrees)) * np.sqrt(noise / panel.repetitions)
    return pd.DataFrame(
        {
            "configuration": list(panel.configurations),
            "ratio": np.exp(residual),
            "ratio_lo": np.exp(residual - half),
            "ratio_hi": np.exp(residual + half),
        }
    )
