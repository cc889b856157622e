"""The engine: moves requests through the stages of a pipeline, one central queue a stage, as IPA's containers do.

One thread, one loop: admit what has arrived, hand batches to free replicas, wait for whatever comes first (a finished
batch, a replica that has loaded its model, an arrival, a queue whose oldest request has waited long enough, a replica's
death). The engine handles row numbers only; frames and crops stay in shared memory. It is driven in phases:
:meth:`Engine.serve` runs until a condition holds, and the journal keeps what happened. Between or within phases
:meth:`Engine.reconfigure` changes what serves, while it serves.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Sequence
from functools import partial

from ipa_energy.configuration import StageKnobs
from ipa_energy.serving.arrivals import Workload
from ipa_energy.serving.journal import Batch, Drop, Journal, ReplicaLife, Request
from ipa_energy.serving.processes import Replica, Replicas, ServingError
from ipa_energy.serving.replica import DONE, MAX_MESSAGE, encode_batch
from ipa_energy.serving.stage import Stage, StartReplica

__all__ = ["Engine", "Stage"]

_LONGEST_WAIT_S = 0.05
"""The stop condition of a phase is looked at this often even when nothing happens."""


class Engine:
    """Serves one workload with started replicas.

    ``frames`` is the number of rows in the first stage's input, used in turn; ``slots`` the number of rows between
    stages, which bounds how many requests can be past the first queue. ``start`` forks a replica of a stage, under a
    name never used before, for :meth:`reconfigure`; one that has not loaded its model after ``load_timeout_s`` is a
    failure. Raises ServingError when a replica dies or its stage raises, from within :meth:`serve`.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        processes: Replicas,
        workload: Workload,
        frames: int,
        slots: int,
        start: StartReplica | None = None,
        load_timeout_s: float = 300.0,
    ) -> None:
        self.journal = Journal()
        self.completions = 0
        self.last_completion_s = 0.0
        self._stages = list(stages)
        self._processes = processes
        self._workload = workload
        self._frames = frames
        self._slots = slots
        self._start_replica = start
        self._load_timeout_s = load_timeout_s
        self._free_slots = list(range(slots))
        self._slot: dict[int, int] = {}
        self._requests: dict[int, Request] = {}
        self._admitted = 0
        self._admitting = True
        self._next_arrival_s: float | None = None
        self._start_s: float | None = None
        self._alive: dict[str, Replica] = {}
        self._loading: dict[str, Replica] = {}
        self._leaving: set[str] = set()
        self._selector = selectors.DefaultSelector()
        if start is not None:
            self._selector.register(processes.server, selectors.EVENT_READ, None)
        for number, stage in enumerate(self._stages):
            for replica in stage.replicas:
                self._watch(number, replica)

    @property
    def in_flight(self) -> int:
        """Requests admitted and neither completed nor dropped."""
        return len(self._requests)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: no request will arrive, and none is in flight."""
        over = self._start_s is not None and self._workload.in_flight is None and self._next_arrival_s is None
        return not self._requests and (over or not self._admitting)

    @property
    def configuration(self) -> tuple[StageKnobs | None, ...]:
        """The knobs of each stage that were decided last; None for a stage whose knobs were not given."""
        return tuple(stage.knobs for stage in self._stages)

    @property
    def settled(self) -> bool:
        """Whether every stage serves what was decided last: no replica is loading, no set is to take over."""
        return all(stage.settled for stage in self._stages)

    def reconfigure(self, configuration: Sequence[StageKnobs]) -> None:
        """Begin to become ``configuration``, the knobs of every stage in order, and lose no request by it.

        Returns once the new replicas are forked; they load while the engine serves (docs/serving.md has the rules).
        Raises ValueError for knobs that can't be served, before anything is changed, and ServingError when a replica
        can't be started.
        """
        self._check(configuration)
        for number, (stage, knobs) in enumerate(zip(self._stages, configuration, strict=True)):
            if knobs != stage.knobs:
                stage.configure(knobs, partial(self._start, number), self._end)
        now_s = time.monotonic()
        for number in range(len(self._stages)):
            self._dispatch(number, now_s)  # a smaller batch may be full now

    def serve(self, until: Callable[[float], bool]) -> None:
        """Serve until ``until(now_s)`` holds; it is asked after every event and at least every 50 ms."""
        if self._start_s is None:
            self._start_s = time.monotonic()
            self._advance_arrival()
        while True:
            now_s = time.monotonic()
            self._check_loading(now_s)
            self._admit(now_s)
            for number in range(len(self._stages)):
                self._dispatch(number, now_s)
            if until(now_s):
                return
            self._wait(self._patience_s(time.monotonic()))

    def drain(self, timeout_s: float) -> None:
        """Admit no more, ever, and serve until every admitted request is completed or dropped.

        Raises ServingError when that takes longer than ``timeout_s``.
        """
        self._admitting = False
        give_up_s = time.monotonic() + timeout_s
        self.serve(lambda now_s: self.finished or now_s >= give_up_s)
        if not self.finished:
            raise ServingError(f"{self.in_flight} requests were still in flight after {timeout_s:g} s of draining")

    def quiesce(self) -> None:
        """Hand out no more batches and return once every replica is idle."""
        while any(stage.busy for stage in self._stages):
            self._wait(_LONGEST_WAIT_S)

    def note_exits(self) -> None:
        """Write down in the journal which replicas are gone; done while serving, and worth a call after the end."""
        for name in [name for name, replica in self._alive.items() if replica.gone_s is not None]:
            gone_s = self._alive.pop(name).gone_s
            self._leaving.discard(name)
            if name in self.journal.replicas:
                self.journal.replicas[name].gone_s = gone_s

    def _advance_arrival(self) -> None:
        if self._workload.arrivals_s is not None and self._start_s is not None:
            offset_s = next(self._workload.arrivals_s, None)
            self._next_arrival_s = None if offset_s is None else self._start_s + offset_s

    def _admit(self, now_s: float) -> None:
        if not self._admitting:
            return
        if self._workload.in_flight is not None:
            while self.in_flight < self._workload.in_flight:
                self._arrive(now_s)
        while self._next_arrival_s is not None and self._next_arrival_s <= now_s:
            self._arrive(self._next_arrival_s)
            self._advance_arrival()

    def _arrive(self, arrival_s: float) -> None:
        number = self._admitted
        self._admitted += 1
        self._requests[number] = Request(arrival_s, queued_s=[arrival_s])
        self.journal.arrivals_s.append(arrival_s)
        self._stages[0].queue.push(number, arrival_s)

    def _dispatch(self, number: int, now_s: float) -> None:
        stage = self._stages[number]
        while stage.free and (number > 0 or self._free_slots):
            self._drop_late(number, now_s)
            if not stage.queue.ready(now_s):
                return
            taken = stage.queue.take(limit=len(self._free_slots) if number == 0 else stage.queue.batch)
            requests = [request for request, _ in taken]
            if number == 0:
                for request in requests:
                    self._slot[request] = self._free_slots.pop()
            slots = [self._slot[request] for request in requests]
            sources = [request % self._frames for request in requests] if number == 0 else slots
            replica = stage.free.popleft()
            stage.busy[replica.name] = requests
            for request in requests:
                entry = self._requests[request]
                entry.taken_s.append(now_s)
                entry.served_by.append(replica.name)
            try:
                replica.control.send(encode_batch(sources, slots))
            except OSError as error:
                raise self._processes.failure(replica, b"") from error

    def _drop_late(self, number: int, now_s: float) -> None:
        limit_s = self._workload.drop_after_s
        if limit_s is None:
            return
        entries = self._requests
        for request in self._stages[number].queue.drop_late(lambda one: now_s - entries[one].arrival_s > limit_s):
            self.journal.drops.append(Drop(number, now_s, entries.pop(request)))
            if request in self._slot:
                self._free_slots.append(self._slot.pop(request))

    def _patience_s(self, now_s: float) -> float:
        times = [now_s + _LONGEST_WAIT_S]
        if self._next_arrival_s is not None and self._admitting:
            times.append(self._next_arrival_s)
        times += [
            due for stage in self._stages if stage.free and (due := stage.queue.due_s()) is not None and due > now_s
        ]
        return max(0.0, min(times) - now_s)

    def _wait(self, patience_s: float) -> None:
        """Take in what the replicas say, once the first says something or ``patience_s`` is over."""
        for key, _ in self._selector.select(patience_s):
            if key.data is None:
                if not self._processes.read_exits():
                    self._selector.unregister(key.fileobj)  # the replicas die with the server: their sockets tell
            else:
                self._collect(*key.data)
        if self._leaving:
            self.note_exits()

    def _collect(self, number: int, replica: Replica) -> None:
        if replica.control.fileno() < 0:
            return  # ended by what another one said in the same moment
        try:
            message = replica.control.recv(MAX_MESSAGE)
        except OSError:
            message = b""
        stage = self._stages[number]
        match message[:1]:
            case b"R":
                replica.loaded(message)
                del self._loading[replica.name]
                self.journal.replicas[replica.name].ready_s = replica.ready_s
                stage.loaded(replica, self._end)
            case b"D":
                self._finish(number, replica, message)
            case _:
                raise self._processes.failure(replica, message)

    def _finish(self, number: int, replica: Replica, message: bytes) -> None:
        _, begin_s, end_s, filled = DONE.unpack(message)
        requests = self._stages[number].done(replica, self._end)
        self.journal.batches.append(Batch(number, replica.name, begin_s, end_s, len(requests), filled))
        last = number == len(self._stages) - 1
        for request in requests:
            entry = self._requests[request]
            entry.done_s.append(end_s)
            if last:
                del self._requests[request]
                self._free_slots.append(self._slot.pop(request))
                self.journal.completed.append(entry)
            else:
                entry.queued_s.append(end_s)
                self._stages[number + 1].queue.push(request, end_s)
        if last:
            self.completions += 1
            self.last_completion_s = end_s

    def _check(self, configuration: Sequence[StageKnobs]) -> None:
        if self._start_replica is None:
            raise ValueError("this engine can't be reconfigured: it was given no function that starts replicas")
        names = [stage.name for stage in self._stages]
        if [knobs.stage for knobs in configuration] != names:
            given = ", ".join(knobs.stage for knobs in configuration)
            raise ValueError(f"a configuration needs the stages {', '.join(names)} in this order; this one has {given}")
        for stage, knobs in zip(self._stages, configuration, strict=True):
            if stage.knobs is None:
                raise ValueError(f"stage {stage.name} can't be reconfigured: the engine was not told its knobs")
            for knob in ("batch", "replicas", "threads"):
                if getattr(knobs, knob) < 1:
                    raise ValueError(f"{knob} of stage {stage.name} is {getattr(knobs, knob)}: give 1 or more")
            if knobs.batch > self._slots:
                raise ValueError(
                    f"batch of stage {stage.name} is {knobs.batch}: only {self._slots} requests fit between the stages"
                )

    def _check_loading(self, now_s: float) -> None:
        oldest = next(iter(self._loading.values()), None)
        if oldest is not None and now_s - oldest.started_s > self._load_timeout_s:
            raise ServingError(f"replica {oldest.name} did not load its model in {self._load_timeout_s:g} s")

    def _watch(self, number: int, replica: Replica) -> None:
        """Listen to a replica from now on, and begin its life in the journal."""
        self._selector.register(replica.control, selectors.EVENT_READ, (number, replica))
        self._alive[replica.name] = replica
        knobs = self._stages[number].knobs
        if knobs is not None:
            self.journal.replicas[replica.name] = ReplicaLife(
                number, replica.name, knobs, replica.cpus, replica.started_s, replica.ready_s
            )

    def _start(self, number: int, knobs: StageKnobs) -> Replica:
        assert self._start_replica is not None  # checked before anything was changed
        replica = self._start_replica(knobs)
        if replica.name in self.journal.replicas:
            raise ValueError(f"a replica was started under the name {replica.name}, which another one has had")
        self._loading[replica.name] = replica
        self._watch(number, replica)
        return replica

    def _end(self, replica: Replica) -> None:
        self._selector.unregister(replica.control)
        self._loading.pop(replica.name, None)
        self._leaving.add(replica.name)
        self._processes.end(replica)
