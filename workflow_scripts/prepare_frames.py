"""Cut the frames that requests carry: from the pictures of the source, results/{experiment}/frames.npy (n, h, w, 3)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ipa_energy.files import atomic_path
from ipa_energy.joblog import redirect_to
from ipa_energy.pipelines.frames import make_frames


def main(settings: Mapping[str, Any], seed: int, frames_path: str) -> None:
    """Write the frames as a .npy file, which replicas map into memory."""
    frames = make_frames(settings["source"], settings["count"], settings["width"], settings["height"], seed)
    with atomic_path(frames_path) as temporary, temporary.open("wb") as file:
        # An open file, as np.save appends .npy to names that lack it.
        np.save(file, frames)


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(snakemake.params.frames, snakemake.params.seed, snakemake.output[0])
