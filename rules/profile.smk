# IPA's profiler: every variant by itself, before the configurations; then the one table that all of IPA works with.
# Without inputs or loads in the config's section ipa nobody asks for these rules.


rule profile_variant:
    input:
        decision="results/{experiment}/weights.json",
        weights="results/{experiment}/weights/{variant}.json",
        digest="results/{experiment}/frames.json",
        frames=ancient("results/{experiment}/frames.npy"),
    output:
        profile="results/{experiment}/profile/{stage}.{variant}.json",
        trace="results/{experiment}/traces/profile/{stage}.{variant}.parquet",
    log:
        "logs/{experiment}/profile/{stage}.{variant}.log",
    priority: before_measuring
    retries: 0
    conda:
        "../environment.yaml"
    threads: all_cores
    resources:
        power_meter=1,
        gpu=gpus_on(ipa_config.platform(study.settings).device),
        runtime=lambda wildcards: walltime.minutes(
            walltime.profile_s(
                study.settings["protocol"], len(profiled[(wildcards.stage, wildcards.variant)])
            )
        ),
        slurm_extra=on_node(profile_host),
        host=profile_host or "",
        gpu_uuid=profile_gpu or "",
    params:
        configurations=lambda wildcards: [
            one.as_dict() for one in profiled[(wildcards.stage, wildcards.variant)]
        ],
        workload_settings={"kind": "saturated", "in_flight_per_batch": 2, "drop_after_s": None},
        settings=measuring_settings(study.settings),
        weights_folder="resources/weights",
        protocol=protocol_digest(),
        code=profiling_digest(),
    message:
        "Profile {wildcards.variant} in stage {wildcards.stage}"
    script:
        "../workflow_scripts/profile_variant.py"


rule make_profile:
    input:
        profiles_of,
    output:
        profile=report(
            "results/{experiment}/profile.csv",
            caption="../report/profile.rst",
            category="IPA",
            labels={"result": "profile (CSV)"},
        ),
        measured="results/{experiment}/profile/measured.csv",
        remarks="results/{experiment}/profile/remarks.txt",
    log:
        "logs/{experiment}/make_profile.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=profile_table_digest(),
        ipa={
            key: study.settings["ipa"][key]
            for key in ("profile", "gpu_share", "latency", "sla_factor", "threshold_rps", "cost")
        },
        prices=prices_of_ipa(),
    message:
        "Put the profile of experiment {wildcards.experiment} together"
    script:
        "../workflow_scripts/make_profile.py"


rule describe_profile:
    input:
        profiles_of,
    output:
        fits="results/{experiment}/profile/fits.csv",
        allocation="results/{experiment}/profile/allocation.csv",
        svg=report(
            "results/{experiment}/figures/profile.svg",
            caption="../report/profile.rst",
            category="IPA",
            labels={"result": "profile of the stages"},
        ),
        png="results/{experiment}/figures/profile.png",
    log:
        "logs/{experiment}/describe_profile.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=ipa_digest(),
        ipa=study.settings["ipa"],
        prices=study.settings["prices"],
    message:
        "Describe the profile of experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/describe_profile.py"
