"""A discrete-event simulation of a pipeline whose configuration is decided anew every few seconds.

Arrivals and service curves go in; a log of batches, drops, replicas and decisions comes out, from which
:mod:`.outcome` makes figures. Requests move as in the serving engine, with its very queue (:mod:`..serving.batching`):
one central queue a stage, a free replica takes a full batch or what waits once the oldest has waited ``max_wait_s``,
and what is too old when a replica would take it is dropped. Replicas are processes of simpy.

A decision for another number of replicas starts or ends some; one for another variant or other cores starts a whole
new set, while the old one serves until all of the new are there. Who leaves finishes the batch in hand. No decision
loses a request.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import simpy

from ipa_energy.configuration import StageKnobs
from ipa_energy.ipa.service import Curves, Noise, ServiceCurve
from ipa_energy.ipa.ticks import Floats
from ipa_energy.serving.arrivals import Seed
from ipa_energy.serving.batching import StageQueue

Configuration: TypeAlias = tuple[StageKnobs, ...]
"""One configuration: the knobs of each stage, in pipeline order."""

Decide: TypeAlias = Callable[[float, Floats, Configuration], "Configuration | None"]
"""From the time in s, the requests of each past second, and the configuration: the next one, or None to keep it."""

_Process: TypeAlias = Generator[simpy.Event, Any, None]
_DRAWS = 1024


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
        """``max_wait_s`` of a stage."""
        return self.max_wait_s[stage] if isinstance(self.max_wait_s, Mapping) else self.max_wait_s


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


def keep(at_s: float, history_rps: Floats, current: Configuration) -> Configuration:  # noqa: ARG001  # a Decide
    """The decision to change nothing, for a configuration that is to be simulated as it is."""
    return current


def simulate(
    curves: Curves,
    arrivals_s: Floats,
    duration_s: float,
    initial: Configuration,
    decide: Decide = keep,
    rules: Rules = Rules(),
    before_rps: Sequence[float] | Floats = (),
) -> Log:
    """Simulate requests that arrive at ``arrivals_s`` (rising, within ``duration_s``) until all have left.

    The pipeline starts with ``initial`` in place. Every ``interval_s``, but not at 0 and not after ``duration_s``,
    ``decide`` is asked; the history that it gets is ``before_rps``, the requests in the seconds before the begin, and
    the counts of the whole seconds since. Raises ValueError for arrivals out of order or range, and for a configuration
    that the curves don't have, whether given or decided.
    """
    arrivals = np.asarray(arrivals_s, dtype=float)
    if arrivals.size and not (arrivals[0] >= 0 and arrivals[-1] < duration_s and np.all(np.diff(arrivals) >= 0)):
        raise ValueError(f"arrivals must rise from 0 on and end before {duration_s:g} s")
    check_configuration(curves, initial)
    return _Simulation(curves, arrivals, duration_s, initial, decide, rules, np.asarray(before_rps, float)).run()


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


@dataclass(slots=True)
class _Set:
    """The replicas of one variant on its cores: those to serve or still starting, by number, and the idle ones."""

    curve: ServiceCurve
    batch: int
    replicas: dict[int, Replica] = field(default_factory=dict)
    idle: deque[tuple[Replica, simpy.Event]] = field(default_factory=deque)


class _Stage:
    """A stage: its queue, the set of replicas that serves, and the set that is being started to take its place."""

    def __init__(self, simulation: _Simulation, number: int, knobs: StageKnobs) -> None:
        rules = simulation.rules
        self._simulation = simulation
        self._environment = simulation.environment
        self._number = number
        self._curves = simulation.curves[knobs.stage]
        self._queue = StageQueue(knobs.batch, rules.wait_of(knobs.stage))
        self._alarm_s = math.inf
        self._serving = _Set(self._curves[knobs.variant, knobs.threads], knobs.batch)
        self._coming: _Set | None = None
        for _ in range(knobs.replicas):
            self._start(self._serving, start_s=0.0)

    def push(self, request: int) -> None:
        """A request arrives at the stage."""
        self._queue.push(request, self._environment.now)
        self._offer()

    def configure(self, knobs: StageKnobs) -> None:
        """Begin to become what the knobs say."""
        curve = self._curves[knobs.variant, knobs.threads]
        if curve is self._serving.curve:
            self._end_coming()
            self._serving.batch = self._queue.batch = knobs.batch
            self._scale(self._serving, knobs.replicas)
        else:
            if self._coming is None or self._coming.curve is not curve:
                self._end_coming()
                self._coming = _Set(curve, knobs.batch)
            self._coming.batch = knobs.batch
            self._scale(self._coming, knobs.replicas)
            self._take_over()
        self._offer()

    def _scale(self, replicas: _Set, wanted: int) -> None:
        for _ in range(wanted - len(replicas.replicas)):
            self._start(replicas, self._simulation.rules.start_s)
        # Those that serve least: first who is still starting, then who is idle, the newest first.
        leaving = sorted(replicas.replicas.values(), key=lambda r: (r.ready_s is not None, r.busy, -r.number))
        for replica in leaving[: max(0, len(replicas.replicas) - wanted)]:
            self._end(replicas, replica)

    def _start(self, replicas: _Set, start_s: float) -> None:
        replica = self._simulation.new_replica(self._number, replicas.curve)
        replicas.replicas[replica.number] = replica
        self._environment.process(self._life(replicas, replica, start_s))

    def _end(self, replicas: _Set, replica: Replica) -> None:
        del replicas.replicas[replica.number]
        if replica.busy:
            return
        replica.gone_s = self._environment.now
        for entry in replicas.idle:
            if entry[0] is replica:
                replicas.idle.remove(entry)
                return

    def _end_coming(self) -> None:
        if self._coming is not None:
            for replica in list(self._coming.replicas.values()):
                self._end(self._coming, replica)
            self._coming = None

    def _take_over(self) -> None:
        """Let the coming set serve once all of it is there; the old one then leaves."""
        coming = self._coming
        if coming is None or any(replica.ready_s is None for replica in coming.replicas.values()):
            return
        for replica in list(self._serving.replicas.values()):
            self._end(self._serving, replica)
        self._serving, self._coming = coming, None
        self._queue.batch = coming.batch

    def _life(self, replicas: _Set, replica: Replica, start_s: float) -> _Process:
        environment = self._environment
        yield environment.timeout(start_s)
        if replica.number not in replicas.replicas:
            return
        replica.ready_s = environment.now
        if replicas is self._coming:
            self._take_over()
        while replica.number in replicas.replicas:
            handed_out = environment.event()
            replicas.idle.append((replica, handed_out))
            self._offer()
            requests = yield handed_out
            begin_s = environment.now
            yield environment.timeout(self._simulation.service_s(replica.curve, len(requests)))
            replica.busy = False
            self._simulation.batches.append(
                Batch(self._number, replica.number, replica.curve, begin_s, environment.now, requests)
            )
            self._simulation.pass_on(self._number, requests)
        replica.gone_s = environment.now

    def _offer(self) -> None:
        """Hand batches to idle replicas as long as the queue's rule allows; else look again when it will."""
        now_s, idle = self._environment.now, self._serving.idle
        while idle:
            self._drop_late(now_s)
            if not self._queue.ready(now_s):
                due_s = self._queue.due_s()
                if due_s is not None and due_s < self._alarm_s:
                    self._alarm_s = due_s
                    self._environment.process(self._alarm(due_s))
                return
            replica, handed_out = idle.popleft()
            replica.busy = True
            handed_out.succeed(tuple(request for request, _ in self._queue.take(self._queue.batch)))

    def _alarm(self, due_s: float) -> _Process:
        yield self._environment.timeout(due_s - self._environment.now)
        if self._alarm_s == due_s:
            self._alarm_s = math.inf
        self._offer()

    def _drop_late(self, now_s: float) -> None:
        limit_s = self._simulation.rules.drop_after_s
        if limit_s is None:
            return
        waiting = self._queue.waiting
        while waiting and now_s - self._simulation.arrivals[waiting[0][0]] > limit_s:
            self._simulation.drop(self._number, waiting.popleft()[0])


class _Simulation:
    """State of one run."""

    def __init__(
        self,
        curves: Curves,
        arrivals: Floats,
        duration_s: float,
        initial: Configuration,
        decide: Decide,
        rules: Rules,
        before_rps: Floats,
    ) -> None:
        self.environment = simpy.Environment()
        self.curves, self.rules = curves, rules
        self.arrivals: list[float] = arrivals.tolist()
        self.batches: list[Batch] = []
        self.drops: list[Drop] = []
        self._duration_s, self._initial, self._decide = duration_s, initial, decide
        self._counts = np.concatenate(
            [before_rps, np.bincount(arrivals.astype(np.int64), minlength=math.ceil(duration_s))]
        )
        self._counts.flags.writeable = False
        self._seen_before = len(before_rps)
        self._replicas: list[Replica] = []
        self._decisions: list[Decision] = []
        self._admitted = self._left = 0
        self._end_s = duration_s
        # A stream of its own for each curve, so that what one draws doesn't depend on what another did.
        self._factors = {
            curve: _factors(curve.noise, (rules.seed, stage, place))
            for stage, known in enumerate(curves.values())
            for place, curve in enumerate(known.values())
            if curve.noise is not None
        }
        self._stages = [_Stage(self, number, knobs) for number, knobs in enumerate(initial)]

    def run(self) -> Log:
        """Run to the end."""
        self.environment.process(self._arrive())
        self.environment.process(self._adapt())
        self.environment.run()
        return Log(
            curves=self.curves,
            rules=self.rules,
            arrivals_s=np.array(self.arrivals),
            duration_s=self._duration_s,
            end_s=self._end_s,
            initial=self._initial,
            batches=tuple(self.batches),
            drops=tuple(self.drops),
            replicas=tuple(self._replicas),
            decisions=tuple(self._decisions),
        )

    def new_replica(self, stage: int, curve: ServiceCurve) -> Replica:
        """A replica that is started now."""
        replica = Replica(len(self._replicas), stage, curve, self.environment.now)
        self._replicas.append(replica)
        return replica

    def service_s(self, curve: ServiceCurve, size: int) -> float:
        """Time in service of a batch of ``size`` requests."""
        seconds = float(curve.latency_s[size - 1])
        if curve.noise is None:
            return seconds
        return seconds * next(self._factors[curve])

    def pass_on(self, stage: int, requests: Sequence[int]) -> None:
        """Requests leave a stage."""
        if stage + 1 < len(self._stages):
            following = self._stages[stage + 1]
            for request in requests:
                following.push(request)
        else:
            self._left += len(requests)
            self._end_s = max(self._end_s, self.environment.now)

    def drop(self, stage: int, request: int) -> None:
        """A request is given up."""
        self.drops.append(Drop(stage, request, self.environment.now))
        self._left += 1
        self._end_s = max(self._end_s, self.environment.now)

    def _arrive(self) -> _Process:
        environment, first = self.environment, self._stages[0]
        for request, arrival_s in enumerate(self.arrivals):
            # The clock is a sum of waits, so it may be ahead of an arrival by one rounding.
            yield environment.timeout(max(0.0, arrival_s - environment.now))
            self._admitted += 1
            first.push(request)

    def _adapt(self) -> _Process:
        current = self._initial
        for number in range(1, math.ceil(self._duration_s / self.rules.interval_s)):
            at_s = number * self.rules.interval_s
            yield self.environment.timeout(max(0.0, at_s - self.environment.now))
            history = self._counts[: self._seen_before + int(at_s)]
            begin_s = time.perf_counter()
            chosen = self._decide(at_s, history, current)
            decide_s = time.perf_counter() - begin_s
            if chosen is not None and chosen != current:
                check_configuration(self.curves, chosen)
                for stage, knobs, before in zip(self._stages, chosen, current, strict=True):
                    if knobs != before:
                        stage.configure(knobs)
                current = chosen
            self._decisions.append(Decision(at_s, current, chosen, decide_s, self._admitted - self._left))


def _factors(noise: Noise, seed: Seed) -> Iterator[float]:
    generator = np.random.default_rng(seed)
    while True:
        yield from noise(generator, _DRAWS).tolist()
