"""Draw what the verdict rests on, for one workload: the fronts with and without energy, and energy at equal metrics."""

from collections.abc import Mapping

from ipa_energy.analysis import tables
from ipa_energy.figures import fronts, matched_energy, style
from ipa_energy.joblog import redirect_to


def main(inputs: Mapping[str, str], outputs: Mapping[str, str], *, workload: str, threshold: float) -> None:
    """Select the rows of the workload and draw."""
    read = {name: tables.read_csv(path) for name, path in inputs.items()}
    of = {name: table[table["workload"] == workload] for name, table in read.items()}
    figure = fronts.draw(of["membership"], f"Workload {workload}: Pareto fronts with and without energy")
    style.save(figure, [outputs["fronts_svg"], outputs["fronts_png"]])
    figure = matched_energy.draw(
        of["matched"],
        of["residual_knobs"],
        of["configurations"],
        f"Workload {workload}: energy at equal accuracy, latency and cost",
        threshold=threshold,
        notes=matched_energy.notes_of(of["joint"]),
    )
    style.save(figure, [outputs["matched_svg"], outputs["matched_png"]])


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        dict(snakemake.input.items()),
        dict(snakemake.output.items()),
        workload=snakemake.wildcards.workload,
        threshold=snakemake.params.threshold,
    )
