"""Do two ways to measure agree? Limits of agreement, concordance of rankings, and how much a ranking depends on place.

Arrays of logarithms go in, one row per configuration; bias and limits of agreement, Kendall's W, resampled rank
correlations and components of variance come out. Differences of logarithms are logarithms of ratios, so a bias of 0.05
is a ratio of 1.05. A figure that does not exist is None, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from ipa_energy.analysis import association
from ipa_energy.analysis.association import Clusters

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ROUNDING = 1e-18
"""Variances of logarithms below this are rounding."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Variance of a figure under repetition and its degrees of freedom."""

    variance: float
    degrees: float


def sum_of(parts: list[Noise]) -> Noise:
    """Noise of a sum or difference of independent figures, with the degrees of freedom of Satterthwaite (1946)."""
    total = math.fsum(part.variance for part in parts)
    squares = math.fsum(part.variance**2 / part.degrees for part in parts)
    degrees = total**2 / squares if squares > 0 else math.fsum(part.degrees for part in parts)
    return Noise(total, degrees)


@dataclass(frozen=True, slots=True)
class Limits:
    """Agreement of two ways over n configurations, in logarithms.

    ``bias`` is the mean difference with its t-interval; the limits hold a further difference with the confidence asked
    for (Bland and Altman, Lancet 1986). ``trend`` is by how much the difference changes with the mean of both, per
    unit: not 0 where one way spreads configurations more widely than the other. ``spread`` is the standard deviation
    of the differences, ``noise`` what repetitions alone make it, ``excess`` what is left, and ``excess_p`` the F test
    of it; the three are None where the noise is unknown, and ``excess_p`` too where there is none.
    """

    bias: float
    bias_lo: float
    bias_hi: float
    limit_lo: float
    limit_hi: float
    trend: float | None
    trend_lo: float | None
    trend_hi: float | None
    spread: float
    noise: float | None
    excess: float | None
    excess_p: float | None


def limits(one: Floats, other: Floats, noise: Noise | None, confidence: float) -> Limits:
    """Agreement of two ways, both of shape (n,) with n >= 3; ``noise`` is that of a difference of two means."""
    difference, n = one - other, len(one)
    bias, variance = float(difference.mean()), float(difference.var(ddof=1))
    variance = 0.0 if variance < _ROUNDING else variance
    spread = math.sqrt(variance)
    level = (1 + confidence) / 2
    half = float(stats.t.ppf(level, n - 1)) * spread / math.sqrt(n)
    wide = float(stats.norm.ppf(level)) * spread
    trend, trend_half = _slope((one + other) / 2, difference, level) if spread else (0.0, 0.0)
    excess, excess_p = None, None
    if noise is not None:
        noise = noise if noise.variance > _ROUNDING else Noise(0.0, noise.degrees)
        excess = math.sqrt(max(0.0, variance - noise.variance))
        if noise.variance:
            excess_p = float(special.fdtrc(n - 1, noise.degrees, variance / noise.variance))
    return Limits(
        bias=bias,
        bias_lo=bias - half,
        bias_hi=bias + half,
        limit_lo=bias - wide,
        limit_hi=bias + wide,
        trend=trend,
        trend_lo=None if trend is None or trend_half is None else trend - trend_half,
        trend_hi=None if trend is None or trend_half is None else trend + trend_half,
        spread=spread,
        noise=None if noise is None else math.sqrt(noise.variance),
        excess=excess,
        excess_p=excess_p,
    )


def _slope(x: Floats, y: Floats, level: float) -> tuple[float | None, float | None]:
    """Least-squares slope and the half-width of its t-interval."""
    centred = x - x.mean()
    squares = float(centred @ centred)
    if squares < _ROUNDING * len(x):
        return None, None
    slope = float(centred @ (y - y.mean())) / squares
    left = y - y.mean() - slope * centred
    error = math.sqrt(max(0.0, float(left @ left)) / (len(x) - 2) / squares)
    return slope, float(stats.t.ppf(level, len(x) - 2)) * error


@dataclass(frozen=True, slots=True)
class Concordance:
    """Kendall's W in [0, 1], 1 where all rank alike, and the p-value of rankings that have nothing in common."""

    w: float
    p: float


def kendalls_w(table: Floats) -> Concordance | None:
    """Concordance of m rankings of n objects, from their figures of shape (m, n).

    W = (12 S - 3 m^2 n (n + 1)^2) / (m^2 n (n^2 - 1) - m T), with S the sum of squared rank sums and T the sum of
    t^3 - t over the ties of every ranking (Kendall and Gibbons, *Rank Correlation Methods*, 1990, ch. 6). The p-value
    is from m (n - 1) W as chi-squared with n - 1 degrees of freedom, which is too large for few rankings. None when
    every ranking is constant.
    """
    m, n = table.shape
    ranks = stats.rankdata(association.without_rounding(table), axis=1)
    ties = 0.0
    for row in ranks:
        counts = np.unique(row, return_counts=True)[1].astype(float)
        ties += float(np.sum(counts**3 - counts))
    most = float(m) ** 2 * n * (float(n) ** 2 - 1) - m * ties
    if most <= 0:
        return None
    sums = ranks.sum(axis=0) - m * (n + 1) / 2
    w = min(1.0, 12 * float(sums @ sums) / most)
    return Concordance(w, float(special.chdtrc(n - 1, m * (n - 1) * w)))


def _drawn(clusters: Clusters, chosen: Ints, rng: np.random.Generator) -> Floats:
    """Means of chosen configurations over their repetitions, drawn with replacement, shape (n, k)."""
    values, sizes = clusters.values[chosen], clusters.sizes[chosen]
    width = values.shape[1]
    repetition = rng.integers(sizes[:, None], size=(len(chosen), width))
    drawn = np.take_along_axis(values, repetition[:, :, None], axis=1)
    counted = (np.arange(width) < sizes[:, None])[..., None]
    return np.asarray((drawn * counted).sum(axis=1) / sizes[:, None], dtype=float)


def _resampled(parts: list[Clusters], resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    n = len(parts[0])
    for _ in range(resamples):
        chosen = rng.integers(n, size=n)
        yield np.hstack([_drawn(part, chosen, rng) for part in parts])


def tau_interval(
    parts: list[Clusters], tau: float, *, confidence: float, resamples: int, rng: np.random.Generator
) -> tuple[float, float] | None:
    """Cluster-bootstrap interval of Kendall's tau-b between two ways.

    ``parts`` hold the same configurations: either one with both ways in its two quantities, measured together, or two
    with one quantity each. The interval always holds ``tau``. None when most resamples hold a single value.
    """
    count = association.enough_resamples(resamples, len(parts[0]), confidence)
    found = [
        drawn
        for means in _resampled(parts, count, rng)
        if (drawn := association.tau_b(*association.without_rounding(means).T)) is not None
    ]
    if len(found) < count / 2:
        return None
    lo, hi = association.percentile_interval(found, confidence)
    return min(lo, tau), max(hi, tau)


@dataclass(frozen=True, slots=True)
class Components:
    """Shares of the variance of a single repetition, and how much the ranking depends on the place.

    ``configuration``, ``place``, ``interaction`` and ``noise`` add up to 1; without repetitions the noise is None and
    part of the interaction. ``dependence`` is interaction / (configuration + interaction): 0 where a configuration
    costs everywhere the same multiple of another, 1 where knowing one place says nothing of the next; with its
    interval. ``interaction_p`` is the F test of the interaction against the noise.
    """

    configuration: float
    place: float
    interaction: float
    noise: float | None
    dependence: float | None
    dependence_lo: float | None
    dependence_hi: float | None
    interaction_p: float | None


def components(means: Floats, noise: Noise | None, repetitions: float, confidence: float) -> Components | None:
    """Components of log energy = configuration + place + configuration x place + noise, all random.

    ``means``, shape (n, m) with n, m >= 2, are over repetitions; ``noise`` is that of a single repetition and
    ``repetitions`` the harmonic mean of their number. Every configuration stands in every place, so that the ANOVA
    estimators (mean squares less what they hold of others) are those of restricted likelihood where none is below 0
    (Searle, Casella and McCulloch, *Variance Components*, 1992, ch. 4); a negative one reads 0. None when nothing
    varies.
    """
    n, m = means.shape
    overall, rows, columns = means.mean(), means.mean(axis=1), means.mean(axis=0)
    left = means - rows[:, None] - columns + overall
    between = m * float(np.sum((rows - overall) ** 2)) / (n - 1)
    places = n * float(np.sum((columns - overall) ** 2)) / (m - 1)
    crossed = float(np.sum(left**2)) / ((n - 1) * (m - 1))
    crossed = 0.0 if crossed < _ROUNDING else crossed
    of_mean = 0.0 if noise is None else noise.variance / repetitions
    parts = {
        "configuration": max(0.0, (between - crossed) / m),
        "place": max(0.0, (places - crossed) / n),
        "interaction": max(0.0, crossed - of_mean),
        "noise": 0.0 if noise is None else noise.variance,
    }
    total = math.fsum(parts.values())
    if total < _ROUNDING:
        return None
    shares = {name: part / total for name, part in parts.items()}
    known = parts["configuration"] + parts["interaction"]
    lo, hi = _dependence_interval(between, crossed, of_mean, noise, shape=(n, m), confidence=confidence)
    at = parts["interaction"] / known if known > 0 else None
    p = None
    if noise is not None and of_mean > _ROUNDING:
        p = float(special.fdtrc((n - 1) * (m - 1), noise.degrees, crossed / of_mean))
    return Components(
        configuration=shares["configuration"],
        place=shares["place"],
        interaction=shares["interaction"],
        noise=None if noise is None else shares["noise"],
        dependence=at,
        dependence_lo=None if at is None else min(lo, at),
        dependence_hi=None if at is None else max(hi, at),
        interaction_p=p,
    )


def _dependence_interval(
    between: float, crossed: float, of_mean: float, noise: Noise | None, *, shape: tuple[int, int], confidence: float
) -> tuple[float, float]:
    """Bounds of the dependence from those of two ratios of mean squares, which are exact under normality.

    The first is configuration / (interaction + noise of a mean), the second noise of a mean / (interaction + noise of a
    mean). The bounds of both are taken together, so that the interval is rather too wide.
    """
    n, m = shape
    if crossed == 0:
        return 0.0, 0.0
    tail, df, cross_df = (1 - confidence) / 2, n - 1, (n - 1) * (m - 1)
    f = between / crossed
    lo, hi = (
        max(0.0, (f / float(special.fdtri(df, cross_df, probability)) - 1) / m) for probability in (1 - tail, tail)
    )
    noisy_lo = noisy_hi = 0.0
    if noise is not None and of_mean > 0:
        ratio = crossed / of_mean
        noisy_lo, noisy_hi = (
            min(1.0, float(special.fdtri(cross_df, noise.degrees, probability)) / ratio)
            for probability in (tail, 1 - tail)
        )
    return _dependence(hi, noisy_hi), _dependence(lo, noisy_lo)


def _dependence(configuration: float, noisy: float) -> float:
    own = 1 - noisy
    return own / (configuration + own) if configuration + own > 0 else 0.0
