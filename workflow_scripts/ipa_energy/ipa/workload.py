"""Loads over time: IPA's four load patterns, generated to their published statistics, and a long history to train on.

IPA replays excerpts of a Twitter trace whose counts per second were divided by 8 and rounded down. The trace itself is
not ours to ship, but what is published of the excerpts (requests, range, median, 95th percentile, standard deviation,
means of their minutes) is what such damping makes of a Poisson process: its scatter is that of Poisson counts divided
by 8, far less than that of Poisson counts. :func:`pattern_counts` does the same to a rate curve through the published
means. Counts per second become arrival times in :mod:`.arrival_times`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.stats import poisson

from ipa_energy.ipa.random_streams import stream
from ipa_energy.ipa.ticks import Floats, Ints
from ipa_energy.serving.arrivals import Seed

DAMPING = 8
"""IPA divides the requests of each second by this, and rounds down."""

_MINUTE_S = 60
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is published of an excerpt: its length in seconds, and figures of its requests per second."""

    seconds: int
    requests: int
    minimum: float
    mean: float
    median: float
    p95: float
    maximum: float
    std: float


@dataclass(frozen=True, slots=True)
class Pattern:
    """A published excerpt: its statistics, and the mean of each minute rounded down, or None where it is steady."""

    name: str
    published: Statistics
    minute_means: tuple[int, ...] | None


PATTERNS: Mapping[str, Pattern] = MappingProxyType(
    {
        pattern.name: pattern
        for pattern in (
            Pattern("steady_low", Statistics(1200, 6_067, 3, 5.1, 5, 7, 8, 0.9), None),
            Pattern("steady_high", Statistics(1200, 34_606, 23, 28.8, 29, 32, 34, 1.9), None),
            Pattern(
                "fluctuating",
                Statistics(1200, 19_837, 3, 16.5, 16, 29, 34, 9.4),
                (5, 5, 14, 27, 27, 26, 24, 25, 17, 11, 6, 7, 16, 27, 27, 22, 15, 7, 6, 6),
            ),
            Pattern(
                "bursty",
                Statistics(1200, 14_437, 3, 12.0, 6, 28, 34, 9.3),
                (4, 5, 5, 5, 5, 5, 14, 27, 27, 26, 24, 25, 17, 11, 6, 5, 5, 5, 5, 5),
            ),
        )
    }
)
"""The excerpts of IPA's experiments, 20 minutes each, as they are published. Rates are after damping."""


def statistics(counts: Ints) -> Statistics:
    """The figures of a trace of requests per second, shape (seconds,). Raises ValueError for an empty one."""
    if len(counts) == 0:
        raise ValueError("a trace of no seconds has no statistics")
    return Statistics(
        seconds=len(counts),
        requests=int(counts.sum()),
        minimum=float(counts.min()),
        mean=float(counts.mean()),
        median=float(np.median(counts)),
        p95=float(np.percentile(counts, 95)),
        maximum=float(counts.max()),
        std=float(counts.std()),
    )


def pattern_rates(name: str, seconds: int | None = None, scale: float = 1.0) -> Floats:
    """The mean rate in each second, in requests per second, shape (seconds,): what the counts scatter around.

    A steady pattern is a constant. The others are smooth, and the mean of each minute is the published one: as those
    were rounded down, all are raised by the same amount until they make the published number of requests. After its
    1200 s a pattern begins again. ``scale`` multiplies the rate. Raises ValueError for an unknown name, for fewer than
    one second and for a scale that isn't above 0.
    """
    if name not in PATTERNS:
        raise ValueError(f"load pattern {name!r} is not known; there are {', '.join(PATTERNS)}")
    pattern = PATTERNS[name]
    length = pattern.published.seconds
    wanted = length if seconds is None else seconds
    if wanted < 1:
        raise ValueError(f"seconds of a load is {wanted}: give 1 or more")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale of a load is {scale}: give a number above 0")
    mean_rps = pattern.published.requests / length
    if pattern.minute_means is None:
        return np.full(wanted, mean_rps * scale)
    means = np.array(pattern.minute_means, dtype=float)
    means += mean_rps - means.mean()
    # The cumulative curve passes through the minutes' sums exactly and is monotone, so no rate is below 0.
    minutes = np.arange(len(means) + 1) * _MINUTE_S
    cumulative = PchipInterpolator(minutes, np.concatenate([[0.0], np.cumsum(means) * _MINUTE_S]))
    curve = np.diff(cumulative(np.arange(length + 1)))
    return np.asarray(scale * curve[np.arange(wanted) % length], dtype=float)


def pattern_counts(name: str, seed: int, seconds: int | None = None, scale: float = 1.0) -> Ints:
    """Requests in each second of a load pattern, shape (seconds,); the same for the same seed.

    A ``scale`` stands for a service that many times as large, damped as IPA damps it; the arguments are those of
    :func:`pattern_rates`.
    """
    return damped_counts(pattern_rates(name, seconds, scale), seed)


def damped_counts(rates_rps: Floats, seed: Seed) -> Ints:
    """Counts per second with these means that scatter as IPA's do: Poisson counts, divided by 8 and rounded down."""
    undamped = stream(seed, "counts").poisson(_undamped_mean(rates_rps))
    return np.asarray(undamped // DAMPING, dtype=np.int64)


def _undamped_mean(rates_rps: Floats) -> Floats:
    """The mean m of a Poisson count for which floor(count / 8) has the mean that is wanted."""
    # Rounding down takes off 3.5 of 8 on average, unless the count scatters over little more than 8.
    straight = DAMPING * rates_rps + (DAMPING - 1) / 2
    low = 20.0
    if not (rates_rps < low).any():
        return straight
    grid = np.concatenate([np.linspace(0, 20, 401), np.linspace(20, DAMPING * low + 20, 401)[1:]])
    steps = np.arange(1, 2 * int(low) + 10)
    damped_mean = np.sum(poisson.sf(DAMPING * steps[None, :] - 1, grid[:, None]), axis=1)
    return np.where(rates_rps < low, np.interp(rates_rps, damped_mean, grid), straight)


@dataclass(frozen=True, slots=True)
class History:
    """What a generated history is made of; the defaults were chosen by us so that it resembles what is published.

    That is the Twitter trace's mean (63.6 / 8 = 7.95 requests/s), its largest second (388 / 8 = 48), and a burst like
    the one of the pattern ``bursty``: from 5 to 27 requests/s within two minutes, six minutes there, three back.
    ``quiet_rps`` is the rate of an average moment without a burst; ``day_night`` and ``half_day`` are amplitudes of its
    logarithm over the day; ``wander`` is the standard deviation of the logarithm's slow random part, which forgets
    within ``wander_s``. Bursts come ``bursts_per_day`` at random, each of a height of ``burst_height`` times the quiet
    rate, lognormal with ``burst_spread``.
    """

    quiet_rps: float = 6.8
    day_night: float = 0.35
    half_day: float = 0.1
    wander: float = 0.12
    wander_s: float = 1800.0
    bursts_per_day: float = 12.0
    burst_height: float = 1.6
    burst_spread: float = 0.4


def history_rates(days: float, seed: int, shape: History = History(), scale: float = 1.0) -> Floats:
    """Mean rate in each second of a generated history of ``days`` days, in requests per second, shape (seconds,)."""
    seconds = round(days * _DAY_S)
    if seconds < 1:
        raise ValueError(f"a history of {days} days holds no second")
    generator = stream(seed, "history")
    t = np.arange(seconds, dtype=float)
    phase = 2 * np.pi * (t / _DAY_S + generator.uniform())
    log_rate = shape.day_night * np.sin(phase) + shape.half_day * np.sin(2 * phase + generator.uniform(0, 2 * np.pi))
    rates = shape.quiet_rps * np.exp(log_rate + _wander(seconds, shape, generator))
    for begin_s in np.sort(generator.uniform(0, seconds, generator.poisson(shape.bursts_per_day * seconds / _DAY_S))):
        _add_burst(rates, float(begin_s), shape, generator)
    return np.asarray(scale * rates, dtype=float)


def history_counts(days: float, seed: int, shape: History = History(), scale: float = 1.0) -> Ints:
    """Requests in each second of a generated history: a daily pattern, slow wandering and bursts, damped as IPA's."""
    return damped_counts(history_rates(days, seed, shape, scale), seed)


def _wander(seconds: int, shape: History, generator: np.random.Generator) -> Floats:
    """An Ornstein-Uhlenbeck process on a grid of minutes, interpolated to seconds."""
    minutes = seconds // _MINUTE_S + 2
    keep = math.exp(-_MINUTE_S / shape.wander_s)
    steps = generator.normal(0.0, shape.wander, minutes)
    steps[1:] *= math.sqrt(1 - keep**2)
    values = np.empty(minutes)
    value = 0.0
    for i, step in enumerate(steps):
        value = keep * value + step
        values[i] = value
    return np.interp(np.arange(seconds), np.arange(minutes) * _MINUTE_S, values)


def _add_burst(rates: Floats, begin_s: float, shape: History, generator: np.random.Generator) -> None:
    """Add one burst in place: up within 1 to 3 min, 1 to 10 min there, and back exponentially within minutes."""
    height_rps = shape.quiet_rps * shape.burst_height * generator.lognormal(0.0, shape.burst_spread)
    rise_s, stay_s, fall_s = generator.uniform(60, 180), generator.uniform(60, 600), generator.uniform(45, 150)
    first = int(begin_s)
    last = min(len(rates), int(begin_s + rise_s + stay_s + 8 * fall_s))
    t = np.arange(first, last) - begin_s
    rise = np.clip(t / rise_s, 0, 1)
    fall = np.exp(-np.clip(t - rise_s - stay_s, 0, None) / fall_s)
    rates[first:last] += height_rps * rise**2 * (3 - 2 * rise) * fall
