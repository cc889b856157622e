"""A fraction of a grid: fewer configurations, drawn so that the effects of the knobs stay apart.

Configurations of a grid, a share and a seed go in; a balanced subset comes out, in which every main effect and every
two-way interaction of the knobs is estimable, as in the whole grid.

Candidates are generalised subset designs (Surowiec et al., *Generalized subset designs in analytical chemistry*,
Analytical Chemistry 89, 2017): every level of a knob carries digits to a base q, spread evenly over the levels; a
configuration has the sums of the digits of its levels, modulo q; those with the smallest sums are taken. With digits
that only some knobs take part in, they include the regular fractions of two-level grids. Where none of them is nearly
as good as the whole grid, subsets improved by exchanges (:mod:`ipa_energy.design_exchange`) are tried as well. The one
whose model matrix tells most (D-efficiency, :mod:`ipa_energy.design_check`), and whose levels are most even, is kept.

Sums and exchanges are made in integers, the random stream is one that NumPy has frozen (NEP 19), linear algebra runs on
one thread, and a candidate has to be better than the best before it by far more than rounding: every machine finds the
same subset.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ipa_energy.configuration import PLATFORM_KNOBS, STAGE_KNOBS, Configuration
from ipa_energy.design_check import Check, Factor, Model, balance, check
from ipa_energy.design_exchange import exchanged
from ipa_energy.plan import size_of

Ints = NDArray[np.int64]

_BASES = (2, 3, 4, 5, 7)
"""Bases of the digits: those that levels of knobs and shares of a grid usually divide into."""

_CLASSES = 64
"""Digits are added until there are at least so many different sums; ties beyond are broken by chance."""

_ROUNDS, _WORK = 3, 5e8
"""Rounds of candidates, each of every base in two ways; fewer where they would take more multiplications than this."""

_STARTS, _PAIRS = 2, 4_000_000
"""Random subsets that are improved by exchanges, where chosen times all configurations are no more than this."""

_GOOD = 0.965
"""A merit from which on no better candidate is looked for, such as an efficiency of 0.98 and a balance of 0.86."""

_EVENNESS = 0.1
"""Power of the balance in the merit: levels twice as frequent as others weigh like 7 % of the efficiency."""

_BETTER = 1e-6
"""Two merits closer than this are the same: rounding must not decide, for every machine rounds in its own way."""

_STEPS = 200
"""Sizes of the grid that are tried to find the least that works."""


class DesignError(ValueError):
    """The share is too small. ``least`` is the smallest number of configurations that was found to work."""

    def __init__(self, text: str, least: int) -> None:
        super().__init__(text)
        self.least = least


@dataclass(frozen=True, slots=True)
class Fraction:
    """The configurations that were drawn, in the order of the grid, and what the check found."""

    configurations: tuple[Configuration, ...]
    check: Check


def fraction(configurations: Sequence[Configuration], keep: float, seed: int) -> Fraction:
    """A balanced subset of ``keep`` (in (0, 1]) of the configurations of a whole grid.

    Raises :class:`DesignError` where the subset would leave a main effect or a two-way interaction inestimable that the
    whole grid shows, or nothing to test them against; it says the least share that works.
    """
    factors = factors_of(configurations)
    size = size_of(keep, len(configurations))
    with threadpool_limits(1):
        chosen = draw(factors, size, seed)
        found = check(factors, chosen)
        if not found.sound:
            least = least_size(factors, seed, above=size)
            raise DesignError(_too_small(found, least), least)
    return Fraction(tuple(configurations[i] for i in chosen), found)


def factors_of(configurations: Sequence[Configuration]) -> tuple[Factor, ...]:
    """The knobs that vary, with the level of every configuration; levels in the order in which they first occur."""
    columns: list[tuple[str, list[str | int]]] = []
    for place, stage in enumerate(configurations[0].stages if configurations else ()):
        for knob in STAGE_KNOBS:
            columns.append((f"{stage.stage}.{knob}", [getattr(c.stages[place], knob) for c in configurations]))
    for knob in PLATFORM_KNOBS:
        columns.append((knob, [getattr(c.platform, knob) for c in configurations]))
    factors = []
    for name, values in columns:
        levels = {value: i for i, value in enumerate(dict.fromkeys(values))}
        if len(levels) > 1:
            codes = np.fromiter((levels[value] for value in values), dtype=np.int64, count=len(values))
            factors.append(Factor(name, tuple(levels), codes))
    return tuple(factors)


def draw(factors: Sequence[Factor], size: int, seed: int) -> Ints:
    """Sorted places of ``size`` configurations of the grid; the best candidate, whether or not it is sound."""
    total = len(factors[0].codes) if factors else 1
    if size >= total:
        return np.arange(total)
    model = Model(factors)
    rounds = max(1, min(_ROUNDS, int(_WORK / model.work(size) / (2 * len(_BASES) + 1))))
    best, most = _best(model, _candidates(factors, size, seed, rounds))
    if most < _GOOD and size * total <= _PAIRS and size >= model.columns:
        random = [_stream(seed, f"start{i}").permutation(total)[:size] for i in range(_STARTS)]
        improved = (exchanged(factors, start, interactions=model.interactions) for start in (best, *random))
        best, _ = _best(model, improved, best, most)
    return np.sort(best)


def _best(model: Model, candidates: Iterable[Ints], best: Ints | None = None, most: float = -1.0) -> tuple[Ints, float]:
    """The candidate with the highest merit, the first of equals, and that merit."""
    for candidate in candidates:
        merit = model.efficiency(candidate) * balance(model.factors, candidate) ** _EVENNESS
        if best is None or merit > most + _BETTER:
            best, most = candidate, merit
        if most >= _GOOD:
            break
    assert best is not None
    return best, most


def least_size(factors: Sequence[Factor], seed: int, above: int = 0) -> int:
    """The least number of configurations above ``above`` that was found to work, in steps of a 200th of the grid."""
    total = len(factors[0].codes) if factors else 1
    step = max(1, total // _STEPS)
    for size in range(max(above, Model(factors).columns) + 1, total, step):
        if check(factors, draw(factors, size, seed)).sound:
            return size
    return total


def sums(factors: Sequence[Factor], labels: Sequence[Ints], base: int) -> Ints:
    """Every configuration's sum as one number; ``labels`` of each knob have the shape (levels, digits)."""
    digits = np.zeros((len(factors[0].codes), labels[0].shape[1]), dtype=np.int64)
    for factor, label in zip(factors, labels, strict=True):
        digits += label[factor.codes]
    return np.asarray((digits % base) @ base ** np.arange(digits.shape[1])[::-1], dtype=np.int64)


def _candidates(factors: Sequence[Factor], size: int, seed: int, rounds: int) -> Iterator[Ints]:
    total = len(factors[0].codes)
    # A share that is a whole number of classes of some base leaves no class broken: such bases come first.
    bases = sorted(_BASES, key=lambda q: min(size * q % total, -size * q % total))
    for turn in range(rounds):
        stream = _stream(seed, f"round{turn}")
        for base in bases:
            for every in (True, False):
                labels = [_labels(len(factor.levels), base, every, stream) for factor in factors]
                chance = stream.permutation(total)
                yield np.lexsort([chance, sums(factors, labels, base)])[:size]
        yield stream.permutation(total)[:size]


def _labels(levels: int, base: int, every: bool, stream: np.random.RandomState) -> Ints:
    """Digits of the levels, shape (levels, digits): each digit spread evenly, or (not ``every``) at times left out."""
    count = next(n for n in range(1, _CLASSES) if base**n >= _CLASSES)
    columns = []
    for _ in range(count):
        runs = [stream.permutation(base) for _ in range(-(-levels // base))]
        part = every or stream.randint(3) > 0
        columns.append(stream.permutation(np.concatenate(runs)[:levels]) * part)
    return np.column_stack(columns).astype(np.int64)


def _stream(seed: int, purpose: str) -> np.random.RandomState:
    digest = hashlib.sha256(f"{seed}:fraction:{purpose}".encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4"))


def _too_small(found: Check, least: int) -> str:
    what = f"{found.size} of {found.grid} configurations "
    if found.size < found.columns:
        what += f"are fewer than the {found.columns} coefficients that the effects of the knobs have"
    elif found.inestimable:
        shown = ", ".join(found.inestimable[:3]) + (", ..." if len(found.inestimable) > 3 else "")
        what += f"can't tell {len(found.inestimable)} effects of the knobs apart ({shown})"
    else:
        what += f"leave nothing to test {found.columns - 1} contrasts of the knobs against"
    if least == found.grid:
        return f"{what}; no share below 1 works for this grid"
    share = math.ceil(least / found.grid * 10_000) / 10_000
    return f"{what}; the least share found to work is {share:g} ({least} configurations)"


def describe(grid: Sequence[Configuration], chosen: Sequence[Configuration]) -> dict[str, Any]:
    """Plain data for JSON: what a fraction can carry, and what it leaves unknown (``limitation``)."""
    place = {configuration: i for i, configuration in enumerate(grid)}
    with threadpool_limits(1):
        found = check(factors_of(grid), np.array([place[configuration] for configuration in chosen], dtype=np.int64))
    effects = "main effects and two-way interactions" if found.interactions else "main effects"
    text = (
        f"A fraction of the grid was measured by design: {found.size} of {found.grid} configurations, which tell the "
        f"{effects} of the knobs apart with {found.d_efficiency:.0%} of the information that as many measurements over "
        "the whole grid would give. Fronts, choices and savings are those among them; whether a configuration that was "
        "not measured is on a front, or would save more, is unknown."
    )
    return found.as_dict() | {"limitation": text}
