"""Make the explorer, an interactive page of the trade-off space, from the tables and limitations of an experiment."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipa_energy.analysis import tables
from ipa_energy.explorer.build import explorer_html
from ipa_energy.files import write_text
from ipa_energy.joblog import redirect_to


def main(
    inputs: Mapping[str, str],
    output: str,
    *,
    experiment: str,
    given: Mapping[str, Mapping[str, Any]],
    confidence: float,
) -> None:
    """Read the tables and write the page."""
    verdict = json.loads(Path(inputs["verdict"]).read_text(encoding="utf-8"))
    page = explorer_html(
        tables.read_csv(inputs["configurations"]),
        tables.read_csv(inputs["measurements"]),
        tables.read_csv(inputs["membership"]),
        title=f"{experiment}: trade-off space",
        inputs=given,
        limitations=verdict["limitations"],
        folder=Path(output).parent,
        confidence=confidence,
    )
    write_text(output, page)
    print(f"{output}: {len(page) / 1e6:.1f} MB")


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        dict(snakemake.input.items()),
        snakemake.output[0],
        experiment=snakemake.wildcards.experiment,
        given=snakemake.params.given,
        confidence=snakemake.params.confidence,
    )
