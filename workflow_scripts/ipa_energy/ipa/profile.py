"""Profiles: what one replica of each stage variant does at each batch size. A CSV file or a table in, arrays out.

One row is one (stage, variant, cores, GPU share, batch): accuracy, latency of a batch, throughput of one replica, and
optionally energy per batch, power of a waiting replica and memory. The stages stand in the order of the pipeline. A
profile that was measured and one that was published have the same form, so variants that can't be loaded here are
studied all the same. Whatever was changed or looks odd is told in ``remarks``; what can't be used is an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from ipa_energy.files import atomic_path
from ipa_energy.ipa.accuracy import as_fractions
from ipa_energy.ipa.profile_table import LATENCIES, EnergyKind, ProfileError, checked, energy_kind_of
from ipa_energy.ipa.ticks import Floats, Ints


@dataclass(frozen=True, slots=True)
class StageProfile:
    """One stage as arrays of shape (rows,), in the order of the table; ``accuracy`` has shape (variants,).

    ``variant`` holds indices into ``variants``; ``latencies`` maps the columns there are to seconds; ``energy_j`` is
    per batch and ``idle_w`` per replica, NaN where the profile has none.
    """

    stage: str
    variants: tuple[str, ...]
    accuracy: Floats
    variant: Ints
    cores: Ints
    gpu_share: Floats
    batch: Ints
    latencies: Mapping[str, Floats]
    throughput_rps: Floats
    energy_j: Floats
    idle_w: Floats

    def latency_s(self, kind: str) -> Floats:
        """Latency of a batch: the column ``latency_{kind}_s``, or ``latency_s`` where the profile gives only that."""
        for column in (f"latency_{kind}_s", "latency_s"):
            if column in self.latencies:
                return self.latencies[column]
        raise ProfileError(
            f"the profile of stage {self.stage} has no {kind} latency, only {', '.join(self.latencies)}: "
            f"choose one of these, or add the column latency_{kind}_s"
        )

    def row_name(self, row: int) -> str:
        """A row in words, for messages."""
        return f"{self.stage}/{self.variants[self.variant[row]]} on {self.cores[row]} cores, batch {self.batch[row]}"


@dataclass(frozen=True, slots=True)
class Profile:
    """A checked profile: the table, its stages as arrays in pipeline order, the kind of its energy, and remarks."""

    table: pd.DataFrame
    stages: tuple[StageProfile, ...]
    energy_kind: EnergyKind | None
    remarks: tuple[str, ...]

    def stage(self, name: str) -> StageProfile:
        """A stage by its name. Raises ProfileError for one that the profile doesn't have."""
        for stage in self.stages:
            if stage.stage == name:
                return stage
        raise ProfileError(f"the profile has no stage {name!r}; it has {', '.join(s.stage for s in self.stages)}")

    @property
    def evidence(self) -> str:
        """What stands behind the energies: ``measured``, ``estimated``, ``mixed``, ``unknown``, or ``none`` of any."""
        if self.energy_kind is None:
            return "none"
        known = set(self.table["evidence"].dropna()) if "evidence" in self.table.columns else set()
        return "unknown" if not known else known.pop() if len(known) == 1 else "mixed"

    @property
    def host_idle_w(self) -> float | None:
        """Power of the bare host in W, the mean of what the rows say; None where they don't."""
        if "host_idle_w" not in self.table.columns or self.table["host_idle_w"].isna().all():
            return None
        return float(self.table["host_idle_w"].mean())

    @property
    def energy_boundary(self) -> str:
        """In words: what the energy per request that follows from this profile holds."""
        waiting = any(not np.isnan(stage.idle_w).all() for stage in self.stages)
        if self.energy_kind is None:
            return "none: the profile has no energy"
        if waiting:
            return "what batches cost above the waiting replicas, and the waiting power of all replicas all the time"
        if self.energy_kind == "net":
            return "what batches cost above the waiting replicas; waiting replicas are left out, as idle_w is not known"
        return "what batches cost at full load; waiting replicas are left out, as idle_w is not known"


def read_profile(path: str | Path, energy_kind: EnergyKind | None = None) -> Profile:
    """Read a CSV file; lines that begin with # are comments, for sources. Raises ProfileError, naming the file."""
    try:
        table = pd.read_csv(path, comment="#", skipinitialspace=True, dtype={"stage": str, "variant": str})
        return make_profile(table, energy_kind)
    except FileNotFoundError:
        raise
    except (ValueError, pd.errors.ParserError) as error:
        raise ProfileError(f"{path}: {error}") from error


def write_profile(profile: Profile, path: str | Path) -> None:
    """Write the table as CSV, atomically; :func:`read_profile` reads it back."""
    with atomic_path(path) as temporary:
        profile.table.to_csv(temporary, index=False)


def make_profile(table: pd.DataFrame, energy_kind: EnergyKind | None = None) -> Profile:
    """Check a table with the columns of :data:`.profile_table.COLUMNS` and make a profile, accuracies as fractions.

    ``energy_kind`` says what ``energy_j`` holds where the table has no column ``energy_kind``. Raises ProfileError for
    missing columns, rows that come twice, figures that are missing, not numbers or out of range, a variant with two
    accuracies, and energy of no or of two kinds.
    """
    unused: list[str] = []
    table = checked(table, unused)
    kind = energy_kind_of(table, energy_kind)
    remarks = [f"columns not used: {', '.join(unused)}"] if unused else []
    table, told = _accuracies_as_fractions(table)
    remarks += told
    stages = tuple(_stage(str(name), table[table["stage"] == name]) for name in table["stage"].unique())
    for stage in stages:
        remarks += _oddities(stage)
    return Profile(table, stages, kind, tuple(remarks))


def _accuracies_as_fractions(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    table, remarks = table.copy(), []
    for stage, rows in table.groupby("stage", sort=False):
        metrics = set(rows["metric"].dropna().astype(str)) if "metric" in rows.columns else set()
        if len(metrics) > 1:
            raise ProfileError(f"stage {stage} has the metrics {', '.join(sorted(metrics))}: use one for all variants")
        published: dict[str, float] = {}
        for variant, value in zip(rows["variant"], rows["accuracy"], strict=True):
            if published.setdefault(variant, value) != value:
                raise ProfileError(
                    f"{stage}/{variant} has the accuracies {published[variant]:g} and {value:g}: a variant has one"
                )
        try:
            fractions, remark = as_fractions(str(stage), published, *metrics)
        except ValueError as error:
            raise ProfileError(str(error)) from error
        table.loc[rows.index, "accuracy"] = [fractions[variant] for variant in rows["variant"]]
        if any(metric.strip().lower() == "wer" for metric in metrics):
            table.loc[rows.index, "metric"] = "1 - wer"  # else reading the table back would turn it around again
        remarks += [remark] if remark else []
    return table, remarks


def _stage(name: str, rows: pd.DataFrame) -> StageProfile:
    codes, variants = pd.factorize(rows["variant"])
    accuracy = rows.groupby("variant", sort=False)["accuracy"].first()

    def floats(column: str) -> Floats:
        if column not in rows.columns:
            return np.full(len(rows), np.nan)
        return rows[column].to_numpy(dtype=float)

    return StageProfile(
        stage=name,
        variants=tuple(map(str, variants)),
        accuracy=accuracy.to_numpy(dtype=float),
        variant=np.asarray(codes, dtype=np.int64),
        cores=rows["cores"].to_numpy(dtype=np.int64),
        gpu_share=floats("gpu_share"),
        batch=rows["batch"].to_numpy(dtype=np.int64),
        latencies=MappingProxyType({column: floats(column) for column in LATENCIES if column in rows.columns}),
        throughput_rps=floats("throughput_rps"),
        energy_j=floats("energy_j"),
        idle_w=floats("idle_w"),
    )


def curves(stage: StageProfile) -> Iterator[tuple[str, Ints]]:
    """The rows of each (variant, cores, GPU share) by ascending batch size, with a name for messages."""
    keys = list(zip(stage.variant.tolist(), stage.cores.tolist(), stage.gpu_share.tolist(), strict=True))
    for key in dict.fromkeys(keys):
        rows = np.array([i for i, other in enumerate(keys) if other == key], dtype=np.int64)
        share = f" and {key[2]:g} of a GPU" if key[2] else ""
        yield f"{stage.stage}/{stage.variants[key[0]]} on {key[1]} cores{share}", rows[np.argsort(stage.batch[rows])]


def _oddities(stage: StageProfile) -> list[str]:
    """Handled as they are and told: falling throughput, falling latency, missing batch sizes, negative energy."""
    told = []
    everywhere = set(stage.batch.tolist())
    for name, rows in curves(stage):
        batch = stage.batch[rows]
        lacking = sorted(everywhere - set(batch.tolist()))
        if lacking:
            told.append(f"{name} has no batch {', '.join(map(str, lacking))}: left out of the space")
        for figure, values in (("throughput_rps", stage.throughput_rps), *stage.latencies.items()):
            for (b, x), (c, y) in itertools.pairwise(zip(batch.tolist(), values[rows].tolist(), strict=True)):
                if y < x:
                    told.append(
                        f"{figure} of {name} falls from {x:g} at batch {b} to {y:g} at batch {c}: kept as given"
                    )
        for figure, values in (("energy_j", stage.energy_j), ("idle_w", stage.idle_w)):
            below = rows[values[rows] < 0]
            if len(below):
                value, b = values[below[0]], stage.batch[below[0]]
                told.append(f"{figure} of {name} is {value:g} at batch {b}, below 0: kept as given")
    return told
