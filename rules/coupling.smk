rule analyse_coupling:
    input:
        measurements="results/{experiment}/measurements.csv",
    output:
        pairwise="results/{experiment}/coupling/pairwise.csv",
        page=report(
            "results/{experiment}/coupling/pairwise.html",
            caption="../report/pairwise.rst",
            category="Verdict",
            labels={"result": "pairwise coupling"},
        ),
    log:
        "logs/{experiment}/analyse_coupling.log",
    conda:
        "../environment.yaml"
    threads: 4
    params:
        code=analysis_digest(),
        analysis=study.settings["analysis"],
        seed=study.settings["seed"],
    message:
        "Relate energy to each other metric of experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/analyse_coupling.py"


rule judge_coupling:
    input:
        measurements="results/{experiment}/measurements.csv",
        pairwise="results/{experiment}/coupling/pairwise.csv",
        refused="results/{experiment}/refused.csv",
        spaces=spaces_of("{input}.json"),
        parquets=spaces_of("{input}.parquet"),
        optima=spaces_of("{input}.optima.csv"),
        design=design_of,
        look=last_look_of,
    output:
        verdict="results/{experiment}/verdict.json",
        answer=report(
            "results/{experiment}/answer.md",
            caption="../report/answer.rst",
            category="Verdict",
            labels={"result": "answer"},
        ),
        joint=report(
            "results/{experiment}/coupling/joint.csv",
            caption="../report/joint.rst",
            category="Verdict",
            labels={"result": "joint coupling (CSV)"},
        ),
        matched="results/{experiment}/coupling/matched.csv",
        partial="results/{experiment}/coupling/partial.csv",
        residual_knobs="results/{experiment}/coupling/residual_knobs.csv",
        tradeoff=report(
            "results/{experiment}/coupling/tradeoff.csv",
            caption="../report/tradeoff.rst",
            category="Verdict",
            labels={"result": "trade-off space (CSV)"},
        ),
        membership="results/{experiment}/coupling/membership.csv",
        objectives="results/{experiment}/coupling/objectives.csv",
        sufficient="results/{experiment}/coupling/sufficient.csv",
        decisions=report(
            "results/{experiment}/coupling/decisions.csv",
            caption="../report/decisions.rst",
            category="Verdict",
            labels={"result": "choices (CSV)"},
        ),
    log:
        "logs/{experiment}/judge_coupling.log",
    conda:
        "../environment.yaml"
    threads: 4
    params:
        code=analysis_digest(),
        analysis=study.settings["analysis"],
        ipa={key: study.settings["ipa"][key] for key in ("weights", "scales", "cost")},
        seed=study.settings["seed"],
    message:
        "Judge whether energy is redundant in experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/judge_coupling.py"


rule compare_choices:
    input:
        measurements="results/{experiment}/measurements.csv",
        verdict="results/{experiment}/verdict.json",
    output:
        knobs="results/{experiment}/coupling/knobs.csv",
        generality=report(
            "results/{experiment}/coupling/generality.csv",
            caption="../report/generality.rst",
            category="Verdict",
            labels={"result": "generality (CSV)"},
        ),
        shares_svg=report(
            "results/{experiment}/figures/knob_variance.svg",
            caption="../report/knob_variance.rst",
            category="Figures",
            labels={"figure": "variance by knob", "workload": "all"},
        ),
        shares_png="results/{experiment}/figures/knob_variance.png",
        agreement_svg=report(
            "results/{experiment}/figures/agreement.svg",
            caption="../report/agreement.rst",
            category="Figures",
            labels={"figure": "agreement", "workload": "all"},
        ),
        agreement_png="results/{experiment}/figures/agreement.png",
    log:
        "logs/{experiment}/compare_choices.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=analysis_digest(),
        analysis=study.settings["analysis"],
        external_logs=study.settings["external_logs"],
        seed=study.settings["seed"],
    message:
        "Compare knobs, hosts and meters of experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/compare_choices.py"


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
