"""Arrival times: from requests per second, or from a rate, to the moments at which requests come. Seeded arrays.

Two questions are told apart. Given how many requests came in each second, a Poisson process puts them at independent
uniform moments of it: :func:`arrivals_in_counts`, which keeps the counts of a trace. Given only a rate, their numbers
are random too: :func:`poisson_arrivals` and, for a rate that is a function of time, :func:`thinned_arrivals`. IPA's
load tester draws independent exponential offsets from the begin of each second instead, which crowds requests there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ipa_energy.ipa.random_streams import stream
from ipa_energy.ipa.ticks import Floats, Ints
from ipa_energy.serving.arrivals import Seed


def arrivals_in_counts(counts: Ints, seed: Seed) -> Floats:
    """Rising arrival times in s with ``counts[i]`` of them in [i, i + 1); shape (sum of counts,).

    Within a second they are order statistics of uniform draws, which is a Poisson process given its counts.
    """
    array = np.asarray(counts)
    if array.ndim != 1 or (array < 0).any() or (array % 1 != 0).any():
        raise ValueError("a trace is one whole number of requests, 0 or more, for each second")
    seconds = np.repeat(np.arange(len(array), dtype=float), array.astype(np.int64))
    times = seconds + stream(seed, "arrivals").random(len(seconds))
    # In floating point 1199 + 0.99...9 can round to 1200, which is the next second.
    return np.sort(np.minimum(times, np.nextafter(seconds + 1, 0)))


def poisson_arrivals(rates_rps: Floats, seed: Seed) -> Floats:
    """Rising arrival times in s of a Poisson process whose rate is ``rates_rps[i]`` in second i.

    Change of time: a process of rate 1 is mapped through the inverse of the cumulative rate (Cinlar 1975), which is
    exact. Raises ValueError for a rate below 0.
    """
    rates = np.asarray(rates_rps, dtype=float)
    if rates.ndim != 1 or not np.all(np.isfinite(rates) & (rates >= 0)):
        raise ValueError("a rate is one number of requests per second, 0 or more, for each second")
    cumulative = np.concatenate([[0.0], np.cumsum(rates)])
    generator = stream(seed, "arrivals")
    unit = np.empty(0)
    while len(unit) == 0 or unit[-1] <= cumulative[-1]:
        size = int(1.1 * cumulative[-1] + 10 * cumulative[-1] ** 0.5) + 16
        start = unit[-1] if len(unit) else 0.0
        unit = np.concatenate([unit, start + np.cumsum(generator.exponential(size=size))])
    unit = unit[unit < cumulative[-1]]
    second = np.searchsorted(cumulative, unit, side="right") - 1
    within = (unit - cumulative[second]) / rates[second]
    return np.asarray(np.minimum(second + within, np.nextafter(second + 1.0, 0)), dtype=float)


def thinned_arrivals(rate_rps: Callable[[Floats], Floats], bound_rps: float, duration_s: float, seed: Seed) -> Floats:
    """Rising arrival times in s of a Poisson process on [0, ``duration_s``) whose rate is a function of time.

    Candidates of the constant rate ``bound_rps`` are kept with probability rate / bound (Lewis and Shedler 1979), which
    is exact as long as the rate never exceeds the bound. Raises ValueError where it does, or is below 0.
    """
    generator = stream(seed, "arrivals")
    candidates = np.sort(generator.uniform(0.0, duration_s, generator.poisson(bound_rps * duration_s)))
    rates = np.asarray(rate_rps(candidates), dtype=float)
    bad = ~((rates >= 0) & (rates <= bound_rps))
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(
            f"the rate is {rates[i]:g} requests/s at {candidates[i]:g} s: it must lie between 0 and the bound, "
            f"{bound_rps:g}"
        )
    return np.asarray(candidates[generator.random(len(candidates)) * bound_rps < rates], dtype=float)
