"""Accuracy: published figures as fractions, and IPA's two accuracies of a pipeline.

The paper's revision multiplies the fractions of the stages (PAS, the pipeline accuracy score); its first version adds
rank-normalised accuracies. Both are kept. Word error rates enter as 1 - WER and percentages as fractions, and every
such change is told in a remark: with the negative rates of IPA's own table a product turns the order around.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ipa_energy.ipa.ticks import Floats

_PERCENT = 100.0


def as_fractions(stage: str, published: Mapping[str, float], metric: str = "") -> tuple[dict[str, float], str | None]:
    """Accuracy of each variant of a stage as a fraction in (0, 1], and a remark on what was changed, or None.

    Figures are per cent when any of the stage is above 1 in size. Negative ones are word error rates with IPA's sign,
    positive ones with the metric ``wer`` are word error rates too. Raises ValueError for a figure that isn't a number,
    for signs that are mixed, and for a result outside (0, 1].
    """
    for variant, value in published.items():
        if not math.isfinite(value):
            raise ValueError(f"accuracy of {stage}/{variant} is {value}: give the published figure")
    sizes = [abs(value) for value in published.values()]
    negative = [variant for variant, value in published.items() if value < 0]
    if 0 < len(negative) < len(published):
        raise ValueError(
            f"accuracies of stage {stage} have both signs ({negative[0]}: {published[negative[0]]:g}): "
            f"use one metric for all its variants"
        )
    scale = _PERCENT if max(sizes) > 1 else 1.0
    is_error = bool(negative) or metric.strip().lower() == "wer"
    fractions = {}
    for (variant, value), size in zip(published.items(), sizes, strict=True):
        fraction = round((scale - size) / scale if is_error else size / scale, 12)
        if not 0 < fraction <= 1:
            raise ValueError(
                f"accuracy of {stage}/{variant} is {value:g}, which makes {fraction:g} as a fraction: "
                f"it must lie in (0, 1]; a stage of accuracy 0 makes every product 0, so leave such a variant out"
            )
        fractions[variant] = fraction
    done = []
    if is_error:
        done.append(f"taken as word error rates{', negative as in IPA' if negative else ''}, turned into 1 - WER")
    if scale != 1:
        done.append("taken as per cent, divided by 100")
    return fractions, f"accuracies of stage {stage} were {' and '.join(done)}" if done else None


def rank_normalised(accuracies: ArrayLike) -> Floats:
    """Rank of each variant of a stage over the number of variants less one: 0 for the least accurate, 1 for the most.

    Equal accuracies share their mean rank, where IPA's code ranks them in the order of its file. A single variant is 1.
    Shape (variants,).
    """
    values = np.asarray(accuracies, dtype=float)
    if len(values) == 1:
        return np.ones(1)
    _, level, counts = np.unique(values, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts + 1) / 2
    return np.asarray(rank[level] / (len(values) - 1), dtype=float)
