# Are IPA's predictions right? What it composes from stage profiles, and what its simulation makes of a load, against the
# measured configurations. Without inputs or loads in the config's section ipa nobody asks for these rules.


rule compose:
    input:
        profile="results/{experiment}/profile.csv",
        measurements="results/{experiment}/measurements.csv",
    output:
        configurations="results/{experiment}/composition/configurations.csv",
        errors=report(
            "results/{experiment}/composition/errors.csv",
            caption="../report/composition_errors.rst",
            category="IPA",
            labels={"result": "errors of composed figures (CSV)"},
        ),
        answer=report(
            "results/{experiment}/composition/answer.txt",
            caption="../report/composition_answer.rst",
            category="IPA",
            labels={"result": "can IPA choose by energy?"},
        ),
        svg=report(
            "results/{experiment}/figures/composition.svg",
            caption="../report/composition.rst",
            category="IPA",
            labels={"result": "composed against measured"},
        ),
        png="results/{experiment}/figures/composition.png",
    log:
        "logs/{experiment}/compose.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=[analysis_digest(), ipa_digest()],
        ipa={key: study.settings["ipa"][key] for key in ("profile", "device", "precision")},
        platforms=study.settings["grid"]["platform"],
        analysis={
            key: study.settings["analysis"][key]
            for key in ("confidence", "drop_flags", "bootstrap", "min_configurations")
        },
        seed=study.settings["seed"],
    message:
        "Compose the configurations of experiment {wildcards.experiment} from stage profiles"
    script:
        "../workflow_scripts/compose.py"


rule check_simulation:
    input:
        profile="results/{experiment}/profile.csv",
        records=records_of,
        measurements="results/{experiment}/measurements.csv",
    output:
        check="results/{experiment}/adaptation/check.csv",
        errors=report(
            "results/{experiment}/adaptation/check_errors.csv",
            caption="../report/check_errors.rst",
            category="IPA",
            labels={"result": "errors of the simulation (CSV)"},
        ),
    log:
        "logs/{experiment}/check_simulation.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=[analysis_digest(), ipa_digest()],
        ipa={key: study.settings["ipa"][key] for key in ("profile", "device", "precision")},
        platforms=study.settings["grid"]["platform"],
        analysis={
            key: study.settings["analysis"][key]
            for key in ("confidence", "drop_flags", "bootstrap")
        },
        max_wait_s=study.settings["max_wait_s"],
        seed=study.settings["seed"],
    message:
        "Simulate the open loops of experiment {wildcards.experiment}"
    script:
        "../workflow_scripts/check_simulation.py"
