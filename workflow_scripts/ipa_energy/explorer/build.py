"""The explorer's page from the tables: one HTML file that holds the data, the drawing library and our own code.

Nothing is loaded from anywhere: a Content-Security-Policy forbids the network and runs no script but those that were
put in here, by their hashes. Names from the tables reach the page as JSON only, and the page shows them as text only.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from plotly.offline import get_plotlyjs

from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.coupling import ENERGIES
from ipa_energy.analysis.tables import is_knob, knob_columns
from ipa_energy.explorer.labels import is_energy, label_of
from ipa_energy.explorer.packing import numbers, texts
from ipa_energy.explorer.records import measurements_json
from ipa_energy.ipa.front import significant

SCRIPTS = ("data.js", "front.js", "view.js", "plot.js", "table.js", "panel.js", "explorer.js")
"""Our own code in the order in which it is joined."""

OBJECTIVES = ("pas", "latency_p99_s", "usd_per_1000_requests", *ENERGIES.values())
"""Columns that decide on fronts, packed in full precision."""

MEMBERSHIP = ("p_front_without", "p_front_with", "p_only_with", "gain", "gain_lo", "gain_hi")

_INPUTS = ("rate_rps", "sla_s")


def explorer_html(
    configurations: pd.DataFrame,
    measurements: pd.DataFrame,
    membership: pd.DataFrame | None,
    *,
    title: str,
    inputs: Mapping[str, Mapping[str, float | None]],
    limitations: Sequence[str],
    folder: str | Path,
    confidence: float | None = None,
) -> str:
    """The page as text.

    ``configurations`` and ``measurements`` are the tables of :mod:`ipa_energy.analysis.aggregate` and
    :mod:`ipa_energy.analysis.tables`; ``membership`` has a row per configuration, cell and kind of energy, with the
    probabilities of being on a front. ``inputs`` are those of the config's section ``ipa`` (``rate_rps``, ``sla_s``),
    ``folder`` is where the page will lie: records below it get a link. ``confidence`` is that of the intervals.
    """
    data = page_data(
        configurations,
        measurements,
        membership,
        title=title,
        inputs=inputs,
        limitations=limitations,
        folder=folder,
        confidence=confidence,
    )
    library = get_plotlyjs().replace("</script", "<\\/script")
    code = "(() => {\n'use strict';\n" + "\n".join(_read(name) for name in SCRIPTS) + "\n})();\n"
    parts = {
        "title": html.escape(title),
        "policy": _policy(library, code),
        "style": _read("explorer.css"),
        "data": _script_json(data),
        "library": library,
        "code": code,
    }
    return re.sub(r"@@(\w+)@@", lambda found: parts[found[1]], _read("template.html"))


def page_data(
    configurations: pd.DataFrame,
    measurements: pd.DataFrame,
    membership: pd.DataFrame | None,
    *,
    title: str,
    inputs: Mapping[str, Mapping[str, float | None]],
    limitations: Sequence[str],
    folder: str | Path,
    confidence: float | None,
) -> dict[str, Any]:
    """All that the page shows, column by column (:mod:`.packing`)."""
    rows = configurations.reset_index(drop=True)
    # As for IPA's own fronts: a product of the same accuracies in another order is the same accuracy.
    rows = rows.assign(pas=significant(rows["pas"].to_numpy(dtype=float)))
    cells = rows[CELL].drop_duplicates().sort_values(CELL).reset_index(drop=True).rename_axis("cell").reset_index()
    cell_of = rows[CELL].merge(cells, on=CELL, how="left")["cell"]
    metrics = _metrics(rows)
    return {
        "title": title,
        "confidence": confidence,
        "limitations": list(limitations),
        "inputs": [{"name": name} | {key: given.get(key) for key in _INPUTS} for name, given in inputs.items()],
        "cells": [list(map(str, cell)) for cell in cells[CELL].itertuples(index=False, name=None)],
        "nothing": _nothing(rows, measurements),
        "configuration": rows["configuration"].astype(str).tolist(),
        "cell": texts(cell_of)["codes"],
        "evidence": texts(rows["evidence"]),
        "knobs": [{"name": name, "numeric": _numeric(rows[name])} | texts(rows[name]) for name in knob_columns(rows)],
        "counts": {name: numbers(rows[name]) for name in rows.columns if _is_count(str(name))},
        "labels": {name: label_of(name) for name in OBJECTIVES},
        "metrics": metrics,
        "membership": _membership(rows, membership),
        "measurements": measurements_json(measurements, rows, folder),
    }


def _metrics(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Every column of figures that has any, with its interval where the table has one."""
    found = []
    for column in map(str, rows.columns):
        is_figure = pd.api.types.is_numeric_dtype(rows[column]) and not is_knob(column) and not _is_count(column)
        if not is_figure or column.endswith(("_lo", "_hi")) or rows[column].isna().all():
            continue
        metric: dict[str, Any] = {
            "name": column,
            "label": label_of(column),
            "energy": is_energy(column),
            "values": numbers(rows[column], exact=column in OBJECTIVES),
        }
        for end in ("lo", "hi"):
            if f"{column}_{end}" in rows and rows[f"{column}_{end}"].notna().any():
                metric[end] = numbers(rows[f"{column}_{end}"])
        found.append(metric)
    return found


def _is_count(column: str) -> bool:
    return column == "n" or column.startswith("n_")


def _numeric(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column))


def _membership(rows: pd.DataFrame, membership: pd.DataFrame | None) -> dict[str, Any] | None:
    """By kind of energy, the columns of the membership table in the order of ``rows``; None without the table."""
    if membership is None or membership.empty:
        return None
    found = {}
    for energy in ENERGIES:
        own = membership[membership["energy"] == energy].drop(columns="evidence")
        own = own.drop_duplicates(["configuration", *CELL])
        joined = rows[["configuration", *CELL]].merge(own, on=["configuration", *CELL], how="left")
        if joined["front_with"].notna().any():
            columns = {name: numbers(joined[name]) for name in MEMBERSHIP}
            found[energy] = columns | {name: texts(joined[name]) for name in ("only_with", "reason") if name in joined}
    return found or None


def _nothing(rows: pd.DataFrame, measurements: pd.DataFrame) -> str | None:
    """Why there is nothing to draw; None where something is."""
    if rows.empty:
        held = f"{len(measurements)} measurements, none of the grid" if len(measurements) else "no measurement"
        return f"There is no configuration to show: the tables hold {held}. refused.csv lists files that were refused."
    if (rows["n"] > 0).any():
        return None
    told = {"n_failed": "failed", "n_not_run": "not run", "n_dropped": "left out for a flag"}
    counts = [f"{int(rows[name].sum())} {words}" for name, words in told.items() if rows[name].sum() > 0]
    reasons = measurements.loc[measurements["state"] != "ok", "reason"].dropna()
    because = f" The most frequent reason: {reasons.mode().iloc[0]}." if len(reasons) else ""
    return (
        f"None of the {len(rows)} configurations has a usable measurement ({', '.join(counts) or 'none recorded'})."
        f"{because} The table below lists them."
    )


def _read(name: str) -> str:
    return resources.files("ipa_energy.explorer").joinpath(name).read_text(encoding="utf-8")


def _script_json(data: Mapping[str, Any]) -> str:
    """JSON that no content can end or open a tag in, and that holds no NaN (ValueError)."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _policy(*scripts: str) -> str:
    """The Content-Security-Policy: these scripts run and nothing else; no request leaves the page.

    ``unsafe-eval`` is for the compiler of shaders in plotly.js; styles are set from its code.
    """
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
