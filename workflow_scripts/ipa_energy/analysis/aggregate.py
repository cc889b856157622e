"""From measurements to configurations: means and t-intervals over repetitions, and the drift that anchors show.

The measurements table goes in (:mod:`ipa_energy.analysis.tables`). Out come the configurations table, one row per
configuration in each cell (:mod:`ipa_energy.analysis.cells`), and the anchors table, one row per anchor measurement.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable

import pandas as pd
from scipy import stats

from ipa_energy.analysis.cells import CELL, WAY, in_cells
from ipa_energy.analysis.rows import ENERGY_TOTALS, LATENCIES
from ipa_energy.analysis.tables import knob_columns
from ipa_energy.plan import GRID

METRICS = (
    "throughput_rps",
    "offered_rps",
    *(f"latency_{name}_s" for name in LATENCIES),
    "usd_per_1000_requests",
    *(name for name in ENERGY_TOTALS if not name.endswith("uncertainty_j")),
)
"""What is averaged over repetitions, with an interval."""

_ANCHOR_METRICS = ("throughput_rps", "latency_p99_s", "mean_w", "gross_j_per_request", "net_j_per_request")


def t_interval(values: Iterable[float], confidence: float) -> tuple[float | None, float | None, float | None]:
    """Mean of the values that aren't null and its Student t-interval (mean, lo, hi), in the values' unit.

    The bounds are None for fewer than two values, the mean too when there is none.
    """
    known = [value for value in values if pd.notna(value)]
    if not known:
        return None, None, None
    mean = math.fsum(known) / len(known)
    if len(known) < 2:
        return mean, None, None
    variance = math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1)
    half = float(stats.t.ppf((1 + confidence) / 2, len(known) - 1)) * math.sqrt(variance / len(known))
    return mean, mean - half, mean + half


def evidence_of(kinds: Iterable[object]) -> str | None:
    """What stands behind several energies together: the one kind they share, else ``mixed``; None without any."""
    present = {str(kind) for kind in kinds if pd.notna(kind) and kind != "none"}  # type: ignore[call-overload]
    if len(present) > 1:
        return "mixed"
    return present.pop() if present else None


def configurations_table(measurements: pd.DataFrame, confidence: float, drop_flags: Collection[str]) -> pd.DataFrame:
    """One row per configuration and cell (pipeline, workload, host, weights, meters) in which it was measured or tried.

    ``n`` counts the usable repetitions, ``n_gross`` and ``n_net`` those of them that have that energy; ``n_recorded``
    all records of the grid, of which ``n_flagged`` are ok but flagged, ``n_dropped`` of these left out for a flag in
    ``drop_flags``, ``n_other_settings`` because they were measured unlike most of the cell, ``n_failed`` and
    ``n_not_run`` without figures. A record without energy may be counted in several cells. Every metric is the mean
    over usable repetitions with its t-interval in ``{metric}_lo`` and ``{metric}_hi``, null for fewer than two.
    """
    fixed = [name for name in measurements.columns if str(name).endswith(".accuracy")]
    fixed += ["pas", "pas_rank", "cores", "gpus", "usd_per_hour"]
    counts = [
        "n",
        "n_recorded",
        "n_flagged",
        "n_dropped",
        "n_other_settings",
        "n_failed",
        "n_not_run",
        "n_gross",
        "n_net",
    ]
    metrics = list(itertools.chain.from_iterable((m, f"{m}_lo", f"{m}_hi") for m in METRICS))
    columns = ["configuration", *CELL, *knob_columns(measurements), *counts, *fixed, "evidence", *metrics]
    rows = []
    for key, group in in_cells(measurements, drop_flags).groupby(["configuration", *CELL], sort=True):
        chosen, ok = group[group["usable"]], group["state"] == "ok"
        row: dict[str, object] = dict(zip(["configuration", *CELL], key, strict=True))
        row |= {name: group[name].iloc[0] for name in knob_columns(measurements)}
        row |= {
            "n": len(chosen),
            "n_recorded": len(group),
            "n_flagged": int((ok & group["flags"].notna()).sum()),
            "n_dropped": int((ok & group["dropping"]).sum()),
            "n_other_settings": int(group["other_way"].notna().sum()),
            "n_failed": int((group["state"] == "failed").sum()),
            "n_not_run": int((group["state"] == "not_run").sum()),
            "n_gross": int(chosen["gross_j_per_request"].notna().sum()),
            "n_net": int(chosen["net_j_per_request"].notna().sum()),
            "evidence": evidence_of(chosen["evidence"]),
        }
        row |= {name: _first(group[name]) for name in fixed}
        for metric in METRICS:
            row[metric], row[f"{metric}_lo"], row[f"{metric}_hi"] = t_interval(chosen[metric], confidence)
        rows.append(row)
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype(dict.fromkeys([*metrics, "pas", "pas_rank"], "float64") | {"evidence": "str"})


def _first(column: pd.Series) -> object:
    known = column.dropna()
    return None if known.empty else known.iloc[0]


def anchor_table(measurements: pd.DataFrame) -> pd.DataFrame:
    """Drift: every anchor measurement and how far it lies from the mean of all good anchors of its experiment and cell.

    Only anchors that were measured alike (settings, measuring code) are compared. ``{metric}_deviation`` is
    value / mean - 1, a fraction; null for anchors that failed.
    """
    together = ["experiment", *CELL, "configuration"]
    anchors = measurements[measurements["role"] != GRID].sort_values([*together, "order"])
    frame = anchors[[*together, "block", "role", "order", "start_utc", "state", "reason", "flags"]].copy()
    for metric in _ANCHOR_METRICS:
        frame[metric] = anchors[metric]
        good = anchors[metric].where(anchors["state"] == "ok")
        mean = good.groupby([anchors[name] for name in (*together, *WAY)], dropna=False).transform("mean")
        frame[f"{metric}_deviation"] = (anchors[metric] / mean - 1).where((anchors["state"] == "ok") & (mean != 0))
    return frame
