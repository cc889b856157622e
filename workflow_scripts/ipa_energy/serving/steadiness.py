"""When warm-up is over: the service times of every stage have become steady."""

from __future__ import annotations

import itertools

import numpy as np

from ipa_energy.serving.journal import Journal


def is_steady(journal: Journal, stages: int, batches: int, cv: float) -> bool:
    """Whether, in every stage, the last ``batches`` batches of its usual size took about equally long.

    "About equally" is a coefficient of variation of at most ``cv``; the usual size is the most frequent one of late,
    because an open loop leaves batches of several sizes.
    """
    for stage in range(stages):
        latest_first = (b for b in reversed(journal.batches) if b.stage == stage)
        recent = list(itertools.islice(latest_first, 4 * batches))
        sizes = [b.size for b in recent]
        usual = max(set(sizes), key=sizes.count, default=0)
        service_s = np.array([b.service_s for b in recent if b.size == usual][:batches])
        if len(service_s) < batches or service_s.std() > cv * service_s.mean():
            return False
    return True
