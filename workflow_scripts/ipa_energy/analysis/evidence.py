"""All evidence beyond pairs, cell by cell: every panel is judged, and what describes it is put into tables.

The measurements table, the rule and the inputs of the config go in; out come the judgements and the tables that the
workflow writes. Panels are independent of each other and spread over ``workers`` processes; what comes out does not
depend on their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import joblib
import pandas as pd
from threadpoolctl import threadpool_limits

from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.joint import SUMMARY_COLUMNS
from ipa_energy.analysis.joint_details import partial_table, residual_knobs
from ipa_energy.analysis.judge import Judgement, judge
from ipa_energy.analysis.objectives import objective_table, smallest_sufficient
from ipa_energy.analysis.panel import Panel, merged_panels, panels
from ipa_energy.analysis.tradeoff import membership_table, tradeoff_table


@dataclass(frozen=True, slots=True)
class Judged:
    """One panel with its judgement and the tables that describe it."""

    panel: Panel
    judgement: Judgement
    objectives: pd.DataFrame
    sufficient: pd.DataFrame
    partial: pd.DataFrame
    left: pd.DataFrame

    @property
    def key(self) -> tuple[str, ...]:
        """Cell and kind of energy."""
        return (*self.panel.cell, self.panel.energy)


def judge_all(
    measurements: pd.DataFrame,
    rule: Mapping[str, Any],
    *,
    seed: int,
    inputs: Mapping[str, tuple[float, float]] | None = None,
    weights: Mapping[str, Any] | None = None,
    workers: int = 1,
) -> list[Judged]:
    """Judge every panel of the measurements, in the order of cells, gross before net, merged hosts last.

    ``rule`` is the section ``analysis`` of the config; ``inputs`` and ``weights`` as in :func:`.judge.judge`.
    """
    flags = list(rule["drop_flags"])
    found = [*panels(measurements, flags), *merged_panels(measurements, flags)]
    jobs = (joblib.delayed(_judged)(panel, rule, seed, inputs, weights) for panel in found)
    return list(joblib.Parallel(n_jobs=max(1, min(workers, len(found))))(jobs))


def _judged(
    panel: Panel,
    rule: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, tuple[float, float]] | None,
    weights: Mapping[str, Any] | None,
) -> Judged:
    with threadpool_limits(1):  # workers, and small matrices, only get in each other's way with more
        return _judged_alone(panel, rule, seed, inputs, weights)


def _judged_alone(
    panel: Panel,
    rule: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, tuple[float, float]] | None,
    weights: Mapping[str, Any] | None,
) -> Judged:
    judgement = judge(panel, rule, seed=seed, draws=rule["draws"], inputs=inputs, weights=weights)
    objectives = objective_table(panel, confidence=rule["confidence"])
    matched = judgement.joint.matched
    return Judged(
        panel,
        judgement,
        objectives,
        smallest_sufficient(objectives, rule["delta_threshold"]),
        partial_table(panel, rule["confidence"]),
        residual_knobs(panel, matched),
    )


def tables(judged: Iterable[Judged]) -> dict[str, pd.DataFrame]:
    """The tables, by the names of their files without the ending: from ``joint`` to ``decisions``."""
    found = list(judged)
    return {
        "joint": _joint_table(found),
        "matched": _celled(found, [j.judgement.joint.matched for j in found], MATCHED),
        "partial": _celled(found, [j.partial for j in found], PARTIAL),
        "residual_knobs": _celled(found, [j.left for j in found], LEFT),
        "tradeoff": tradeoff_table(j.judgement.trade_off for j in found),
        "membership": membership_table(j.judgement.trade_off for j in found),
        "objectives": _stacked([j.objectives for j in found]),
        "sufficient": _stacked([j.sufficient for j in found]),
        "decisions": _stacked([j.judgement.savings.rows for j in found]),
    }


MATCHED = ("configuration", "ratio", "ratio_lo", "ratio_hi")
PARTIAL = ("metric", "partial_r", "partial_r_lo", "partial_r_hi", "p", "vif", "reason")
LEFT = ("knob", "df", "omega2", "p", "favours", "saving", "reason")


def _joint_table(found: list[Judged]) -> pd.DataFrame:
    rows = [j.panel.key | {"evidence": j.panel.evidence} | j.judgement.joint.summary for j in found]
    frame = pd.DataFrame(rows, columns=[*CELL, "energy", "evidence", *SUMMARY_COLUMNS])
    whole = [name for name in SUMMARY_COLUMNS if name.startswith("n_") or name.endswith("_needed")]
    text = [*CELL, "energy", "evidence", "metrics", "decision", "decision_reason"]
    rest = [name for name in SUMMARY_COLUMNS if name not in whole and name not in text]
    return frame.astype(dict.fromkeys(text, "str") | dict.fromkeys(whole, "Int64") | dict.fromkeys(rest, "float64"))


def _celled(found: list[Judged], parts: list[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    """One table of many, each under the columns of its cell."""
    told = [
        part.assign(**j.panel.key, evidence=j.panel.evidence) for j, part in zip(found, parts, strict=True) if len(part)
    ]
    names = [*CELL, "energy", "evidence", *columns]
    return pd.concat(told, ignore_index=True)[names] if told else pd.DataFrame(columns=names)


def _stacked(parts: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*CELL, "energy", "evidence"])
