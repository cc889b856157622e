"""Have the weights of one variant at hand: from the run's decision, a file that names them and their hash.

The file also names the frames: rules that measure have it as their input for both, and Snakemake takes an input for
changed by its content alone.
"""

import json
from pathlib import Path

from ipa_energy.files import write_text
from ipa_energy.job import decided_weights
from ipa_energy.joblog import redirect_to
from ipa_energy.pipelines.weights import provide

if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    facts = provide(snakemake.wildcards.variant, decided_weights(snakemake.input.decision), snakemake.params.folder)
    frames = json.loads(Path(snakemake.input.digest).read_text(encoding="utf-8"))
    write_text(snakemake.output[0], json.dumps(facts | {"frames_sha256": frames["sha256"]}, indent=2) + "\n")
