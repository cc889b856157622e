"""Ratios of energies between chosen configurations, taken from repetitions that the choice did not see.

Places of choices go in, made with one half of the repetitions (:mod:`.choices`); savings, regrets and prices with
intervals come out, taken from the other half. Given the choices, the mean log ratio is a linear combination of
configuration means, so its variance follows from the variance within configurations. A configuration that is in several
choices counts with its whole weight, which holds all covariances. The ways of splitting share repetitions, so their
standard errors are averaged, as for errors that move together: no average of several can vary more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ipa_energy.analysis.choices import Figures

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Places of choices, each of shape (references,); all are -1 where a reference has no baseline.

    ``base`` ignores energy, ``aware`` has the least energy within the tolerances, ``hinted`` the least that the metrics
    foretell within them, ``least`` the least energy at the accuracy, whatever latency and cost.
    """

    base: Ints
    aware: Ints
    hinted: Ints
    least: Ints

    def at(self, references: Ints) -> Chosen:
        """Some of the references."""
        return Chosen(self.base[references], self.aware[references], self.hinted[references], self.least[references])

    def only_where(self, may: NDArray[np.bool_]) -> Chosen:
        """The same with the baseline in place of a choice within the tolerances where not ``may``, (references,)."""
        aware, hinted = (np.where(may, place, self.base) for place in (self.aware, self.hinted))
        return Chosen(self.base, aware, hinted, self.least)


@dataclass(frozen=True, slots=True)
class Way:
    """One half of the repetitions chooses, the other evaluates, with so many ``repetitions``, shape (n,).

    ``variances`` are those of a single repetition, on the log scale, by the names of the figures.
    """

    choosing: Figures
    evaluating: Figures
    repetitions: Ints
    variances: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class LogRatio:
    """Log ratios and their standard errors, shape (references,), or (1,) for a mean; NaN where there is none."""

    value: Floats
    error: Floats


Ratio: TypeAlias = Callable[[Way, str, Ints, Ints], LogRatio]
"""Of a way, the name of a figure, and the places above and below the line of a ratio."""


def each(way: Way, name: str, above: Ints, below: Ints) -> LogRatio:
    """The log ratio of every reference."""
    values, there = getattr(way.evaluating, name), above >= 0
    inverse = 1 / way.repetitions
    variance = way.variances[name] * np.where(above == below, 0.0, inverse[above] + inverse[below])
    return LogRatio(np.where(there, values[above] - values[below], np.nan), np.where(there, np.sqrt(variance), np.nan))


def mean(way: Way, name: str, above: Ints, below: Ints) -> LogRatio:
    """The mean log ratio over the references."""
    there = above >= 0
    if not there.any():
        return LogRatio(np.array([np.nan]), np.array([np.nan]))
    n = len(way.repetitions)
    weight = (np.bincount(above[there], minlength=n) - np.bincount(below[there], minlength=n)) / there.sum()
    error = math.sqrt(way.variances[name] * float(np.sum(weight**2 / way.repetitions)))
    return LogRatio(np.array([weight @ getattr(way.evaluating, name)]), np.array([error]))


def largest(way: Way, chosen: Chosen) -> Chosen:
    """The one reference that seems to save most to the half that chose."""
    gain = np.where(chosen.base >= 0, way.choosing.energy[chosen.aware] - way.choosing.energy[chosen.base], np.inf)
    return chosen.at(np.array([int(np.argmin(gain))], dtype=np.int64))


def estimates(
    pairs: Sequence[tuple[Way, Chosen]], of: Ratio, quantile: float, at: int, prices: Sequence[str]
) -> dict[str, float]:
    """Savings, regret and price, with bounds, of reference ``at``, or of the mean (:func:`mean`, at 0).

    ``quantile`` is how many standard errors a bound is away; ``prices`` names the figures whose ratio between the least
    energy and the baseline is a price. Empty where no way has the reference.
    """
    plain = interval("saving", [of(way, "energy", c.aware, c.base) for way, c in pairs], at, quantile, -1)
    own = interval("own_saving", [of(way, "energy", c.aware, c.hinted) for way, c in pairs], at, quantile, -1)
    found = plain | {name: min(value, plain[name.removeprefix("own_")]) for name, value in own.items()}
    found |= interval("regret", [of(way, "energy", c.base, c.least) for way, c in pairs], at, quantile, 1)
    for name in prices:
        found |= interval(f"price_{name}", [of(way, name, c.least, c.base) for way, c in pairs], at, quantile, 1)
    return found


def interval(name: str, ways: Sequence[LogRatio], at: int, quantile: float, sign: int) -> dict[str, float]:
    """The mean over the ways of a log ratio x with bounds, as fractions: exp(x) - 1, or 1 - exp(x) for ``sign`` -1."""
    there = [(float(way.value[at]), float(way.error[at])) for way in ways if math.isfinite(way.value[at])]
    if not there:
        return {}
    value, error = (math.fsum(part) / len(there) for part in zip(*there, strict=True))
    # The last + 0.0 makes a zero of a negative zero; beyond 700 a float is infinite.
    fractions = [sign * math.expm1(min(value + side * quantile * error, 700.0)) + 0.0 for side in (-1, 0, 1)]
    return {name: fractions[1], f"{name}_lo": min(fractions), f"{name}_hi": max(fractions)}
