"""Energy per request of every configuration, by domain, and in each the idle part and what serving adds to it.

The measurements table goes in; out comes one row per configuration, cell and domain. The domains of the cell's total
add up to its gross energy per request, and their net parts to its net energy. A figure of another meter that stands
beside the total, as an external log of the whole node does, is marked as not part of it.
"""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from ipa_energy.analysis.cells import CELL, NO_METERS, in_cells
from ipa_energy.analysis.tables import knob_columns

PARTS = ("gross_j_per_request", "idle_j_per_request", "net_j_per_request")
COLUMNS = ("configuration", *CELL, "domain", "in_total", "evidence", "n", *PARTS, "reason")
"""Columns besides the knobs, which come after the cell."""

_ESTIMATED = " (estimated)"
_LOG = "external("
_SUFFIX = ".gross_j"


def parts_of(meters: str) -> dict[str, str]:
    """The parts of a total: name of the domain, or of the external log, and whether it is measured or estimated."""
    parts = {}
    for part in [] if meters == NO_METERS else meters.split(" + "):
        domain, _, meter = part.removesuffix(_ESTIMATED).partition(":")
        name = meter.removeprefix(_LOG).removesuffix(")") if meter.startswith(_LOG) else domain
        parts[name] = "estimated" if part.endswith(_ESTIMATED) else "measured"
    return parts


def energy_split(measurements: pd.DataFrame, drop_flags: Collection[str], logs: Collection[str] = ()) -> pd.DataFrame:
    """One row per configuration, cell and domain that has a usable record with gross energy and completed requests.

    Each part is the mean over ``n`` repetitions of joules over completed requests: those with net energy where there
    are any, so that idle and net add up to gross; else all of them, and idle and net are null with a ``reason``.
    ``in_total`` is ``yes``, or ``no`` for one of the external ``logs`` that stands beside the total; ``evidence`` is
    that of the domain. Columns: :data:`COLUMNS` and, after the cell, the knobs.
    """
    knobs = knob_columns(measurements)
    celled = in_cells(measurements, drop_flags)
    usable = celled[celled["usable"] & celled["gross_j_per_request"].notna() & (celled["completed"] > 0)]
    tables = [
        _of_cell(group, dict(zip(CELL, map(str, cell), strict=True)), knobs, logs)
        for cell, group in usable.groupby(CELL, sort=True)
    ]
    columns = ["configuration", *CELL, *knobs, *COLUMNS[1 + len(CELL) :]]
    frame = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
    return frame[columns].astype(dict.fromkeys(PARTS, "float64"))


def _of_cell(group: pd.DataFrame, cell: dict[str, str], knobs: list[str], logs: Collection[str]) -> pd.DataFrame:
    parts = parts_of(cell["meters"])
    named = [str(name).removesuffix(_SUFFIX) for name in group.columns if str(name).endswith(_SUFFIX)]
    beside = [name for name in named if name in logs and name not in parts]
    has_net = group["net_j_per_request"].notna() & group[[f"{name}.net_j" for name in parts]].notna().all(axis=1)
    chosen = group[has_net | ~has_net.groupby(group["configuration"]).transform("any")]
    by = chosen["configuration"]
    completed = chosen["completed"].astype("float64")
    tables = []
    for name in [*(name for name in named if name in parts), *beside]:
        gross = (chosen[name + _SUFFIX] / completed).groupby(by).mean()
        net = (chosen[f"{name}.net_j"] / completed).groupby(by).mean()
        table = pd.DataFrame({PARTS[0]: gross, PARTS[1]: gross - net, PARTS[2]: net})
        table = table.assign(
            domain=name,
            in_total="yes" if name in parts else "no",
            evidence=parts.get(name, "measured"),
            n=by.groupby(by).size(),
            reason=net.isna().map({True: "no net energy in any repetition", False: None}),
        )
        tables.append(table[table[PARTS[0]].notna()])
    every = pd.concat(tables)
    first = group.groupby("configuration")[knobs].first()
    joined = every.join(first).assign(**cell)
    # A stable sort: domains stay in the order of the measurements table, external logs after them.
    return joined.rename_axis("configuration").reset_index().sort_values("configuration", kind="stable")
