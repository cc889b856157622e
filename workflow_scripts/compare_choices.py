"""What knobs do, and whether the answer depends on what was chosen: coupling/knobs.csv and coupling/generality.csv.

Both come from measurements.csv, the decisions beside them from verdict.json. Figures: the share of the variance of each
metric that each knob explains, and how far meters, hosts, weights and kinds of energy agree.
"""

from collections.abc import Mapping
from typing import Any

from ipa_energy.analysis import tables
from ipa_energy.analysis.agreement_points import points_table
from ipa_energy.analysis.generality import generality_table
from ipa_energy.analysis.knob_variance import knobs_table
from ipa_energy.analysis.panel import panels
from ipa_energy.analysis.verdict import decisions_of, read_verdict
from ipa_energy.external.settings import log_settings
from ipa_energy.figures import agreement, knob_variance, style
from ipa_energy.joblog import redirect_to


def main(
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    *,
    experiment: str,
    analysis: Mapping[str, Any],
    external_logs: Mapping[str, Mapping[str, Any]],
    seed: int,
) -> None:
    """Make both tables and both figures."""
    logs = {name: log_settings(name, settings).covers for name, settings in external_logs.items()}
    records, drop_flags = tables.read_csv(inputs["measurements"]), list(analysis["drop_flags"])
    found = list(panels(records, drop_flags))
    knobs = knobs_table(records, confidence=analysis["confidence"], drop_flags=drop_flags, found=found)
    compared = generality_table(
        records,
        confidence=analysis["confidence"],
        bootstrap=analysis["bootstrap"],
        drop_flags=drop_flags,
        seed=seed,
        logs=logs,
        decisions=decisions_of(read_verdict(inputs["verdict"])),
        found=found,
    )
    tables.write_csv(outputs["knobs"], knobs)
    tables.write_csv(outputs["generality"], compared)
    shares = knob_variance.draw(knobs, f"Experiment {experiment}: share of variance that each knob explains")
    style.save(shares, [outputs["shares_svg"], outputs["shares_png"]])
    points = points_table(records, compared, drop_flags=drop_flags, logs=logs, found=found)
    agreeing = agreement.draw(compared, points, f"Experiment {experiment}: do meters, hosts and kinds of energy agree?")
    style.save(agreeing, [outputs["agreement_svg"], outputs["agreement_png"]])


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        dict(snakemake.input.items()),
        dict(snakemake.output.items()),
        experiment=snakemake.wildcards.experiment,
        analysis=snakemake.params.analysis,
        external_logs=snakemake.params.external_logs,
        seed=snakemake.params.seed,
    )
