# Opt-in (sequential): measure round after round until the verdict's intervals are narrow enough or the budget is spent.
# After each round from the first look on, this checkpoint says whether another one is wanted. See docs/designs.md.

from ipa_energy.digest import looking_digest


checkpoint look_at_round:
    input:
        records=records_until,
        before=looks_before,
        profile=inputs_of_look,
    output:
        look="results/{experiment}/sequential/round{round}.json",
    log:
        "logs/{experiment}/look_at_round/round{round}.log",
    priority: before_measuring
    conda:
        "../environment.yaml"
    threads: 4
    params:
        # Not before a look is wanted: a study without looks need not wait for it.
        code=lambda wildcards: looking_digest(),
        stopping=lambda wildcards: asdict(stopping),
        analysis=study.settings["analysis"],
        ipa=study.settings["ipa"],
        prices=study.settings["prices"],
        seed=study.settings["seed"],
    message:
        "Look at experiment {wildcards.experiment} after round {wildcards.round}"
    script:
        "../workflow_scripts/look_at_round.py"
