"""Cut the frames that requests carry, from the pictures of the source.

Writes results/{experiment}/frames.npy, uint8 (count, height, width, 3), which replicas map into memory, and frames.json
with its hash, by which Snakemake tells new frames from touched ones.
"""

import hashlib
import json

import numpy as np

from ipa_energy.files import atomic_path, write_text
from ipa_energy.joblog import redirect_to
from ipa_energy.pipelines.frames import make_frames

if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    settings = snakemake.params.frames
    frames = make_frames(
        settings["source"], settings["count"], settings["width"], settings["height"], snakemake.params.seed
    )
    # An open file, as np.save appends .npy to names that lack it.
    with atomic_path(snakemake.output.frames) as temporary, temporary.open("wb") as file:
        np.save(file, frames)
    facts = settings | {"shape": frames.shape, "sha256": hashlib.sha256(frames.tobytes()).hexdigest()}
    write_text(snakemake.output.digest, json.dumps(facts, indent=2) + "\n")
