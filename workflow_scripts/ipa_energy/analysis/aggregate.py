"""From measurements to configurations: means and t-intervals over repetitions, and the drift that anchors show.

The measurements table goes in (:mod:`ipa_energy.analysis.tables`). Out come the configurations table, one row per
configuration in each cell (:mod:`ipa_energy.analysis.cells`), and the anchors table, one row per anchor measurement.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ipa_energy.analysis.boards import with_boards
from ipa_energy.analysis.cells import CELL, WAY, in_cells
from ipa_energy.analysis.rows import ENERGY_TOTALS, LATENCIES
from ipa_energy.analysis.tables import knob_columns
from ipa_energy.plan import GRID

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

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
    different = kinds.unique() if isinstance(kinds, pd.Series) else kinds
    present = {str(kind) for kind in different if pd.notna(kind) and kind != "none"}
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
    celled = in_cells(measurements, drop_flags)
    usable, ok, state = celled["usable"], celled["state"] == "ok", celled["state"]
    counted = {
        "n": usable,
        "n_recorded": pd.Series(True, index=celled.index),
        "n_flagged": ok & celled["flags"].notna(),
        "n_dropped": ok & celled["dropping"],
        "n_other_settings": celled["other_way"].notna(),
        "n_failed": state == "failed",
        "n_not_run": state == "not_run",
        "n_gross": usable & celled["gross_j_per_request"].notna(),
        "n_net": usable & celled["net_j_per_request"].notna(),
    }
    keys = ["configuration", *CELL]
    knobs = knob_columns(measurements)
    group = celled.groupby(keys, sort=True)
    index: Ints = np.asarray(group.ngroup(), dtype=np.int64)
    size = group.ngroups
    columns: dict[str, object] = {
        str(name): values.reset_index(drop=True)
        for name, values in _first_rows(celled, index, size)[[*keys, *knobs]].items()
    }
    columns |= {name: np.bincount(index[marked.to_numpy()], minlength=size) for name, marked in counted.items()}
    columns |= {name: group[name].first().reset_index(drop=True) for name in fixed}
    columns["evidence"] = _evidences(celled["evidence"].where(usable), index, size)
    for metric in METRICS:
        values = celled[metric].where(usable).to_numpy(dtype=float)
        columns[metric], columns[f"{metric}_lo"], columns[f"{metric}_hi"] = t_intervals(values, index, size, confidence)
    frame = pd.DataFrame(columns)
    return frame.astype(dict.fromkeys(["pas", "pas_rank"], "float64") | {"evidence": "str"})


def _first_rows(celled: pd.DataFrame, index: Ints, size: int) -> pd.DataFrame:
    """The first row of each group."""
    first = np.full(size, len(index))
    np.minimum.at(first, index, np.arange(len(index)))
    return celled.iloc[first]


def _evidences(kinds: pd.Series, index: Ints, size: int) -> pd.Series:
    """:func:`evidence_of` for each group."""
    known = kinds.where(kinds != "none").groupby(index)
    together = known.first().where(known.nunique() < 2, "mixed")
    return together.reindex(range(size))


def t_intervals(values: Floats, index: Ints, size: int, confidence: float) -> tuple[Floats, Floats, Floats]:
    """:func:`t_interval` of many groups at once: mean, lo and hi, each of shape (size,), NaN where there is none.

    ``values`` and ``index``, shape (n,), are figures, NaN where null, and the group of each, from 0.
    """
    known = ~np.isnan(values)
    values, index = values[known], index[known]
    count = np.bincount(index, minlength=size)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = _sums(values, index, count) / count
        variance = _sums((values - mean[index]) ** 2, index, count) / (count - 1)
        half = stats.t.ppf((1 + confidence) / 2, np.maximum(count - 1, 1)) * np.sqrt(variance / count)
    half[count < 2] = np.nan
    return mean, mean - half, mean + half


def _sums(values: Floats, index: Ints, count: Ints) -> Floats:
    """Sum of each group, the rounding error of every addition added at the end (Neumaier 1974): as good as fsum."""
    order = np.argsort(index, kind="stable")
    starts = np.cumsum(count) - count
    total, lost = np.zeros(len(count)), np.zeros(len(count))
    for nth in range(int(count.max(initial=0))):
        at = np.flatnonzero(count > nth)
        term = values[order[starts[at] + nth]]
        new = total[at] + term
        larger = np.abs(total[at]) >= np.abs(term)
        lost[at] += np.where(larger, (total[at] - new) + term, (term - new) + total[at])
        total[at] = new
    return total + lost


def anchor_table(measurements: pd.DataFrame) -> pd.DataFrame:
    """Drift: every anchor measurement and how far it lies from the mean of all good anchors of its experiment and cell.

    Only anchors that were measured alike (settings, measuring code) are compared. ``{metric}_deviation`` is
    value / mean - 1, a fraction; null for anchors that failed.
    """
    together = ["experiment", *CELL, "configuration"]
    measurements = with_boards(measurements)
    anchors = measurements[measurements["role"] != GRID].sort_values([*together, "order"])
    frame = anchors[[*together, "block", "role", "order", "start_utc", "state", "reason", "flags"]].copy()
    for metric in _ANCHOR_METRICS:
        frame[metric] = anchors[metric]
        good = anchors[metric].where(anchors["state"] == "ok")
        mean = good.groupby([anchors[name] for name in (*together, *WAY)], dropna=False).transform("mean")
        frame[f"{metric}_deviation"] = (anchors[metric] / mean - 1).where((anchors["state"] == "ok") & (mean != 0))
    return frame
