"""Options of a stage for an input: every (variant, cores, batch, replicas), with what it contributes to the pipeline.

An input is a request rate and an SLA. A stage's option brings latency, queueing, throughput, cost and energy of its
own; the stages meet only in sums, a minimum and a product (:mod:`.totals`). All additive figures are whole ticks, so
that these sums are exact (:mod:`.ticks`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ipa_energy.ipa.accuracy import rank_normalised
from ipa_energy.ipa.profile import Profile, StageProfile
from ipa_energy.ipa.profile_table import EnergyKind, ProfileError
from ipa_energy.ipa.ticks import LARGEST, Floats, Ints, to_ticks

PerStage: TypeAlias = Mapping[str, "int | Sequence[int]"]


@dataclass(frozen=True, slots=True)
class Input:
    """What a configuration is chosen for: requests per second that arrive, and the bound on end-to-end latency in s.

    A rate of 0 is an idle pipeline: no queue, one replica suffices, and energy per request doesn't exist.
    """

    rate_rps: float
    sla_s: float
    name: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate_rps) and self.rate_rps >= 0):
            raise ValueError(f"rate_rps of input {self.name!r} is {self.rate_rps}: give requests per second, 0 or more")
        if not 0 < self.sla_s < LARGEST:
            raise ValueError(f"sla_s of input {self.name!r} is {self.sla_s}: give seconds, above 0, below {LARGEST:g}")


@dataclass(frozen=True, slots=True)
class Prices:
    """What a replica costs while it exists, in any one unit: IPA counts cores, so a core costs 1 by default.

    ``gpu`` is the price of a whole GPU in the same unit, of which a replica pays its share.
    """

    core: float = 1.0
    gpu: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("core", self.core), ("gpu", self.gpu)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"price of a {name} is {value}: give 0 or more")

    def of_replica(self, stage: StageProfile) -> Floats:
        """Cost of one replica, by row of the stage's profile. Raises ProfileError for a GPU without a price."""
        if self.gpu is None and np.any(stage.gpu_share > 0):
            raise ProfileError(f"stage {stage.stage} uses shares of a GPU: give a GPU a price, as a core has")
        return np.asarray(stage.cores * self.core + stage.gpu_share * (self.gpu or 0.0), dtype=float)


CORES = Prices()
"""Cost as IPA counts it: allocated cores."""


@dataclass(frozen=True, slots=True)
class StageOptions:
    """Options of one stage as arrays of shape (options,), by profile row and then by replicas.

    ``variant`` holds indices into ``variants``. ``service``, ``queue``, ``cost``, ``energy`` and ``throughput`` are in
    ticks: s, s, the unit of the prices, J per request (NaN where unknown) and requests/s of all replicas together.
    ``sufficient`` marks those whose throughput reaches the rate.
    """

    stage: str
    variants: tuple[str, ...]
    variant: Ints
    cores: Ints
    gpu_share: Floats
    batch: Ints
    replicas: Ints
    accuracy: Floats
    rank: Floats
    service: Floats
    queue: Floats
    cost: Floats
    energy: Floats
    throughput: Floats
    sufficient: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.variant)

    @property
    def latency(self) -> Floats:
        """Ticks that the SLA counts: service and queue."""
        return self.service + self.queue

    def where(self, mask: NDArray[np.bool_]) -> StageOptions:
        """The options that ``mask``, shape (options,), marks."""
        arrays = {f.name: getattr(self, f.name)[mask] for f in fields(self) if f.name not in ("stage", "variants")}
        return replace(self, **arrays)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of all stages, in pipeline order, with the input that they were made for."""

    given: Input
    stages: tuple[StageOptions, ...]

    @property
    def size(self) -> int:
        """Number of configurations: the product of the stages' options."""
        return math.prod(len(stage) for stage in self.stages)

    def with_sla(self, sla_s: float) -> Options:
        """The same options under another SLA, in s: only the rate enters an option."""
        return replace(self, given=replace(self.given, sla_s=sla_s))


def make_options(
    profile: Profile,
    given: Input,
    replicas: int | PerStage,
    *,
    prices: Prices = CORES,
    latency: str = "p99",
    batches: Sequence[int] | PerStage | None = None,
) -> Options:
    """All options of every stage for an input, in pipeline order.

    ``replicas`` is the largest number of replicas of any stage, or maps each stage to its largest number or to the
    numbers to choose from. ``latency`` is the kind that the SLA counts, ``p99`` as in IPA, or ``mean``. ``batches``
    limits the batch sizes, for all stages or by stage; each must then be in the profile of every variant. Raises
    ProfileError for a batch size or a latency that the profile lacks, and ValueError for bad limits.
    """
    stages = (
        _stage_options(
            stage,
            profile.energy_kind,
            given,
            _replica_numbers(replicas, stage.stage),
            prices.of_replica(stage),
            latency,
            _wanted_batches(batches, stage.stage),
        )
        for stage in profile.stages
    )
    return Options(given, tuple(stages))


def _stage_options(
    stage: StageProfile,
    kind: EnergyKind | None,
    given: Input,
    numbers: Ints,
    price: Floats,
    latency: str,
    batches: Sequence[int] | None,
) -> StageOptions:
    rows = np.arange(len(stage.batch)) if batches is None else _rows_with(stage, batches)
    per_row = len(numbers)
    row, n = np.repeat(rows, per_row), np.tile(numbers, len(rows))
    name = f"of stage {stage.stage}"
    queue_s = np.zeros(len(stage.batch))
    if given.rate_rps > 0:  # no SLA can be as long as the largest figure, so that much is as good as more
        queue_s = np.minimum((stage.batch - 1) / given.rate_rps, LARGEST)
    throughput = to_ticks(stage.throughput_rps, f"throughput_rps {name}")[row] * n
    variant = stage.variant[row]
    return StageOptions(
        stage=stage.stage,
        variants=stage.variants,
        variant=variant,
        cores=stage.cores[row],
        gpu_share=stage.gpu_share[row],
        batch=stage.batch[row],
        replicas=n,
        accuracy=stage.accuracy[variant],
        rank=rank_normalised(stage.accuracy)[variant],
        service=to_ticks(stage.latency_s(latency), f"{latency} latency in s {name}")[row],
        queue=to_ticks(queue_s, f"queueing time in s {name}")[row],
        cost=to_ticks(price, f"cost of a replica {name}")[row] * n,
        energy=to_ticks(_energy_j(stage, kind, given.rate_rps, row, n), f"energy in J per request {name}"),
        throughput=throughput,
        sufficient=throughput >= float(to_ticks(given.rate_rps, "rate_rps")),
    )


def _energy_j(stage: StageProfile, kind: EnergyKind | None, rate_rps: float, row: Ints, n: Ints) -> Floats:
    """Energy per request at the rate: a batch's own energy over b, and the replicas' waiting power over the rate.

    Gross energy of a batch holds the waiting power of its replica for b / h seconds, which is taken out first, as that
    power is counted for all the time. Without waiting power the first term stands alone.
    """
    if kind is None or rate_rps == 0:
        return np.full(len(row), np.nan)
    idle_w = np.where(np.isnan(stage.idle_w), 0.0, stage.idle_w)
    own_j = stage.energy_j / stage.batch
    if kind == "gross":
        own_j = own_j - idle_w / stage.throughput_rps
    return np.asarray(own_j[row] + n * idle_w[row] / rate_rps, dtype=float)


def _replica_numbers(replicas: int | PerStage, stage: str) -> Ints:
    if isinstance(replicas, Mapping):
        if stage not in replicas:
            raise ValueError(f"replicas are given for {', '.join(replicas)} but not for stage {stage}")
        given = replicas[stage]
    else:
        given = replicas
    numbers = list(range(1, given + 1)) if isinstance(given, int) else sorted(set(given))
    if not numbers or numbers[0] < 1:
        raise ValueError(f"replicas of stage {stage} are {given}: give a largest number, or numbers, of 1 or more")
    return np.array(numbers, dtype=np.int64)


def _wanted_batches(batches: Sequence[int] | PerStage | None, stage: str) -> Sequence[int] | None:
    if not isinstance(batches, Mapping):
        return batches
    wanted = batches.get(stage)
    return [wanted] if isinstance(wanted, int) else wanted


def _rows_with(stage: StageProfile, batches: Sequence[int]) -> Ints:
    keys = list(zip(stage.variant.tolist(), stage.cores.tolist(), stage.gpu_share.tolist(), strict=True))
    for key in dict.fromkeys(keys):
        known = {b for b, other in zip(stage.batch.tolist(), keys, strict=True) if other == key}
        lacking = sorted(set(batches) - known)
        if lacking:
            raise ProfileError(
                f"the profile of {stage.stage}/{stage.variants[key[0]]} on {key[1]} cores has no batch "
                f"{', '.join(map(str, lacking))}, only {', '.join(map(str, sorted(known)))}: measure it, fill it with "
                f"ipa_energy.ipa.fit.fill_batches, or take it from the batch sizes"
            )
    return np.flatnonzero(np.isin(stage.batch, np.asarray(batches)))


def restrict(
    options: Options,
    variants: Mapping[str, str] | None = None,
    replicas: Mapping[str, int] | None = None,
    batches: Mapping[str, int] | None = None,
) -> Options:
    """Options with the variant, the replicas or the batch size of some stages fixed.

    Raises ValueError, with what there is, when a stage has no such option, and for a stage that doesn't exist.
    """
    names = [stage.stage for stage in options.stages]
    fixed: dict[str, Mapping[str, str] | Mapping[str, int]] = {
        "variant": variants or {},
        "replicas": replicas or {},
        "batch": batches or {},
    }
    unknown = sorted({name for wanted in fixed.values() for name in wanted} - set(names))
    if unknown:
        raise ValueError(f"there is no stage {', '.join(unknown)}; the stages are {', '.join(names)}")
    stages = (
        _restrict_stage(stage, {knob: wanted[stage.stage] for knob, wanted in fixed.items() if stage.stage in wanted})
        for stage in options.stages
    )
    return replace(options, stages=tuple(stages))


def _restrict_stage(stage: StageOptions, wanted: Mapping[str, str | int]) -> StageOptions:
    for knob, value in wanted.items():
        has = np.asarray(stage.variants)[stage.variant] if knob == "variant" else getattr(stage, knob)
        if value not in has:
            there = ", ".join(map(str, dict.fromkeys(has.tolist())))
            raise ValueError(f"stage {stage.stage} has no {knob} {value!r}; it has {there}")
        stage = stage.where(has == value)
    return stage


def sufficient(options: Options) -> Options:
    """Options whose throughput reaches the rate; a stage may be left with none."""
    return replace(options, stages=tuple(stage.where(stage.sufficient) for stage in options.stages))


def energy_is_known(options: Options) -> bool:
    """Whether every option has an energy."""
    return not any(np.isnan(stage.energy).any() for stage in options.stages)
