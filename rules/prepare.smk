# Before anything is measured. The high priority holds measurements back until all of this is done, so that all of them
# are ready at once and the scheduler can follow the plan's order.


rule prepare_weights:
    output:
        "results/{experiment}/weights.json",
    log:
        "logs/{experiment}/prepare_weights.log",
    conda:
        "../environment.yaml"
    message:
        "Decide on the weights of experiment {wildcards.experiment}"
    # It may download, which compute nodes of a cluster often can't.
    localrule: True
    priority: before_measuring
    # The variants are not among the params: a grid that grows keeps the decision and so its measurements.
    params:
        wanted=study.settings["weights"],
        seed=study.settings["seed"],
        folder="resources/weights",
    script:
        "../workflow_scripts/prepare_weights.py"


rule provide_weights:
    input:
        "results/{experiment}/weights.json",
    output:
        "results/{experiment}/weights/{variant}.json",
    log:
        "logs/{experiment}/provide_weights/{variant}.log",
    conda:
        "../environment.yaml"
    message:
        "Provide the weights of {wildcards.variant}"
    localrule: True
    priority: before_measuring
    params:
        folder="resources/weights",
    script:
        "../workflow_scripts/provide_weights.py"


rule prepare_frames:
    output:
        frames="results/{experiment}/frames.npy",
        digest="results/{experiment}/frames.json",
    log:
        "logs/{experiment}/prepare_frames.log",
    conda:
        "../environment.yaml"
    message:
        "Cut the frames of experiment {wildcards.experiment}"
    priority: before_measuring
    params:
        frames=study.settings["frames"],
        seed=study.settings["seed"],
        # Names and sizes of the pictures, so that a changed folder makes new frames.
        digest=frames_digest(study.settings),
    script:
        "../workflow_scripts/prepare_frames.py"
