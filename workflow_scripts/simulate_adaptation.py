"""Simulate adaptation under one load: all methods, predictors and seeds of the config, over the profile.

A row per run, the intervals of one run of each method, and a figure of these.
"""

from collections.abc import Mapping
from typing import Any

from ipa_energy.analysis.tables import write_csv
from ipa_energy.figures import adaptation as adaptation_figure
from ipa_energy.figures import style
from ipa_energy.ipa.adaptation_study import simulate_all
from ipa_energy.ipa.deciding import setting_of
from ipa_energy.ipa.loads import load_scale
from ipa_energy.ipa.profile import read_profile
from ipa_energy.ipa.settings import cost_unit
from ipa_energy.ipa.trace_files import read_counts
from ipa_energy.ipa.trained_predictors import make_predictor
from ipa_energy.joblog import redirect_to


def main(
    profile: str,
    counts: str,
    outputs: Mapping[str, str],
    *,
    load: str,
    ipa: Mapping[str, Any],
    usd: Mapping[str, float],
    max_wait_s: float,
    seed: int,
    trained: tuple[str, str] | None,
) -> None:
    """Read profile, load and trained predictor, and write tables and figure."""
    seconds, adaptation = read_counts(counts), ipa["adaptation"]
    setting = setting_of(load, seconds, read_profile(profile), ipa, usd, max_wait_s)
    scale = load_scale(adaptation["loads"][load], seconds)
    predictors = {
        name: make_predictor(name, scale=scale, margin_percent=adaptation["margin_percent"], trained=trained)
        for name in adaptation["predictors"]
    }
    runs, intervals = simulate_all(setting, predictors, seed)
    write_csv(outputs["runs"], runs)
    write_csv(outputs["intervals"], intervals)
    figure = adaptation_figure.draw(intervals, load, setting.profile.evidence, cost_unit(ipa))
    style.save(figure, [outputs["svg"], outputs["png"]])
    columns = [
        "predictor",
        "method",
        "seed",
        "accuracy_pas",
        "cost_mean",
        "evidence",
        "net_j_per_request",
        "violation_share",
        "reason",
    ]
    print(runs[columns].to_string())


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        snakemake.input.profile,
        snakemake.input.load,
        dict(snakemake.output.items()),
        load=snakemake.wildcards.load,
        ipa=snakemake.params.ipa,
        usd=snakemake.params.prices,
        max_wait_s=snakemake.params.max_wait_s,
        seed=snakemake.params.seed,
        trained=tuple(snakemake.input.trained) or None,
    )
