"""How the predictors of a study compare: their errors on every load, and on the test part of the LSTM's history."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ipa_energy.ipa.predictors import HORIZON_S, WINDOW_S, backtest
from ipa_energy.ipa.ticks import Ints
from ipa_energy.ipa.trained_predictors import make_predictor

HISTORY = "history (test part)"
"""What stands for a load in the comparison where the LSTM was tested on its own history."""

COLUMNS = {
    "load": f"Name of a load, or `{HISTORY}`.",
    "predictor": "Name of a predictor, without `margin_percent`.",
    "smape_percent": "SMAPE against the largest second of the next 20 s.",
    "share_below": "Share of the forecasts that lie below what came.",
    "excess": "Mean of forecast less actual, over the mean actual.",
    "reason": "Why there are no figures.",
}


def compare_predictors(
    names: list[str],
    loads: Mapping[str, tuple[Ints, float]],
    trained: tuple[str | Path, str | Path] | None,
) -> pd.DataFrame:
    """Errors of every predictor on every load (counts per second, scale), and on the test part of the LSTM's history.

    Without margin. A row that has no figures has the reason; the columns are those of :data:`COLUMNS`.
    """
    rows: list[dict[str, Any]] = []
    for load, (counts, scale) in loads.items():
        for name in names:
            row: dict[str, Any] = {"load": load, "predictor": name}
            if len(counts) < WINDOW_S + HORIZON_S:
                row["reason"] = f"the load has {len(counts)} s, and a forecast to compare needs {WINDOW_S + HORIZON_S}"
            else:
                found = backtest(make_predictor(name, scale=scale, trained=trained), counts.astype(float))
                row |= {"smape_percent": found.smape_percent, "share_below": found.share_below}
                row["excess"] = None if math.isnan(found.excess) else found.excess
            rows.append(row)
    if trained is not None:
        tested = json.loads(Path(trained[1]).read_text(encoding="utf-8"))["errors"]
        rows += [{"load": HISTORY, "predictor": name, **tested[name]} for name in tested if name in names]
    return pd.DataFrame(rows, columns=list(COLUMNS))
