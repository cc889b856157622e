"""Instances to try IPA's solver on, and the same optimum from HiGHS, for benchmarks and tests.

A sum of accuracies makes the problem a mixed-integer linear program as it stands. A product doesn't: HiGHS then bounds
it from above by chords of the exponential of the summed log accuracies, on intervals that are split where the answer
lies until no bound exceeds the best found (branch and bound in space), each step a program of its own.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import highspy
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ipa_energy.ipa.objective import Objective
from ipa_energy.ipa.options import Options, StageOptions
from ipa_energy.ipa.profile import Profile, make_profile
from ipa_energy.ipa.ticks import from_ticks

Floats = NDArray[np.float64]

VIDEO_ACCURACY = {
    "detect": {"yolov5n": 0.457, "yolov5s": 0.568, "yolov5m": 0.641, "yolov5l": 0.673, "yolov5x": 0.689},
    "classify": {"resnet18": 0.6975, "resnet34": 0.7331, "resnet50": 0.7613, "resnet101": 0.7737, "resnet152": 0.7831},
}
"""Published accuracies of the variants of IPA's video pipeline. Their latencies here are made up."""


def made_up_profile(
    stages: int, variants: int, batches: Sequence[int], seed: int, accuracies: dict[str, dict[str, float]] | None = None
) -> Profile:
    """A profile in which accuracy, latency, cores and energy grow with the size of the model, with some scatter."""
    rng = np.random.default_rng(seed)
    rows = []
    names = list(accuracies or [f"stage{s}" for s in range(stages)])
    for stage in names:
        known = (accuracies or {}).get(stage)
        accuracy = list(known.values()) if known else np.sort(rng.uniform(0.5, 0.95, variants)).round(4).tolist()
        base_s = rng.uniform(0.01, 0.05)
        for v, value in enumerate(accuracy):
            cores = int(2 ** rng.integers(0, 4))
            unit_s = base_s * (1 + v * rng.uniform(0.5, 1)) / cores**0.6
            constant, linear, quadratic = unit_s * rng.uniform([0.2, 0.6, 0.0], [1.0, 1.0, 0.002])
            for batch in batches:
                mean_s = constant + linear * batch + quadratic * batch**2
                rows.append(
                    {
                        "stage": stage,
                        "variant": list(known)[v] if known else f"variant{v}",
                        "accuracy": value,
                        "cores": cores,
                        "batch": batch,
                        "latency_mean_s": mean_s,
                        "latency_p99_s": 1.2 * mean_s,
                        "throughput_rps": batch / mean_s,
                        "energy_j": mean_s * cores * rng.uniform(5, 7),
                        "energy_kind": "net",
                        "idle_w": 1.0 * cores,
                    }
                )
    return make_profile(pd.DataFrame(rows))


def shortest_latency_s(options: Options) -> float:
    """Latency of the fastest configuration that sustains the rate, from which an SLA that binds is made."""
    return sum(float(stage.latency[stage.sufficient].min()) for stage in options.stages) / 1e9


@dataclass(frozen=True, slots=True)
class Optimum:
    """What HiGHS found: the objective, -inf where nothing is feasible, and the time inside its own run()."""

    value: float
    run_s: float
    programs: int


def highs_optimum(options: Options, objective: Objective) -> Optimum:
    """The optimum of the objective over all feasible configurations, replicas included."""
    kept = [stage.where(stage.sufficient) for stage in options.stages]
    penalty = [
        objective.penalty(from_ticks(stage.cost), stage.batch.astype(float), from_ticks(stage.energy)) for stage in kept
    ]
    latency = [stage.latency / (options.given.sla_s * 1e9) for stage in kept]
    if objective.accuracy == "rank_sum":
        values = [objective.per_accuracy * stage.rank - p for stage, p in zip(kept, penalty, strict=True)]
        found = _program(values, latency, None, (-math.inf, math.inf))
        return Optimum(found.value, found.run_s, 1)
    return _product(kept, penalty, latency, objective.per_accuracy)


def _product(kept: list[StageOptions], penalty: list[Floats], latency: list[Floats], per_accuracy: float) -> Optimum:
    logs = [np.log(stage.accuracy) for stage in kept]
    best, run_s, programs = -math.inf, 0.0, 0
    intervals = [(sum(float(log.min()) for log in logs), sum(float(log.max()) for log in logs))]
    while intervals:
        low, high = intervals.pop()
        rise = math.exp(high) - math.exp(low)
        slope = per_accuracy * (rise / (high - low) if high > low else 0.0)
        values = [slope * log - p for log, p in zip(logs, penalty, strict=True)]
        found = _program(values, latency, logs, (low, high))
        run_s, programs = run_s + found.run_s, programs + 1
        if not math.isfinite(found.value):
            continue
        bound = found.value + per_accuracy * math.exp(low) - slope * low
        x = sum(float(log[i]) for log, i in zip(logs, found.choice, strict=True))
        p = sum(float(values[i]) for values, i in zip(penalty, found.choice, strict=True))
        best = max(best, per_accuracy * math.exp(x) - p)
        if bound > best + 1e-9 * per_accuracy and high - low > 1e-12:
            intervals += [(low, x), (x, high)] if low + 1e-12 < x < high - 1e-12 else _halves(low, high)
    return Optimum(best, run_s, programs)


def _halves(low: float, high: float) -> list[tuple[float, float]]:
    return [(low, (low + high) / 2), ((low + high) / 2, high)]


@dataclass(frozen=True, slots=True)
class _Found:
    value: float
    choice: list[int]
    run_s: float


def _program(
    values: Sequence[Floats], latency: Sequence[Floats], logs: Sequence[Floats] | None, between: tuple[float, float]
) -> _Found:
    """One option of each stage, the most value, latency at most 1, and the sum of ``logs`` within an interval."""
    sizes = [len(v) for v in values]
    edges = np.concatenate([[0], np.cumsum(sizes)])
    columns = int(edges[-1])
    dense = [(np.concatenate(latency), -highspy.kHighsInf, 1.0)]
    if logs is not None:
        slack = 1e-9 * (1 + abs(between[0]))
        dense.append((np.concatenate(logs), between[0] - slack, between[1] + slack))
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = columns, len(sizes) + len(dense)
    model.sense_ = highspy.ObjSense.kMaximize
    model.col_cost_ = np.concatenate(values)
    model.col_lower_, model.col_upper_ = np.zeros(columns), np.ones(columns)
    model.row_lower_ = np.array([1.0] * len(sizes) + [low for _, low, _ in dense])
    model.row_upper_ = np.array([1.0] * len(sizes) + [high for _, _, high in dense])
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = np.concatenate([edges, columns + columns * np.arange(1, len(dense) + 1)])
    model.a_matrix_.index_ = np.tile(np.arange(columns), 1 + len(dense))
    model.a_matrix_.value_ = np.concatenate([np.ones(columns), *(row for row, _, _ in dense)])
    model.integrality_ = [highspy.HighsVarType.kInteger] * columns
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    highs.setOptionValue("mip_rel_gap", 0.0)
    highs.setOptionValue("mip_abs_gap", 1e-10)
    for tolerance in ("mip_feasibility_tolerance", "primal_feasibility_tolerance", "dual_feasibility_tolerance"):
        highs.setOptionValue(tolerance, 1e-9)
    highs.passModel(model)
    begin = time.perf_counter()
    highs.run()
    run_s = time.perf_counter() - begin
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return _Found(-math.inf, [], run_s)
    x = np.array(highs.getSolution().col_value)
    choice = [int(np.argmax(x[a:b])) for a, b in itertools.pairwise(edges)]
    return _Found(sum(float(v[i]) for v, i in zip(values, choice, strict=True)), choice, run_s)
