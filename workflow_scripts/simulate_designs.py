"""Simulate the studies of one truth that a preset of designs asks for: a row per study and design."""

from collections.abc import Mapping
from typing import Any

from threadpoolctl import threadpool_limits

from ipa_energy.analysis.tables import write_csv
from ipa_energy.error_rates.design_runs import designed_runs
from ipa_energy.joblog import redirect_to


def main(output: str, *, truth: str, preset: Mapping[str, Any], rule: Mapping[str, Any]) -> None:
    """Write the table of the truth."""
    with threadpool_limits(1):
        runs = designed_runs(preset, truth, rule)
    write_csv(output, runs)
    print(runs.groupby("design")[["n_measurements"]].mean().to_string())


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        snakemake.output[0],
        truth=snakemake.wildcards.truth,
        preset=snakemake.params.preset,
        rule=snakemake.params.rule,
    )
