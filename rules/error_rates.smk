# How often the rule of the verdict is wrong, by simulation; not part of `rule all`. Nothing is measured, and no record is
# read: `snakemake --cores all error_rates`. See docs/error-rates.md.

from ipa_energy.digest import (
    designs_digest,
    designs_summary_digest,
    error_rates_digest,
    rates_summary_digest,
)
from ipa_energy.error_rates import designs, presets, truths


rule error_rates:
    input:
        expand(
            "results/error_rates/{preset}/{file}",
            preset=[presets.PUBLISHED],
            file=["summary.csv", "answer.txt", "error_rates.svg", "error_rates.png"],
        ),


rule simulate_error_rates:
    output:
        "results/error_rates/{preset}/{truth}.csv",
    log:
        "logs/error_rates/{preset}/{truth}.log",
    wildcard_constraints:
        preset="|".join(presets.preset_names()),
        truth="|".join(truths.TRUTHS),
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=error_rates_digest(),
        designs=lambda wildcards: presets.designs_of(
            presets.read_preset(wildcards.preset), wildcards.truth
        ),
        rule=study.settings["analysis"],
    message:
        "Simulate studies of truth {wildcards.truth}"
    script:
        "../workflow_scripts/simulate_error_rates.py"


rule summarise_error_rates:
    input:
        lambda wildcards: expand(
            "results/error_rates/{preset}/{truth}.csv",
            preset=wildcards.preset,
            truth=presets.truths_of(presets.read_preset(wildcards.preset)),
        ),
    output:
        summary="results/error_rates/{preset}/summary.csv",
        answer="results/error_rates/{preset}/answer.txt",
        svg="results/error_rates/{preset}/error_rates.svg",
        png="results/error_rates/{preset}/error_rates.png",
    log:
        "logs/error_rates/{preset}/summarise.log",
    wildcard_constraints:
        preset="|".join(presets.preset_names()),
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=rates_summary_digest(),
    message:
        "Summarise the simulated studies of preset {wildcards.preset}"
    script:
        "../workflow_scripts/summarise_error_rates.py"


# The same for designs of a study: a fraction of the grid, or rounds until a rule stops it. See docs/designs.md.


rule designs:
    input:
        expand(
            "results/designs/{preset}/{file}",
            preset=[designs.PUBLISHED],
            file=["summary.csv", "answer.txt", "designs.svg", "designs.png"],
        ),


rule simulate_designs:
    output:
        "results/designs/{preset}/{truth}.csv",
    log:
        "logs/designs/{preset}/{truth}.log",
    wildcard_constraints:
        preset="|".join(designs.preset_names()),
        truth="|".join(truths.TRUTHS),
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=lambda wildcards: designs_digest(),
        preset=lambda wildcards: designs.of_truth(
            designs.read_preset(wildcards.preset), wildcards.truth
        ),
        rule=study.settings["analysis"],
    message:
        "Simulate designs of studies of truth {wildcards.truth}"
    script:
        "../workflow_scripts/simulate_designs.py"


rule summarise_designs:
    input:
        lambda wildcards: expand(
            "results/designs/{preset}/{truth}.csv",
            preset=wildcards.preset,
            truth=designs.read_preset(wildcards.preset)["truths"],
        ),
    output:
        summary="results/designs/{preset}/summary.csv",
        answer="results/designs/{preset}/answer.txt",
        svg="results/designs/{preset}/designs.svg",
        png="results/designs/{preset}/designs.png",
    log:
        "logs/designs/{preset}/summarise.log",
    wildcard_constraints:
        preset="|".join(designs.preset_names()),
    conda:
        "../environment.yaml"
    threads: 1
    params:
        code=lambda wildcards: designs_summary_digest(),
    message:
        "Summarise the designs of preset {wildcards.preset}"
    script:
        "../workflow_scripts/summarise_designs.py"
