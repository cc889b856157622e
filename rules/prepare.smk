# Before anything is measured. The high priority holds measurements back until all of this is done, so that all of them
# are ready at once and the scheduler can follow the plan's order.


rule prepare_weights:
    output:
        "results/{experiment}/weights.json",
    log:
        "logs/{experiment}/prepare_weights.log",
    priority: before_measuring
    # It may download, which compute nodes of a cluster often can't.
    localrule: True
    conda:
        "../environment.yaml"
    # The variants are not among the params: a grid that grows keeps the decision and so its measurements.
    params:
        wanted=study.settings["weights"],
        seed=study.settings["seed"],
        folder="resources/weights",
    message:
        "Decide on the weights of experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/prepare_weights.py"


# Its files stand for the decision and for the frames as well: a rule that measures many configurations needs no input for
# each of these, which would cost Snakemake a tenth of its time.
rule provide_weights:
    input:
        decision="results/{experiment}/weights.json",
        digest="results/{experiment}/frames.json",
    output:
        "results/{experiment}/weights/{variant}.json",
    log:
        "logs/{experiment}/provide_weights/{variant}.log",
    priority: before_measuring
    localrule: True
    conda:
        "../environment.yaml"
    params:
        folder="resources/weights",
    message:
        "Provide the weights of {wildcards.variant}"
    script:
        "../workflow_scripts/provide_weights.py"


rule prepare_frames:
    output:
        frames="results/{experiment}/frames.npy",
        digest="results/{experiment}/frames.json",
    log:
        "logs/{experiment}/prepare_frames.log",
    priority: before_measuring
    conda:
        "../environment.yaml"
    params:
        frames=study.settings["frames"],
        seed=study.settings["seed"],
        # Names and sizes of the pictures, so that a changed folder makes new frames.
        digest=frames_digest(study.settings),
    message:
        "Cut the frames of experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/prepare_frames.py"
