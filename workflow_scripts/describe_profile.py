"""Show the profile: quadratic fits with their errors, the allocation of each variant, and a figure of all of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ipa_energy.analysis.tables import write_csv
from ipa_energy.figures import profile as profile_figure
from ipa_energy.figures import style
from ipa_energy.ipa.measured_profile import whole_profile
from ipa_energy.ipa.profile_report import allocations, fits_table
from ipa_energy.joblog import redirect_to


def main(
    files: Sequence[str],
    outputs: Mapping[str, str],
    *,
    experiment: str,
    ipa: Mapping[str, Any],
    usd: Mapping[str, float],
) -> None:
    """Read the files, or the one that the config names, and write tables and figure."""
    _, profile, _ = whole_profile(files, ipa)
    write_csv(outputs["fits"], fits_table(profile))
    write_csv(outputs["allocation"], allocations(profile, ipa, usd))
    figure = profile_figure.draw(profile, f"Experiment {experiment}: profile of every stage, one replica at full load")
    style.save(figure, [outputs["svg"], outputs["png"]])


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        list(snakemake.input),
        dict(snakemake.output.items()),
        experiment=snakemake.wildcards.experiment,
        ipa=snakemake.params.ipa,
        usd=snakemake.params.prices,
    )
