"""Does the answer depend on what was chosen: meters, energy, host, weights, workload? The table ``generality.csv``.

Measurements go in. Out comes one row per comparison of two ways to measure the same configurations, and one per set of
three or more hosts, meters, weights or workloads. It says whether they rank configurations alike (Kendall's tau-b and
W), by which ratio they differ and how much this ratio scatters beyond replicate noise (limits of agreement), and how
much of the variance is an interaction of configuration and place (:mod:`.agreement`).

A choice that was made once only can't be judged: its row has the reason alone. Nothing then shows that the answer holds
elsewhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from ipa_energy.analysis import agreement, association
from ipa_energy.analysis.aggregate import evidence_of
from ipa_energy.analysis.association import Clusters
from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.generality_parts import Together, together
from ipa_energy.analysis.membership import generator
from ipa_energy.analysis.panel import ENERGY, Floats, Panel, panels

CHOICES: Mapping[str, str | None] = {
    "meters": "meters",
    "domains": None,
    "hosts": "host",
    "energy": None,
    "weights": "weights",
    "workloads": "workload",
}
"""What may have been chosen otherwise, and the column of the cell that tells the choices apart."""

MIN_CONFIGURATIONS = 3
"""Two points always lie on a monotone curve."""

Decisions = Mapping[tuple[str, ...], str]
"""The decision of each cell and energy, by the values of :data:`.cells.CELL` and ``energy``."""

COLUMNS = (
    *CELL,
    *("energy", "evidence", "choice", "one", "other", "members", "n_members", "n_configurations"),
    *("tau", "tau_lo", "tau_hi", "w", "w_p", "bias", "bias_lo", "bias_hi", "limit_lo", "limit_hi"),
    *("trend", "trend_lo", "trend_hi", "spread", "noise", "spread_excess", "spread_p"),
    *("share_configuration", "share_choice", "share_interaction", "share_noise"),
    *("dependence", "dependence_lo", "dependence_hi", "interaction_p", "decisions", "same_decision", "reason"),
)
_TEXT = (*CELL, "energy", "evidence", "choice", "one", "other", "members", "decisions", "same_decision", "reason")
_WHOLE = ("n_members", "n_configurations")

_NO_NOISE = "no repetitions, so replicate noise is unknown"
_BETWEEN = " | "


@dataclass(frozen=True, slots=True)
class _How:
    confidence: float
    bootstrap: int
    seed: int


@dataclass(frozen=True, slots=True)
class _Side:
    """One way: log energies of the common configurations, and the noise of a single repetition where it is known."""

    clusters: Clusters
    noise: agreement.Noise | None

    @property
    def means(self) -> Floats:
        return self.clusters.means[:, 0]

    @property
    def of_mean(self) -> agreement.Noise | None:
        """Noise of the mean of a configuration."""
        if self.noise is None:
            return None
        return agreement.Noise(self.noise.variance * float(np.mean(1 / self.clusters.sizes)), self.noise.degrees)


def generality_table(
    measurements: pd.DataFrame,
    *,
    confidence: float,
    bootstrap: int,
    drop_flags: list[str],
    seed: int,
    logs: Mapping[str, str] | None = None,
    decisions: Decisions | None = None,
    found: Sequence[Panel] | None = None,
) -> pd.DataFrame:
    """The table: the columns of :data:`COLUMNS`.

    ``logs`` maps external logs whose columns stand in ``measurements`` to the part of the machine that they cover
    (``node``, ``cpu``, ``gpu``). Cell columns and ``energy`` are empty where they differ between the sides. ``bias``
    and the limits are ratios (of ``one`` to ``other``); ``spread``, ``noise`` and ``spread_excess`` standard deviations
    of the logarithm of the ratio, about fractions; ``trend`` is per unit of the log energy. ``dependence`` is the part
    of what tells configurations apart that depends on the choice. With ``decisions``, ``decisions`` holds those of the
    sides and ``same_decision`` is ``yes`` or ``no``. ``found`` are the panels of ``measurements``, where they are
    known already.
    """
    how = _How(confidence, bootstrap, seed)
    found = list(panels(measurements, drop_flags)) if found is None else found
    pairs = together(measurements, drop_flags, logs or {})
    beside = [row for pair in pairs if (row := _together_row(pair, how)) is not None]
    rows: list[dict[str, Any]] = []
    for choice, column in CHOICES.items():
        if column is not None:
            mine = list(_set_rows(found, choice, column, how))
            rows += mine or [{"choice": choice, "reason": _why_none(found, choice, column)}]
        else:
            mine = [row for row in beside if row["choice"] == choice]
            rows += mine or [{"choice": choice, "reason": _why_not_together(found, choice)}]
    return _as_table([_with_decisions(row, decisions or {}) for row in rows])


def _as_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = dict.fromkeys(_TEXT, "str") | dict.fromkeys(_WHOLE, "Int64")
    return frame.astype({name: kinds.get(name, "float64") for name in COLUMNS})


def sets_of(found: Sequence[Panel], choice: str, column: str) -> Iterator[tuple[tuple[Panel, ...], str | None]]:
    """What is compared: all pairs, and all three or more, of the panels that differ in ``column`` alone.

    Hosts that share no set of meters are compared all the same, by the panels with most configurations, with a remark.
    """
    for _, group in _by(found, [name for name in (*CELL, "energy") if name != column]):
        yield from ((members, None) for members in _pairs_and_all(group))
    if choice != "hosts":
        return
    for _, group in _by(found, [name for name in (*CELL, "energy") if name not in ("host", "meters")]):
        hosts = [panels_of for _, panels_of in _by(group, ["host"])]
        largest = [max(panels_of, key=lambda panel: len(panel.configurations)) for panels_of in hosts]
        meters = {panels_of[0].key["host"]: {panel.key["meters"] for panel in panels_of} for panels_of in hosts}
        for members in _pairs_and_all(largest):
            if not set.intersection(*(meters[panel.key["host"]] for panel in members)):
                yield (
                    members,
                    "no set of meters is common to these hosts, so that they differ in host and meters at once: "
                    + _BETWEEN.join(panel.key["meters"] for panel in members),
                )


def _pairs_and_all(group: list[Panel]) -> list[tuple[Panel, ...]]:
    return [*itertools.combinations(group, 2), *([tuple(group)] if len(group) > 2 else [])]


def _by(found: Sequence[Panel], names: list[str]) -> list[tuple[tuple[str, ...], list[Panel]]]:
    groups: dict[tuple[str, ...], list[Panel]] = {}
    for panel in found:
        groups.setdefault(tuple(panel.key[name] for name in names), []).append(panel)
    return sorted(groups.items())


def _set_rows(found: Sequence[Panel], choice: str, column: str, how: _How) -> Iterator[dict[str, Any]]:
    for members, remark in sets_of(found, choice, column):
        common = sorted(set.intersection(*(set(panel.configurations) for panel in members)))
        if len(common) < MIN_CONFIGURATIONS:
            continue
        labels = [panel.key[column] for panel in members]
        shared = [name for name in (*CELL, "energy") if len({panel.key[name] for panel in members}) == 1]
        row: dict[str, Any] = {name: members[0].key[name] for name in shared}
        row |= {"choice": choice, "evidence": evidence_of(panel.evidence for panel in members)}
        row |= {"n_members": len(members), "n_configurations": len(common)}
        row["keys"] = [tuple(panel.key.values()) for panel in members]
        sides = [_side(panel, common) for panel in members]
        if len(members) == 2:
            row |= {"one": labels[0], "other": labels[1]} | _pair(sides, how, [*row["keys"], choice])
        else:
            row["members"] = _BETWEEN.join(labels)
        row |= _concordance(sides) | _components(sides, how.confidence)
        reasons = [row.get("reason"), remark, _NO_NOISE if any(side.noise is None for side in sides) else None]
        yield row | {"reason": "; ".join(dict.fromkeys(reason for reason in reasons if reason)) or None}


def _side(panel: Panel, common: list[str]) -> _Side:
    place = {name: at for at, name in enumerate(panel.configurations)}
    rows = [place[name] for name in common]
    column = panel.column(ENERGY)
    values = np.nan_to_num(panel.values[rows][:, :, [column]])
    noise = agreement.Noise(float(panel.within[column, column]), panel.degrees) if panel.degrees else None
    return _Side(Clusters(values, panel.repetitions[rows]), noise)


def _pair(sides: list[_Side], how: _How, names: list[object]) -> dict[str, Any]:
    """Statistics of two ways that were measured apart."""
    one, other = sides
    of_means = [side.of_mean for side in sides]
    known = [noise for noise in of_means if noise is not None]
    noise = agreement.sum_of(known) if len(known) == len(sides) else None
    row = _limits(one.means, other.means, noise, how.confidence)
    return row | _tau([one.clusters, other.clusters], one.means, other.means, how, names)


def _limits(one: Floats, other: Floats, noise: agreement.Noise | None, confidence: float) -> dict[str, Any]:
    found = asdict(agreement.limits(one, other, noise, confidence))
    row = {name: math.exp(found[name]) for name in ("bias", "bias_lo", "bias_hi", "limit_lo", "limit_hi")}
    row |= {name: found[name] for name in ("trend", "trend_lo", "trend_hi", "spread", "noise")}
    return row | {"spread_excess": found["excess"], "spread_p": found["excess_p"]}


def _tau(parts: list[Clusters], one: Floats, other: Floats, how: _How, names: list[object]) -> dict[str, Any]:
    tau = association.tau_b(association.without_rounding(one), association.without_rounding(other))
    if tau is None:
        return {"reason": "one side is the same in all configurations, so there is no ranking"}
    interval = agreement.tau_interval(
        parts, tau, confidence=how.confidence, resamples=how.bootstrap, rng=generator(how.seed, *names)
    )
    if interval is None:
        return {"tau": tau, "reason": "no interval of tau: most bootstrap resamples hold a single value"}
    return {"tau": tau, "tau_lo": interval[0], "tau_hi": interval[1]}


def _concordance(sides: list[_Side]) -> dict[str, Any]:
    found = agreement.kendalls_w(np.array([side.means for side in sides]))
    return {} if found is None else {"w": found.w, "w_p": found.p}


def _components(sides: list[_Side], confidence: float) -> dict[str, Any]:
    noises = [side.noise for side in sides if side.noise is not None]
    noise = None
    if len(noises) == len(sides):
        total = agreement.sum_of(noises)
        noise = agreement.Noise(total.variance / len(sides), total.degrees)
    repetitions = 1 / float(np.mean([np.mean(1 / side.clusters.sizes) for side in sides]))
    found = agreement.components(np.column_stack([side.means for side in sides]), noise, repetitions, confidence)
    if found is None:
        return {}
    row = asdict(found)
    return {
        f"share_{'choice' if name == 'place' else name}": row[name]
        for name in ("configuration", "place", "interaction", "noise")
    } | {name: row[name] for name in ("dependence", "dependence_lo", "dependence_hi", "interaction_p")}


def _together_row(pair: Together, how: _How) -> dict[str, Any] | None:
    """Statistics of two energies of the same records: their difference is taken record by record."""
    clusters = Clusters.of(pair.logs, pair.configuration)
    if len(clusters) < MIN_CONFIGURATIONS:
        return None
    difference = clusters.values[:, :, 0] - clusters.values[:, :, 1]
    centred = (difference - (difference.sum(axis=1) / clusters.sizes)[:, None]) * clusters.present
    degrees = int(clusters.sizes.sum()) - len(clusters)
    noise = None
    if degrees:
        variance = float(np.sum(centred**2)) / degrees * float(np.mean(1 / clusters.sizes))
        noise = agreement.Noise(variance, degrees)
    means = clusters.means
    row: dict[str, Any] = pair.head | {"choice": pair.choice, "one": pair.one, "other": pair.other, "n_members": 2}
    row |= {"evidence": pair.evidence, "n_configurations": len(clusters), "keys": pair.keys}
    row |= _limits(means[:, 0], means[:, 1], noise, how.confidence)
    row |= _tau([clusters], means[:, 0], means[:, 1], how, [*pair.keys, pair.choice, pair.one, pair.other])
    concordance = agreement.kendalls_w(means.T)
    row |= {} if concordance is None else {"w": concordance.w, "w_p": concordance.p}
    reasons = [row.get("reason"), pair.remark, None if degrees else _NO_NOISE]
    return row | {"reason": "; ".join(reason for reason in reasons if reason) or None}


def _with_decisions(row: dict[str, Any], decisions: Decisions) -> dict[str, Any]:
    keys = row.pop("keys", [])
    taken = [decisions[key] for key in keys if key in decisions]
    if len(keys) > 1 and len(taken) == len(keys):
        row |= {"decisions": _BETWEEN.join(taken), "same_decision": "yes" if len(set(taken)) == 1 else "no"}
    return row


_NOUNS = {
    "meters": ("set of meters", "sets of meters", "with others"),
    "hosts": ("host", "hosts", "on another"),
    "weights": ("kind of weights", "kinds of weights", "with others"),
    "workloads": ("workload", "workloads", "under another"),
}


def _why_none(found: Sequence[Panel], choice: str, column: str) -> str:
    if not found:
        return "no usable record has an energy"
    noun, plural, elsewhere = _NOUNS[choice]
    values = sorted({panel.key[column] for panel in found})
    if len(values) == 1:
        return f"one {noun} ({values[0]}): nothing shows that the answer holds {elsewhere}"
    return (
        f"{len(values)} {plural} ({', '.join(values)}), but no two of them have {MIN_CONFIGURATIONS} configurations in "
        f"common that are alike in all else: nothing shows that the answer holds {elsewhere}"
    )


def _why_not_together(found: Sequence[Panel], choice: str) -> str:
    if not found:
        return "no usable record has an energy"
    if choice == "energy":
        return f"no {MIN_CONFIGURATIONS} configurations have both a gross and a net energy above zero"
    return (
        "each record has the energy of one part of the machine only, and no external log has one beside it: nothing "
        "shows that the answer holds with another part or meter"
    )
