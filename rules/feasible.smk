# Opt-in (measure: feasible): only configurations that IPA may choose for one of the inputs are measured. Which these are
# is known once the profile is there, so this is the one checkpoint of the workflow; without it the DAG is static.


checkpoint choose_feasible:
    input:
        profile="results/{experiment}/profile.csv",
    output:
        chosen="results/{experiment}/space/chosen.csv",
    log:
        "logs/{experiment}/choose_feasible.log",
    priority: before_measuring
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=feasible_digest(),
        ipa=study.settings["ipa"],
        prices=study.settings["prices"],
        pipeline=study.settings["pipeline"],
        grid=study.settings["grid"],
        platform=asdict(ipa_config.platform(study.settings)),
    message:
        "Choose the configurations of experiment {wildcards.experiment} that are feasible for an input"
    script:
        "../workflow_scripts/choose_feasible.py"
