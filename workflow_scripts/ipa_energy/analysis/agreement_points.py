"""The configurations behind comparisons of :mod:`.generality`: what a plot of their agreement shows.

Measurements and the table of comparisons go in; out comes a row per configuration of the comparisons that are worth
drawing, with the figures of the comparison repeated beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ipa_energy.analysis.association import Clusters
from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.generality import CHOICES, sets_of
from ipa_energy.analysis.generality_parts import together
from ipa_energy.analysis.panel import ENERGY, Panel, panels

KEY = [*CELL, "energy", "choice", "one", "other"]
"""What tells comparisons of two apart."""

FIGURES = ["evidence", "tau", "bias", "limit_lo", "limit_hi", "noise"]

COLUMNS = [*KEY, "comparison", "energy_j_per_request", "ratio", *FIGURES]

Key = tuple[str, ...]


def chosen(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many comparisons of two: the first of every choice, then others; those of a part with its whole last.

    In the order of the table.
    """
    rows = table[table["bias"].notna() & table["one"].notna()]
    within = rows["reason"].fillna("").str.contains("by construction")
    turn = rows.groupby("choice", sort=False).cumcount()
    place = rows["choice"].map(list(CHOICES).index)
    order = pd.DataFrame({"within": within, "turn": turn, "place": place}, index=rows.index)
    kept = order.sort_values(["within", "turn", "place"], kind="stable").index[:most]
    return rows.loc[sorted(kept)]


def points_table(
    measurements: pd.DataFrame,
    table: pd.DataFrame,
    *,
    drop_flags: list[str],
    logs: Mapping[str, str] | None = None,
    most: int = 6,
    found: Sequence[Panel] | None = None,
) -> pd.DataFrame:
    """One row per configuration of the comparisons of ``table`` (:func:`.generality.generality_table`) that are drawn.

    ``comparison`` numbers them from 1; ``energy_j_per_request`` is the geometric mean of both sides, ``ratio`` that of
    ``one`` to ``other``; then come the comparison's own figures. ``found`` are the panels of ``measurements``, where
    they are known already.
    """
    rows = chosen(table, most)
    wanted = {_key(row): (at, row) for at, row in enumerate(rows.to_dict("records"), start=1)}
    frames = []
    if wanted:
        found = list(panels(measurements, drop_flags)) if found is None else found
        for key, one, other in _logs(measurements, found, drop_flags, logs or {}, wanted):
            at, row = wanted[key]
            frame = pd.DataFrame({"energy_j_per_request": np.exp((one + other) / 2), "ratio": np.exp(one - other)})
            frames.append(frame.assign(comparison=at, **{name: row[name] for name in (*KEY, *FIGURES)}))
    points = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)
    return points[COLUMNS].sort_values("comparison", kind="stable", ignore_index=True)


def _key(row: Mapping[Any, Any]) -> Key:
    return tuple("" if pd.isna(row.get(name)) else str(row[name]) for name in KEY)


def _logs(
    measurements: pd.DataFrame,
    found: Sequence[Panel],
    drop_flags: list[str],
    logs: Mapping[str, str],
    wanted: Mapping[Key, object],
) -> Iterator[tuple[Key, NDArray[np.float64], NDArray[np.float64]]]:
    """Logs of the mean energies of the common configurations, of each comparison that is wanted."""
    for choice, column in CHOICES.items():
        if column is None:
            continue
        for members, _ in sets_of(found, choice, column):
            if len(members) != 2:
                continue
            one, other = members
            row: dict[str, Any] = {name: one.key[name] for name in one.key if one.key[name] == other.key[name]}
            key = _key(row | {"choice": choice, "one": one.key[column], "other": other.key[column]})
            if key in wanted:
                _, at, at_other = np.intersect1d(one.configurations, other.configurations, return_indices=True)
                yield key, one.mean_of(ENERGY)[at], other.mean_of(ENERGY)[at_other]
    for pair in together(measurements, drop_flags, logs):
        key = _key(pair.head | {"choice": pair.choice, "one": pair.one, "other": pair.other})
        if key in wanted:
            means = Clusters.of(pair.logs, pair.configuration).means
            yield key, means[:, 0], means[:, 1]
