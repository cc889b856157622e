"""Panels of known truth, straight from points and noise: for tests of what is built on panels."""

import numpy as np
import pandas as pd

from ipa_energy.analysis.panel import Panel

NAMES = ("accuracy", "latency_p99", "cost", "energy")


def panel_of_points(points, noise=0.0, repetitions=3, seed=0, correlation=0.0, names=NAMES):
    """The panel of configurations whose true accuracy and log latency, cost and energy are ``points``, shape (n, 4).

    ``noise`` is the standard deviation of a repetition, one number for latency, cost and energy or one for each of the
    four; ``correlation`` is that of latency's and cost's. ``repetitions`` is one number or one for each configuration.
    """
    rng = np.random.default_rng(seed)
    points = np.atleast_2d(np.asarray(points, dtype=float))
    n, k = points.shape
    deviation = np.array([0.0, noise, noise, noise]) if np.ndim(noise) == 0 else np.asarray(noise, dtype=float)
    error = rng.standard_normal((n, int(np.max(repetitions)), 4))
    error[:, :, 2] = correlation * error[:, :, 1] + np.sqrt(1 - correlation**2) * error[:, :, 2]
    values = points[:, None, :] + (error * deviation)[:, :, [NAMES.index(name) for name in names]]
    repetitions = np.broadcast_to(repetitions, n).astype(np.int64)
    values[np.arange(values.shape[1]) >= repetitions[:, None]] = np.nan
    means = np.nanmean(values, axis=1)
    degrees = int(repetitions.sum()) - n
    off = np.nan_to_num(values - means[:, None]).reshape(-1, k)
    off[:, np.abs(off).max(axis=0) < 1e-12] = 0.0
    return Panel(
        cell=("video", "saturated", "host-a", "random", "rapl"),
        energy="net",
        evidence="measured",
        configurations=tuple(f"c{i}" for i in range(n)),
        knobs=pd.DataFrame(index=range(n)),
        names=names,
        values=values,
        repetitions=repetitions,
        means=means,
        within=off.T @ off / degrees if degrees else np.full((k, k), np.nan),
        degrees=degrees,
        trends=(),
        same_order=False,
        left_out=0,
    )


def points_of(truth, n, seed=0):
    """True points of ``n`` random configurations, shape (n, 4); latency and cost partly contradict each other.

    ``coupled``: energy grows with latency and nothing else; ``independent``: drawn by itself; ``opposed``: falls with
    latency.
    """
    rng = np.random.default_rng([seed, n])
    accuracy = rng.integers(3, 12, n) / 30
    latency = rng.normal(0, 0.8, n) + 3 * accuracy
    cost = rng.normal(0, 0.5, n) - 0.5 * latency
    energy = {"coupled": 0.8 * latency, "independent": rng.normal(0, 0.6, n), "opposed": -0.8 * latency}[truth]
    return np.column_stack([accuracy, latency, cost, energy])
