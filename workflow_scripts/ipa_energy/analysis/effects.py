"""Effect of each knob on each metric, as a ratio between matched configurations: the numbers of the deck's figure.

The configurations table goes in. For every knob that varies, each level is compared with the reference level over all
pairs of configurations that differ in this knob alone; the effect is the geometric mean of the ratios. Pairing keeps
the comparison fair when some configurations are missing, which comparing plain means would not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ipa_energy.analysis.aggregate import t_interval
from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.tables import varying_knobs
from ipa_energy.configuration import PLATFORM_KNOBS, Platform

METRICS: Mapping[str, str] = {
    "accuracy": "pas",
    "latency_p99": "latency_p99_s",
    "cost": "usd_per_1000_requests",
    "gross_energy": "gross_j_per_request",
    "net_energy": "net_j_per_request",
}
"""The metrics of the figure, and their columns."""

COLUMNS = [*CELL, "knob", "reference", "level", "metric", "n_pairs", "ratio", "ratio_lo", "ratio_hi", "reason"]


def levels(configurations: pd.DataFrame, knob: str) -> list[Any]:
    """The levels of a knob, reference first: numbers ascending, variants by accuracy, platform knobs default first.

    Variants of unknown accuracy come last, by name.
    """
    present = configurations[knob].dropna().unique().tolist()
    if knob in PLATFORM_KNOBS:
        return sorted(present, key=lambda level: (level != getattr(Platform(), knob), level))
    if knob.endswith(".variant"):
        column = f"{knob.removesuffix('.variant')}.accuracy"
        known = (
            configurations[column].groupby(configurations[knob]).mean().to_dict() if column in configurations else {}
        )
        return sorted(
            present, key=lambda level: (known.get(level, math.nan) != known.get(level), known.get(level), level)
        )
    return sorted(present)


def knob_effects(configurations: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """One row per cell, varying knob, level (but the reference) and metric.

    ``ratio`` is the geometric mean over ``n_pairs`` matched pairs of the metric at the level divided by the metric at
    the reference; ``ratio_lo`` and ``ratio_hi`` its t-interval on the log scale over the pairs, which is wide where the
    effect depends on the other knobs; null for fewer than two pairs. Pairs with a figure that is not positive (net
    energy can be negative within its uncertainty) have no ratio, and ``reason`` counts them.
    """
    rows: list[dict[str, Any]] = []
    for cell, group in configurations.groupby(CELL, sort=True):
        knobs = varying_knobs(group)
        for knob in knobs:
            reference, *others = levels(group, knob)
            context = [name for name in knobs if name != knob]
            for metric, column in METRICS.items():
                by_level = group.pivot(index=["pipeline", *context], columns=knob, values=column)
                for level in others:
                    row = dict(zip(CELL, cell, strict=True)) | {"knob": knob, "metric": metric}
                    row |= {"reference": str(reference), "level": str(level)}
                    rows.append(row | _effect(by_level[level], by_level[reference], confidence))
    frame = pd.DataFrame(rows, columns=COLUMNS)
    kinds = {"n_pairs": "Int64", "ratio": "float64", "ratio_lo": "float64", "ratio_hi": "float64"}
    return frame.astype(dict.fromkeys(COLUMNS, "str") | kinds)


def _effect(at_level: pd.Series, at_reference: pd.Series, confidence: float) -> dict[str, Any]:
    pairs = pd.DataFrame({"level": at_level, "reference": at_reference}).dropna().astype("float64")
    positive = pairs[(pairs > 0).all(axis=1)]
    lost = len(pairs) - len(positive)
    reason = f"{lost} of {len(pairs)} pairs have a figure that is not positive" if lost else None
    if positive.empty:
        return {"n_pairs": 0, "reason": reason or "no pair of configurations has both figures"}
    logs = np.log(positive["level"].to_numpy() / positive["reference"].to_numpy())
    mean, lo, hi = t_interval(logs.tolist(), confidence)
    return {
        "n_pairs": len(positive),
        "ratio": None if mean is None else math.exp(mean),
        "ratio_lo": None if lo is None else math.exp(lo),
        "ratio_hi": None if hi is None else math.exp(hi),
        "reason": reason,
    }
