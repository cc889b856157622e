"""How much more data would decide what is inconclusive: repetitions, or configurations where repetitions can't.

The estimate of a squared spread and the noise around it go in (:mod:`.joint`); the numbers come out, as figures and in
words. They hold as far as the present figures do: they are a plan, not a promise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ipa_energy.analysis.panel import Panel

Floats = NDArray[np.float64]

_MOST_REPETITIONS = 1000
_MOST_CONFIGURATIONS = 1_000_000


@dataclass(frozen=True, slots=True)
class Needed:
    """Repetitions, or configurations at the present repetitions, that would decide; None where ever more would not."""

    repetitions: int | None
    configurations: int | None


NOTHING = Needed(None, None)


def data_needed(
    spread: float, values: Floats, noise: float, panel: Panel, *, threshold: float, confidence: float
) -> Needed:
    """What moves the interval off ``threshold``. ``values``, shape (n,), are products of half residuals whose mean is
    ``spread`` squared; ``noise`` is the variance of the residual of one repetition.

    With a true part u of variance s2 and halves whose noise has the variance v = 2 noise / repetitions, the variance
    of the mean product is (Var(u2) + 2 s2 v + v2) / n.
    """
    n, present = len(values), float(np.mean(panel.repetitions))
    quantile = float(stats.norm.ppf((1 + confidence) / 2))
    gap = abs(spread**2 - threshold**2)
    if gap == 0:
        return NOTHING

    def of_noise(repetitions: Floats) -> Floats:
        half = 2 * noise / repetitions
        return np.asarray(2 * spread**2 * half + half**2, dtype=float)

    of_parts = max(0.0, float(values.var()) - float(of_noise(np.array([present]))[0]))
    tried = np.arange(2.0, _MOST_REPETITIONS + 1)
    enough = np.flatnonzero(quantile * np.sqrt((of_parts + of_noise(tried)) / n) < gap)
    configurations = math.ceil(quantile**2 * float(values.var()) / gap**2)
    return Needed(
        max(int(tried[enough[0]]), int(present) + 1) if len(enough) else None,
        max(configurations, n + 1) if configurations <= _MOST_CONFIGURATIONS else None,
    )


def in_words(needed: Needed, panel: Panel) -> str:
    """The same as half a sentence."""
    least, most = int(panel.repetitions.min()), int(panel.repetitions.max())
    # Records that were left out leave some configurations with fewer.
    now = f"{most}" if least == most else f"{panel.repetitions.mean():.1f} on average"
    have = len(panel.configurations)
    if needed.repetitions is not None:
        return f"about {needed.repetitions} repetitions instead of {now} would decide it, if these figures hold"
    if needed.configurations is not None:
        return (
            f"more repetitions alone would not decide it; about {needed.configurations} configurations instead of "
            f"{have} would"
        )
    return "it lies so close to the threshold that more data would hardly decide it"
