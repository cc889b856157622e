from ipa_energy import layout
from ipa_energy.pipelines import frames, weights


rule prepare_weights:
    output:
        layout.WEIGHTS,
    log:
        "logs/{experiment}/prepare_weights.log",
    # It may download, which compute nodes of a cluster often can't.
    localrule: True
    params:
        variants={
            stage: knobs["variant"] for stage, knobs in study.settings["grid"]["stages"].items()
        },
        wanted=study.settings["weights"],
        seed=study.settings["seed"],
        folder=str(weights.FOLDER),
    script:
        "../workflow_scripts/prepare_weights.py"


rule prepare_frames:
    output:
        layout.FRAMES,
    log:
        "logs/{experiment}/prepare_frames.log",
    params:
        frames=study.settings["frames"],
        seed=study.settings["seed"],
        # Names and sizes of the pictures, so that a changed folder makes new frames.
        digest=frames.frames_digest(study.settings),
    script:
        "../workflow_scripts/prepare_frames.py"
