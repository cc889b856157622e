# Adaptation over time, simulated: IPA with and without energy, and the baselines, under the loads of the config.
# Without adaptation.loads in the config's section ipa nobody asks for these rules.


rule make_load:
    input:
        file_of_load,
    output:
        "results/{experiment}/adaptation/loads/{load}.txt",
    log:
        "logs/{experiment}/make_load/{load}.log",
    wildcard_constraints:
        load="[A-Za-z0-9_-]+",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=predictor_digest(),
        load=lambda wildcards: adaptation["loads"][wildcards.load],
        seed=study.settings["seed"],
    message:
        "Make load {wildcards.load}"
    script:
        "../workflow_scripts/make_load.py"


rule train_predictor:
    input:
        loads_from_files,
    output:
        weights="results/{experiment}/adaptation/predictor.pt",
        settings="results/{experiment}/adaptation/predictor.json",
    log:
        "logs/{experiment}/train_predictor.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=predictor_digest(),
        # Not the loads themselves: one more of them must not train, and so run live runs, again.
        largest_scale=max(
            (load["scale"] for load in adaptation["loads"].values() if "pattern" in load),
            default=0,
        ),
        days=adaptation["history_days"],
        seed=study.settings["seed"],
    message:
        "Train the LSTM that predicts the rate"
    script:
        "../workflow_scripts/train_predictor.py"


rule compare_predictors:
    input:
        loads=loads_of,
        trained=trained_of,
    output:
        report(
            "results/{experiment}/adaptation/predictors.csv",
            caption="../report/predictors.rst",
            category="IPA",
            labels={"result": "predictors (CSV)", "for": "all loads"},
        ),
    log:
        "logs/{experiment}/compare_predictors.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=ipa_digest(),
        loads=adaptation["loads"],
        predictors=adaptation["predictors"],
    message:
        "Compare the predictors on the loads of experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/compare_predictors.py"


rule simulate_adaptation:
    input:
        profile="results/{experiment}/profile.csv",
        load="results/{experiment}/adaptation/loads/{load}.txt",
        trained=trained_of,
    output:
        runs="results/{experiment}/adaptation/{load}.csv",
        intervals="results/{experiment}/adaptation/{load}.intervals.csv",
        svg=report(
            "results/{experiment}/figures/adaptation.{load}.svg",
            caption="../report/adaptation.rst",
            category="IPA",
            labels={"result": "adaptation over time", "for": "{load}"},
        ),
        png="results/{experiment}/figures/adaptation.{load}.png",
    log:
        "logs/{experiment}/simulate_adaptation/{load}.log",
    wildcard_constraints:
        # What the other rules write into the folder is no load.
        load="(?!(summary|predictors|check|check_errors|live|live_errors)\\.)[A-Za-z0-9_-]+",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=ipa_digest(),
        ipa=study.settings["ipa"],
        prices=study.settings["prices"],
        max_wait_s=study.settings["max_wait_s"],
        seed=study.settings["seed"],
    message:
        "Simulate adaptation under load {wildcards.load}"
    script:
        "../workflow_scripts/simulate_adaptation.py"


rule summarise_adaptation:
    input:
        lambda wildcards: expand(
            "results/{experiment}/adaptation/{load}.csv",
            experiment=wildcards.experiment,
            load=adaptation["loads"],
        ),
    output:
        summary=report(
            "results/{experiment}/adaptation/summary.csv",
            caption="../report/adaptation_summary.rst",
            category="IPA",
            labels={"result": "adaptation (CSV)", "for": "all loads"},
        ),
        answer=report(
            "results/{experiment}/adaptation/answer.txt",
            caption="../report/adaptation_summary.rst",
            category="IPA",
            labels={"result": "what energy changes", "for": "all loads"},
        ),
    log:
        "logs/{experiment}/summarise_adaptation.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=ipa_digest(),
        confidence=study.settings["analysis"]["confidence"],
        cost_unit="cores" if study.settings["ipa"]["cost"] == "cores" else "USD per hour",
    message:
        "Summarise adaptation in experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/summarise_adaptation.py"
