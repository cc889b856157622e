"""A look at a sequential study after a round: the records so far go in, ``sequential/round{r}.json`` comes out.

Every panel is judged by the rule of the verdict (:mod:`.judge`) with the look's confidence, what was spent is added up,
and :mod:`.stopping` says whether to go on. Nothing is drawn and no table is made, so that a look costs less than the
analysis that follows the last one. The JSON is validated against ``config/schemas/look.schema.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib
import jsonschema
import pandas as pd
from threadpoolctl import threadpool_limits

from ipa_energy.analysis.cells import in_cells
from ipa_energy.analysis.judge import Judgement, judge
from ipa_energy.analysis.panel import Panel, merged_panels, panels
from ipa_energy.analysis.stopping import Interval, Seen, Spent, Stopping, outcome, rule_of_look, settled
from ipa_energy.analysis.verdict import deciding_cells, estimated_shares, is_no_evidence
from ipa_energy.files import write_text

SCHEMA_VERSION = 1
SCHEMA_FILE = Path(__file__).parents[1] / "config" / "schemas" / "look.schema.json"

Look = dict[str, Any]


def look_at(
    measurements: pd.DataFrame,
    stopping: Stopping,
    number: int,
    rule: Mapping[str, Any],
    *,
    experiment: str,
    seed: int,
    inputs: Mapping[str, tuple[float, float]] | None = None,
    weights: Mapping[str, Any] | None = None,
    before: Sequence[Look] = (),
    workers: int = 1,
) -> Look:
    """The look after round ``number``, JSON-ready. ``measurements`` are of its rounds; later blocks must not be there.

    ``rule`` is the section ``analysis`` of the config, ``inputs`` and ``weights`` as in :func:`.judge.judge`;
    ``before`` are the earlier looks. Raises ValueError for records of a later block.
    """
    blocks = stopping.blocks_after(number)
    if len(measurements) and int(measurements["block"].max()) > blocks:
        raise ValueError(f"records of block {int(measurements['block'].max())} in a look at {blocks} blocks")
    confidence = stopping.confidence_of(number, rule["confidence"])
    strict = rule_of_look(rule, confidence)
    cells = _cells(measurements, strict, seed, inputs, weights, workers)
    counting = [seen_of(cell) for cell in cells if cell["counts"]]
    spent = spent_by(measurements)
    last = spent_by(measurements[measurements["block"] > stopping.blocks_after(number - 1)])
    found = outcome(stopping, number, counting, spent, last)
    for cell in cells:
        cell["settled"], cell["why"] = settled(seen_of(cell), stopping.half_width)
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": experiment,
        "round": number,
        "blocks": blocks,
        "stop": found.stop,
        "because": found.because,
        "reason": found.reason,
        "rule": asdict(stopping) | {"confidence": confidence, "bootstrap": strict["bootstrap"]},
        "spent": _told(spent),
        "last_round": _told(last),
        "cells": cells,
        "looks": [_short(look) for look in before]
        + [{"round": number, "blocks": blocks, "stop": found.stop, "reason": found.reason}],
    }


def seen_of(cell: Mapping[str, Any]) -> Seen:
    """What :mod:`.stopping` asks of a cell of a look."""
    spread, saving = (Interval(**cell[name]) if cell[name] else None for name in ("spread", "saving"))
    place = ", ".join(str(cell[name]) for name in ("workload", "host", "meters", "energy"))
    return Seen(place, cell["decision"], cell["reason"], spread, saving)


def intervals_of(found: Judgement) -> tuple[Interval | None, Interval | None]:
    """The intervals of spread and saving; None where there is none."""
    spread, saved = found.joint.spread, found.savings
    bounds = (saved.saving, saved.saving_lo, saved.saving_hi)
    known = [float(value) for value in bounds if value is not None]
    return (
        Interval(spread.value, spread.lo, spread.hi) if spread else None,
        Interval(*known) if len(known) == len(bounds) else None,
    )


def spent_by(measurements: pd.DataFrame) -> Spent:
    """What the records took; anchors count, and so do measurements that failed, as far as they have figures."""
    seconds = measurements["measurement_s"].astype("float64")
    window_j = measurements["gross_j"].astype("float64")
    outside_j = measurements["mean_w"].astype("float64") * (seconds - measurements["window_s"].astype("float64"))
    return Spent(
        records=len(measurements),
        minutes=float(seconds.sum()) / 60,
        window_j=float(window_j.sum()),
        outside_j=float(outside_j.clip(lower=0).sum()),
        without_minutes=int(seconds.isna().sum()),
        without_joules=int((window_j.isna() | outside_j.isna()).sum()),
    )


def _told(spent: Spent) -> dict[str, Any]:
    return asdict(spent) | {"joules": spent.joules}


def _short(look: Look) -> dict[str, Any]:
    return {name: look[name] for name in ("round", "blocks", "stop", "reason")}


def _cells(
    measurements: pd.DataFrame,
    rule: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, tuple[float, float]] | None,
    weights: Mapping[str, Any] | None,
    workers: int,
) -> list[dict[str, Any]]:
    """Every cell and kind of energy, and whether it counts: those that the verdict's decision must agree on do."""
    flags = list(rule["drop_flags"])
    found = [*panels(measurements, flags), *merged_panels(measurements, flags)]
    jobs = (joblib.delayed(_judged)(panel, rule, seed, inputs, weights) for panel in found)
    judged: Iterable[Judgement] = joblib.Parallel(n_jobs=max(1, min(workers, len(found))))(jobs)
    shares = estimated_shares(in_cells(measurements, rule["drop_flags"]))
    cells = [_cell(panel, one, shares.get(panel.cell)) for panel, one in zip(found, judged, strict=True)]
    counting = {id(cell) for cell in deciding_cells(cells, rule["min_configurations"])[0]}
    for cell in cells:
        cell["counts"] = id(cell) in counting
    return cells


def _judged(
    panel: Panel,
    rule: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, tuple[float, float]] | None,
    weights: Mapping[str, Any] | None,
) -> Judgement:
    with threadpool_limits(1):
        return judge(panel, rule, seed=seed, inputs=inputs, weights=weights)


def _cell(panel: Panel, found: Judgement, share: float | None) -> dict[str, Any]:
    spread, saving = (one and {"value": one.value, "lo": one.lo, "hi": one.hi} for one in intervals_of(found))
    return {
        **panel.key,
        "evidence": panel.evidence,
        "no_evidence": is_no_evidence(panel.evidence, share),
        "n_configurations": len(panel.configurations),
        "decision": found.decision,
        "binding": found.binding,
        "reason": found.reason,
        "spread": spread,
        "saving": saving,
    }


@lru_cache(maxsize=1)
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))


def write_look(path: str | Path, look: Look) -> None:
    """Validate and write atomically. Raises ValueError naming the place where it breaks the schema or holds NaN."""
    error = jsonschema.exceptions.best_match(_validator().iter_errors(look))
    if error is not None:
        raise ValueError(f"refusing to write {path}: {'/'.join(map(str, error.absolute_path))}: {error.message[:300]}")
    write_text(path, json.dumps(look, indent=1, allow_nan=False) + "\n")


def read_look(path: str | Path) -> Look:
    """Read and validate a look. Raises ValueError naming the file and the fault."""
    look = json.loads(Path(path).read_text(encoding="utf-8"))
    error = jsonschema.exceptions.best_match(_validator().iter_errors(look))
    if error is not None:
        raise ValueError(f"{path}: {'/'.join(map(str, error.absolute_path))}: {error.message[:300]}")
    return dict(look)
