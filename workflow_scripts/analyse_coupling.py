"""Relate energy to every other metric, pair by pair: from measurements.csv to coupling/pairwise.csv.

Writes the same as an HTML page for the report.
"""

from collections.abc import Mapping
from typing import Any

from ipa_energy.analysis import coupling, tables
from ipa_energy.analysis.pairs_rule import with_decisions
from ipa_energy.analysis.report_table import pairwise_html
from ipa_energy.files import write_text
from ipa_energy.joblog import redirect_to


def main(
    measurements: str,
    outputs: Mapping[str, str],
    *,
    experiment: str,
    analysis: Mapping[str, Any],
    seed: int,
    processes: int = 1,
) -> None:
    """Compute the statistics and decide on each pair by the rule of the config."""
    pairwise = coupling.pairwise_table(
        tables.read_csv(measurements),
        confidence=analysis["confidence"],
        bootstrap=analysis["bootstrap"],
        drop_flags=analysis["drop_flags"],
        seed=seed,
        processes=processes,
    )
    decided = with_decisions(pairwise, analysis)
    tables.write_csv(outputs["pairwise"], decided)
    write_text(
        outputs["page"], pairwise_html(decided, f"Experiment {experiment}: energy per request against each metric")
    )


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        snakemake.input.measurements,
        dict(snakemake.output.items()),
        experiment=snakemake.wildcards.experiment,
        analysis=snakemake.params.analysis,
        seed=snakemake.params.seed,
        processes=snakemake.threads,
    )
