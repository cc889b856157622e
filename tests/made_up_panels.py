"""Panels of made-up configurations whose true metrics and energies are known, for tests of what is built on panels."""

import numpy as np
import pandas as pd

from ipa_energy.analysis.coupling import METRICS
from ipa_energy.analysis.panel import panel_of

CELL = ("made", "saturated", "host", "random", "rapl")
COLUMNS = {metric.name: metric.column for metric in METRICS}


def panel(truth, *, repetitions=3, noise=0.0, energy_noise=None, seed=0):
    """A panel of configurations whose true figures ``truth`` maps by name of metric, ``energy`` and ``batch``.

    Latency, and throughput with cost against it, scatter by ``noise``, energy by ``energy_noise``, log-normally.
    ``repetitions`` may differ from configuration to configuration.
    """
    rng = np.random.default_rng(seed)
    n = len(truth["energy"])
    counts = np.broadcast_to(repetitions, n)
    at = np.repeat(np.arange(n), counts)
    block = np.concatenate([np.arange(count) for count in counts])
    table = {COLUMNS[name]: np.asarray(values, dtype=float)[at] for name, values in truth.items() if name in COLUMNS}
    slower, dearer, hotter = rng.normal(size=(3, len(at)))
    table["latency_p99_s"] = table["latency_p99_s"] * np.exp(noise * slower)
    table["throughput_rps"] = table["throughput_rps"] * np.exp(noise * dearer)
    table["usd_per_1000_requests"] = table["usd_per_1000_requests"] * np.exp(-noise * dearer)
    energy = np.asarray(truth["energy"], dtype=float)[at]
    energy = energy * np.exp((noise if energy_noise is None else energy_noise) * hotter)
    rows = pd.DataFrame(table | {"net_j_per_request": energy})
    rows = rows.reindex(columns=[*dict.fromkeys(COLUMNS.values()), "net_j_per_request"])
    rows["configuration"] = [f"c{i:05}" for i in at]
    rows["experiment"], rows["block"], rows["evidence"] = "made", block, "measured"
    rows["order"] = rng.permutation(len(at))
    if "batch" in truth:
        rows["detect.batch"] = np.asarray(truth["batch"])[at]
    return panel_of(rows, CELL, "net")


def population(n, *, own=0.0, levels=4, seed=0, energy=lambda latency, cost: latency**0.5 * cost**0.5):
    """Configurations of which many are near each other: ``levels`` in each metric, with 2 % between neighbours.

    Accuracy buys latency and cost. Energy is a function of latency and cost, times an own part of the size ``own``.
    """
    rng = np.random.default_rng(seed)
    accuracy = rng.integers(levels, size=n)
    trade = rng.integers(levels, size=n)
    latency = 0.1 * 1.5**accuracy * 2.0**trade * np.exp(0.02 * rng.normal(size=n))
    cost = 0.01 * 1.3**accuracy * 1.6**-trade * np.exp(0.02 * rng.normal(size=n))
    own_part = np.exp(own * rng.normal(size=n))
    return {
        "accuracy": 0.5 + 0.05 * accuracy,
        "latency_p99": latency,
        "latency_mean": 0.8 * latency,
        "cost": cost,
        "cores": 1.0 + trade,
        "throughput": (1.0 + trade) * 0.04 / 3.6 / cost,
        "batch": 2 ** rng.integers(3, size=n),
        "energy": 5.0 * energy(latency / 0.1, cost / 0.01) * own_part,
    }
