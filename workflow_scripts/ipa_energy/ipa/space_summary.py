"""A space in figures: how many configurations, how many feasible, what fails, and the range of every metric."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ipa_energy.ipa.explain import binding_constraint
from ipa_energy.ipa.options import Input, Options
from ipa_energy.ipa.totals import COLUMNS


@dataclass(frozen=True, slots=True)
class Range:
    """Least and largest value of a column over the feasible rows; None without any."""

    least: float | None
    most: float | None


@dataclass(frozen=True, slots=True)
class SpaceSummary:
    """A space in figures: rows, feasible and measured ones, rows by violation, ranges, and why it is empty if it is."""

    given: Input
    rows: int
    feasible: int
    measured: int
    measured_feasible: int
    violations: dict[str, int]
    ranges: dict[str, Range]
    empty_because: str | None

    def as_row(self) -> dict[str, object]:
        """Flat, for a table with one row per input."""
        row: dict[str, object] = {
            "input": self.given.name,
            "rate_rps": self.given.rate_rps,
            "sla_s": self.given.sla_s,
            "rows": self.rows,
            "feasible": self.feasible,
            "measured": self.measured,
            "measured_feasible": self.measured_feasible,
        }
        row |= {f"violates {name}": count for name, count in sorted(self.violations.items())}
        for name, found in self.ranges.items():
            row |= {f"{name}.min": found.least, f"{name}.max": found.most}
        return row | {"empty_because": self.empty_because}


@dataclass(slots=True)
class Tally:
    """Counts and ranges, block by block, as :func:`.space.blocks` makes them."""

    rows: int = 0
    feasible: int = 0
    measured: int = 0
    measured_feasible: int = 0
    violations: dict[str, int] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, block: Any) -> None:
        """Count one more block."""
        feasible = block["feasible"].to_numpy()
        measured = block["measured"].to_numpy()
        self.rows += len(feasible)
        self.feasible += int(feasible.sum())
        self.measured += int(measured.sum())
        self.measured_feasible += int((measured & feasible).sum())
        for part in pc.value_counts(block["violates"].combine_chunks().cast(pa.string())).to_pylist():
            if part["values"]:
                self.violations[part["values"]] = self.violations.get(part["values"], 0) + part["counts"]
        if not feasible.any():
            return
        kept = block.select(list(COLUMNS)) if feasible.all() else block.select(list(COLUMNS)).filter(block["feasible"])
        for name in COLUMNS:
            values = kept[name].to_numpy()
            low, high = np.fmin.reduce(values), np.fmax.reduce(values)  # these pass over NaN, which null has become
            if not np.isnan(low):
                least, most = self.ranges.get(name, (math.inf, -math.inf))
                self.ranges[name] = min(least, float(low)), max(most, float(high))

    def summary(self, options: Options) -> SpaceSummary:
        """The summary of the blocks so far, which came from these options."""
        binding = binding_constraint(options)
        return SpaceSummary(
            given=options.given,
            rows=self.rows,
            feasible=self.feasible,
            measured=self.measured,
            measured_feasible=self.measured_feasible,
            violations=self.violations,
            ranges={name: Range(*self.ranges.get(name, (None, None))) for name in COLUMNS},
            empty_because=binding.reason if binding else None,
        )
