"""The engine: moves requests through the stages of a pipeline, one central queue a stage, as IPA's containers do.

One thread, one loop: admit what has arrived, hand batches to free replicas, wait for whatever comes first (a finished
batch, an arrival, a queue whose oldest request has waited long enough, a replica's death). The engine handles row
numbers only; frames and crops stay in shared memory. It is driven in phases: :meth:`Engine.serve` runs until a
condition holds, and the journal keeps what happened.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ipa_energy.serving.arrivals import Workload
from ipa_energy.serving.batching import StageQueue
from ipa_energy.serving.journal import Batch, Journal, Request
from ipa_energy.serving.processes import Replica, Replicas
from ipa_energy.serving.replica import DONE, MAX_MESSAGE, encode_batch

_LONGEST_WAIT_S = 0.05
"""The stop condition of a phase is looked at this often even when nothing happens."""


@dataclass
class Stage:
    """A stage as the engine sees it: its queue and its replicas, free and busy."""

    name: str
    queue: StageQueue
    replicas: Sequence[Replica]
    free: list[Replica] = field(default_factory=list)
    busy: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.free = list(self.replicas)


class Engine:
    """Serves one workload with started replicas.

    ``frames`` is the number of rows in the first stage's input, used in turn; ``slots`` the number of rows between
    stages, which bounds how many requests can be past the first queue. Raises ServingError when a replica dies or its
    stage raises, from within :meth:`serve`.
    """

    def __init__(
        self, stages: Sequence[Stage], processes: Replicas, workload: Workload, frames: int, slots: int
    ) -> None:
        self.journal = Journal()
        self.completions = 0
        self.last_completion_s = 0.0
        self._stages = list(stages)
        self._processes = processes
        self._workload = workload
        self._frames = frames
        self._free_slots = list(range(slots))
        self._slot: dict[int, int] = {}
        self._requests: dict[int, Request] = {}
        self._admitted = 0
        self._next_arrival_s: float | None = None
        self._start_s: float | None = None
        self._selector = selectors.DefaultSelector()
        for number, stage in enumerate(self._stages):
            for replica in stage.replicas:
                self._selector.register(replica.control, selectors.EVENT_READ, (number, replica))

    @property
    def in_flight(self) -> int:
        """Requests admitted and neither completed nor dropped."""
        return len(self._requests)

    def serve(self, until: Callable[[float], bool]) -> None:
        """Serve until ``until(now_s)`` holds; it is asked after every event and at least every 50 ms."""
        if self._start_s is None:
            self._start_s = time.monotonic()
            self._advance_arrival()
        while True:
            now_s = time.monotonic()
            self._admit(now_s)
            for number in range(len(self._stages)):
                self._dispatch(number, now_s)
            if until(now_s):
                return
            for key, _ in self._selector.select(self._patience_s(time.monotonic())):
                self._collect(*key.data)

    def _advance_arrival(self) -> None:
        if self._workload.arrivals_s is not None and self._start_s is not None:
            self._next_arrival_s = self._start_s + next(self._workload.arrivals_s)

    def _admit(self, now_s: float) -> None:
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
            self._drop_late(stage, now_s)
            if not stage.queue.ready(now_s):
                return
            taken = stage.queue.take(limit=len(self._free_slots) if number == 0 else stage.queue.batch)
            requests = [request for request, _ in taken]
            if number == 0:
                for request in requests:
                    self._slot[request] = self._free_slots.pop()
            slots = [self._slot[request] for request in requests]
            sources = [request % self._frames for request in requests] if number == 0 else slots
            replica = stage.free.pop(0)
            stage.busy[replica.name] = requests
            for request in requests:
                self._requests[request].taken_s.append(now_s)
            try:
                replica.control.send(encode_batch(sources, slots))
            except OSError as error:
                raise self._processes.failure(replica, b"") from error

    def _drop_late(self, stage: Stage, now_s: float) -> None:
        limit_s = self._workload.drop_after_s
        if limit_s is None:
            return
        waiting = stage.queue.waiting
        while waiting and now_s - self._requests[waiting[0][0]].arrival_s > limit_s:
            request, _ = waiting.popleft()
            del self._requests[request]
            if request in self._slot:
                self._free_slots.append(self._slot.pop(request))
            self.journal.dropped_s.append(now_s)

    def _patience_s(self, now_s: float) -> float:
        times = [now_s + _LONGEST_WAIT_S]
        if self._next_arrival_s is not None:
            times.append(self._next_arrival_s)
        times += [
            due for stage in self._stages if stage.free and (due := stage.queue.due_s()) is not None and due > now_s
        ]
        return max(0.0, min(times) - now_s)

    def _collect(self, number: int, replica: Replica) -> None:
        try:
            message = replica.control.recv(MAX_MESSAGE)
        except OSError:
            message = b""
        if message[:1] != b"D":
            raise self._processes.failure(replica, message)
        _, begin_s, end_s, filled = DONE.unpack(message)
        stage = self._stages[number]
        requests = stage.busy.pop(replica.name)
        stage.free.append(replica)
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

    def quiesce(self) -> None:
        """Hand out no more batches and return once every replica is idle."""
        while any(stage.busy for stage in self._stages):
            for key, _ in self._selector.select(_LONGEST_WAIT_S):
                self._collect(*key.data)
