"""Draw gross and net energy per request by domain, for one workload, from measurements.csv; with its numbers as CSV."""

from collections.abc import Collection, Mapping

from ipa_energy.analysis import tables
from ipa_energy.analysis.split import energy_split
from ipa_energy.figures import energy_split as figure_of_split
from ipa_energy.figures import style
from ipa_energy.joblog import redirect_to


def main(
    measurements: str,
    outputs: Mapping[str, str],
    *,
    workload: str,
    drop_flags: Collection[str],
    external_logs: Collection[str],
) -> None:
    """Select the rows of the workload, split their energy, and draw."""
    rows = tables.read_csv(measurements)
    split = energy_split(rows[rows["workload"] == workload], drop_flags, external_logs)
    tables.write_csv(outputs["split"], split)
    figure = figure_of_split.draw(split, f"Workload {workload}: energy per request by domain, idle and net")
    style.save(figure, [outputs["svg"], outputs["png"]])


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        snakemake.input[0],
        dict(snakemake.output.items()),
        workload=snakemake.wildcards.workload,
        drop_flags=snakemake.params.drop_flags,
        external_logs=snakemake.params.external_logs,
    )
