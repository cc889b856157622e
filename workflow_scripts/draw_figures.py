"""Draw the figures of one workload from configurations.csv and coupling/pairwise.csv, as SVG and PNG.

knob_effects (with its numbers as CSV): what each knob does to each metric; energy_against_metrics: energy per request
over accuracy, latency and cost.
"""

from collections.abc import Mapping

from ipa_energy.analysis import tables
from ipa_energy.analysis.aggregate import evidence_of
from ipa_energy.analysis.effects import knob_effects
from ipa_energy.figures import energy_against_metrics, style
from ipa_energy.figures import knob_effects as knob_effects_figure
from ipa_energy.joblog import redirect_to


def main(inputs: Mapping[str, str], outputs: Mapping[str, str], *, workload: str, confidence: float) -> None:
    """Select the rows of the workload and draw."""
    configurations = tables.read_csv(inputs["configurations"])
    pairwise = tables.read_csv(inputs["pairwise"])
    configurations = configurations[configurations["workload"] == workload]
    pairwise = pairwise[pairwise["workload"] == workload]
    effects = knob_effects(configurations, confidence)
    tables.write_csv(outputs["effects"], effects)
    figure = knob_effects_figure.draw(
        effects, evidence_of(configurations["evidence"]), f"Workload {workload}: effect of each knob on each metric"
    )
    style.save(figure, [outputs["effects_svg"], outputs["effects_png"]])
    figure = energy_against_metrics.draw(
        configurations, pairwise, f"Workload {workload}: energy per request against the metrics of IPA"
    )
    style.save(figure, [outputs["energy_svg"], outputs["energy_png"]])


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        dict(snakemake.input.items()),
        dict(snakemake.output.items()),
        workload=snakemake.wildcards.workload,
        confidence=snakemake.params.confidence,
    )
