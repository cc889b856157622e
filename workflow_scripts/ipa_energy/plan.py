"""The plan: every measurement of a study in its randomised run order.

Randomised complete blocks: each block holds every configuration under every workload once, in an order drawn from the
seed, so that drift of the machine spreads over all configurations instead of favouring some. One *anchor*
configuration is measured again at both ends of each block; the spread of its results is the drift that was left.

Hosts, and GPUs of one kind, differ by several per cent in the energy of the same work. Where a study names several, its
blocks are given to them in turn and each stays whole on one, anchors included: what a host adds is then a part of what
its blocks have in common, and no configuration is favoured.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ipa_energy.configuration import Configuration
from ipa_energy.files import write_text

GRID, ANCHOR_FIRST, ANCHOR_LAST = "grid", "anchor-first", "anchor-last"
PROFILE, LIVE = "profile", "live"
"""Roles of records that are in no plan: of a stage alone, and of a run that adapts."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block is measured: the name of a host, and the UUID of its GPU where the study names one."""

    host: str
    gpu: str | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One job: a configuration under a workload, in a block (from 1), in a role, at a place in the order (from 0).

    ``host`` and ``gpu`` (its UUID) are where it is to be measured; None for wherever the job comes to run.
    """

    configuration: Configuration
    workload: str
    block: int
    role: str
    order: int
    host: str | None = None
    gpu: str | None = None

    @property
    def repetition(self) -> str:
        """Name of the repetition, unique within configuration and workload: ``block1``, ``block1-anchor-first``."""
        return f"block{self.block}" if self.role == GRID else f"block{self.block}-{self.role}"

    @property
    def key(self) -> tuple[str, str, str]:
        """(workload, configuration id, repetition): what names the record's file."""
        return self.workload, self.configuration.id, self.repetition


def make_plan(
    configurations: Sequence[Configuration],
    workloads: Mapping[str, int | None],
    blocks: int,
    seed: int,
    anchor: Configuration | None,
    places: Sequence[Place] = (),
) -> list[Measurement]:
    """The measurements in run order; the anchor runs under the first workload.

    ``workloads`` maps each to the number of configurations that are measured under it, None for all. ``places`` get the
    blocks in turn, and change nothing else.
    """
    plan: list[Measurement] = []
    first = next(iter(workloads), "")
    grid = [(c, w, GRID) for c in configurations for w, number in workloads.items() if number is None]
    for workload, number in workloads.items():
        if number is not None:
            grid += [(c, workload, GRID) for c in sample(configurations, number, f"{seed}:{workload}")]
    for block in range(1, blocks + 1):
        cells = list(grid)
        random.Random(f"{seed}:block{block}").shuffle(cells)
        if anchor is not None:
            cells = [(anchor, first, ANCHOR_FIRST), *cells, (anchor, first, ANCHOR_LAST)]
        place = places[(block - 1) % len(places)] if places else None
        where = (place.host, place.gpu) if place else (None, None)
        plan += [Measurement(c, w, block, role, len(plan) + i, *where) for i, (c, w, role) in enumerate(cells)]
    return plan


def sample(configurations: Sequence[Configuration], number: int, seed: str) -> list[Configuration]:
    """So many configurations, drawn by the seed; a grid that grows keeps most of those that were drawn before."""

    def place(configuration: Configuration) -> str:
        return hashlib.sha256(f"{seed}:{configuration.id}".encode()).hexdigest()

    return sorted(configurations, key=place)[:number]


def size_of(keep: float, number: int) -> int:
    """How many of ``number`` configurations a share in (0, 1] is: rounded, and one at least."""
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep}; it has to be above 0 and at most 1")
    return max(1, math.floor(keep * number + 0.5))


COLUMNS = ("order", "block", "role", "repetition", "workload", "configuration", "host", "gpu")


def write_plan(path: str | Path, plan: Sequence[Measurement]) -> None:
    """Write the plan as CSV, a row per measurement in run order: :data:`COLUMNS`, then all knobs."""
    knobs = list(plan[0].configuration.knobs()) if plan else []
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=[*COLUMNS, *knobs], lineterminator="\n")
    writer.writeheader()
    for m in plan:
        place = (m.order, m.block, m.role, m.repetition, m.workload, m.configuration.id, m.host, m.gpu)
        writer.writerow(dict(zip(COLUMNS, place, strict=True)) | m.configuration.knobs())
    write_text(path, text.getvalue())


def block_and_role(repetition: str) -> tuple[int, str]:
    """The block and the role that a repetition's name tells: the inverse of :attr:`Measurement.repetition`."""
    block, _, role = repetition.removeprefix("block").partition("-")
    return int(block), role or GRID
