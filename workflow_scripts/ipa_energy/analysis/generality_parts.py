"""Energies that stand side by side in the same records: gross and net, parts of the machine, external logs.

The measurements table goes in; out come pairs of energies per request, record by record. What can be compared: gross
with net; a log of the whole node with the sum of the parts that the records measure; a log of a part with these parts;
two logs of the same part; and each part with the total, which asks whether one part alone would rank alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ipa_energy.analysis.aggregate import evidence_of
from ipa_energy.analysis.cells import CELL, in_cells
from ipa_energy.analysis.coupling import ENERGIES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NODE = "node"
ESTIMATE_DOMAIN = "cpu"
"""The domain of the estimate, which is never measured (:mod:`ipa_energy.meters.estimate`)."""


@dataclass(frozen=True, slots=True)
class Together:
    """Two energies of the same records: natural logs of joules per request, shape (m, 2), and whose they are.

    ``configuration`` numbers the configurations from 0, shape (m,). ``head`` holds the columns of the row that both
    share, ``keys`` cell and energy of each side (the same for two parts of one total).
    """

    choice: str
    head: dict[str, Any]
    one: str
    other: str
    logs: Floats
    configuration: Ints
    evidence: str | None
    keys: list[tuple[str, ...]]
    remark: str | None = None


@dataclass(frozen=True, slots=True)
class _Energy:
    """Joules of a record's parts, added up, shape (m,): its name, what it covers, and what stands behind it."""

    name: str
    covers: str
    joules: pd.Series
    evidence: str | None


def together(measurements: pd.DataFrame, drop_flags: list[str], logs: Mapping[str, str]) -> Iterator[Together]:
    """All pairs of all cells; ``logs`` maps external logs to the part of the machine that they cover."""
    celled = in_cells(measurements, drop_flags)
    for cell, rows in celled[celled["usable"]].groupby(CELL, sort=True):
        names = tuple(map(str, cell))
        head = dict(zip(CELL, names, strict=True))
        pair = _pair(rows, rows[ENERGIES["gross"]], rows[ENERGIES["net"]])
        if pair is not None:
            yield Together(
                choice="energy",
                head=head,
                one="gross",
                other="net",
                logs=pair[0],
                configuration=pair[1],
                evidence=evidence_of(rows["evidence"]),
                keys=[(*names, "gross"), (*names, "net")],
            )
        for energy in ENERGIES:
            for one, other, remark in _domain_pairs(rows, energy, logs, names[-1]):
                completed = rows["completed"].astype("Float64").astype("float64").where(rows["completed"] > 0)
                if (pair := _pair(rows, one.joules / completed, other.joules / completed)) is not None:
                    yield Together(
                        choice="domains",
                        head=head | {"energy": energy},
                        one=one.name,
                        other=other.name,
                        logs=pair[0],
                        configuration=pair[1],
                        evidence=evidence_of([one.evidence, other.evidence]),
                        keys=[(*names, energy)],
                        remark=remark,
                    )


def _pair(rows: pd.DataFrame, one: pd.Series, other: pd.Series) -> tuple[Floats, Ints] | None:
    """Logs of both where both are positive, and the configuration of each record; None without any."""
    both = np.column_stack([one.to_numpy(dtype=float), other.to_numpy(dtype=float)])
    good = (np.nan_to_num(both) > 0).all(axis=1) & np.isfinite(both).all(axis=1)
    if not good.any():
        return None
    configuration = np.unique(rows["configuration"].to_numpy(dtype=str)[good], return_inverse=True)[1]
    return np.log(both[good]), configuration.astype(np.int64)


def _domain_pairs(
    rows: pd.DataFrame, energy: str, logs: Mapping[str, str], meters: str
) -> Iterator[tuple[_Energy, _Energy, str | None]]:
    parts = [_part(rows, name, energy, meters) for name in _domains(rows, energy) if name not in logs]
    external = [
        _Energy(f"{name} (external log)", covers, rows[f"{name}.{energy}_j"], "measured")
        for name, covers in logs.items()
        if name in _domains(rows, energy)
    ]
    everything = _sum(parts, NODE)
    kinds = {covers: _sum([part for part in parts if part.covers == covers], covers) for covers in _covered(parts)}
    for log in external:
        inside = everything if log.covers == NODE else kinds.get(log.covers)
        if inside is not None:
            remark = "the log holds more than these parts" if log.covers == NODE else None
            yield log, inside, remark
    for one, other in itertools.combinations(external, 2):
        if one.covers == other.covers:
            yield one, other, None
    if everything is not None and len(kinds) > 1:
        for part in kinds.values():
            if part is not None:
                yield part, everything, "one is a part of the other, so they agree in part by construction"


def _domains(rows: pd.DataFrame, energy: str) -> list[str]:
    ending = f".{energy}_j"
    return [str(name).removesuffix(ending) for name in rows if str(name).endswith(ending) and rows[name].notna().any()]


def _part(rows: pd.DataFrame, name: str, energy: str, meters: str) -> _Energy:
    named = [part for part in meters.split(" + ") if part.startswith(f"{name}:")]
    estimated = "(estimated)" in named[0] if named else name == ESTIMATE_DOMAIN
    label = f"{name} (estimated)" if estimated else name
    kind = "estimated" if estimated else "measured"
    return _Energy(label, name.partition("_")[0], rows[f"{name}.{energy}_j"], kind)


def _covered(parts: list[_Energy]) -> list[str]:
    return list(dict.fromkeys(part.covers for part in parts))


def _sum(parts: list[_Energy], covers: str) -> _Energy | None:
    """Parts added up, null where one is; None without any."""
    if not parts:
        return None
    total = parts[0].joules
    for part in parts[1:]:
        total = total + part.joules
    return _Energy(" + ".join(part.name for part in parts), covers, total, evidence_of(p.evidence for p in parts))
