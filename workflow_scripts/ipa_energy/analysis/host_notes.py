"""What a reader must know of the hosts of a study: blocks that did not stay on one, and hosts that are merged or not.

The measurements table and its records in their cells go in; sentences come out.
"""

from __future__ import annotations

import itertools

import pandas as pd

from ipa_energy.analysis.boards import with_boards
from ipa_energy.analysis.merging import mergings
from ipa_energy.analysis.wording import join_words
from ipa_energy.plan import GRID

_MOST = 3
"""Blocks that are named; the rest are counted."""

_SHARED = 0.5
"""Two hosts that have at least this share of the smaller one's part of a block in common ran it each for itself."""


def host_notes(measurements: pd.DataFrame, celled: pd.DataFrame) -> list[str]:
    """The sentences; none for a study on one host whose blocks stayed together."""
    return [*split_blocks(measurements), *(note for merging in mergings(celled) for note in merging.notes)]


def split_blocks(measurements: pd.DataFrame) -> list[str]:
    """Blocks of which hosts, or boards of one host, measured different parts: their gains are no block effects.

    Several hosts that each ran a study of the same name have most of every block in common; that is no fault.
    """
    grid = with_boards(measurements)
    grid = grid[grid["role"] == GRID]
    split = []
    for (experiment, number), rows in grid.groupby(["experiment", "block"], sort=True):
        if rows["host"].nunique() < 2:
            continue
        parts = {
            str(host): set(part[["configuration", "workload"]].itertuples(index=False, name=None))
            for host, part in rows.groupby("host", sort=True)
        }
        apart = [
            pair
            for pair in itertools.combinations(parts, 2)
            if len(parts[pair[0]] & parts[pair[1]]) < _SHARED * min(len(parts[host]) for host in pair)
        ]
        if apart:
            split.append(f"block {number} of {experiment} on {join_words(sorted(set(itertools.chain(*apart))))}")
    if not split:
        return []
    more = f" and {len(split) - _MOST} more" if len(split) > _MOST else ""
    return [
        f"Blocks did not stay on one host or board ({'; '.join(split[:_MOST])}{more}): each part stands with its own "
        "host, where the configurations of the other parts have a repetition less."
    ]
