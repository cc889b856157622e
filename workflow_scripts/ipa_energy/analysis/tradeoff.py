"""The third kind of evidence: does energy expand the trade-off space of accuracy, latency and cost?

A panel goes in; out come one row about the cell, with a decision, and one row for each of its configurations. Energy
expands the space where it makes configurations optimal that others dominate in accuracy, latency and cost. How many
there are is bounded by tests (:mod:`.membership`), so that noise does not look like information.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.membership import (
    OBJECTIVES,
    Drawn,
    Floats,
    Space,
    Tested,
    drawn,
    generator,
    hypervolume_share,
    on_front,
    space_of,
    tested,
)
from ipa_energy.analysis.outcomes import COUPLED, DECOUPLED, INCONCLUSIVE
from ipa_energy.analysis.panel import Panel
from ipa_energy.analysis.wording import modelled

FIGURES = {
    "accuracy": "accuracy",
    "latency": "latency_p99_s",
    "cost": "usd_per_1000_requests",
    "energy": "energy_j_per_request",
}
"""The objectives and their columns in the table of configurations."""

_WHOLE = (
    *("n_configurations", "draws", "n_front_without", "n_front_without_lo", "n_front_without_hi", "n_front_with"),
    *("n_only_with", "n_above_threshold", "n_only_with_lo", "n_only_with_hi"),
)
COLUMNS = (
    *(*CELL, "energy", "evidence"),
    *_WHOLE,
    *("share", "share_lo", "share_hi", "growth", "growth_lo", "growth_hi"),
    *("expected_front_without", "expected_front_with", "expected_only_with"),
    *("hypervolume_share", "hypervolume_share_lo", "hypervolume_share_hi", "decision", "reason"),
)
_MEMBER_WHOLE = ("front_without", "front_with")
MEMBER_COLUMNS = (
    *(*CELL, "energy", "evidence", "configuration"),
    *FIGURES.values(),
    *_MEMBER_WHOLE,
    *("p_front_without", "p_front_with", "p_only_with", "gain", "gain_lo", "gain_hi", "only_with", "reason"),
)
_TEXT = (*CELL, "energy", "evidence", "configuration", "only_with", "decision", "reason")

NO_REPETITIONS = "one repetition each, so replicate noise is unknown; measure at least 2 blocks"


@dataclass(frozen=True, slots=True)
class TradeOff:
    """The row of a cell, with the keys of :data:`COLUMNS`, and those of its configurations (:data:`MEMBER_COLUMNS`)."""

    summary: dict[str, Any]
    membership: pd.DataFrame


def trade_off(
    panel: Panel,
    *,
    confidence: float,
    gain_threshold: float,
    expansion_threshold: float,
    min_configurations: int,
    draws: int,
    seed: int,
) -> TradeOff:
    """What energy adds to the fronts of ``panel``.

    A configuration is optimal only because of energy when others dominate it in accuracy, latency and cost, and all
    that are at least as good there use more energy by more than the fraction ``gain_threshold``. The row counts:

    - ``n_front_without``, ``n_front_with``, ``n_only_with``: the fronts of the means, without any threshold;
    - ``n_above_threshold``: optimal only because of energy, by the means; ``n_only_with_lo``, of which that is certain,
      and ``n_only_with_hi``, of which it can't be ruled out; ``n_front_without_lo`` and ``_hi`` likewise;
    - ``share`` = n_above_threshold / n_configurations and ``growth`` = n_above_threshold / n_front_without. Bounds of
      the growth allow for noise in both numbers; each holds with ``confidence`` by itself;
    - ``expected_*``: sizes of fronts of ``draws`` means with noise added (see :func:`.membership.drawn`);
    - ``hypervolume_share``: how much of the hypervolume of the front with energy the front without it reaches, all
      objectives scaled to 0..1 over the cell (logarithms, but for accuracy), reference point 1.1. Its interval holds
      the middle ``confidence`` of the draws, and the estimate.

    ``decoupled`` when at least one is certain, which noise in a space without any brings about in at most 1 -
    ``confidence`` of studies, and growth reaches ``expansion_threshold``: the test says whether, the estimate how much
    (bounds that hold for all configurations at once would rarely confirm a tenth). ``coupled`` when growth_hi stays
    below it; else ``inconclusive``.

    In the rows of configurations, figures are means (geometric ones but for accuracy); ``gain`` is the fraction by
    which the energy of the most frugal configuration at least as good in all else exceeds this one's, null where there
    is none. Its bounds hold for each configuration by itself; null where nothing bounds it. ``only_with`` is yes, no or
    open. ``draws`` = 0 leaves out what is drawn.
    """
    space = space_of(panel)
    cell = panel.key | {"evidence": panel.evidence}
    missing = [name for name in OBJECTIVES if name not in space.names]
    n = len(space.points)
    if n == 0 or missing:
        reason = f"no usable record has a figure for {' and '.join(missing)}" if n else _why_empty(panel)
        empty = cell | {"n_configurations": n, "decision": INCONCLUSIVE, "reason": reason}
        return TradeOff(dict.fromkeys(COLUMNS) | empty, _typed([], MEMBER_COLUMNS))
    without, with_energy = on_front(space.points[:, :-1]), on_front(space.points)
    tests = tested(space, float(np.log1p(gain_threshold)), confidence)
    rolled = drawn(space, draws, generator(seed, *panel.cell, panel.energy, "fronts"))
    summary: dict[str, Any] = dict.fromkeys(COLUMNS) | cell
    summary |= {
        "n_configurations": n,
        "draws": rolled.draws if rolled else 0,
        "n_front_without": int(without.sum()),
        "n_front_with": int(with_energy.sum()),
        "n_only_with": int((with_energy & ~without).sum()),
        "n_above_threshold": int((~without & (tests.gain > np.log1p(gain_threshold))).sum()),
        "hypervolume_share": hypervolume_share(space.points, without, with_energy),
    }
    summary |= _bounds(summary, tests, known=space.degrees > 0)
    if rolled:
        summary |= _expected(rolled, summary["hypervolume_share"], confidence)
    decision, reason = _decision(summary, space, expansion_threshold, min_configurations)
    summary |= {"decision": decision, "reason": reason}
    return TradeOff(summary, _members(panel, space, tests, rolled, without=without, with_energy=with_energy))


def _why_empty(panel: Panel) -> str:
    if panel.left_out:
        return f"all {panel.left_out} records are left out: {panel.why_left_out}"
    return f"no usable record has both a {panel.energy} energy and figures for all metrics"


def _bounds(summary: dict[str, Any], tests: Tested, *, known: bool) -> dict[str, Any]:
    n, optimal = summary["n_configurations"], summary["n_front_without"]
    found = {
        "share": summary["n_above_threshold"] / n,
        "growth": summary["n_above_threshold"] / optimal,
    }
    if not known:
        return found
    lo, hi = int(tests.yes.sum()), int((~tests.no).sum())
    fewest, most = max(1, int(tests.optimal.sum())), int((~tests.dominated).sum())
    return found | {
        "n_front_without_lo": fewest,
        "n_front_without_hi": most,
        "n_only_with_lo": lo,
        "n_only_with_hi": hi,
        "share_lo": lo / n,
        "share_hi": hi / n,
        "growth_lo": lo / most,
        "growth_hi": hi / fewest,
    }


def _expected(rolled: Drawn, share: float, confidence: float) -> dict[str, Any]:
    lo, hi = np.quantile(rolled.hypervolume, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {
        "expected_front_without": float(rolled.without.sum()),
        "expected_front_with": float(rolled.with_energy.sum()),
        "expected_only_with": float(rolled.only_with.sum()),
        "hypervolume_share_lo": min(float(lo), share),
        "hypervolume_share_hi": max(float(hi), share),
    }


def _decision(summary: dict[str, Any], space: Space, threshold: float, least: int) -> tuple[str, str]:
    n = len(space.points)
    if n < least:
        return INCONCLUSIVE, f"{n} configuration{'s' * (n > 1)}; the rule asks for {least}"
    if space.degrees == 0:
        return INCONCLUSIVE, NO_REPETITIONS
    lo, hi = summary["growth_lo"], summary["growth_hi"]
    text = (
        f"{modelled(summary['evidence'])}energy makes {summary['n_only_with_lo']} to {summary['n_only_with_hi']} "
        f"configurations optimal beside {summary['n_front_without']} that are so without it, a growth of "
        f"{summary['growth']:.2f} [{lo:.2f}, {hi:.2f}]"
    )
    if summary["n_only_with_lo"] > 0 and summary["growth"] >= threshold:
        return DECOUPLED, f"{text}: some are certain, and the estimate is at or above {threshold:g}"
    if hi < threshold:
        return COUPLED, f"{text}, upper bound below {threshold:g}"
    return INCONCLUSIVE, f"{text} reaches across {threshold:g}; more repetitions or longer windows are needed"


def _members(
    panel: Panel, space: Space, tests: Tested, rolled: Drawn | None, *, without: Any, with_energy: Any
) -> pd.DataFrame:
    n = len(space.points)
    figures = {
        column: -space.points[:, k] if name == "accuracy" else np.exp(space.points[:, k])
        for k, (name, column) in enumerate(FIGURES.items())
    }
    names = ("p_front_without", "p_front_with", "p_only_with")
    shares = (rolled.without, rolled.with_energy, rolled.only_with) if rolled else (None, None, None)
    frame = pd.DataFrame(
        panel.key
        | {"evidence": panel.evidence, "configuration": panel.configurations}
        | figures
        | {"front_without": without.astype(int), "front_with": with_energy.astype(int)}
        | dict(zip(names, shares, strict=True))
        | {
            "gain": _fraction(tests.gain),
            "gain_lo": _fraction(tests.gain_lo),
            "gain_hi": _fraction(tests.gain_hi),
            "only_with": np.where(tests.yes, "yes", np.where(tests.no, "no", "open")),
            "reason": NO_REPETITIONS if space.degrees == 0 else None,
        },
        index=range(n),
    )
    return _typed(frame, MEMBER_COLUMNS)


def _fraction(log_ratio: Floats) -> Floats:
    return np.where(np.isfinite(log_ratio), np.expm1(np.where(np.isfinite(log_ratio), log_ratio, 0.0)), np.nan)


def _typed(rows: pd.DataFrame | list[dict[str, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    kinds = dict.fromkeys(_TEXT, "str") | dict.fromkeys((*_WHOLE, *_MEMBER_WHOLE), "Int64")
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.astype({name: kinds.get(name, "float64") for name in columns})


def tradeoff_table(results: Iterable[TradeOff]) -> pd.DataFrame:
    """The rows of cells: the columns of :data:`COLUMNS`."""
    return _typed([result.summary for result in results], COLUMNS)


def membership_table(results: Iterable[TradeOff]) -> pd.DataFrame:
    """The rows of all configurations of all cells: the columns of :data:`MEMBER_COLUMNS`."""
    frames = [result.membership for result in results if len(result.membership)]
    return pd.concat(frames, ignore_index=True) if frames else _typed([], MEMBER_COLUMNS)
