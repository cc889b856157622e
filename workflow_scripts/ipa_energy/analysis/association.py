"""How strongly two quantities go together over configurations, and how much of that chance and noise could make.

Arrays of configuration means, or of repetitions per configuration, go in; Kendall's tau-b, Spearman's rho, the share of
variance that the best monotone curve explains (isotonic R2), its value under chance, cluster-bootstrap resamples and
the reliability of means come out. A statistic that does not exist (a constant side) is None, never NaN.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import isotonic_regression

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_RELATIVE_TOLERANCE = 1e-9
"""Relative spread below which a quantity counts as constant: above the rounding of means, far below any figure."""

_MAX_SIGNS = 80
"""Up to this many points all pairs at once are quicker than scipy's call; above, its n log n wins."""

_kendalltau: Any = inspect.unwrap(stats.kendalltau)
"""Without the handling of axes and NaN around it, which takes longer than tau itself of some hundred points."""

_FULL = 1000
"""Up to this many configurations as many resamples are drawn as the config asks for."""

_CHUNK = 2_000_000
"""Numbers drawn at once by the bootstrap: bounds its memory to some tens of MB."""


def is_constant(values: ArrayLike) -> bool:
    """Whether the values, shape (n,), are equal but for rounding."""
    array = np.asarray(values, dtype=float)
    return array.size == 0 or bool(np.ptp(array) <= _RELATIVE_TOLERANCE * np.max(np.abs(array)))


def without_rounding(values: ArrayLike) -> Floats:
    """The values to 10 significant digits, so that means of equal figures tie, whatever order they were summed in."""
    array = np.asarray(values, dtype=float)
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log10(np.abs(array)))
    scale = 10.0 ** (9 - np.where(np.isfinite(exponent), exponent, 0))
    return np.asarray(np.round(array * scale) / scale, dtype=float)


def kendall(x: Floats, y: Floats) -> tuple[float, float] | None:
    """Kendall's tau-b of two samples of shape (n,) and the p-value of no association (exact for few untied points)."""
    if is_constant(x) or is_constant(y):
        return None
    result: Any = stats.kendalltau(x, y)
    return float(result.statistic), float(result.pvalue)


def tau_b(x: Floats, y: Floats) -> float | None:
    """Kendall's tau-b alone: the same figure as :func:`kendall`, without its p-value and quicker for few points."""
    if is_constant(x) or is_constant(y):
        return None
    if len(x) > _MAX_SIGNS:
        return float(_kendalltau(x, y, method="asymptotic").statistic)
    sign_x, sign_y = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    return float(np.vdot(sign_x, sign_y) / math.sqrt(np.vdot(sign_x, sign_x) * np.vdot(sign_y, sign_y)))


class _Levels:
    """The distinct values of a sample, ascending; which of them each point has; and how many points each has."""

    def __init__(self, sample: Floats) -> None:
        self.values, self.index, self.counts = np.unique(sample, return_inverse=True, return_counts=True)

    def centred_ranks(self) -> Floats:
        """Mid-rank of each point less the mean rank."""
        ranks = np.cumsum(self.counts) - (self.counts - 1) / 2 - (len(self.index) + 1) / 2
        return np.asarray(ranks[self.index], dtype=float)


def spearman(x: Floats, y: Floats) -> float | None:
    """Spearman's rho of two samples of shape (n,): Pearson's r of their mid-ranks."""
    if is_constant(x) or is_constant(y):
        return None
    return _correlation(_Levels(x).centred_ranks(), _Levels(y).centred_ranks())


def _correlation(x: Floats, y: Floats) -> float:
    return float(np.vdot(x, y) / math.sqrt(np.vdot(x, x) * np.vdot(y, y)))


@dataclass(frozen=True, slots=True)
class MonotoneFit:
    """The better of the best increasing and the best decreasing curve of y over x.

    ``r2`` is 1 - SSE / SST in [0, 1]; ``x`` are the distinct values, ascending, ``y`` the curve at them.
    """

    r2: float
    direction: str
    x: Floats
    y: Floats


def monotone_fit(x: Floats, y: Floats) -> MonotoneFit | None:
    """Isotonic least-squares regression of ``y`` on ``x``, both of shape (n,), in the better direction.

    Points of equal x share one value of the curve, so a metric with few levels can't explain what varies within a
    level. None when either side is constant.
    """
    if is_constant(x) or is_constant(y):
        return None
    return _fit(_Levels(x), y)


def _fit(levels: _Levels, y: Floats) -> MonotoneFit:
    means = np.bincount(levels.index, weights=y) / levels.counts
    total = float(np.sum((y - y.mean()) ** 2))
    fits = []
    for direction in ("increasing", "decreasing"):
        result: Any = isotonic_regression(means, weights=levels.counts, increasing=direction == "increasing")
        curve = np.asarray(result.x, dtype=float)
        r2 = 1 - float(np.sum((y - curve[levels.index]) ** 2)) / total
        fits.append(MonotoneFit(r2, direction, levels.values, curve))
    return max(fits, key=lambda fit: fit.r2)


@dataclass(frozen=True, slots=True)
class Strength:
    """How strongly two samples go together: tau-b, Spearman's rho and isotonic R2."""

    tau: float
    spearman: float
    isotonic_r2: float


def strength(x: Floats, y: Floats) -> Strength | None:
    """All three at once, as every bootstrap resample needs them; None when either side is constant."""
    tau = tau_b(x, y)
    if tau is None:
        return None
    levels = _Levels(x)
    rho = _correlation(levels.centred_ranks(), _Levels(y).centred_ranks())
    return Strength(tau, rho, _fit(levels, y).r2)


@dataclass(frozen=True, slots=True)
class Chance:
    """Isotonic R2 when y has nothing to do with x: mean under permutation, and the p-value of the observed R2."""

    mean_r2: float
    p: float


def permutation_chance(x: Floats, y: Floats, permutations: int, rng: np.random.Generator) -> Chance | None:
    """What :func:`monotone_fit` finds in shuffled data: a flexible curve explains part of any noise.

    ``p`` counts the observed order among the permutations (Phipson and Smyth 2010), so it is never 0.
    """
    observed = monotone_fit(x, y)
    if observed is None:
        return None
    levels = _Levels(x)
    shuffled = [_fit(levels, rng.permutation(y)).r2 for _ in range(permutations)]
    as_good = sum(r2 >= observed.r2 - 1e-12 for r2 in shuffled)
    return Chance(float(np.mean(shuffled)), (as_good + 1) / (permutations + 1))


@dataclass(frozen=True, slots=True)
class Clusters:
    """Repetitions of n configurations, for k quantities measured together.

    ``values`` has the shape (n, r, k), the repetitions of a configuration first and then zeros; ``sizes``, shape (n,),
    are the numbers of repetitions, at least 1.
    """

    values: Floats
    sizes: Ints

    @classmethod
    def of(cls, table: ArrayLike, index: ArrayLike) -> Clusters:
        """From one row per measurement, shape (m, k), and the configuration of each, from 0, shape (m,)."""
        rows, places = np.asarray(table, dtype=float), np.asarray(index, dtype=np.int64)
        sizes = np.bincount(places).astype(np.int64)
        values = np.zeros((len(sizes), int(sizes.max(initial=0)), rows.shape[1]))
        order = np.argsort(places, kind="stable")
        starts = np.cumsum(sizes) - sizes
        values[places[order], np.arange(len(order)) - starts[places[order]]] = rows[order]
        return cls(values, sizes)

    @property
    def present(self) -> NDArray[np.bool_]:
        """Where ``values`` holds a repetition, shape (n, r)."""
        return np.asarray(np.arange(self.values.shape[1]) < self.sizes[:, None])

    @property
    def means(self) -> Floats:
        """Means over repetitions, shape (n, k)."""
        return np.asarray(self.values.sum(axis=1) / self.sizes[:, None], dtype=float)

    def __len__(self) -> int:
        return len(self.sizes)


def enough_resamples(asked: int, n: int, confidence: float) -> int:
    """How many resamples of n configurations bound an interval as exactly as ``asked`` do for 1000.

    A statistic over n configurations scatters as 1 / sqrt(n), and a percentile of B resamples of it is uncertain by a
    part of this scatter that falls as 1 / sqrt(B) (Efron and Tibshirani 1993, ch. 19), so n B need not grow. At least
    five resamples are to lie beyond each bound on average.
    """
    least = math.ceil(round(10 / (1 - confidence), 6))
    return min(asked, max(least, math.ceil(asked * _FULL / n)))


def resampled_means(clusters: Clusters, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Cluster bootstrap: draw configurations with replacement, and within each its repetitions with replacement.

    Yields ``resamples`` arrays of configuration means, shape (n, k).
    """
    sizes, (n, width, quantities) = clusters.sizes, clusters.values.shape
    flat, even = clusters.values.reshape(n * width, quantities), bool((sizes == width).all())
    done, step = 0, max(1, _CHUNK // (n * width))
    while done < resamples:
        count = min(step, resamples - done)
        chosen = rng.integers(n, size=(count, n))
        repetition = rng.integers(sizes[chosen][:, :, None], size=(count, n, width))
        size = sizes[chosen]
        total = np.zeros((count, n, quantities))
        for nth in range(width):  # few: much quicker than a sum over a short axis
            drawn = flat[chosen * width + repetition[:, :, nth]]
            total += drawn if even else drawn * (nth < size)[..., None]
        yield from total / size[..., None]
        done += count


def percentile_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Percentile bootstrap interval of at least one resampled statistic."""
    tail = (1 - confidence) / 2
    lo, hi = np.quantile(np.asarray(values, dtype=float), [tail, 1 - tail])
    return float(lo), float(hi)


@dataclass(frozen=True, slots=True)
class Reliability:
    """Share of the variance of configuration means that a repetition of the whole study would find again, in [0, 1].

    ``lo`` is its lower confidence bound. What is missing to 1 is replicate noise, which no other metric can explain.
    """

    value: float
    lo: float


def reliability(clusters: Clusters, quantity: int, confidence: float) -> Reliability | None:
    """ICC(1, k) of the repetitions of one of the quantities, by one-way analysis of variance.

    1 - MS_within / MS_between with the F interval of Shrout and Fleiss (1979); negative estimates read 0. None when no
    configuration was repeated, when there are fewer than two, or when nothing varies at all.
    """
    sizes = clusters.sizes
    n, total = len(sizes), int(sizes.sum())
    if n < 2 or total == n:
        return None
    means = clusters.means[:, quantity]
    between = float(np.sum(sizes * (means - np.sum(sizes * means) / total) ** 2)) / (n - 1)
    deviations = np.where(clusters.present, clusters.values[:, :, quantity] - means[:, None], 0.0)
    within = math.fsum(np.sum(deviations**2, axis=1).tolist()) / (total - n)
    scale = float(np.max(np.abs(means)))
    if between <= (_RELATIVE_TOLERANCE * scale) ** 2:
        return None
    ratio = within / between
    critical = float(stats.f.ppf((1 + confidence) / 2, n - 1, total - n))
    return Reliability(max(0.0, 1 - ratio), max(0.0, 1 - ratio * critical))
