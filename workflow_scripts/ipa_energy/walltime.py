"""How long a measuring job may take, from the protocol's phases and limits: the walltime that schedulers get.

A scheduler that ends a job leaves no record, so a walltime is longer than every limit that the job ends its own work
by, and then a record says so. A limit can be run into once: a measurement that was ended is not tried again, and a try
that is tried again ended by itself. The section ``protocol`` of the settings goes in, seconds come out; :func:`minutes`
turns them into what Snakemake's resource ``runtime`` wants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

START_S = 240.0
"""Once in a job: Snakemake within it (twice under Slurm), and the preload server's imports, from a slow shared disk."""
LOCK_S = 60.0
"""For the host's measurement lock. A node that the job has for itself has no other measurement; what may still hold the
lock is a process of a killed job, which is about to end."""
LOAD_S = 300.0
"""Longest wait for models to load: :data:`.phases.LOAD_TIMEOUT_S`."""
PATIENCE_S = 30.0
"""Shortest patience at each edge of a window, until a batch ends (:func:`.phases.open_window`)."""
EDGES_S = 40.0
"""Once in a try: closing edges of meters, replicas that finish their last batch and stop, the record's writing."""


def try_s(protocol: Mapping[str, float]) -> float:
    """The longest that one try of a measurement takes: the sum of its phases, or ``timeout_s`` where that is less."""
    idle_s = sum(protocol[f"idle_{phase}_s"] for phase in ("bare", "resident", "after", "bare_after"))
    window_s = protocol["window_s"] + 2 * max(protocol["window_s"], PATIENCE_S)
    phases_s = idle_s + 2 * protocol["settle_s"] + LOAD_S + protocol["warm_up_max_s"] + window_s + EDGES_S
    return float(min(phases_s, protocol["timeout_s"]))


def measurement_s(protocol: Mapping[str, float]) -> float:
    """The longest that a measurement takes with all its tries, the last of which runs into ``timeout_s``."""
    return START_S + LOCK_S + protocol["retries"] * try_s(protocol) + protocol["timeout_s"]


def profile_s(protocol: Mapping[str, float], batch_sizes: int) -> float:
    """The longest that profiling a variant takes, over all its batch sizes and allocations, retries included.

    ``batch_sizes`` counts them for every allocation; the profiler's process may take ``timeout_s`` for each.
    """
    return START_S + LOCK_S + batch_sizes * protocol["timeout_s"]


def live_s(protocol: Mapping[str, float], load_s: float) -> float:
    """The longest that a live run takes which serves ``load_s`` seconds of a load.

    After the load, what is in flight may take as long again, or 300 s (:attr:`.live_job.LiveJob.drain_timeout_s`), and
    models are loaded at the begin and may be at the end.
    """
    return START_S + LOCK_S + protocol["timeout_s"] + load_s + max(300.0, load_s) + 2 * LOAD_S


def minutes(seconds: float) -> int:
    """Whole minutes, rounded up."""
    return math.ceil(seconds / 60)
