"""Dynamic batching: the policy by which a stage's central queue hands requests to free replicas.

A free replica takes ``batch`` requests as soon as there are that many, or what is there once the oldest has waited
``max_wait_s`` (as MLServer and Triton do, and IPA's queues). Pure bookkeeping over request numbers and times.
"""

from __future__ import annotations

from collections import deque
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
