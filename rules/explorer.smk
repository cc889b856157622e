rule make_explorer:
    input:
        configurations="results/{experiment}/configurations.csv",
        measurements="results/{experiment}/measurements.csv",
        membership="results/{experiment}/coupling/membership.csv",
        verdict="results/{experiment}/verdict.json",
    output:
        report(
            "results/{experiment}/explorer.html",
            caption="../report/explorer.rst",
            category="Explorer",
            labels={"result": "trade-off space"},
        ),
    log:
        "logs/{experiment}/make_explorer.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=analysis_digest(),
        given=study.settings["ipa"]["inputs"],
        confidence=study.settings["analysis"]["confidence"],
    message:
        "Make the explorer of experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/make_explorer.py"
