rule make_plan:
    output:
        "results/{experiment}/plan.csv",
    log:
        "logs/{experiment}/make_plan.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        grid=study.settings["grid"],
        workloads=list(study.workloads),
        blocks=study.settings["blocks"],
        anchor=study.settings["anchor"],
        seed=study.settings["seed"],
    message:
        "Lay out the plan of experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/make_plan.py"


# All measurements wait for the same three files, so that all are ready at once and run in the plan's order. The plan and
# the frames are `ancient`: what they change in a measurement is in its params.
rule measure_configuration:
    input:
        plan=ancient("results/{experiment}/plan.csv"),
        frames=ancient("results/{experiment}/frames.npy"),
        weights="results/{experiment}/weights.json",
    output:
        record="results/{experiment}/records/{workload}/{configuration}/{repetition}.json",
        trace="results/{experiment}/traces/{workload}/{configuration}/{repetition}.parquet",
    log:
        "logs/{experiment}/measure/{workload}/{configuration}/{repetition}.log",
    priority: run_order
    retries: 0
    conda:
        "../environment.yaml"
    threads: all_cores
    resources:
        power_meter=1,
    params:
        configuration=lambda wildcards: measurement_of(wildcards).configuration.as_dict(),
        workload_settings=lambda wildcards: study.workloads[wildcards.workload],
        settings=measuring_settings(study),
        frames=frames.frames_digest(study.settings),
        weights_folder=str(weights.FOLDER),
        protocol=protocol_digest(),
    message:
        "Measure {wildcards.configuration} under {wildcards.workload}, {wildcards.repetition}"
    script:
        "../workflow_scripts/measure_configuration.py"
