rule make_plan:
    output:
        "results/{experiment}/plan.csv",
    log:
        "logs/{experiment}/make_plan.log",
    priority: before_measuring
    conda:
        "../environment.yaml"
    params:
        grid=study.settings["grid"],
        workloads=list(study.workloads),
        blocks=study.settings["blocks"],
        anchor=study.settings["anchor"],
        seed=study.settings["seed"],
        hosts=study.settings["hosts"],
        share=study.settings["fraction"]["keep"] if draws_fraction(study.settings) else 1,
    message:
        "Lay out the plan of experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/make_plan.py"


# Only a study with `design: fraction` asks for it.
rule describe_design:
    output:
        "results/{experiment}/design.json",
    log:
        "logs/{experiment}/describe_design.log",
    priority: before_measuring
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=design_digest(),
        grid=study.settings["grid"],
        keep=study.settings["fraction"]["keep"],
        seed=study.settings["seed"],
    message:
        "Check what the fraction of the grid of experiment {wildcards.experiment} can carry"
    script:
        "../workflow_scripts/describe_design.py"


# The decision on weights and the frames' hash come with the files of the variants, which are made from both. The array of
# frames itself is `ancient`, so that touching it means nothing.
rule measure_configuration:
    input:
        weights=weights_of,
        frames=ancient("results/{experiment}/frames.npy"),
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
        gpu=in_plan(lambda one: gpus_on(one.configuration.platform.device)),
        runtime=walltime.minutes(walltime.measurement_s(study.settings["protocol"])),
        slurm_extra=in_plan(lambda one: on_node(one.host)),
        # Its place in the plan travels as resources, because those, unlike params, are no reason to measure again. None is
        # called node, which Slurm's plugin takes for a number of nodes.
        host=in_plan(lambda one: one.host or ""),
        gpu_uuid=in_plan(lambda one: one.gpu or ""),
        run_order=in_plan(lambda one: one.order),
        run_length=len(study.plan),
    params:
        configuration=in_plan(lambda one: one.configuration.as_dict()),
        workload_settings=in_plan(lambda one: study.workloads[one.workload]),
        settings=measuring_settings(study.settings),
        weights_folder="resources/weights",
        protocol=protocol_digest(),
    message:
        "Measure {wildcards.configuration} under {wildcards.workload}, {wildcards.repetition}"
    script:
        "../workflow_scripts/measure_configuration.py"
