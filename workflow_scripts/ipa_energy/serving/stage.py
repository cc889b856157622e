"""A stage as the engine sees it: its queue, the replicas that serve, and those that are being started to take over.

What a decision does is the same as in the simulation (:mod:`ipa_energy.ipa.simulated_stage`): a batch size holds at
once; replicas of the same kind are added or taken away; another variant or other cores are a whole new set, and the old
one serves until all of the new can. Only bookkeeping: processes are started and ended by the functions handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ipa_energy.configuration import StageKnobs
from ipa_energy.serving.batching import StageQueue
from ipa_energy.serving.processes import Replica

StartReplica = Callable[[StageKnobs], Replica]
"""Forks a replica of a stage with these knobs, without waiting for its model."""

EndReplica = Callable[[Replica], None]
"""Lets an idle or loading replica go."""


@dataclass(slots=True)
class ReplicaSet:
    """The replicas of one kind, which is (variant, cores each), or None where the knobs are not known.

    ``members`` holds those to serve or still loading, by name, in the order of their start; ``free`` the idle ones, the
    longest idle first. ``batch`` is the largest batch that they are to get.
    """

    kind: tuple[str, int] | None
    batch: int
    members: dict[str, Replica] = field(default_factory=dict)
    free: deque[Replica] = field(default_factory=deque)

    @property
    def ready(self) -> bool:
        """Whether all of it has loaded."""
        return all(replica.ready_s is not None for replica in self.members.values())


def _kind(knobs: StageKnobs) -> tuple[str, int]:
    return knobs.variant, knobs.threads


class Stage:
    """A stage: its queue, and its replicas, ``replicas`` of which are loaded and serve from the begin.

    ``knobs`` tells what they are; without it the stage can't be reconfigured, and the journal doesn't hold their lives.
    ``busy`` maps the name of each replica with a batch in hand to its requests, those that leave after it included.
    """

    def __init__(
        self, name: str, queue: StageQueue, replicas: Sequence[Replica], knobs: StageKnobs | None = None
    ) -> None:
        self.name = name
        self.queue = queue
        self.knobs = knobs
        self.serving = ReplicaSet(None if knobs is None else _kind(knobs), queue.batch)
        self.serving.members.update((replica.name, replica) for replica in replicas)
        self.serving.free.extend(replicas)
        self.coming: ReplicaSet | None = None
        self.busy: dict[str, list[int]] = {}

    @property
    def free(self) -> deque[Replica]:
        """The idle replicas of those that serve, the longest idle first."""
        return self.serving.free

    @property
    def replicas(self) -> list[Replica]:
        """All that serve, load, or are to take over; not those that only finish a batch."""
        return [*self.serving.members.values(), *(self.coming.members.values() if self.coming else ())]

    @property
    def settled(self) -> bool:
        """Whether it serves what was decided last: nothing loads, and no other set is to take over."""
        return self.coming is None and self.serving.ready

    def configure(self, knobs: StageKnobs, start: StartReplica, end: EndReplica) -> None:
        """Begin to become what the knobs say."""
        self.knobs = knobs
        if _kind(knobs) == self.serving.kind:
            self._end_coming(end)
            self.queue.batch = self.serving.batch = knobs.batch
            self._scale(self.serving, knobs, start, end)
            return
        if self.coming is None or self.coming.kind != _kind(knobs):
            self._end_coming(end)
            self.coming = ReplicaSet(_kind(knobs), knobs.batch)
        self.coming.batch = knobs.batch
        self._scale(self.coming, knobs, start, end)
        self._take_over(end)

    def loaded(self, replica: Replica, end: EndReplica) -> None:
        """A replica has loaded its model (its ``ready_s`` is set): it serves, or waits for the rest of its set."""
        if replica.name in self.serving.members:
            self.serving.free.append(replica)
        elif self.coming is not None:
            self.coming.free.append(replica)
            self._take_over(end)

    def done(self, replica: Replica, end: EndReplica) -> list[int]:
        """The requests of the batch that a replica has finished. It is idle again, or goes if it was to leave."""
        requests = self.busy.pop(replica.name)
        if replica.name in self.serving.members:
            self.serving.free.append(replica)
        else:
            end(replica)
        return requests

    def _scale(self, replicas: ReplicaSet, knobs: StageKnobs, start: StartReplica, end: EndReplica) -> None:
        for _ in range(knobs.replicas - len(replicas.members)):
            replica = start(knobs)
            replicas.members[replica.name] = replica
        # Those that serve least: first who still loads, then who is idle, the newest first.
        newest_first = reversed(list(replicas.members.values()))
        leaving = sorted(newest_first, key=lambda r: (r.ready_s is not None, r.name in self.busy))
        for replica in leaving[: max(0, len(replicas.members) - knobs.replicas)]:
            self._release(replicas, replica, end)

    def _release(self, replicas: ReplicaSet, replica: Replica, end: EndReplica) -> None:
        del replicas.members[replica.name]
        if replica.name in self.busy:
            return  # it goes when its batch is done
        if replica in replicas.free:
            replicas.free.remove(replica)
        end(replica)

    def _end_coming(self, end: EndReplica) -> None:
        if self.coming is not None:
            for replica in list(self.coming.members.values()):
                self._release(self.coming, replica, end)
            self.coming = None

    def _take_over(self, end: EndReplica) -> None:
        """Let the coming set serve once all of it is there; the old one then leaves."""
        if self.coming is None or not self.coming.ready:
            return
        for replica in list(self.serving.members.values()):
            self._release(self.serving, replica, end)
        self.serving, self.coming = self.coming, None
        self.queue.batch = self.serving.batch
