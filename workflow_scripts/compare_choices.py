"""What knobs do, and whether the answer depends on what was chosen: coupling/knobs.csv and coupling/generality.csv.

Both come from measurements.csv; the figure shows the share of the variance of each metric that each knob explains.
"""

from collections.abc import Mapping
from typing import Any

from ipa_energy.analysis import tables
from ipa_energy.analysis.generality import generality_table
from ipa_energy.analysis.knob_variance import knobs_table
from ipa_energy.figures import knob_variance, style
from ipa_energy.joblog import redirect_to


def main(
    measurements: str, outputs: Mapping[str, str], *, experiment: str, analysis: Mapping[str, Any], seed: int
) -> None:
    """Make both tables and draw."""
    records = tables.read_csv(measurements)
    common = {"confidence": analysis["confidence"], "drop_flags": analysis["drop_flags"]}
    knobs = knobs_table(records, **common)
    tables.write_csv(outputs["knobs"], knobs)
    compared = generality_table(records, bootstrap=analysis["bootstrap"], seed=seed, **common)
    tables.write_csv(outputs["generality"], compared)
    figure = knob_variance.draw(knobs, f"Experiment {experiment}: share of variance that each knob explains")
    style.save(figure, [outputs["svg"], outputs["png"]])


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        snakemake.input.measurements,
        dict(snakemake.output.items()),
        experiment=snakemake.wildcards.experiment,
        analysis=snakemake.params.analysis,
        seed=snakemake.params.seed,
    )
