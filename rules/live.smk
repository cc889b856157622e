# Adaptation in reality: the engine serves a stretch of a load while it is reconfigured. After the measurements of the plan.
# Without adaptation.live.load in the config's section ipa nobody asks for these rules.


rule adapt_live:
    input:
        decision="results/{experiment}/weights.json",
        weights=weights_of_all,
        digest="results/{experiment}/frames.json",
        frames=ancient("results/{experiment}/frames.npy"),
        profile="results/{experiment}/profile.csv",
        load=load_of_live,
        predictor=predictor_of_live,
    output:
        result="results/{experiment}/adaptation/live/{method}.{run}.json",
        trace="results/{experiment}/traces/live/{method}.{run}.parquet",
    log:
        "logs/{experiment}/live/{method}.{run}.log",
    priority: live_order
    retries: 0
    conda:
        "../environment.yaml"
    threads: all_cores
    resources:
        power_meter=1,
        gpu=gpus_on(ipa_config.platform(study.settings).device),
        runtime=walltime.minutes(
            walltime.live_s(study.settings["protocol"], adaptation["live"]["seconds"])
        ),
        slurm_extra=on_node(profile_host),
        host=profile_host or "",
        gpu_uuid=profile_gpu or "",
    params:
        settings=measuring_settings(study.settings),
        pipeline=study.settings["pipeline"],
        platform=asdict(ipa_config.platform(study.settings)),
        weights_folder="resources/weights",
        protocol=protocol_digest(),
        code=live_digest(),
        ipa=ipa_config.deciding(study.settings),
        prices=prices_of_ipa(),
    message:
        "Adapt live by {wildcards.method}, {wildcards.run}"
    script:
        "../workflow_scripts/adapt_live.py"


rule summarise_live:
    input:
        runs=expand("results/{{experiment}}/adaptation/live/{run[0]}.{run[1]}.json", run=live_runs),
        traces=expand("results/{{experiment}}/traces/live/{run[0]}.{run[1]}.parquet", run=live_runs),
        profile="results/{experiment}/profile.csv",
        load=load_of_live,
        trained=predictor_of_live,
    output:
        table=report(
            "results/{experiment}/adaptation/live.csv",
            caption="../report/live.rst",
            category="IPA",
            labels={"result": "live runs (CSV)"},
        ),
        errors="results/{experiment}/adaptation/live_errors.csv",
        intervals="results/{experiment}/adaptation/live.intervals.csv",
        answer="results/{experiment}/adaptation/live.txt",
        svg=report(
            "results/{experiment}/figures/live.svg",
            caption="../report/live.rst",
            category="IPA",
            labels={"result": "live runs over time"},
        ),
        png="results/{experiment}/figures/live.png",
    log:
        "logs/{experiment}/summarise_live.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=ipa_digest(),
        ipa=study.settings["ipa"],
        prices=study.settings["prices"],
    message:
        "Compare the live runs of experiment {wildcards.experiment} with their simulation"
    script:
        "../workflow_scripts/summarise_live.py"
