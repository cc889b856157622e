"""Decide from measurements.csv and refused.csv whether energy is coupled with accuracy, latency or cost.

Writes coupling/pairwise.csv (the statistics), the same as an HTML page for the report, and verdict.json.
"""

from collections.abc import Mapping
from typing import Any

from ipa_energy.analysis import coupling, tables, verdict
from ipa_energy.analysis.report_table import pairwise_html
from ipa_energy.files import write_text
from ipa_energy.joblog import redirect_to


def main(
    inputs: Mapping[str, str], outputs: Mapping[str, str], *, experiment: str, analysis: Mapping[str, Any], seed: int
) -> None:
    """Compute the statistics, apply the rule of the config, write both."""
    measurements = tables.read_csv(inputs["measurements"])
    pairwise = coupling.pairwise_table(
        measurements,
        confidence=analysis["confidence"],
        bootstrap=analysis["bootstrap"],
        drop_flags=analysis["drop_flags"],
        seed=seed,
    )
    judged = verdict.make_verdict(
        measurements,
        pairwise,
        tables.read_csv(inputs["refused"]),
        experiment=experiment,
        analysis=analysis,
        seed=seed,
    )
    decided = verdict.with_decisions(pairwise, analysis)
    tables.write_csv(outputs["pairwise"], decided)
    write_text(
        outputs["page"], pairwise_html(decided, f"Experiment {experiment}: energy per request against each metric")
    )
    verdict.write_verdict(outputs["verdict"], judged)
    print(judged["answer"])


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        dict(snakemake.input.items()),
        dict(snakemake.output.items()),
        experiment=snakemake.wildcards.experiment,
        analysis=snakemake.params.analysis,
        seed=snakemake.params.seed,
    )
