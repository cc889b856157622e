"""What a simulated run is made of: its rules, its configurations, and the log of what happened in it.

:mod:`.simulation` writes the log, :mod:`.outcome` makes figures of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ipa_energy.configuration import StageKnobs
from ipa_energy.ipa.service import Curves, ServiceCurve
from ipa_energy.ipa.ticks import Floats

Configuration: TypeAlias = tuple[StageKnobs, ...]
"""One configuration: the knobs of each stage, in pipeline order."""

Decide: TypeAlias = Callable[[float, Floats, Configuration], "Configuration | None"]
"""From the time in s, the requests of each past second, and the configuration: the next one, or None to keep it."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How the simulated system behaves.

    ``interval_s`` lies between decisions, and ``start_s`` between a decision and the moment at which the replicas it
    started can serve; 10 and 8 s in IPA. ``max_wait_s`` is how long a queue waits for a full batch, for all stages or
    by stage. ``drop_after_s`` is the age at which requests are dropped, None for never. ``seed`` is of the noise of
    service times.
    """

    interval_s: float = 10.0
    start_s: float = 8.0
    max_wait_s: float | Mapping[str, float] = 1.0
    drop_after_s: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        waits = self.max_wait_s.values() if isinstance(self.max_wait_s, Mapping) else [self.max_wait_s]
        for name, value in (("start_s", self.start_s), *(("max_wait_s", wait_s) for wait_s in waits)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} of the simulation is {value}: give seconds, 0 or more")
        if not (math.isfinite(self.interval_s) and self.interval_s > 0):
            raise ValueError(f"interval_s of the simulation is {self.interval_s}: give seconds, above 0")
        if self.drop_after_s is not None and not self.drop_after_s > 0:
            raise ValueError(f"drop_after_s of the simulation is {self.drop_after_s}: give seconds above 0, or None")

    def wait_of(self, stage: str) -> float:
        """``max_wait_s`` of a stage. Raises ValueError for a stage that has none."""
        if not isinstance(self.max_wait_s, Mapping):
            return self.max_wait_s
        if stage not in self.max_wait_s:
            raise ValueError(f"max_wait_s is given for {', '.join(self.max_wait_s)} but not for stage {stage}")
        return self.max_wait_s[stage]


IPA_RULES = Rules()
"""The times of IPA's experiments. Nothing is dropped, as its limits differ by pipeline."""


class Batch(NamedTuple):
    """One batch: the numbers of its requests, where, when, and what served it."""

    stage: int
    replica: int
    curve: ServiceCurve
    begin_s: float
    end_s: float
    requests: tuple[int, ...]


class Drop(NamedTuple):
    """A request that was too old when a replica of this stage would have taken it."""

    stage: int
    request: int
    at_s: float


@dataclass(slots=True)
class Replica:
    """The life of a replica: when it was started, could serve, and was gone; ``gone_s`` is None to the very end."""

    number: int
    stage: int
    curve: ServiceCurve
    started_s: float
    ready_s: float | None = None
    busy: bool = False
    gone_s: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision at ``at_s``: the configuration from then on, and how long it took to decide, in real seconds.

    ``chosen`` is None where the decision was to keep what there was, for want of anything feasible. ``in_system``
    counts the requests that had arrived and were neither completed nor dropped.
    """

    at_s: float
    configuration: Configuration
    chosen: Configuration | None
    decide_s: float
    in_system: int


@dataclass(frozen=True, slots=True)
class Log:
    """What happened, in order. ``arrivals_s`` has shape (requests,); ``end_s`` is when the last request had left."""

    curves: Curves
    rules: Rules
    arrivals_s: Floats
    duration_s: float
    end_s: float
    initial: Configuration
    batches: tuple[Batch, ...]
    drops: tuple[Drop, ...]
    replicas: tuple[Replica, ...]
    decisions: tuple[Decision, ...]


def check_configuration(curves: Curves, configuration: Configuration) -> None:
    """Raise ValueError, naming the stage and what there is, for a configuration that can't be simulated."""
    if [knobs.stage for knobs in configuration] != list(curves):
        given = ", ".join(knobs.stage for knobs in configuration)
        raise ValueError(f"a configuration needs the stages {', '.join(curves)} in this order; this one has {given}")
    for knobs in configuration:
        known = curves[knobs.stage]
        curve = known.get((knobs.variant, knobs.threads))
        if curve is None:
            there = ", ".join(f"{variant} on {cores}" for variant, cores in known)
            raise ValueError(f"stage {knobs.stage} has no {knobs.variant} on {knobs.threads} cores; it has {there}")
        if not 1 <= knobs.batch <= curve.largest:
            raise ValueError(
                f"batch of stage {knobs.stage} is {knobs.batch}: {knobs.variant} was profiled to {curve.largest}"
            )
        if knobs.replicas < 1:
            raise ValueError(f"replicas of stage {knobs.stage} are {knobs.replicas}: a stage needs 1 or more")
