"""Dynamic batching: the policy by which a stage's central queue hands requests to free replicas.

A free replica takes ``batch`` requests as soon as there are that many, or what is there once the oldest has waited
``max_wait_s`` (as MLServer and Triton do, and IPA's queues). Pure bookkeeping over request numbers and times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class StageQueue:
    """First-in-first-out queue of one stage; ``waiting`` holds (request, time it entered)."""

    batch: int
    max_wait_s: float
    waiting: deque[tuple[int, float]] = field(default_factory=deque)

    def push(self, request: int, now_s: float) -> None:
        """A request arrives at the stage."""
        self.waiting.append((request, now_s))

    def due_s(self) -> float | None:
        """When the queue must hand out a batch that is not full; None when it is empty."""
        return self.waiting[0][1] + self.max_wait_s if self.waiting else None

    def ready(self, now_s: float) -> bool:
        """Whether a free replica may take a batch now."""
        due = self.due_s()
        return due is not None and (len(self.waiting) >= self.batch or now_s >= due)

    def take(self, limit: int) -> list[tuple[int, float]]:
        """Remove and return up to min(batch, ``limit``) requests, oldest first."""
        return [self.waiting.popleft() for _ in range(min(self.batch, limit, len(self.waiting)))]

    def drop_late(self, is_late: Callable[[int], bool]) -> list[int]:
        """Remove and return all requests that are too old, wherever in the queue they are, in the queue's order.

        Requests of a later stage wait in the order in which the stage before was done with them, so an older one may
        stand behind a younger one. Their numbers must rise with their arrival: where the lowest is not late, none is.
        """
        if not self.waiting or not is_late(min(self.waiting)[0]):
            return []
        late = [request for request, _ in self.waiting if is_late(request)]
        gone = set(late)
        self.waiting = deque(entry for entry in self.waiting if entry[0] not in gone)
        return late
