"""Enumerate IPA's configuration space for one input, with its exact Pareto front and the optima of all methods.

The space as Parquet, its summary as JSON, the front and the optima as CSV, and a figure of it. Configurations that were
measured are marked, where a table of them is given.
"""

import json
from collections.abc import Mapping
from typing import Any

from ipa_energy.analysis.tables import read_csv, write_csv
from ipa_energy.configuration import Platform
from ipa_energy.figures import space as space_figure
from ipa_energy.figures import style
from ipa_energy.files import write_text
from ipa_energy.ipa.measured_marks import measured_configurations
from ipa_energy.ipa.profile import read_profile
from ipa_energy.ipa.space_json import summary_json
from ipa_energy.ipa.space_report import front_table, optima_table, space_of, write_rows
from ipa_energy.ipa.space_sample import feasible_sample
from ipa_energy.ipa.totals import COLUMNS
from ipa_energy.joblog import redirect_to


def main(
    profile: str,
    outputs: Mapping[str, str],
    *,
    name: str,
    ipa: Mapping[str, Any],
    usd: Mapping[str, float],
    platform: Mapping[str, str],
    seed: int,
    configurations: str | None = None,
) -> None:
    """Read the profile, and the table of measured ``configurations`` if there is one, and write the input's files."""
    known = read_profile(profile)
    stages = [stage.stage for stage in known.stages]
    measured = (
        []
        if configurations is None
        else measured_configurations(read_csv(configurations), stages, Platform(**platform))
    )
    space = space_of(name, known, ipa, usd, measured)
    counted = write_rows(outputs["space"], space)
    front, optima = front_table(space), optima_table(space)
    summary = summary_json(space, counted, front)
    write_csv(outputs["front"], front)
    write_csv(outputs["optima"], optima)
    write_text(outputs["summary"], json.dumps(summary, indent=2, allow_nan=False) + "\n")
    points = feasible_sample(outputs["space"], list(COLUMNS), counted.feasible, seed)
    style.save(space_figure.draw(points, front, optima, summary), [outputs["svg"], outputs["png"]])
    print(f"{counted.feasible} of {space.options.size} configurations are feasible, {len(front)} on the front")
    for row in optima[~optima["chosen"]].to_dict("records"):
        print(f"{row['method']}: no choice, {row['reason']}")


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        snakemake.input.profile,
        dict(snakemake.output.items()),
        name=snakemake.wildcards.input,
        ipa=snakemake.params.ipa,
        usd=snakemake.params.prices,
        platform=snakemake.params.platform,
        seed=snakemake.params.seed,
        configurations=next(iter(snakemake.input.measured), None),
    )
