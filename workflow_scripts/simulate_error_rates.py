"""Simulate the studies of one truth that a preset asks for, and judge each: a row per study."""

from collections.abc import Mapping, Sequence
from typing import Any

from ipa_energy.analysis.tables import write_csv
from ipa_energy.error_rates.run import judged_runs
from ipa_energy.joblog import redirect_to


def main(output: str, *, truth: str, designs: Sequence[Mapping[str, Any]], rule: Mapping[str, Any]) -> None:
    """Write the table of the truth."""
    runs = judged_runs(designs, truth, rule)
    write_csv(output, runs)
    print(runs["decision"].value_counts().to_string())


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        snakemake.output[0],
        truth=snakemake.wildcards.truth,
        designs=snakemake.params.designs,
        rule=snakemake.params.rule,
    )
