"""What a subset of a grid can carry: balance of levels, estimable effects, efficiency beside the whole grid.

Levels of the knobs and places of the chosen configurations go in; a :class:`Check` comes out. The model is that of the
analysis of variance of the knobs: main effects and two-way interactions, up to
:data:`MAX_COLUMNS` columns, and main effects alone beyond. In orthonormal contrasts a whole grid has the identity as
information matrix per configuration, so that what a subset loses can be read from its own matrix M = X'X/n.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_COLUMNS = 1000
"""Columns of the model above which interactions are left out, as the analysis of variance leaves them out."""

_NULL = 1e-9
"""An eigenvalue of M below this is zero: the least of a subset that is estimable at all is far above."""


@dataclass(frozen=True, eq=False, slots=True)
class Factor:
    """A knob that varies: its levels, and the level of each configuration by number, shape (n,)."""

    name: str
    levels: tuple[str | int, ...]
    codes: Ints


@dataclass(frozen=True, slots=True)
class Check:
    """What a subset carries.

    ``level_counts`` are the configurations of each level of each knob; ``balance`` is the least, over knobs, of the
    rarest level's count over the commonest's (1: even). ``fewest_in_pair`` and ``most_in_pair`` are the counts of a
    combination of levels of two knobs, of all pairs. ``rank`` of the model matrix with ``columns`` columns and the rank
    that the whole grid has; ``inestimable`` names the effects that can't be told apart. ``d_efficiency`` is
    det(M)^(1/columns), and ``worst_inflation`` the variance of the worst contrast, both against as many measurements
    spread over the whole grid, whose figures are 1; the second is null where something is inestimable.
    """

    size: int
    grid: int
    level_counts: dict[str, dict[str, int]]
    balance: float
    fewest_in_pair: int
    most_in_pair: int
    interactions: bool
    columns: int
    rank: int
    grid_rank: int
    inestimable: tuple[str, ...]
    d_efficiency: float
    worst_inflation: float | None
    worst_effect: str | None

    @property
    def residual_df(self) -> int:
        """Degrees of freedom that the model leaves to test against without repetitions."""
        return self.size - self.rank

    @property
    def sound(self) -> bool:
        """Every effect that the whole grid shows is estimable, and something is left over; the whole grid is sound."""
        return self.size == self.grid or (self.rank == self.grid_rank and self.residual_df > 0)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self) | {"inestimable": list(self.inestimable), "residual_df": self.residual_df}


class Model:
    """The model matrix of the knobs of a grid, a row per configuration."""

    def __init__(self, factors: Sequence[Factor]) -> None:
        self.factors = tuple(factors)
        self._contrasts = [_contrasts(len(factor.levels)) for factor in factors]
        mains = [(i,) for i in range(len(factors))]
        pairs = list(itertools.combinations(range(len(factors)), 2))
        self.interactions = 1 + self._width([*mains, *pairs]) <= MAX_COLUMNS
        self.terms: list[tuple[int, ...]] = [*mains, *(pairs if self.interactions else [])]
        self.columns = 1 + self._width(self.terms)

    def _width(self, terms: Sequence[tuple[int, ...]]) -> int:
        return sum(math.prod(len(self.factors[i].levels) - 1 for i in term) for term in terms)

    def work(self, size: int) -> float:
        """Multiplications that judging ``size`` configurations takes, roughly."""
        return float(self.columns**2 * size + 9 * self.columns**3)

    def label(self, term: tuple[int, ...]) -> str:
        """Name of a term, as in the table of the analysis of variance."""
        return " x ".join(self.factors[i].name for i in term)

    def matrix(self, chosen: Ints) -> Floats:
        """Rows of the chosen configurations, shape (n, columns): a column of ones, then the terms."""
        coded = [c[factor.codes[chosen]] for c, factor in zip(self._contrasts, self.factors, strict=True)]
        parts = [np.ones((len(chosen), 1)), *coded]
        if self.interactions:
            parts += [
                (coded[i][:, :, None] * coded[j][:, None, :]).reshape(len(chosen), -1)
                for i, j in itertools.combinations(range(len(coded)), 2)
            ]
        return np.hstack(parts)

    def information(self, chosen: Ints) -> Floats:
        """M = X'X/n of the chosen configurations."""
        x = self.matrix(chosen)
        return np.asarray(x.T @ x / len(chosen))

    def efficiency(self, chosen: Ints) -> float:
        """D-efficiency against the whole grid; 0 where an effect is inestimable."""
        if len(chosen) < self.columns:
            return 0.0
        values = np.linalg.eigvalsh(self.information(chosen))
        return float(np.exp(np.mean(np.log(values)))) if values[0] > _NULL else 0.0

    @cached_property
    def slices(self) -> list[slice]:
        """The columns of each term."""
        ends = np.cumsum([1, *(self._width([term]) for term in self.terms)])
        return [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]


def balance(factors: Sequence[Factor], chosen: Ints) -> float:
    """The least, over the knobs, of the rarest level's count over the commonest's; 1 for an even spread."""
    counts = [np.bincount(factor.codes[chosen], minlength=len(factor.levels)) for factor in factors]
    return min((float(each.min() / each.max()) for each in counts), default=1.0)


def check(factors: Sequence[Factor], chosen: Ints) -> Check:
    """What the configurations at the places ``chosen`` of a whole grid carry."""
    model = Model(factors)
    values, vectors = np.linalg.eigh(model.information(chosen))
    null = values <= _NULL
    missing: tuple[str, ...] = ()
    inflation: float | None = None
    worst: str | None = None
    if null.any():
        lost = [np.abs(vectors[columns][:, null]).max() > 1e-6 for columns in model.slices]
        missing = tuple(model.label(term) for term, gone in zip(model.terms, lost, strict=True) if gone)
    elif model.terms:
        inverse = (vectors / values) @ vectors.T
        each = [float(np.linalg.eigvalsh(inverse[columns, columns])[-1]) for columns in model.slices]
        inflation = max(each)
        worst = model.label(model.terms[each.index(inflation)])
    levels = {f.name: np.bincount(f.codes[chosen], minlength=len(f.levels)) for f in factors}
    pairs = [
        np.bincount(a.codes[chosen] * len(b.levels) + b.codes[chosen], minlength=len(a.levels) * len(b.levels))
        for a, b in itertools.combinations(factors, 2)
    ]
    return Check(
        size=len(chosen),
        grid=len(factors[0].codes) if factors else 1,
        level_counts={f.name: {str(v): int(c) for v, c in zip(f.levels, levels[f.name], strict=True)} for f in factors},
        balance=balance(factors, chosen),
        fewest_in_pair=min((int(counts.min()) for counts in pairs), default=len(chosen)),
        most_in_pair=max((int(counts.max()) for counts in pairs), default=len(chosen)),
        interactions=model.interactions,
        columns=model.columns,
        rank=int((~null).sum()),
        grid_rank=model.columns,
        inestimable=missing,
        d_efficiency=0.0 if null.any() else float(np.exp(np.mean(np.log(values)))),
        worst_inflation=inflation,
        worst_effect=worst,
    )


def _contrasts(levels: int) -> Floats:
    """Helmert contrasts of a factor, shape (levels, levels - 1), orthonormal over an even spread of its levels."""
    rows = np.zeros((levels, levels - 1))
    for k in range(1, levels):
        rows[:k, k - 1], rows[k, k - 1] = -1.0, float(k)
        rows[:, k - 1] *= math.sqrt(levels / (k * (k + 1)))
    return rows
