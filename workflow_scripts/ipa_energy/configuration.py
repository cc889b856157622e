"""Knobs, grid and identifiers: what can be chosen, and what one choice is called.

A *configuration* fixes, for every stage of a pipeline, the model variant, the batch size, the number of replicas and
the cores per replica, and for the platform the device and the precision: IPA's knobs (Ghafouri et al., *IPA: Inference
Pipeline Adaptation to Achieve High Accuracy and Cost-Efficiency*, JSys 4(1), 2024) plus those that move energy. The
grid from the config file goes in, frozen configurations with stable, readable ids come out. Nothing here reads a file.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

MAX_ID_LENGTH = 120
"""Longer ids are cut and closed with a hash: file names end at 255 bytes, and a table column much sooner."""

_HASH_DIGITS = 12


@dataclass(frozen=True, slots=True)
class StageKnobs:
    """The knobs of one stage: variant, batch size (requests), replicas (processes), threads (cores per replica)."""

    stage: str
    variant: str
    batch: int
    replicas: int
    threads: int

    @property
    def cores(self) -> int:
        """Cores the stage occupies: replicas x threads."""
        return self.replicas * self.threads


@dataclass(frozen=True, slots=True)
class Platform:
    """The knobs of the platform. A knob at its default does not show in an id, so that new knobs keep old ids."""

    device: str = "cpu"
    precision: str = "fp32"


STAGE_KNOBS = tuple(f.name for f in fields(StageKnobs) if f.name != "stage")
PLATFORM_KNOBS = tuple(f.name for f in fields(Platform))


@dataclass(frozen=True, slots=True)
class Configuration:
    """One point of the grid."""

    pipeline: str
    stages: tuple[StageKnobs, ...]
    platform: Platform = Platform()

    @property
    def cores(self) -> int:
        """Cores occupied by all replicas of all stages."""
        return sum(stage.cores for stage in self.stages)

    @property
    def gpus(self) -> int:
        """GPUs occupied: all stages of a configuration share one."""
        return int(self.platform.device == "cuda")

    @property
    def id(self) -> str:
        """Readable name made of knob values only; a valid file name, and the same whatever else is in the grid."""
        parts = [self.pipeline]
        parts += [f"{s.variant}-b{s.batch}-r{s.replicas}-t{s.threads}" for s in self.stages]
        parts += [
            getattr(self.platform, k) for k in PLATFORM_KNOBS if getattr(self.platform, k) != getattr(Platform(), k)
        ]
        name = "+".join(parts)
        if len(name) <= MAX_ID_LENGTH:
            return name
        digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_DIGITS]
        return f"{name[: MAX_ID_LENGTH - _HASH_DIGITS - 1]}~{digest}"

    def knobs(self) -> dict[str, str | int]:
        """Flat mapping for tables: ``detect.variant``, ``detect.batch``, ..., ``device``, ``precision``."""
        flat: dict[str, str | int] = {
            f"{stage.stage}.{knob}": getattr(stage, knob) for stage in self.stages for knob in STAGE_KNOBS
        }
        return flat | {knob: getattr(self.platform, knob) for knob in PLATFORM_KNOBS}

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; inverse of :func:`configuration_from_dict`."""
        # Not by `asdict`, which takes longer than Snakemake has for a job of a large plan.
        return {
            "pipeline": self.pipeline,
            "stages": [{"stage": s.stage} | {knob: getattr(s, knob) for knob in STAGE_KNOBS} for s in self.stages],
            "platform": {knob: getattr(self.platform, knob) for knob in PLATFORM_KNOBS},
        }


def configuration_from_dict(data: Mapping[str, Any]) -> Configuration:
    """Rebuild a configuration from :meth:`Configuration.as_dict`."""
    return Configuration(
        pipeline=data["pipeline"],
        stages=tuple(StageKnobs(**stage) for stage in data["stages"]),
        platform=Platform(**data["platform"]),
    )


def grid(
    pipeline: str, stages: Mapping[str, Mapping[str, Sequence[Any]]], platform: Mapping[str, Sequence[Any]]
) -> Iterator[Configuration]:
    """All configurations of a full factorial grid.

    ``stages`` maps stage to knob to values, in pipeline order; ``platform`` maps knob to values. Duplicates in a list
    of values would be measured twice under one id, so the caller refuses them (see :mod:`ipa_energy.study`).
    """
    per_stage = [
        [StageKnobs(stage, *values) for values in itertools.product(*(knobs[k] for k in STAGE_KNOBS))]
        for stage, knobs in stages.items()
    ]
    platforms = [Platform(*values) for values in itertools.product(*(platform[k] for k in PLATFORM_KNOBS))]
    for chosen_platform in platforms:
        for chosen in itertools.product(*per_stage):
            yield Configuration(pipeline, chosen, chosen_platform)
