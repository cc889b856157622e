rule draw_figures:
    input:
        configurations="results/{experiment}/configurations.csv",
        pairwise="results/{experiment}/coupling/pairwise.csv",
    output:
        effects="results/{experiment}/figures/knob_effects.{workload}.csv",
        effects_svg=report(
            "results/{experiment}/figures/knob_effects.{workload}.svg",
            caption="../report/knob_effects.rst",
            category="Figures",
            labels={"figure": "knob effects", "workload": "{workload}"},
        ),
        effects_png="results/{experiment}/figures/knob_effects.{workload}.png",
        energy_svg=report(
            "results/{experiment}/figures/energy_against_metrics.{workload}.svg",
            caption="../report/energy_against_metrics.rst",
            category="Figures",
            labels={"figure": "energy against metrics", "workload": "{workload}"},
        ),
        energy_png="results/{experiment}/figures/energy_against_metrics.{workload}.png",
    log:
        "logs/{experiment}/draw_figures/{workload}.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=analysis_digest(),
        confidence=study.settings["analysis"]["confidence"],
    message:
        "Draw the figures of workload {wildcards.workload}"
    script:
        "../workflow_scripts/draw_figures.py"


rule draw_energy_split:
    input:
        "results/{experiment}/measurements.csv",
    output:
        split="results/{experiment}/figures/energy_split.{workload}.csv",
        svg=report(
            "results/{experiment}/figures/energy_split.{workload}.svg",
            caption="../report/energy_split.rst",
            category="Figures",
            labels={"figure": "energy by domain", "workload": "{workload}"},
        ),
        png="results/{experiment}/figures/energy_split.{workload}.png",
    log:
        "logs/{experiment}/draw_energy_split/{workload}.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=analysis_digest(),
        drop_flags=study.settings["analysis"]["drop_flags"],
        external_logs=list(study.settings["external_logs"]),
    message:
        "Split the energy of workload {wildcards.workload} by domain"
    script:
        "../workflow_scripts/draw_energy_split.py"


rule draw_trade_off:
    input:
        membership="results/{experiment}/coupling/membership.csv",
        matched="results/{experiment}/coupling/matched.csv",
        joint="results/{experiment}/coupling/joint.csv",
        residual_knobs="results/{experiment}/coupling/residual_knobs.csv",
        configurations="results/{experiment}/configurations.csv",
    output:
        fronts_svg=report(
            "results/{experiment}/figures/fronts.{workload}.svg",
            caption="../report/fronts.rst",
            category="Figures",
            labels={"figure": "Pareto fronts", "workload": "{workload}"},
        ),
        fronts_png="results/{experiment}/figures/fronts.{workload}.png",
        matched_svg=report(
            "results/{experiment}/figures/matched_energy.{workload}.svg",
            caption="../report/matched_energy.rst",
            category="Figures",
            labels={"figure": "energy at equal metrics", "workload": "{workload}"},
        ),
        matched_png="results/{experiment}/figures/matched_energy.{workload}.png",
    log:
        "logs/{experiment}/draw_trade_off/{workload}.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=analysis_digest(),
        threshold=study.settings["analysis"]["spread_threshold"],
    message:
        "Draw fronts and matched energy of workload {wildcards.workload}"
    script:
        "../workflow_scripts/draw_trade_off.py"


# Of any record, on request. The trace is no input: one that was deleted to save space must not measure again.
rule draw_power:
    input:
        "results/{experiment}/records/{workload}/{configuration}/{repetition}.json",
    output:
        svg=report(
            "results/{experiment}/figures/power/{workload}/{configuration}/{repetition}.svg",
            caption="../report/power.rst",
            category="Figures",
            labels={
                "figure": "power over time",
                "workload": "{workload}, {configuration}, {repetition}",
            },
        ),
        png="results/{experiment}/figures/power/{workload}/{configuration}/{repetition}.png",
    log:
        "logs/{experiment}/draw_power/{workload}/{configuration}/{repetition}.log",
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=analysis_digest(),
    message:
        "Draw the power of {wildcards.configuration} under {wildcards.workload}, {wildcards.repetition}"
    script:
        "../workflow_scripts/draw_power.py"
