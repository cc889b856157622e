# IPA's configuration space for every input of the config: all configurations, the Pareto front, what each method chooses.
# Without inputs in the config's section ipa nobody asks for these rules.


rule enumerate_space:
    input:
        profile="results/{experiment}/profile.csv",
        measured=measured_of,
    output:
        space="results/{experiment}/space/{input}.parquet",
        summary="results/{experiment}/space/{input}.json",
        front=report(
            "results/{experiment}/space/{input}.front.csv",
            caption="../report/space_front.rst",
            category="IPA",
            labels={"result": "Pareto front (CSV)", "for": "{input}"},
        ),
        optima=report(
            "results/{experiment}/space/{input}.optima.csv",
            caption="../report/space_optima.rst",
            category="IPA",
            labels={"result": "optima (CSV)", "for": "{input}"},
        ),
        svg=report(
            "results/{experiment}/figures/space.{input}.svg",
            caption="../report/space.rst",
            category="IPA",
            labels={"result": "configuration space", "for": "{input}"},
        ),
        png="results/{experiment}/figures/space.{input}.png",
    log:
        "logs/{experiment}/enumerate_space/{input}.log",
    wildcard_constraints:
        input="[^/]+",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=ipa_digest(),
        ipa=study.settings["ipa"],
        prices=study.settings["prices"],
        platform=asdict(ipa_config.platform(study.settings)),
        seed=study.settings["seed"],
    message:
        "Enumerate the configuration space for input {wildcards.input}"
    script:
        "../workflow_scripts/enumerate_space.py"


rule summarise_spaces:
    input:
        lambda wildcards: expand(
            "results/{experiment}/space/{input}.json",
            experiment=wildcards.experiment,
            input=study.settings["ipa"]["inputs"],
        ),
    output:
        report(
            "results/{experiment}/space/summary.csv",
            caption="../report/space_summary.rst",
            category="IPA",
            labels={"result": "configuration spaces (CSV)", "for": "all inputs"},
        ),
    log:
        "logs/{experiment}/summarise_spaces.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=ipa_digest(),
    message:
        "Summarise the configuration spaces of experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/summarise_spaces.py"
