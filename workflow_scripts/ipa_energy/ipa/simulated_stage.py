"""A stage of the simulated pipeline: its queue, its replicas as processes of simpy, and their replacement.

Requests are handed out as by the serving engine, with its very queue (:mod:`ipa_energy.serving.batching`): a free
replica takes a full batch, or what waits once the oldest has waited ``max_wait_s``; what is too old when a replica
would take it is dropped.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import simpy

from ipa_energy.configuration import StageKnobs
from ipa_energy.ipa.run_log import Batch, Drop, Replica, Rules
from ipa_energy.ipa.service import ServiceCurve
from ipa_energy.serving.batching import StageQueue

Process: TypeAlias = Generator[simpy.Event, Any, None]


@dataclass
class System:
    """What the stages of a run share: the clock, the rules, the arrivals in s, and what has happened so far.

    ``service_s`` draws the time in service of a batch of a size. ``gone`` counts the requests that have left, completed
    or dropped, and ``end_s`` is when the last one did.
    """

    environment: simpy.Environment
    rules: Rules
    arrivals_s: list[float]
    service_s: Callable[[ServiceCurve, int], float]
    batches: list[Batch] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    replicas: list[Replica] = field(default_factory=list)
    gone: int = 0
    end_s: float = 0.0

    def new_replica(self, stage: int, curve: ServiceCurve) -> Replica:
        """A replica that is started now."""
        replica = Replica(len(self.replicas), stage, curve, self.environment.now)
        self.replicas.append(replica)
        return replica

    def leave(self, requests: int) -> None:
        """So many requests leave now."""
        self.gone += requests
        self.end_s = self.environment.now


@dataclass(slots=True)
class _Set:
    """The replicas of one variant on its cores: those to serve or still starting, by number, and the idle ones.

    ``batch`` is the largest batch that they are to get.
    """

    curve: ServiceCurve
    batch: int
    replicas: dict[int, Replica] = field(default_factory=dict)
    idle: deque[tuple[Replica, simpy.Event]] = field(default_factory=deque)


class Stage:
    """A stage: its queue, the set of replicas that serves, and the set that is being started to take its place.

    Its requests go on to ``following``, or leave the system.
    """

    def __init__(
        self,
        system: System,
        number: int,
        curves: Mapping[tuple[str, int], ServiceCurve],
        knobs: StageKnobs,
        following: Stage | None,
    ) -> None:
        self._system = system
        self._environment = system.environment
        self._number = number
        self._curves = curves
        self._following = following
        self._queue = StageQueue(knobs.batch, system.rules.wait_of(knobs.stage))
        self._alarm_s = math.inf
        self._serving = _Set(self._curves[knobs.variant, knobs.threads], knobs.batch)
        self._coming: _Set | None = None
        for _ in range(knobs.replicas):
            self._start(self._serving, start_s=0.0)

    def push(self, requests: tuple[int, ...]) -> None:
        """Requests arrive at the stage together."""
        for request in requests:
            self._queue.push(request, self._environment.now)
        self._offer()

    def configure(self, knobs: StageKnobs) -> None:
        """Begin to become what the knobs say."""
        curve = self._curves[knobs.variant, knobs.threads]
        if curve is self._serving.curve:
            self._end_coming()
            self._queue.batch = knobs.batch
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
            self._start(replicas, self._system.rules.start_s)
        # Those that serve least: first who is still starting, then who is idle, the newest first.
        leaving = sorted(replicas.replicas.values(), key=lambda r: (r.ready_s is not None, r.busy, -r.number))
        for replica in leaving[: max(0, len(replicas.replicas) - wanted)]:
            self._end(replicas, replica)

    def _start(self, replicas: _Set, start_s: float) -> None:
        replica = self._system.new_replica(self._number, replicas.curve)
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

    def _life(self, replicas: _Set, replica: Replica, start_s: float) -> Process:
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
            yield environment.timeout(self._system.service_s(replica.curve, len(requests)))
            replica.busy = False
            self._system.batches.append(
                Batch(self._number, replica.number, replica.curve, begin_s, environment.now, requests)
            )
            if self._following is None:
                self._system.leave(len(requests))
            else:
                self._following.push(requests)
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

    def _alarm(self, due_s: float) -> Process:
        yield self._environment.timeout(due_s - self._environment.now)
        if self._alarm_s == due_s:
            self._alarm_s = math.inf
        self._offer()

    def _drop_late(self, now_s: float) -> None:
        limit_s = self._system.rules.drop_after_s
        if limit_s is None:
            return
        arrivals_s = self._system.arrivals_s
        for request in self._queue.drop_late(lambda request: now_s - arrivals_s[request] > limit_s):
            self._system.drops.append(Drop(self._number, request, now_s))
            self._system.leave(1)
