"""Hosts merged as blocks: what several hosts measured alike, as one cell of more repetitions than each has.

The records in their cells (:func:`.cells.in_cells`) go in. Out comes, for every load, kind of weights and set of meters
that at least two hosts measured in whole blocks, the rows of these blocks, from which the gain of each host is taken
out: the factor by which all its figures of one metric differ from those of the others. No joule of one host is averaged
with one of another before that. ``experiment`` tells the hosts apart, so that each block is a block of one host and
what a host adds to all its configurations is a part of what its blocks have in common (:mod:`.panel`).

A gain is all that may differ. Hosts on which configurations relate to each other in their own way are not merged: the
interaction of configuration and host is tested and estimated by an analysis of variance with repetitions (Montgomery,
Design and Analysis of Experiments, two-factor factorial design). Where each host has a single block it can't be told
from noise, and counts as noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ipa_energy.analysis.cells import CELL, WAY
from ipa_energy.analysis.outcomes import COUPLED, DECOUPLED
from ipa_energy.analysis.wording import join_words

Floats = NDArray[np.float64]

JOIN = "+"
"""Between the names of hosts that are merged; no name of a host holds it."""

WHOLE = 0.9
"""Share of the grid's configurations that a block must have to count as whole: one in ten may be flagged or failed."""

MAX_INTERACTION = 0.05
"""Standard deviation of a figure's logarithm between hosts, beyond gain and noise, up to which these are merged: what
differs by less is too little for the verdict as well (``spread_threshold``)."""

_CLEAR = 0.01
"""Chance below which an interaction is certain: it is asked of four metrics."""

_ENERGIES = {"gross": "gross_j_per_request", "net": "net_j_per_request"}
_OTHERS = {"p99 latency": "latency_p99_s", "cost": "usd_per_1000_requests"}
_SCALED = (*_ENERGIES.values(), *_OTHERS.values(), "latency_mean_s", "throughput_rps")

_PLACE = [name for name in CELL if name != "host"]
_BLOCK = ["experiment", "host", "block"]


@dataclass(frozen=True, slots=True)
class Merging:
    """Hosts that measured one load with one set of meters, merged or not.

    ``cell`` has the joined name of the hosts (:data:`JOIN`). ``rows`` are those of their whole blocks, every host's
    gain taken out; none where the hosts are not merged. ``energies`` are the kinds of energy (``gross``, ``net``) that
    may be put together. ``notes`` say in sentences what was merged or left out, and why.
    """

    cell: tuple[str, ...]
    rows: pd.DataFrame
    energies: tuple[str, ...]
    notes: tuple[str, ...]


def members_of(host: str) -> tuple[str, ...]:
    """The hosts that a name joins; none for the name of one host."""
    return tuple(host.split(JOIN)) if JOIN in host else ()


def speaking(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells that speak on the overall decision, where some are of merged hosts: no evidence counts twice.

    Merged hosts speak for their members. A member that decides the opposite (coupled, where they say decoupled, or the
    other way round) speaks beside them: the answer then depends on the host. A cell has the columns of its cell, its
    ``energy`` and its ``decision``.
    """
    joined = [(cell, members_of(cell["host"])) for cell in cells]

    def spoken_for(one: Mapping[str, Any]) -> bool:
        return any(
            one["host"] in members
            and all(one[name] == cell[name] for name in (*_PLACE, "energy"))
            and {one["decision"], cell["decision"]} != {COUPLED, DECOUPLED}
            for cell, members in joined
        )

    return [cell for cell in cells if not spoken_for(cell)]


def mergings(celled: pd.DataFrame) -> list[Merging]:
    """What can be said of merging, for every load, kind of weights and set of meters that several hosts measured."""
    usable = celled[celled["usable"] & celled[list(_ENERGIES.values())].notna().any(axis=1)]
    if usable["host"].nunique() < 2:
        return []
    groups = usable.groupby(_PLACE, sort=True)
    return [_merged(rows, dict(zip(_PLACE, map(str, key), strict=True))) for key, rows in groups if _several(rows)]


def _several(rows: pd.DataFrame) -> bool:
    return bool(rows["host"].nunique() > 1)


def _merged(rows: pd.DataFrame, place: Mapping[str, str]) -> Merging:
    everyone = sorted(set(rows["host"]))
    alike, others = _alike(rows)
    whole, broken = _whole(alike)
    hosts = sorted(set(whole["host"]))
    cell = tuple({**place, "host": JOIN.join(hosts)}[name] for name in CELL)
    notes = [f"{host} was measured with other settings or measuring code and is not merged" for host in others]
    notes += [
        f"{number} of {host}'s blocks {'is' if number == 1 else 'are'} left out of what is merged, with less than "
        f"{WHOLE:.0%} of the configurations"
        for host, number in broken.items()
    ]
    if len(hosts) < 2:
        notes.append(f"{join_words(everyone)} are not merged: no two have a whole block that was measured alike")
        return _told(cell, place, notes)
    energies, why = _comparable(whole, join_words(hosts))
    notes += why
    if not energies:
        return _told(cell, place, notes)
    gains = {column: _gains(whole, column) for column in _SCALED}
    number = whole.groupby(_BLOCK).ngroups
    notes.append(f"{join_words(hosts)} are merged as {number} blocks; {_gain_in_words(gains, energies[0])}")
    merged = whole.assign(experiment=whole["experiment"] + " on " + whole["host"], host=JOIN.join(hosts))
    for column, gain in gains.items():
        merged[column] = whole[column] / whole["host"].map(gain)
    return _told(cell, place, notes, merged, energies)


def _told(
    cell: tuple[str, ...],
    place: Mapping[str, str],
    notes: list[str],
    rows: pd.DataFrame | None = None,
    energies: tuple[str, ...] = (),
) -> Merging:
    where = f"Pipeline {place['pipeline']} under {place['workload']} with {place['weights']} weights"
    told = tuple(f"{where}: {note}." for note in notes)
    return Merging(cell, pd.DataFrame() if rows is None else rows, energies, told)


def _comparable(whole: pd.DataFrame, names: str) -> tuple[tuple[str, ...], list[str]]:
    """The kinds of energy that hosts may be merged for, and why not the others."""
    there = {name: column for name, column in _ENERGIES.items() if whole[column].notna().any()}
    differ = {name: words for name, column in (there | _OTHERS).items() if (words := _differs(whole, column))}
    notes = [
        f"{names} are not merged{f' for {name} energy' if name in there else ''}: beyond a common factor and noise, "
        f"{f'{name} energy' if name in there else name} of the same configuration differs between them by {words}"
        for name, words in differ.items()
    ]
    return () if differ.keys() & _OTHERS.keys() else tuple(name for name in there if name not in differ), notes


def _alike(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows of the hosts that measured the way most hosts did, of equals with most records; and the other hosts."""
    ways = rows.groupby(WAY, dropna=False).ngroup()
    votes = pd.DataFrame({"way": ways, "host": rows["host"]}).groupby("way")["host"].agg(["nunique", "size"])
    common = votes.reset_index().sort_values(["nunique", "size", "way"]).iloc[-1]["way"]
    return rows[ways == common], sorted(set(rows["host"]) - set(rows.loc[ways == common, "host"]))


def _whole(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows of whole blocks, and how many blocks of each host are not whole."""
    share = rows.groupby(_BLOCK)["configuration"].transform("nunique") / rows["configuration"].nunique()
    broken = rows[share < WHOLE].drop_duplicates(_BLOCK)
    return rows[share >= WHOLE], {str(host): int(n) for host, n in broken["host"].value_counts().sort_index().items()}


def _logs(rows: pd.DataFrame, column: str) -> tuple[pd.DataFrame, pd.Series]:
    """The rows whose figure has a logarithm, and that logarithm."""
    good = rows[rows[column].astype("float64") > 0]
    return good, pd.Series(np.log(good[column].to_numpy(dtype=float)), index=good.index)


def _gains(rows: pd.DataFrame, column: str) -> dict[str, float]:
    """The factor of each host about their geometric mean, least squares beside a constant for each configuration."""
    good, logs = _logs(rows, column)
    hosts = sorted(set(rows["host"]))
    of_host = pd.DataFrame({host: (good["host"] == host).astype("float64") for host in hosts[1:]})
    effects = np.zeros(len(hosts))
    if len(good):
        inside, response = (_inside(part, good, "configuration") for part in (of_host, logs))
        effects[1:] = np.linalg.lstsq(inside, response, rcond=None)[0]
    return dict(zip(hosts, np.exp(effects - effects.mean()).tolist(), strict=True))


def _inside(part: pd.DataFrame | pd.Series, rows: pd.DataFrame, *names: str) -> Floats:
    """Deviations from the mean of each group of ``rows``."""
    return np.asarray(part - part.groupby([rows[name] for name in names]).transform("mean"), dtype=float)


def _differs(rows: pd.DataFrame, column: str) -> str | None:
    """By how much a figure of the same configuration differs between hosts, where that is certain and too much."""
    good, logs = _logs(rows, column)
    block = pd.get_dummies(good.groupby(_BLOCK).ngroup(), dtype=float)
    alone, degrees = _residual(block, logs, good, "configuration", "host")
    together, all_degrees = _residual(block, logs, good, "configuration")
    between = all_degrees - degrees
    if degrees < 1 or between < 1:
        return None
    square, noise = (together - alone) / between, max(alone, 0.0) / degrees
    repetitions = len(good) / good.groupby(["configuration", "host"]).ngroups
    size = float(np.sqrt(max(0.0, square - noise) / repetitions))
    # Without any noise, whatever differs is certain.
    certain = noise == 0 or float(stats.f.sf(square / noise, between, degrees)) < _CLEAR
    return f"{size:.1%} (standard deviation)" if certain and size > MAX_INTERACTION else None


def _residual(design: pd.DataFrame, logs: pd.Series, rows: pd.DataFrame, *names: str) -> tuple[float, int]:
    """Sum of squares that blocks and a constant for each group leave, and its degrees of freedom."""
    inside, response = (_inside(part, rows, *names) for part in (design, logs))
    beta, _, rank, _ = np.linalg.lstsq(inside, response, rcond=None)
    groups = rows.groupby(list(names)).ngroups
    return float(np.sum((response - inside @ beta) ** 2)), len(rows) - groups - int(rank)


def _gain_in_words(gains: Mapping[str, Mapping[str, float]], energy: str) -> str:
    """How far apart the hosts are in energy, as a clause."""
    of_hosts = gains[_ENERGIES[energy]]
    least, most = (pick(of_hosts, key=of_hosts.__getitem__) for pick in (min, max))
    factor = of_hosts[most] / of_hosts[least]
    return f"{most} takes {factor:.3f} times the {energy} energy of {least} for the same work, which is taken out"
