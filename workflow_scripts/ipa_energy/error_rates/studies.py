"""A simulated study: repetitions of a grid in complete blocks, with noise, block effects and drift, as a panel.

What the records of such a study would become in the measurements table is made directly, and goes through the same
:func:`ipa_energy.analysis.panel.panel_of` as the table's rows do.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ipa_energy.analysis.panel import Panel, panel_of
from ipa_energy.error_rates.service import Grid, cost_of
from ipa_energy.error_rates.truths import Truth, true_log_energy

Floats = NDArray[np.float64]

CELL = ("video", "saturated", "simulated", "made up", "simulated")
ENERGY = "gross"

_TAIL_DEGREES = 3
"""Degrees of freedom of Student's t for noise with heavy tails, scaled to a standard deviation of 1."""

_UNEVEN = 0.5
"""Standard deviation of the log size of the noise over configurations where it is uneven."""


def study(truth: Truth, grid: Grid, *, noise: float, repetitions: int, rng: np.random.Generator) -> pd.DataFrame:
    """The rows of a simulated study in run order, with the columns of the measurements table that a panel takes.

    ``noise`` is the standard deviation of the log of one repetition's energy and p99 latency; mean latency and
    throughput have half of it, and cost that of throughput. A slow repetition is slow in both latencies and in
    throughput (correlations 0.8 and 0.5); energy goes with throughput by a correlation drawn from 0 to 0.7. Blocks
    differ by half the noise. Raises ValueError for a ``noise`` below 0 or fewer than 1 ``repetitions``.
    """
    if noise < 0 or repetitions < 1:
        raise ValueError(f"noise {noise} and {repetitions} repetitions: give a noise from 0 on and at least 1 of these")
    n = len(grid.configurations)
    energy = true_log_energy(truth, grid, rng)
    first = rng.permutation(n)
    orders = [first if truth.same_order else rng.permutation(n) for _ in range(repetitions)]
    at = np.concatenate(orders)
    block = np.repeat(np.arange(repetitions), n)
    slow, apart, slack, own = _scatter(truth, (4, len(at)), rng)
    size = noise * _sizes(truth, n, rng)[at]
    shift = 0.5 * noise * rng.normal(size=(2, repetitions))[:, block]
    served = 0.5 * slow + np.sqrt(0.75) * slack
    shared = rng.uniform(0, 0.7)
    through = np.arange(len(at)) / len(at)
    within = (np.arange(len(at)) % n) / n
    power = through * np.log1p(truth.drift) + within * np.log1p(truth.warming)
    latency = np.log(grid.latency_p99_s)[at] + size * slow + shift[0]
    mean = np.log(grid.latency_mean_s)[at] + 0.5 * size * (0.8 * slow + 0.6 * apart) + 0.5 * shift[0]
    rate = np.exp(np.log(grid.throughput_rps)[at] - 0.5 * size * served - 0.5 * shift[0])
    joules = energy[at] + size * (shared * served + np.sqrt(1 - shared**2) * own) + shift[1] + power
    cores = grid.cores[at]
    knobs = pd.DataFrame([c.knobs() for c in grid.configurations]).iloc[at].reset_index(drop=True)
    figures = pd.DataFrame(
        {
            "experiment": "simulated",
            "configuration": np.array([c.id for c in grid.configurations])[at],
            "block": block + 1,
            "order": np.arange(len(at)),
            "evidence": "measured",
            "pas": grid.accuracy[at],
            "latency_p99_s": np.exp(latency),
            "latency_mean_s": np.exp(mean),
            "throughput_rps": rate,
            "cores": cores,
            "usd_per_1000_requests": cost_of(cores, rate),
            "gross_j_per_request": np.exp(joules),
        }
    )
    return pd.concat([figures, knobs], axis=1)


def panel(rows: pd.DataFrame) -> Panel:
    """The panel of a simulated study's rows."""
    return panel_of(rows, CELL, ENERGY)


def _scatter(truth: Truth, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    if truth.tails == "heavy":
        return np.asarray(rng.standard_t(_TAIL_DEGREES, shape) / np.sqrt(_TAIL_DEGREES / (_TAIL_DEGREES - 2)))
    return np.asarray(rng.normal(size=shape))


def _sizes(truth: Truth, n: int, rng: np.random.Generator) -> Floats:
    if not truth.uneven:
        return np.ones(n)
    sizes = np.exp(_UNEVEN * rng.normal(size=n))
    return np.asarray(sizes / np.sqrt(np.mean(sizes**2)))
