"""Put the live runs beside their simulation: tables, a few sentences, and a figure.

adaptation/live.csv (a row per run, and for how its figures were had), live_errors.csv, live.intervals.csv, live.txt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ipa_energy.analysis.tables import write_csv
from ipa_energy.figures import live as live_figure
from ipa_energy.figures import style
from ipa_energy.files import write_text
from ipa_energy.ipa.deciding import setting_of
from ipa_energy.ipa.live_log import live_log
from ipa_energy.ipa.live_report import errors_table, in_words, intervals_of, rows_of, simulated, table_of
from ipa_energy.ipa.loads import load_scale
from ipa_energy.ipa.profile import read_profile
from ipa_energy.ipa.trace_files import read_counts
from ipa_energy.ipa.trained_predictors import make_predictor
from ipa_energy.joblog import redirect_to
from ipa_energy.live_record import read_live_file


def main(
    runs: Sequence[str],
    traces: Sequence[str],
    profile_file: str,
    load_file: str,
    trained: tuple[str, str] | None,
    outputs: Mapping[str, str],
    *,
    ipa: Mapping[str, Any],
    usd: Mapping[str, float],
) -> None:
    """Read runs and traces, simulate each run, and write."""
    profile = read_profile(profile_file)
    adaptation = ipa["adaptation"]
    scale = load_scale(adaptation["loads"][adaptation["live"]["load"]], read_counts(load_file))
    rows, parts, powers = [], [], []
    for path, trace in zip(runs, traces, strict=True):
        content = read_live_file(path)
        real = sim = None
        if content["state"] == "ok":
            limited = dict(ipa) | {"replicas": content["replicas_limit"]}
            counts = np.array(content["counts"], dtype=np.int64)
            setting = setting_of(content["load"], counts, profile, limited, usd, content["max_wait_s"])
            setting = replace(setting, sla_s=content["sla_s"])
            margin = adaptation["margin_percent"]
            predictor = make_predictor(content["predictor"], scale=scale, margin_percent=margin, trained=trained)
            real, sim = live_log(content, setting), simulated(content, setting, predictor)
            parts.append(intervals_of(content, real, sim))
            powers.append(pd.read_parquet(trace).assign(method=content["method"], run=content["run"]))
        rows += rows_of(content, real, sim, profile)
    table = table_of(rows)
    write_csv(outputs["table"], table)
    write_csv(outputs["errors"], errors_table(table))
    steps = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["method", "run", "how"])
    write_csv(outputs["intervals"], steps)
    write_text(outputs["answer"], in_words(table) + "\n")
    power = pd.concat(powers, ignore_index=True) if powers else None
    figure = live_figure.draw(steps, power, table, profile.host_idle_w, f"Live runs under {adaptation['live']['load']}")
    style.save(figure, [outputs["svg"], outputs["png"]])
    print(in_words(table))


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        list(snakemake.input.runs),
        list(snakemake.input.traces),
        snakemake.input.profile,
        snakemake.input.load,
        tuple(snakemake.input.trained) or None,
        dict(snakemake.output.items()),
        ipa=snakemake.params.ipa,
        usd=snakemake.params.prices,
    )
