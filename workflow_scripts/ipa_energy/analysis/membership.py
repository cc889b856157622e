"""Which configurations are optimal without and with energy: fronts, their membership under noise, and the tested gain.

Objectives of a cell, all to be small, go in; out come the fronts of the means, how often noise of the size of the
repetitions' puts a configuration on them, and, for every configuration, whether energy alone makes it optimal. A front
of noisy means says that of many configurations whose energy is just noise, so the claim is tested.

For configurations x and y let f(x, y) be the largest of the t-statistics of x being worse than y in accuracy, latency
and cost, and u(x, y) that of x using more energy than y by more than the threshold. Noise is normal with the pooled
covariance of the panel, t-statistics have its degrees of freedom. A quantity without noise counts as it is: infinitely
worse, or no obstacle. Three minima over x decide all about y:

- F = min f: far below 0, y is dominated without energy; far above 0, it is optimal without it;
- G = min max(f, u): far above 0, whatever might dominate y uses more energy by more than the threshold; far below 0,
  something dominates it and does not;
- H = min max(f, -u): far above 0, nothing dominates y while using more energy by more than the threshold.

Claims about all x are intersection-union tests (Berger 1982, Technometrics 24), which need no correction over x. Claims
that one x exists are corrected for the number of x, and the best of K statistics of a pair for K, both by Bonferroni,
which holds however the noises of latency, cost and energy go together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ipa_energy.analysis.holm import holm
from ipa_energy.analysis.panel import ENERGY, Panel

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

OBJECTIVES = {"accuracy": "accuracy", "latency": "latency_p99", "cost": "cost", "energy": ENERGY}
"""The objectives, energy last, and the metrics of a panel that they are."""

REFERENCE = 1.1
"""Reference point of hypervolumes, in each objective, where the means span 0 to 1."""

_PAIRS = 1 << 18
"""Pairs compared at once: 2 MB per array, which stays in the cache."""

_DIGITS = 11
"""Digits to which figures without noise count: means of equal numbers differ in the last ones."""

_DRAWN_POINTS = 6_000_000
_DRAWN_FRONT_PAIRS = 2_000_000_000
"""Limits of the work of drawing: configurations times draws, and squared size of the front times draws."""


@dataclass(frozen=True, slots=True)
class Space:
    """Objectives of the configurations of a cell, all to be small.

    ``names`` are those of :data:`OBJECTIVES` that the panel has, ``points`` their means, shape (n, d): accuracy with
    its sign turned, all others natural logarithms. ``noise`` is the covariance of one repetition, shape (d, d), over
    ``degrees`` degrees of freedom (NaN and 0 without repetitions); ``repetitions`` has the shape (n,).
    """

    names: tuple[str, ...]
    points: Floats
    noise: Floats
    degrees: int
    repetitions: Ints

    @property
    def deviation(self) -> Floats:
        """Standard deviations of one repetition, shape (d,); 0 for an objective without noise."""
        return np.asarray(np.sqrt(np.diag(self.noise)), dtype=float)


def space_of(panel: Panel) -> Space:
    """The objectives of ``panel``."""
    names = tuple(name for name, metric in OBJECTIVES.items() if metric in panel.names)
    columns = [panel.column(OBJECTIVES[name]) for name in names]
    sign = np.array([-1.0 if name == "accuracy" else 1.0 for name in names])
    points = panel.means[:, columns] * sign
    noise = panel.within[np.ix_(columns, columns)] * np.outer(sign, sign)
    for k in np.flatnonzero(np.diag(noise) == 0):
        size = np.max(np.abs(points[:, k]), initial=0.0)
        if size > 0:
            points[:, k] = np.round(points[:, k] / size, _DIGITS) * size
    return Space(names, points, noise, panel.degrees, panel.repetitions)


def on_front(points: Floats) -> Flags:
    """Which points, shape (n, d), no other dominates; equal points are all on the front or none."""
    if len(points) == 0:
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(np.ascontiguousarray(points), keep_weakly=True), dtype=bool)


def generator(*names: object) -> np.random.Generator:
    """Random numbers that depend on ``names`` only, so that another cell changes no figure of this one."""
    return np.random.default_rng(list(hashlib.sha256("\0".join(map(str, names)).encode()).digest()))


@dataclass(frozen=True, slots=True)
class Drawn:
    """Shares of draws, each of shape (n,), in which a configuration is on a front; ``hypervolume``, shape (draws,)."""

    draws: int
    without: Floats
    with_energy: Floats
    only_with: Floats
    hypervolume: Floats


def drawn(space: Space, draws: int, rng: np.random.Generator) -> Drawn | None:
    """Fronts of ``draws`` sets of means with more normal noise of the size that the means have; None where unknown.

    The shares describe how firm the fronts are. They test nothing: noise comes on top of noise, so fronts of draws are
    ragged, and configurations seem optimal because of energy that are not. Large cells get fewer draws.
    """
    n = len(space.points)
    if draws < 1 or space.degrees == 0 or n == 0:
        return None
    front = int(on_front(space.points).sum())
    draws = max(1, min(draws, _DRAWN_POINTS // n, _DRAWN_FRONT_PAIRS // front**2))
    values, vectors = np.linalg.eigh(space.noise)
    root = (vectors * np.sqrt(np.clip(values, 0, None))).T
    noisy = space.deviation > 0
    error = 1 / np.sqrt(space.repetitions)[:, None]
    counts = np.zeros((3, n))
    volumes = np.empty(draws)
    for i in range(draws):
        points = space.points.copy()
        points[:, noisy] += (rng.standard_normal(points.shape) @ root * error)[:, noisy]
        fronts = on_front(points[:, :-1]), on_front(points)
        counts += *fronts, fronts[1] & ~fronts[0]
        volumes[i] = hypervolume_share(points, *fronts)
    without, with_energy, only_with = counts / draws
    return Drawn(draws, without, with_energy, only_with, volumes)


def hypervolume_share(points: Floats, without: Flags, with_energy: Flags) -> float:
    """Of the hypervolume of the front with energy, the share that the front without energy reaches in all objectives.

    Objectives, shape (n, d), are scaled so that all points span 0 to 1; the reference point is :data:`REFERENCE`. Each
    set of means has its own scale, so none is beyond the reference point and the front always has a volume.
    """
    low = points.min(axis=0)
    span = points.max(axis=0) - low
    scaled = np.divide(points - low, span, out=np.zeros_like(points), where=span > 0)
    whole = moocore.hypervolume(scaled[with_energy], ref=[REFERENCE] * points.shape[1])
    reached = moocore.hypervolume(scaled[without], ref=[REFERENCE] * points.shape[1])
    return min(1.0, float(reached / whole))  # a part of it, so more is rounding


@dataclass(frozen=True, slots=True)
class Tested:
    """Per configuration, shape (n,): gains as natural logarithms, infinite where there are none, and what is certain.

    ``gain`` is the least by which the energy of those at least as good in all else exceeds that of the configuration;
    ``gain_lo`` and ``gain_hi`` bound it, for each configuration by itself. ``yes``: optimal only because of energy,
    with a gain above the threshold; ``no``: not so; ``dominated`` and ``optimal``: without energy. All of ``yes`` and
    ``dominated`` hold together with the confidence asked for, and so do all of ``no`` and ``optimal``.
    """

    gain: Floats
    gain_lo: Floats
    gain_hi: Floats
    yes: Flags
    no: Flags
    dominated: Flags
    optimal: Flags


def tested(space: Space, threshold: float, confidence: float) -> Tested:
    """The tested gain of every configuration of a ``space`` with all objectives; ``threshold`` is a log ratio.

    Without repetitions nothing is certain, and the gain has no bounds. Pairs are compared exactly but not all: who is
    worse than another in everything is no minimum over x.
    """
    n, alpha = len(space.points), 1 - confidence
    nothing, never = np.full(n, np.inf), np.zeros(n, dtype=bool)
    if space.degrees == 0:
        bare = Space(space.names, space.points, np.zeros_like(space.noise), 0, np.ones(n, dtype=np.int64))
        gain = _minima(bare, threshold, 0.0, 0.0).gain
        return Tested(gain, -nothing, nothing, never, never, never, never)
    noisy = space.deviation > 0
    others = max(1, n - 1)
    in_pair, without = max(1, int(noisy.sum())), max(1, int(noisy[:-1].sum()))
    t = stats.t(space.degrees)
    bounds = float(t.isf(alpha / 2 / in_pair)), float(t.isf(alpha / 2 / others))
    found = _minima(space, threshold, *bounds)
    possible = _possible(space.points[:, :-1][:, ~noisy[:-1]])
    p_dominated = possible * t.sf(-found.f)
    p_yes = np.maximum(p_dominated, in_pair * t.sf(found.g))
    p_optimal = without * t.sf(found.f)
    p_no = 2 * np.minimum(possible * t.sf(-found.g), in_pair * t.sf(found.h))
    yes, dominated = _rejected(p_yes, p_dominated, alpha)
    no, optimal = _rejected(p_no, p_optimal, alpha)
    return Tested(found.gain, found.gain_lo, found.gain_hi, yes, no, dominated, optimal)


def _rejected(one: Floats, other: Floats, alpha: float) -> tuple[Flags, Flags]:
    """Which of two lists of p-values Holm's procedure rejects, taken together."""
    rejected = holm(np.concatenate([one, other])) <= alpha
    return rejected[: len(one)], rejected[len(one) :]


def _possible(fixed: Floats) -> Floats:
    """For each row of the objectives without noise, at most how many others are no worse; at least 1."""
    most = np.full(len(fixed), max(1, len(fixed) - 1), dtype=float)
    for column in fixed.T:
        most = np.minimum(most, np.searchsorted(np.sort(column), column, side="right") - 1)
    return np.asarray(np.maximum(most, 1.0), dtype=float)


@dataclass(frozen=True, slots=True)
class _Minima:
    """F, G and H of the module, and the gain with its bounds, each of shape (n,); infinite where there is no x."""

    f: Floats
    g: Floats
    h: Floats
    gain: Floats
    gain_lo: Floats
    gain_hi: Floats


def _minima(space: Space, threshold: float, at_least: float, at_most: float) -> _Minima:
    """The minima, with the gain's lower bound at the critical value ``at_least`` and its upper one at ``at_most``."""
    f, g, h, gain, lo, hi = np.full((6, len(space.points)), np.inf)
    strict = not (space.deviation[:-1] > 0).any()
    for x, y, error in _rivals(space, space.points):
        worse = _worse(space.points, x, y, error)
        difference = space.points[x, -1][:, None] - space.points[y, -1]
        more = _in_errors(difference - threshold, error[-1])
        _lower(g, y, np.maximum(worse, more, out=more))
        margin = at_least * error[-1], at_most * error[-1]
        _lower(gain, y, difference, where=worse <= 0)
        _lower(lo, y, difference, where=worse < at_least, shift=-margin[0])
        _lower(hi, y, difference, where=worse < -at_most, shift=margin[1])
        if strict:  # as good in everything is no dominance
            worse[(space.points[x, None, :-1] == space.points[None, y, :-1]).all(axis=2)] = np.inf
        _lower(f, y, worse)
    turned = space.points * np.array([1.0] * (space.points.shape[1] - 1) + [-1.0])
    for x, y, error in _rivals(space, turned):
        less = _in_errors(space.points[x, -1][:, None] - space.points[y, -1] - threshold, error[-1])
        np.negative(less, out=less)
        _lower(h, y, np.maximum(_worse(space.points, x, y, error), less, out=less))
    return _Minima(f, g, h, gain, lo, hi)


def _lower(least: Floats, y: Ints, values: Floats, *, where: Flags | bool = True, shift: float = 0.0) -> None:
    least[y] = np.minimum(least[y], values.min(axis=0, where=where, initial=np.inf) + shift)


def _rivals(space: Space, points: Floats) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Blocks of pairs x, y that hold every minimum over x of what grows with ``points`` of x, and the errors.

    Errors are standard errors of differences, shape (d,). They are equal within a block, so that among the x with as
    many repetitions only the front can be a minimum; for a y on it, which is no rival of itself, the next front, too.
    In order of an objective without noise, those that are worse in it for certain are left out.
    """
    fixed = np.flatnonzero(space.deviation[:-1] == 0)
    order = space.points[:, fixed[0]] if len(fixed) else np.zeros(len(points))
    for r_x in np.unique(space.repetitions):
        group = np.flatnonzero(space.repetitions == r_x)
        first = on_front(points[group])
        front, rest = group[first], group[~first]
        both = np.concatenate([front, rest[on_front(points[rest])]])
        front, both = (x[np.argsort(order[x], kind="stable")] for x in (front, both))
        for r_y in np.unique(space.repetitions):
            error = space.deviation * np.sqrt(1 / r_x + 1 / r_y)
            other = np.flatnonzero(space.repetitions == r_y)
            other = other[np.argsort(order[other], kind="stable")]
            inside = np.isin(other, front)
            for x, ys in ((front, other[~inside]), (both, other[inside])):
                step = max(1, _PAIRS // max(1, len(x)))
                for y in np.split(ys, range(step, len(ys), step)):
                    if len(y):
                        yield x[: np.searchsorted(order[x], order[y[-1]], side="right")], y, error


def _worse(points: Floats, x: Ints, y: Ints, error: Floats) -> Floats:
    """f of the module for all pairs, shape (len(x), len(y)); infinite for a configuration and itself."""
    largest = np.full((len(x), len(y)), -np.inf)
    for k, e in enumerate(error[:-1]):
        np.maximum(largest, _in_errors(points[x, k][:, None] - points[y, k], e), out=largest)
    largest[x[:, None] == y] = np.inf
    return largest


def _in_errors(difference: Floats, error: float) -> Floats:
    if error > 0:
        return difference / error
    return np.where(difference > 0, np.inf, -np.inf)
