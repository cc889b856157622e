"""Decide on the weights of the run and fetch them: from the variants in the grid, results/{experiment}/weights.json.

It holds the kind of weights, the seed and the reason, and is the same, byte by byte, for the same decision.
"""

import json
from collections.abc import Mapping, Sequence

from ipa_energy.files import write_text
from ipa_energy.joblog import redirect_to
from ipa_energy.pipelines.weights import decide


def main(
    variants_by_stage: Mapping[str, Sequence[str]], wanted: str, folder: str, seed: int, decision_path: str
) -> None:
    """Write the decision as JSON."""
    decision = decide(variants_by_stage, wanted, folder, seed)
    write_text(decision_path, json.dumps(decision, indent=2) + "\n")


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        snakemake.params.variants,
        snakemake.params.wanted,
        snakemake.params.folder,
        snakemake.params.seed,
        snakemake.output[0],
    )
