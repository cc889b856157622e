"""The energy that accuracy, latency and cost predict: a smooth surface over noisy metrics, and what it leaves over.

Repetitions split into two halves that share no measurement go in (:func:`ipa_energy.analysis.panel.halves`); out come,
for every configuration, two residuals whose errors are independent. A surface is fitted to each half by itself and
always leaves out the configuration that it predicts. So the product of a configuration's two residuals is, on average,
the squared part of its energy that no replicate noise and no overfitting made: an errors-in-variables estimate of the
variance between configurations at equal metrics.

The surface is linear in the metrics, plus their products, cubic splines of each, and bumps over all of them (Nystroem's
approximation of a Gaussian kernel), by ridge regression whose penalty minimises the error of leaving one out (Allen
1974, PRESS). It follows anything smooth, and kinks after a fashion, but no steps; for those there is a second one, the
best monotone curve of a single metric. Metrics are noisy, too, which flattens slopes: the
fit uses what is expected of the true metrics given the noisy ones (regression calibration: Carroll, Ruppert, Stefanski
and Crainiceanu, *Measurement Error in Nonlinear Models*, 2006, chapter 4), the prediction the metrics as measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.kernel_approximation import Nystroem
from sklearn.preprocessing import SplineTransformer

Floats = NDArray[np.float64]

_PENALTIES = np.logspace(-5, 3, 17)
_LINEAR = 30.0
"""Scale of the linear terms beside splines and products: their penalty is 900 times smaller, so that straight lines on
log scales, which are power laws, come first."""

_MOST_KNOTS = 6
_MOST_BUMPS = 80
_FOLDS = 8


@dataclass(frozen=True, slots=True)
class Residuals:
    """What the surface leaves over, log ratio of energy to its prediction, shape (n,), and the leverage of each point.

    ``leverage`` is the diagonal of the smoother: 0 for a point that its own fit would ignore, 1 for one that only its
    own figure determines.
    """

    residual: Floats
    leverage: Floats


def calibrated(x: Floats, noise: Floats) -> Floats:
    """Expected true metrics given the noisy ``x``, shape (n, d), whose errors have the covariance ``noise``, (d, d).

    Linear shrinkage towards the mean, along the principal directions of what is seen, by at most a factor of five.
    Directions that hold next to no variance are left as they are.
    """
    centred = x - x.mean(axis=0)
    seen = np.atleast_2d(np.cov(centred, rowvar=False))
    scale = np.sqrt(np.diag(seen))
    scale = np.where(scale > 0, scale, 1.0)
    values, vectors = np.linalg.eigh(seen / np.outer(scale, scale))
    error = vectors.T @ (noise / np.outer(scale, scale)) @ vectors
    # Along directions that hold (almost) no variance the ratio of noise to signal means nothing.
    firm = values > 1e-6 * values.max()
    kept = np.where(firm, np.clip(1 - np.diag(error) / np.where(firm, values, 1.0), 0.2, 1.0), 1.0)
    shrunk = (centred / scale) @ vectors * kept @ vectors.T
    return np.asarray(shrunk * scale + x.mean(axis=0), dtype=float)


class _Basis:
    """Linear terms, products, cubic splines and bumps of metrics, centred on what it was made of."""

    def __init__(self, x: Floats) -> None:
        self._mean, scale = x.mean(axis=0), x.std(axis=0)
        self._scale = np.where(scale > 0, scale, 1.0)
        z = self._standard(x)
        self._splines = [_spline(column) for column in z.T]
        # As wide as the metrics spread: narrower bumps follow noise, and were no better on kinks.
        self._bumps = Nystroem(gamma=0.5, n_components=min(_MOST_BUMPS, len(z) // 2), random_state=0).fit(z)
        terms = self._terms(z)
        self._centre, spread = terms.mean(axis=0), terms.std(axis=0)
        self._spread = np.where(spread > 1e-9, spread, np.inf)

    def _standard(self, x: Floats) -> Floats:
        return np.asarray((x - self._mean) / self._scale, dtype=float)

    def _terms(self, z: Floats) -> Floats:
        rows, columns = np.triu_indices(z.shape[1])
        parts = [z, z[:, rows] * z[:, columns]]
        parts += [
            spline.transform(column[:, None]) for spline, column in zip(self._splines, z.T, strict=True) if spline
        ]
        return np.column_stack([*parts, self._bumps.transform(z)])

    def __call__(self, x: Floats) -> Floats:
        terms = (self._terms(self._standard(x)) - self._centre) / self._spread
        terms[:, : x.shape[1]] *= _LINEAR
        return np.asarray(terms, dtype=float)


def _spline(column: Floats) -> SplineTransformer | None:
    distinct = np.unique(column)
    knots = np.unique(np.quantile(distinct, np.linspace(0, 1, min(_MOST_KNOTS, len(distinct)))))
    if len(knots) < 3:
        return None
    return SplineTransformer(degree=3, knots=knots[:, None], extrapolation="linear", include_bias=False).fit(
        column[:, None]
    )


def single_curve(x: Floats, y: Floats) -> Floats:
    """Log energies ``y`` less the best monotone curve of a single one of the metrics ``x``, shape (n,).

    The curve that predicts a point is fitted without its eighth of the points; it may have steps. Metrics are taken as
    they are, so that noise in them counts against it.
    """
    # Configurations come sorted by their knobs: folds in that order could each hold one level of a knob.
    fold = np.random.default_rng(0).permutation(len(y)) % _FOLDS
    candidates = []
    for column in x.T:
        for increasing in (True, False):
            residual = np.empty_like(y)
            for part in range(min(_FOLDS, len(y))):
                out = fold == part
                curve = IsotonicRegression(increasing=increasing, out_of_bounds="clip").fit(column[~out], y[~out])
                residual[out] = y[out] - curve.predict(column[out])
            candidates.append(residual)
    return min(candidates, key=lambda residual: float(np.mean(residual**2)))


def residuals(x: Floats, y: Floats, noise: Floats) -> Residuals:
    """Log energies ``y``, shape (n,), less what the surface over metrics ``x``, (n, d), says without that point.

    ``noise`` is the covariance of the errors of ``x``, shape (d, d). Raises ValueError for fewer than 3 points.
    """
    if len(x) < 3:
        raise ValueError(f"a surface over {len(x)} configurations was asked for; it takes at least 3")
    fitted_at = calibrated(x, noise)
    basis = _Basis(fitted_at)
    train, at = basis(fitted_at), basis(x)
    level = y.mean()
    left, singular, right = np.linalg.svd(train, full_matrices=False)
    projected = left.T @ (y - level)
    best: tuple[float, Floats, Floats] | None = None
    share = 1 / len(y)
    for penalty in _PENALTIES * len(y):
        kept = singular**2 / (singular**2 + penalty)
        leverage = np.minimum((left**2 * kept).sum(axis=1) + share, 1 - 1e-9)
        residual = y - level - left @ (kept * projected)
        press = float(np.mean((residual / (1 - leverage)) ** 2))
        if best is None or press < best[0]:
            # Leaving a point out moves the prediction at its measured metrics along the influence of the point there.
            inverse = np.divide(singular, singular**2 + penalty)
            there = (at @ right.T) * inverse
            predicted = level + there @ projected
            moved = (there * left).sum(axis=1) + share
            best = press, y - predicted + moved * residual / (1 - leverage), leverage
    assert best is not None
    return Residuals(np.asarray(best[1], dtype=float), np.asarray(best[2], dtype=float))
