"""Made-up grids of a video-like pipeline and the true metrics of their configurations, without noise.

A model of service in outline: the work of a variant grows with its rank, batches amortise part of it, threads speed it
up with diminishing returns, the slowest stage sets the throughput, and latency is either the time of a batch through
both stages or, in a closed loop, what Little's law makes of the requests in flight. Which levels the knobs have, and
every parameter, is drawn anew for each grid, so that no result hangs on one of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipa_energy.configuration import Configuration, StageKnobs, grid
from ipa_energy.cost import usd_per_1000_requests, usd_per_hour

Floats = NDArray[np.float64]

PRICES = {"core_hour_usd": 0.04, "gpu_hour_usd": 2.5}
STAGES = ("detect", "classify")

NARROW_SPAN = 1.2
"""Largest over smallest latency, and cost, of a narrow grid."""

_LEAST = {
    "detect.variant": 2,
    "classify.variant": 2,
    "detect.batch": 2,
    "classify.batch": 1,
    "detect.replicas": 1,
    "classify.replicas": 1,
    "detect.threads": 1,
    "precision": 2,
}
_MOST = {
    "detect.variant": 6,
    "classify.variant": 6,
    "detect.batch": 4,
    "classify.batch": 4,
    "detect.replicas": 3,
    "classify.replicas": 3,
    "detect.threads": 2,
    "precision": 2,
}
LARGEST = math.prod(_MOST.values())
LARGEST_NARROW = math.prod(most for name, most in _MOST.items() if "replicas" not in name and "threads" not in name)
"""Configurations of the largest grids; in a narrow one replicas and threads do not vary."""

_BATCHES = (1, 2, 4, 8, 16)
_PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True, slots=True)
class Grid:
    """Configurations and their true metrics, each of shape (n,); ``accuracies`` are those of the stages, by stage."""

    configurations: tuple[Configuration, ...]
    accuracies: Mapping[str, Floats]
    latency_p99_s: Floats
    latency_mean_s: Floats
    throughput_rps: Floats
    cores: Floats

    @property
    def accuracy(self) -> Floats:
        """The product over the stages (PAS)."""
        return np.asarray(np.prod(list(self.accuracies.values()), axis=0), dtype=float)

    @property
    def usd_per_1000_requests(self) -> Floats:
        """US$ per 1000 requests at :data:`PRICES`."""
        return cost_of(self.cores, self.throughput_rps)


def cost_of(cores: Floats, throughput_rps: Floats) -> Floats:
    """US$ per 1000 requests at :data:`PRICES`, shape (n,)."""
    pairs = zip(cores.tolist(), throughput_rps.tolist(), strict=True)
    return np.array([usd_per_1000_requests(usd_per_hour(int(c), 0, PRICES), rate) or np.nan for c, rate in pairs])


def make_grid(
    n: int, rng: np.random.Generator, *, narrow: bool = False, twins: bool = False, whole: bool = False
) -> Grid:
    """A grid of ``n`` configurations, drawn without replacement from the smallest full factorial that holds as many.

    A ``whole`` one is that factorial itself, of ``n`` configurations or some more. A ``narrow`` one spans a factor of
    :data:`NARROW_SPAN` in latency and in cost: the logarithms of both are squeezed.
    In one of ``twins`` the knob ``precision`` changes no metric, so that configurations come in pairs.
    Raises ValueError for an ``n`` below 1 or above :data:`LARGEST` (narrow: :data:`LARGEST_NARROW`).
    """
    largest = LARGEST_NARROW if narrow else LARGEST
    if not 1 <= n <= largest:
        raise ValueError(f"{n} configurations were asked for: a {'narrow ' * narrow}grid has 1 to {largest}")
    levels = _levels(n, rng, narrow=narrow)
    variants = {stage: [f"{stage}{i}" for i in range(levels[f"{stage}.variant"])] for stage in STAGES}
    knobs = {
        stage: {
            "variant": variants[stage],
            "batch": sorted(rng.choice(_BATCHES, levels[f"{stage}.batch"], replace=False).tolist()),
            "replicas": list(range(1, 1 + levels[f"{stage}.replicas"])),
            "threads": [2**i for i in range(levels.get(f"{stage}.threads", 1))],
        }
        for stage in STAGES
    }
    everything = list(grid("video", knobs, {"device": ["cpu"], "precision": _PRECISIONS[: levels["precision"]]}))
    chosen = np.arange(len(everything)) if whole else np.sort(rng.choice(len(everything), n, replace=False))
    made = _serve(tuple(everything[i] for i in chosen.tolist()), variants, rng, twins=twins)
    return _squeezed(made) if narrow else made


def _levels(n: int, rng: np.random.Generator, *, narrow: bool) -> dict[str, int]:
    """Levels of each knob: one more of a knob drawn at random until the product reaches ``n``."""
    levels = dict(_LEAST)
    while math.prod(levels.values()) < n:
        fixed = ("replicas", "threads") if narrow else ()
        growing = [k for k, count in levels.items() if count < _MOST[k] and not k.endswith(fixed or ("none",))]
        levels[str(rng.choice(growing))] += 1
    return levels


def _serve(
    configurations: tuple[Configuration, ...],
    variants: Mapping[str, list[str]],
    rng: np.random.Generator,
    *,
    twins: bool,
) -> Grid:
    work_s: dict[str, float] = {}
    accuracy: dict[str, float] = {}
    for stage, names in variants.items():
        ladder = np.sort(rng.uniform(0, 1, len(names)))
        slowest = rng.uniform(4, 30) if stage == "detect" else rng.uniform(2, 8)
        fastest_s = rng.uniform(0.01, 0.04) if stage == "detect" else rng.uniform(0.004, 0.02)
        work_s |= dict(zip(names, (fastest_s * slowest**ladder).tolist(), strict=True))
        # A slower variant is mostly, but not always, the more accurate one, as in every model zoo.
        low, gain = (0.2, 0.25) if stage == "detect" else (0.68, 0.14)
        better = low + gain * np.clip(ladder**0.7 + 0.12 * rng.normal(size=len(names)), 0, 1.1)
        accuracy |= dict(zip(names, better.tolist(), strict=True))
    overhead, exponent, half = rng.uniform(0.1, 0.6), rng.uniform(0.4, 0.9), rng.uniform(1.2, 1.9)
    half = 1.0 if twins else half
    closed_loop, tail = bool(rng.random() < 0.5), rng.uniform(0.1, 0.8)

    def service_s(stage: StageKnobs, precision: str) -> float:
        one = work_s[stage.variant] * (overhead + (1 - overhead) * stage.batch) / stage.threads**exponent
        return float(one / (half if precision == "fp16" else 1.0))

    batch_s = np.array([[service_s(stage, c.platform.precision) for stage in c.stages] for c in configurations])
    batch, replicas, cores = (
        np.array([[getattr(stage, name) for stage in c.stages] for c in configurations], dtype=float)
        for name in ("batch", "replicas", "cores")
    )
    throughput = np.min(batch * replicas / batch_s, axis=1)
    mean = 2 * np.sum(batch * replicas, axis=1) / throughput if closed_loop else batch_s.sum(axis=1)
    return Grid(
        configurations=configurations,
        accuracies={
            stage: np.array([accuracy[c.stages[i].variant] for c in configurations]) for i, stage in enumerate(variants)
        },
        latency_p99_s=mean + tail * batch_s.max(axis=1),
        latency_mean_s=mean,
        throughput_rps=throughput,
        cores=cores.sum(axis=1),
    )


def _squeezed(wide: Grid) -> Grid:
    p99, mean, rate = wide.latency_p99_s, wide.latency_mean_s, wide.throughput_rps
    return Grid(
        wide.configurations,
        wide.accuracies,
        latency_p99_s=p99.min() * (p99 / p99.min()) ** _exponent(p99),
        latency_mean_s=p99.min() * (mean / p99.min()) ** _exponent(mean),
        throughput_rps=rate.min() * (rate / rate.min()) ** _exponent(rate),
        cores=wide.cores,
    )


def _exponent(values: Floats) -> float:
    span = float(values.max() / values.min())
    return min(1.0, math.log(NARROW_SPAN) / math.log(span)) if span > 1 else 1.0
