from ipa_energy.pipelines import frames, weights


# Runs where the workflow runs: it may download, which the compute nodes of a cluster often can't.
rule prepare_weights:
    output:
        "results/{experiment}/weights.json",
    log:
        "logs/{experiment}/prepare_weights.log",
    localrule: True
    conda:
        "../environment.yaml"
    threads: 1
    params:
        variants={
            stage: knobs["variant"] for stage, knobs in study.settings["grid"]["stages"].items()
        },
        wanted=study.settings["weights"],
        seed=study.settings["seed"],
        folder=str(weights.FOLDER),
    message:
        "Decide on the weights of experiment {wildcards.experiment} and fetch them"
    script:
        "../workflow_scripts/prepare_weights.py"


# The digest holds names and sizes of the pictures, so that a changed folder makes new frames.
rule prepare_frames:
    output:
        "results/{experiment}/frames.npy",
    log:
        "logs/{experiment}/prepare_frames.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        frames=study.settings["frames"],
        seed=study.settings["seed"],
        digest=lambda wildcards: frames.frames_digest(study.settings),
    message:
        "Cut the frames of experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/prepare_frames.py"
