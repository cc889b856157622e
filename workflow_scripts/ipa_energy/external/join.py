"""External figures in the measurements table: beside the energies of the records, or in their place.

``measurements`` and the table ``external.csv`` go in; out comes the measurements table. The energy of a log is never
added to that of other domains: what is measured at the wall holds the processors and GPUs that other meters measure.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ipa_energy.external.settings import RECORD, LogError, LogSettings
from ipa_energy.external.tables import ENERGIES, KEY

FLAG = "external_"
"""Flags of a cut are called so in the measurements table, to tell them from those of the gates."""


def join_external(
    measurements: pd.DataFrame,
    external: pd.DataFrame | None,
    logs: Mapping[str, LogSettings],
    energy_from: str = RECORD,
) -> pd.DataFrame:
    """The measurements with columns ``{log}.gross_j`` and ``{log}.net_j`` of every log.

    With ``energy_from`` the name of a log, totals, energies per request, uncertainties, ``evidence`` and ``meters`` are
    those of that log, null where it says nothing, and its flags are added with the prefix :data:`FLAG`. Raises LogError
    when the log is not in ``external`` or its columns would replace those of a domain.
    """
    if energy_from != RECORD and energy_from not in logs:
        raise LogError(f"analysis.energy_from is {energy_from!r}; allowed: one of {', '.join([RECORD, *logs])}")
    if external is None or not logs:
        return measurements
    frame = measurements.copy()
    keys = pd.MultiIndex.from_frame(frame[list(KEY)].astype(object))
    names = [str(name) for name in frame.columns]
    at = max(index for index, name in enumerate(names) if name.endswith((".net_j", "net_uncertainty_j")))
    for name in logs:
        rows = external[external["log"] == name]
        figures = rows.set_index(pd.MultiIndex.from_frame(rows[list(KEY)].astype(object))).reindex(keys)
        figures.index = frame.index
        for kind in ("gross_j", "net_j"):
            if f"{name}.{kind}" in frame:
                raise LogError(
                    f"external_logs.{name} has the name of a domain of the records; give the log another name"
                )
            at += 1
            frame.insert(at, f"{name}.{kind}", figures[kind].astype("float64"))
        if name == energy_from:
            frame = _taken_from(frame, figures, logs[name])
    return frame


def _taken_from(frame: pd.DataFrame, figures: pd.DataFrame, settings: LogSettings) -> pd.DataFrame:
    """``frame`` with the energies of one log, whose ``figures`` stand row by row beside it."""
    frame = frame.copy()
    for name in ENERGIES:
        frame[name] = figures[name].astype("float64")
    completed = frame["completed"].astype("Float64").fillna(0).to_numpy(dtype=np.float64)
    for kind in ("gross_j", "net_j"):
        frame[f"{kind}_per_request"] = (frame[kind] / completed).where(completed > 0)
    cut = figures["log"].notna() & (frame["state"] == "ok")
    frame["meters"] = pd.Series(settings.domain, index=frame.index, dtype="str").where(cut)
    frame["evidence"] = pd.Series("measured", index=frame.index, dtype="str").where(cut)
    raised = figures["flags"].map(
        lambda text: ";".join(FLAG + flag for flag in text.split(";")) if isinstance(text, str) else None
    )
    both = [
        ";".join(part for part in parts if isinstance(part, str)) for parts in zip(frame["flags"], raised, strict=True)
    ]
    frame["flags"] = pd.Series([flags or None for flags in both], index=frame.index, dtype="str")
    frame["verdict"] = frame["verdict"].mask(raised.notna() & frame["verdict"].notna(), "flagged")
    return frame
