# Power logs of meters that the workflow does not read, cut to the windows of the records once these are there. Without
# external_logs in the config nobody asks for this rule.


rule cut_external_logs:
    input:
        records=records_of,
        plan=plan_of,
        logs=external_logs_of,
    output:
        external=report(
            "results/{experiment}/external.csv",
            caption="../report/external.rst",
            category="Tables",
            labels={"table": "external power logs (CSV)"},
        ),
        clocks="results/{experiment}/external_clocks.csv",
    log:
        "logs/{experiment}/cut_external_logs.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=analysis_digest(),
        logs=study.settings["external_logs"],
    message:
        "Cut the external power logs to the windows of experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/cut_external_logs.py"
