"""Decide on the weights of the run and fetch them: from the variants in the grid, results/{experiment}/weights.json.

It holds the kind of weights, the seed and the reason, and is the same, byte by byte, for the same decision.
"""

import json

from ipa_energy.files import write_text
from ipa_energy.joblog import redirect_to
from ipa_energy.pipelines.weights import decide

if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    variants = {stage: knobs["variant"] for stage, knobs in snakemake.config["grid"]["stages"].items()}
    params = snakemake.params
    decision = decide(variants, params.wanted, params.folder, params.seed)
    write_text(snakemake.output[0], json.dumps(decision, indent=2) + "\n")
