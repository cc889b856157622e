"""The plan: every measurement of a study in its randomised run order.

Randomised complete blocks: each block holds every configuration under every workload once, in an order drawn from the
seed, so that drift of the machine spreads over all configurations instead of favouring some. One *anchor*
configuration is measured again at both ends of each block; the spread of its results is the drift that was left.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ipa_energy.configuration import Configuration
from ipa_energy.files import write_text

GRID, ANCHOR_FIRST, ANCHOR_LAST = "grid", "anchor-first", "anchor-last"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One job: a configuration under a workload, in a block (from 1), in a role, at a place in the order (from 0)."""

    configuration: Configuration
    workload: str
    block: int
    role: str
    order: int

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
    workloads: Sequence[str],
    blocks: int,
    seed: int,
    anchor: Configuration | None,
) -> list[Measurement]:
    """The measurements in run order; the anchor runs under the first workload."""
    plan: list[Measurement] = []
    for block in range(1, blocks + 1):
        cells = [(c, w, GRID) for c in configurations for w in workloads]
        random.Random(f"{seed}:block{block}").shuffle(cells)
        if anchor is not None:
            cells = [(anchor, workloads[0], ANCHOR_FIRST), *cells, (anchor, workloads[0], ANCHOR_LAST)]
        plan += [Measurement(c, w, block, role, len(plan) + i) for i, (c, w, role) in enumerate(cells)]
    return plan


COLUMNS = ("order", "block", "role", "repetition", "workload", "configuration")


def write_plan(path: str | Path, plan: Sequence[Measurement]) -> None:
    """Write the plan as CSV, a row per measurement in run order: :data:`COLUMNS`, then all knobs."""
    knobs = list(plan[0].configuration.knobs()) if plan else []
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=[*COLUMNS, *knobs], lineterminator="\n")
    writer.writeheader()
    for m in plan:
        place = (m.order, m.block, m.role, m.repetition, m.workload, m.configuration.id)
        writer.writerow(dict(zip(COLUMNS, place, strict=True)) | m.configuration.knobs())
    write_text(path, text.getvalue())


def block_and_role(repetition: str) -> tuple[int, str]:
    """The block and the role that a repetition's name tells: the inverse of :attr:`Measurement.repetition`."""
    block, _, role = repetition.removeprefix("block").partition("-")
    return int(block), role or GRID
