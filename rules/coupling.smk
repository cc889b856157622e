rule analyse_coupling:
    input:
        measurements="results/{experiment}/measurements.csv",
        refused="results/{experiment}/refused.csv",
    output:
        pairwise="results/{experiment}/coupling/pairwise.csv",
        page=report(
            "results/{experiment}/coupling/pairwise.html",
            caption="../report/pairwise.rst",
            category="Verdict",
            labels={"result": "pairwise coupling"},
        ),
        verdict="results/{experiment}/verdict.json",
    log:
        "logs/{experiment}/analyse_coupling.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=analysis_digest(),
        analysis=study.settings["analysis"],
        seed=study.settings["seed"],
    message:
        "Relate energy to the other metrics of experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/analyse_coupling.py"


rule summarise:
    input:
        verdict=verdict_of,
        answers=answers_of,
    output:
        report(
            "results/{experiment}/summary.txt",
            caption="../report/summary.rst",
            category="Verdict",
            labels={"result": "summary"},
        ),
    log:
        "logs/{experiment}/summarise.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        ipa=ipa_digest() if ipa_config.wanted(study.settings) else "",
    message:
        "Summarise experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/summarise.py"
