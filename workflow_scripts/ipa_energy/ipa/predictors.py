"""Predictors: from the requests per second seen so far to the rate that the next configuration must sustain.

A predictor is any callable that takes the rates of the past seconds, newest last, and returns requests per second. What
it should foresee, as in IPA, is the largest second of the next :data:`HORIZON_S` seconds: a decision takes effect about
10 s after it is made, and holds for another 10 s. The LSTM is in :mod:`.lstm`; here are the two simple ones, the window
of maxima that the LSTM sees, and the errors by which predictors are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ipa_energy.ipa.ticks import Floats

Predictor: TypeAlias = Callable[[Floats], float]
"""From rates of past seconds, shape (seconds,), to the rate to prepare for, in requests per second."""

STEP_S = 10
WINDOW_S = 120
HORIZON_S = 20
"""IPA's: decisions every 10 s, from the last 2 min, for the maximum of the next 20 s."""


@dataclass(frozen=True, slots=True)
class RecentMaximum:
    """The largest rate of the last ``window_s`` seconds, or of those there are."""

    window_s: int

    def __call__(self, history_rps: Floats) -> float:
        """The rate to prepare for, in requests per second. Raises ValueError when no second has been seen."""
        if len(history_rps) == 0:
            raise ValueError("nothing can be predicted before a second has been seen: decide later, or give a history")
        return float(np.max(history_rps[-self.window_s :]))


REACTIVE = RecentMaximum(STEP_S)
"""IPA's ``reactive``: what came in the last 10 s comes again."""

MAXIMUM = RecentMaximum(WINDOW_S)
"""IPA's ``max``: the largest second of the last 2 min. Also what the LSTM falls back to."""


@dataclass(frozen=True, slots=True)
class WithMargin:
    """Another predictor's rate, raised by ``margin_percent``. It is not rounded, as IPA does: rates here are real."""

    predictor: Predictor
    margin_percent: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.margin_percent) and self.margin_percent > -100):
            raise ValueError(f"margin_percent is {self.margin_percent}: give per cent, above -100")

    def __call__(self, history_rps: Floats) -> float:
        """The rate to prepare for, in requests per second."""
        return self.predictor(history_rps) * (1 + self.margin_percent / 100)


def windows(rates_rps: Floats, stride_s: int = STEP_S) -> tuple[Floats, Floats]:
    """Every window of a trace as (maxima of its 12 steps of 10 s, shape (n, 12); maximum of the next 20 s, shape (n,)).

    Windows begin ``stride_s`` apart; only those with all of their 140 s in the trace count.
    """
    starts = np.arange(0, len(rates_rps) - WINDOW_S - HORIZON_S + 1, stride_s)
    if len(starts) == 0:
        raise ValueError(f"a trace of {len(rates_rps)} s holds no window: give {WINDOW_S + HORIZON_S} s or more")
    rates = np.asarray(rates_rps, dtype=float)
    step = np.lib.stride_tricks.sliding_window_view(rates, STEP_S).max(axis=1)
    seen = step[starts[:, None] + np.arange(0, WINDOW_S, STEP_S)]
    ahead = np.lib.stride_tricks.sliding_window_view(rates, HORIZON_S).max(axis=1)[starts + WINDOW_S]
    return seen, ahead


def last_window(history_rps: Floats) -> Floats:
    """The maxima of the 12 steps that make up the last 120 s, oldest first, shape (12,)."""
    steps = np.asarray(history_rps[-WINDOW_S:], dtype=float).reshape(-1, STEP_S)
    return np.asarray(steps.max(axis=1), dtype=float)


@dataclass(frozen=True, slots=True)
class Errors:
    """How forecasts compare with what came: ``smape_percent``, and the share that lay below, which breaks SLAs.

    ``excess`` is the mean of forecast less actual over the mean actual: what is provided for nothing, when above 0.
    """

    smape_percent: float
    share_below: float
    excess: float


def errors(actual: Floats, forecast: Floats) -> Errors:
    """Errors of forecasts of shape (n,).

    SMAPE is 100 / n times the sum of 2 |f - a| / (|a| + |f|), from 0 to 200; a pair of zeros counts as no error.
    """
    a, f = np.asarray(actual, dtype=float), np.asarray(forecast, dtype=float)
    if a.shape != f.shape or a.size == 0:
        raise ValueError(f"errors need as many forecasts as figures, and some: there are {f.size} and {a.size}")
    size = np.abs(a) + np.abs(f)
    relative = np.divide(2 * np.abs(f - a), size, out=np.zeros_like(size), where=size > 0)
    mean = float(a.mean())
    return Errors(
        smape_percent=100 * float(relative.mean()),
        share_below=float(np.mean(f < a)),
        excess=float(np.mean(f - a)) / mean if mean > 0 else math.nan,
    )


def backtest(predictor: Predictor, rates_rps: Floats) -> Errors:
    """Errors of a predictor asked every 10 s along a trace, from its first 120 s on, each time with all of the past."""
    rates = np.asarray(rates_rps, dtype=float)
    _, actual = windows(rates)
    moments = WINDOW_S + STEP_S * np.arange(len(actual))
    return errors(actual, np.array([predictor(rates[:moment]) for moment in moments]))
