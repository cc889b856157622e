"""Choose the configurations of the grid that IPA could choose for one of the inputs: space/chosen.csv, with reasons."""

from collections.abc import Mapping
from typing import Any

from ipa_energy.analysis.tables import write_csv
from ipa_energy.configuration import Platform, grid
from ipa_energy.ipa.feasible import choose_feasible
from ipa_energy.ipa.profile import read_profile
from ipa_energy.joblog import redirect_to


def main(
    profile: str,
    chosen: str,
    *,
    ipa: Mapping[str, Any],
    usd: Mapping[str, float],
    pipeline: str,
    knobs: Mapping[str, Any],
    platform: Mapping[str, str],
) -> None:
    """Judge every configuration of the grid ``knobs`` by the profile, which is of ``platform``."""
    configurations = list(grid(pipeline, knobs["stages"], knobs["platform"]))
    table = choose_feasible(read_profile(profile), ipa, usd, configurations, Platform(**platform))
    write_csv(chosen, table)
    print(f"{table['chosen'].sum()} of {len(table)} configurations are feasible for some input")


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        snakemake.input.profile,
        snakemake.output[0],
        ipa=snakemake.params.ipa,
        usd=snakemake.params.prices,
        pipeline=snakemake.params.pipeline,
        knobs=snakemake.params.grid,
        platform=snakemake.params.platform,
    )
