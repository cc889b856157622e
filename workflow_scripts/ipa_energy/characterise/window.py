"""The window of a channel: which stretch of the load before an update its reading averages.

The model has three figures. A reading is the mean, over a window of ``width``, of a load that the board's power follows
with a first-order lag ``ramp``, some time before the update; ``mean_lag`` is how long ago the mean of what it sees
happened (delay + width/2 + ramp). With ramp 0 it is the part-time or running average of the literature (Yang, Adámek
and Armour, SC'24), with a narrow width an exponential average. Level, gain and a slow drift are linear in the model and
are projected out, so that the search has three dimensions: a grid, then Nelder and Mead from the best of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ipa_energy.characterise.bootstrap import Interval, block_counts, interval
from ipa_energy.characterise.load_log import LoadLog, RampedLoad

Floats = NDArray[np.float64]

LONGEST_S = 1.6
"""No longer memory is looked for: the running averages of all known boards are 1 s."""
EARLIEST_S = -0.005
"""A window may seem to end this much after its update, because both clocks have their errors; the sensor can't."""
NARROWEST_S = 2e-4
DRIFT_DEGREE = 3
COARSE_ROWS = 400
DRAWS = 400


@dataclass(frozen=True)
class Observations:
    """What a channel said: instants of updates (s), power (W), and by how much the period before each was stretched.

    ``stretch`` is 1 for power fields; for a counter it is the time since the last update over the period, since a
    counter's increment covers what lies between two updates.
    """

    times_s: Floats
    powers_w: Floats
    stretch: Floats
    period_s: float

    def rows(self, kept: NDArray[np.bool_] | slice) -> Observations:
        """Some of the updates."""
        return Observations(self.times_s[kept], self.powers_w[kept], self.stretch[kept], self.period_s)


@dataclass(frozen=True)
class Shape:
    """The three figures of the model (s); ``delay_s`` follows from them."""

    mean_lag_s: float
    width_s: float
    ramp_s: float

    @property
    def delay_s(self) -> float:
        """How long before the update the window ends."""
        return self.mean_lag_s - self.width_s / 2 - self.ramp_s

    @property
    def memory_s(self) -> float:
        """How far back the reading looks, but for 5 % of an exponential tail."""
        return self.delay_s + self.width_s + 3 * self.ramp_s

    def step(self, after_s: Floats) -> Floats:
        """Reading so long after the load went from 0 to 1, for updates at every instant."""
        log = LoadLog(np.zeros(1), np.ones(1)).ramped(self.ramp_s)
        end_s = after_s - self.delay_s
        return log.mean(end_s - self.width_s, end_s)


@dataclass(frozen=True)
class WindowFit:
    """The fitted model: figures with intervals, power at no load and its rise at full load (W), and how well it fits.

    ``r2`` is the part of the variance explained, ``residual_w`` the standard deviation of what is left.
    """

    shape: Shape
    mean_lag_s: Interval
    width_s: Interval
    ramp_s: Interval
    off_w: float
    rise_w: Interval
    r2: float
    residual_w: float


def drift_columns(times_s: Floats) -> Floats:
    """A level and a slow drift (Legendre polynomials over the time of the record): shape (n, 1 + DRIFT_DEGREE)."""
    middle, half = (times_s[0] + times_s[-1]) / 2, max((times_s[-1] - times_s[0]) / 2, 1e-9)
    return np.polynomial.legendre.legvander((times_s - middle) / half, DRIFT_DEGREE)


class Fitter:
    """Fits the model to one channel's observations."""

    def __init__(self, log: LoadLog, seen: Observations) -> None:
        self.seen = seen
        self.ramped = lru_cache(maxsize=64)(log.ramped)
        basis, _ = np.linalg.qr(drift_columns(seen.times_s))
        self._basis = basis
        self._target = self.project(seen.powers_w)
        self.total = float(self._target @ self._target)

    def project(self, columns: Floats) -> Floats:
        """What level and drift can't explain."""
        projected: Floats = columns - self._basis @ (self._basis.T @ columns)
        return projected

    def predict(self, shape: Shape) -> Floats:
        """Mean load that a sensor of this shape sees at each update."""
        return _predict(self.ramped(shape.ramp_s), self.seen, shape)

    def misfit(self, shape: Shape) -> float:
        """Sum of squares left by the best gain (which can't be negative)."""
        x = self.project(self.predict(shape))
        power, along = float(x @ x), float(x @ self._target)
        return self.total if power <= 1e-12 or along <= 0 else self.total - along**2 / power

    def gain(self, shape: Shape) -> tuple[float, float]:
        """Power at no load, averaged over the record's drift, and its rise at full load (W)."""
        x = self.predict(shape)
        projected = self.project(x)
        rise_w = max(float(projected @ self._target) / max(float(projected @ projected), 1e-12), 0.0)
        return float(np.mean(self.seen.powers_w - rise_w * x)), rise_w


def _predict(load: RampedLoad, seen: Observations, shape: Shape) -> Floats:
    end_s = seen.times_s - shape.delay_s
    return load.mean(end_s - shape.width_s * seen.stretch, end_s)


def _coarse_shapes(period_s: float) -> Iterator[Shape]:
    widths_s = np.geomspace(1e-3, LONGEST_S, 17)
    delays_s = np.concatenate([np.arange(0, 60, 5), np.arange(60, 60 + 2000 * period_s, 15)])[:40] / 1e3
    ramps_s = [0.0, *np.geomspace(3e-3, LONGEST_S / 3, 7)]
    for ramp_s, width_s, delay_s in product(ramps_s, widths_s, delays_s):
        shape = Shape(delay_s + width_s / 2 + ramp_s, width_s, ramp_s)
        if shape.memory_s <= LONGEST_S:
            yield shape


def _search(log: LoadLog, seen: Observations) -> tuple[Fitter, Shape]:
    step = -(-seen.times_s.size // COARSE_ROWS)
    coarse = Fitter(log, seen.rows(slice(None, None, step)))
    ranked = sorted(_coarse_shapes(seen.period_s), key=coarse.misfit)
    starts: list[Shape] = []
    for shape in ranked[:200]:  # starts that differ in character, not neighbours on the grid
        if all(abs(np.log(shape.width_s / s.width_s)) > 0.5 or abs(shape.ramp_s - s.ramp_s) > 0.004 for s in starts):
            starts.append(shape)
        if len(starts) == 4:
            break
    fitter = Fitter(log, seen)

    def shape_of(x: NDArray[Any]) -> Shape:
        width_s, ramp_s = float(np.exp(x[1])), float(x[2]) / 1e3
        return Shape(float(x[0]) / 1e3 + width_s / 2 + ramp_s, width_s, ramp_s)

    def misfit(x: NDArray[Any]) -> float:
        return fitter.misfit(shape_of(x)) / fitter.total

    # In ms and log s, so that a step of one tolerance means about as much in all directions.
    lowest = np.array([EARLIEST_S * 1e3, np.log(NARROWEST_S), 0.0])
    highest = np.array([LONGEST_S * 1e3, np.log(LONGEST_S), LONGEST_S / 3 * 1e3])
    best, least = starts[0], np.inf
    for start in starts:
        simplex = _simplex(start)
        found = optimize.minimize(
            misfit,
            simplex[0],
            method="Nelder-Mead",
            bounds=optimize.Bounds(lowest, highest),
            options={"xatol": 1e-3, "fatol": 1e-9, "maxfev": 400, "initial_simplex": simplex},
        )
        if found.fun < least:
            best, least = shape_of(found.x), float(found.fun)
    return fitter, best


def _simplex(start: Shape) -> Floats:
    # A first step large enough to leave a cell of the coarse grid in each direction.
    first = np.array([start.delay_s * 1e3, np.log(start.width_s), start.ramp_s * 1e3])
    simplex: Floats = first + np.vstack([np.zeros(3), np.diag([4.0, 0.3, max(2.0, 0.3 * first[2])])])
    return simplex


def fit_window(log: LoadLog, seen: Observations, random: np.random.Generator) -> WindowFit:
    """Fit the model, with 95 % intervals from a block bootstrap over updates.

    Raises ValueError when there is nothing to fit: fewer than 40 updates, or power that does not vary.
    """
    if seen.times_s.size < 40:
        raise ValueError(f"only {seen.times_s.size} updates during the sequence, wants 40 or more")
    if float(np.std(seen.powers_w)) == 0:
        raise ValueError("power never changed during the sequence")
    fitter, best = _search(log, seen)
    block = int(np.ceil(1.5 * best.memory_s / seen.period_s)) + 1
    counts = block_counts(seen.times_s.size, min(block, seen.times_s.size // 8), DRAWS, random)
    draws, rises = _bootstrap(fitter, best, counts, random)
    off_w, rise_w = fitter.gain(best)
    left = fitter.misfit(best)
    freedom = max(seen.times_s.size - DRIFT_DEGREE - 5, 1)
    return WindowFit(
        shape=best,
        mean_lag_s=interval(best.mean_lag_s, draws[:, 0]),
        width_s=interval(best.width_s, draws[:, 1]),
        ramp_s=interval(best.ramp_s, draws[:, 2]),
        off_w=off_w,
        rise_w=interval(rise_w, rises),
        r2=1 - left / fitter.total,
        residual_w=float(np.sqrt(left / freedom)),
    )


_RAMPS, _EACH, _ROUNDS = 30, 30, 8
_LEAST = np.array([1e-5, 1e-5, 1e-5])
"""Spread (s) below which the search for the draws' shapes does not go: far below what clocks and polls resolve."""


def _bootstrap(fitter: Fitter, best: Shape, counts: Floats, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Best shape of each draw, shape (draws, 3), and its gain, shape (draws,).

    Each draw takes the best of a cloud of shapes, because the misfit of all draws for all shapes is a few matrix
    products, and because that has no trouble where a figure lies at its bound. The cloud is drawn anew around what was
    taken, with its covariance, until that settles: the three figures trade against each other.
    """
    centre = np.array([best.mean_lag_s, best.width_s, best.ramp_s])
    spread = np.diag(np.array([0.05 * best.width_s, 0.1 * best.width_s, 0.1 * best.width_s + 0.05 * best.ramp_s]) ** 2)
    taken, gains = np.tile(centre, (counts.shape[0], 1)), np.zeros(counts.shape[0])
    size = np.inf
    for _ in range(_ROUNDS):
        taken, gains = _take(fitter, [best, *_cloud(centre, spread, random)], counts)
        centre = taken.mean(axis=0)
        spread = 3.0 * np.cov(taken.T) + np.diag(_LEAST**2)
        settled = abs(np.linalg.slogdet(spread)[1] - size) < 0.5
        size = np.linalg.slogdet(spread)[1]
        if settled:
            break
    return taken, gains


def _cloud(centre: Floats, spread: Floats, random: np.random.Generator) -> Iterator[Shape]:
    """Shapes about ``centre``: a few ramps, which are dear to follow, and for each of them many widths and lags."""
    ramps = centre[2] + np.sqrt(spread[2, 2]) * random.standard_normal(_RAMPS)
    along = spread[:2, 2] / spread[2, 2]
    rest = np.linalg.cholesky(spread[:2, :2] - np.outer(along, spread[:2, 2]) + np.diag(_LEAST[:2] ** 2))
    for drawn_s in ramps:
        ramp_s = float(np.clip(drawn_s, 0.0, LONGEST_S))
        pairs = centre[:2] + along * (ramp_s - centre[2]) + random.standard_normal((_EACH, 2)) @ rest.T
        for lag_s, drawn_width_s in pairs.tolist():
            width_s = min(max(drawn_width_s, NARROWEST_S), 1.5 * LONGEST_S)
            yield Shape(max(lag_s, EARLIEST_S + width_s / 2 + ramp_s), width_s, ramp_s)


def _take(fitter: Fitter, shapes: list[Shape], counts: Floats) -> tuple[Floats, Floats]:
    """The best of ``shapes`` for each draw, and its gain."""
    target = fitter.project(fitter.seen.powers_w)
    total = counts.sum(axis=1, keepdims=True)
    sum_y, sum_yy = counts @ target[:, None], counts @ (target**2)[:, None]
    rows = np.arange(counts.shape[0])
    least, gains = np.full(rows.size, np.inf), np.zeros(rows.size)
    taken = np.zeros((rows.size, 3))
    for first in range(0, len(shapes), 400):  # in parts, so that a long record does not fill the memory
        part = shapes[first : first + 400]
        x = fitter.project(np.column_stack([fitter.predict(shape) for shape in part]))
        sum_x, sum_xx, sum_xy = counts @ x, counts @ x**2, counts @ (x * target[:, None])
        gain = np.maximum((sum_xy - sum_x * sum_y / total) / np.maximum(sum_xx - sum_x**2 / total, 1e-12), 0.0)
        misfit = (sum_yy - sum_y**2 / total) - gain * (sum_xy - sum_x * sum_y / total)
        column = misfit.argmin(axis=1)
        better = misfit[rows, column] < least
        least[better], gains[better] = misfit[rows, column][better], gain[rows, column][better]
        taken[better] = np.array([[s.mean_lag_s, s.width_s, s.ramp_s] for s in part])[column[better]]
    return taken, gains
