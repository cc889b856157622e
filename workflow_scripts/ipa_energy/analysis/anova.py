"""Type II analysis of variance of an incomplete factorial grid, for several responses at once.

Levels of factors and responses go in; sums of squares and degrees of freedom of main effects and two-way interactions
come out, with intervals of the shares that they stand for.

A term's type II sum of squares is what it explains beyond all terms that do not contain it (Langsrud, *ANOVA for
unbalanced data*, Statistics and Computing 13, 2003). In a complete grid that is the classical decomposition. It is
computed from the cross products of contrast columns, which are summed up over chunks of rows: a dense design matrix of
30 000 rows and a thousand columns never exists, and the rank of a grid with empty cells is found instead of assumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.linalg import helmert, lapack, solve_triangular
from scipy.optimize import brentq

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Term = tuple[int, ...]
"""The factors of a term by their place: (0,) is a main effect, (0, 2) an interaction."""

_CHUNK = 2_000_000
"""Numbers of the design that exist at once: some tens of MB."""

_ALIASED = 1e-9
"""Share of a column's squares beyond the columns before it, below which it adds nothing to them."""

_ROUNDING = 1e-12
"""Sums of squares below this share of the total are rounding."""

_LARGE = 2_000.0
"""Above this Patnaik's approximation is right to 0.001 in probability; the inverse in scipy ends at 1e4."""


@dataclass(frozen=True, slots=True)
class Line:
    """One term: sum of squares per response, shape (k,), degrees of freedom, and those it has in a complete grid."""

    term: Term
    squares: Floats
    df: int
    full_df: int


@dataclass(frozen=True, slots=True)
class Anova:
    """Terms, what they leave over, and the total about the mean; squares have the shape (k,), one per response."""

    lines: tuple[Line, ...]
    residual: Floats
    residual_df: int
    total: Floats


def columns_of(levels: Sequence[int], terms: Iterable[Term]) -> int:
    """Columns that the design of ``terms`` has, for factors with so many levels."""
    return sum(math.prod(levels[factor] - 1 for factor in term) for term in terms)


def type_two(codes: Ints, responses: Floats, terms: Sequence[Term]) -> Anova:
    """The decomposition of ``responses``, shape (n, k), by factors with levels ``codes``, shape (n, f), from 0."""
    n = len(codes)
    levels = [int(column.max()) + 1 for column in codes.T]
    y = responses - responses.mean(axis=0)
    total = np.sum(y**2, axis=0)
    gram, cross = _cross_products(codes, y, levels, terms)
    ends = np.cumsum([columns_of(levels, [term]) for term in terms], dtype=np.int64)
    own = {term: np.arange(end - columns_of(levels, [term]), end) for term, end in zip(terms, ends, strict=True)}

    def explained(chosen: list[Term]) -> tuple[Floats, int]:
        return _explained(gram, cross, np.concatenate([own[term] for term in chosen] or [np.empty(0, dtype=int)]))

    lines = []
    for term in terms:
        others = [other for other in terms if not set(term) <= set(other)]
        with_term, rank = explained([*others, term])
        without, rank_without = explained(others)
        squares = np.maximum(with_term - without, 0.0)
        squares[squares <= _ROUNDING * total] = 0.0
        lines.append(Line(term, squares, rank - rank_without, len(own[term])))
    everything, rank = explained(list(terms))
    residual = np.maximum(total - everything, 0.0)
    residual[residual <= _ROUNDING * total] = 0.0
    return Anova(tuple(lines), residual, n - 1 - rank, total)


def _cross_products(codes: Ints, y: Floats, levels: list[int], terms: Sequence[Term]) -> tuple[Floats, Floats]:
    """Centred cross products of the columns, scaled to a diagonal of ones, and of the columns with ``y``."""
    contrasts = [helmert(count).T if count > 1 else np.empty((1, 0)) for count in levels]
    width = columns_of(levels, terms)
    gram, cross, sums = np.zeros((width, width)), np.zeros((width, y.shape[1])), np.zeros(width)
    step = max(1, _CHUNK // max(1, width))
    for begin in range(0, len(codes), step):
        rows = codes[begin : begin + step]
        coded = [contrast[column] for contrast, column in zip(contrasts, rows.T, strict=True)]
        design = np.hstack([_product([coded[factor] for factor in term]) for term in terms])
        gram += design.T @ design
        cross += design.T @ y[begin : begin + step]
        sums += design.sum(axis=0)
    raw = np.diag(gram).copy()
    gram -= np.outer(sums, sums) / len(codes)
    scale = np.sqrt(np.maximum(np.diag(gram), 0.0))
    absent = scale**2 <= _ALIASED * raw
    scale[absent] = np.inf
    gram /= np.outer(scale, scale)
    return gram, cross / scale[:, None]


def _product(factors: list[Floats]) -> Floats:
    product = factors[0]
    for factor in factors[1:]:
        product = (product[:, :, None] * factor[:, None, :]).reshape(len(product), -1)
    return product


def _explained(gram: Floats, cross: Floats, columns: Ints) -> tuple[Floats, int]:
    """Squares that the columns explain, shape (k,), and their rank, by Cholesky's method with pivots."""
    if not len(columns):
        return np.zeros(cross.shape[1]), 0
    factor, pivots, rank, _ = lapack.dpstrf(gram[np.ix_(columns, columns)], tol=_ALIASED, lower=1)
    order = columns[pivots[:rank] - 1]
    projected = solve_triangular(factor[:rank, :rank], cross[order], lower=True)
    return np.sum(projected**2, axis=0), int(rank)


def noncentrality(squares: float, df: int, confidence: float) -> tuple[float, float]:
    """Equal-tailed interval of the noncentrality of a chi-squared variable that was observed as ``squares``."""
    tail = (1 - confidence) / 2
    return _noncentrality(squares, df, 1 - tail), _noncentrality(squares, df, tail)


def _noncentrality(squares: float, df: int, probability: float) -> float:
    """The noncentrality at which the variable lies below ``squares`` with this probability; 0 where none does."""
    if special.chdtr(df, squares) <= probability:
        return 0.0
    if squares < _LARGE:
        return float(special.chndtrinc(squares, df, probability))

    def excess(value: float) -> float:
        # Patnaik (Biometrika 36, 1949): a noncentral chi-squared is about a multiple of a central one.
        like = (df + value) ** 2 / (df + 2 * value)
        return float(squares / (df + value) - special.chdtri(like, 1 - probability) / like)

    return float(brentq(excess, 0.0, 4 * squares)) if excess(0.0) > 0 else 0.0


def share_interval(
    squares: float, df: int, rest: float, rest_df: int, *, error: float, error_df: int, n: int, confidence: float
) -> tuple[float, float]:
    """Interval of the share of the variance that a term stands for (omega squared), in [0, 1].

    The share is a / (a + b + n), with the noncentralities a of the term and b of all that is neither term nor error
    (``rest`` with ``rest_df`` degrees of freedom), and n for the error itself. ``error`` is the variance of the error
    of one configuration mean. Term, rest and error variance are independent, and each has an interval; what the three
    do to the share is added in squares (the method of variance estimates recovery, Zou and Donner, Stat. Med. 27,
    2008). An interval of a alone, from a noncentral F, would forget b; and with one for each of a and b, the error
    variance that both are divided by would count twice, though it cancels in their ratio.
    """

    def share(term: float, other: float, variance: float = 1.0) -> float:
        own = max(0.0, term)
        return own / (own + max(0.0, other) + n * variance)

    tail = (1 - confidence) / 2
    a, b = squares / error - df, rest / error - rest_df
    a_lo, a_hi = noncentrality(squares / error, df, confidence)
    b_lo, b_hi = noncentrality(rest / error, rest_df, confidence) if rest_df > 0 else (0.0, 0.0)
    quiet, loud = (error_df / float(special.chdtri(error_df, p)) for p in (tail, 1 - tail))
    at = share(a, b)
    with_error = [share(squares / error - df * times, rest / error - rest_df * times, times) for times in (quiet, loud)]
    below = [at - share(min(a_lo, a), b), at - share(a, max(b_hi, b)), at - min(*with_error, at)]
    above = [share(max(a_hi, a), b) - at, share(a, min(b_lo, b)) - at, max(*with_error, at) - at]
    return max(0.0, at - math.hypot(*below)), min(1.0, at + math.hypot(*above))
