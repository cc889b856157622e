rule aggregate_records:
    input:
        records=records_of,
        # A plan that changed makes Snakemake look for the records that are missing now.
        plan=plan_of,
        external=external_of,
    output:
        measurements="results/{experiment}/measurements.csv",
        configurations=report(
            "results/{experiment}/configurations.csv",
            caption="../report/configurations.rst",
            category="Tables",
            labels={"table": "configurations (CSV)"},
        ),
        anchors="results/{experiment}/anchors.csv",
        refused="results/{experiment}/refused.csv",
    log:
        "logs/{experiment}/aggregate_records.log",
    conda:
        "../environment.yaml"
    threads: 4
    params:
        code=analysis_digest(),
        prices=study.settings["prices"],
        analysis={
            key: study.settings["analysis"][key]
            for key in ("confidence", "drop_flags", "energy_from")
        },
        external_logs=study.settings["external_logs"],
        no_files=no_files_of,
    message:
        "Make the tables of experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/aggregate_records.py"
