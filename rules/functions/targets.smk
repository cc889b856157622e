# What `rule all` makes.


def verdict_of(wildcards):
    """The verdict of a study that measures."""
    return [f"results/{wildcards.experiment}/verdict.json"] if measuring else []


def of_profile(wildcards):
    """What is made of the profile alone."""
    results = f"results/{study.experiment}"
    if not ipa_config.wanted(study.settings):
        return []
    return [
        f"{results}/profile.csv",
        f"{results}/figures/profile.svg",
        f"{results}/profile/fits.csv",
    ]


def of_space(wildcards):
    """What is made of the configuration space of every input."""
    results = f"results/{study.experiment}"
    inputs = study.settings["ipa"]["inputs"]
    each = [
        f"{results}/figures/space.{given}.{kind}" for given in inputs for kind in ("svg", "png")
    ]
    return [*each, f"{results}/space/summary.csv"] if inputs else []


def of_composition(wildcards):
    """What compares predictions with measurements; nothing where nothing is measured or profiled."""
    results = f"results/{study.experiment}"
    if not (measuring and ipa_config.wanted(study.settings)):
        return []
    figures = [f"{results}/figures/composition.{kind}" for kind in ("svg", "png")]
    return [f"{results}/composition/answer.txt", f"{results}/adaptation/check_errors.csv", *figures]


def of_adaptation(wildcards):
    """What is made of adaptation over time, simulated and live."""
    results = f"results/{study.experiment}"
    loads = study.settings["ipa"]["adaptation"]["loads"]
    if not loads:
        return []
    each = [
        f"{results}/figures/adaptation.{load}.{kind}" for load in loads for kind in ("svg", "png")
    ]
    live = [f"{results}/figures/live.{kind}" for kind in ("svg", "png")] if live_runs else []
    return [
        *each,
        f"{results}/adaptation/summary.csv",
        f"{results}/adaptation/predictors.csv",
        *live,
    ]


def answers_of(wildcards):
    """The sentences that the summary of a run gathers."""
    results = f"results/{study.experiment}"
    parts = [
        (of_space, "space/summary.csv"),
        (of_composition, "composition/answer.txt"),
        (of_composition, "adaptation/check_errors.csv"),
        (of_adaptation, "adaptation/answer.txt"),
    ]
    answers = [f"{results}/{name}" for of, name in parts if of(wildcards)]
    return answers + [f"{results}/adaptation/live.txt"] * bool(live_runs)


def power_of_first(wildcards):
    """Power over time of the first measurement of the grid that the plan has for each workload; any other on request."""
    settings = study.settings
    if settings["records"] is not None or settings["measure"] == "none":
        return []
    keys = [m.key for m in study.plan if m.role == GRID and is_within_reach(m.key)]
    if settings["measure"] == "feasible":
        chosen = checkpoints.choose_feasible.get(experiment=study.experiment).output.chosen
        keys = chosen_keys(keys, chosen)
    first = {}
    for key in keys:
        first.setdefault(key[0], key)
    return [
        power_path(study.experiment, *key, kind)
        for key in first.values()
        for kind in ("svg", "png")
    ]


def targets(wildcards):
    """What `rule all` makes."""
    results = f"results/{study.experiment}"
    figures = [
        f"{results}/figures/{figure}.{workload}.{kind}"
        for workload in study.workloads
        for figure in (
            "knob_effects",
            "energy_against_metrics",
            "energy_split",
            "fronts",
            "matched_energy",
        )
        for kind in ("svg", "png")
        if measuring
    ]
    made = ("explorer.html", "figures/knob_variance.svg", "coupling/generality.csv")
    page = [f"{results}/{file}" for file in made if measuring]
    ipa = [of(wildcards) for of in (of_profile, of_space, of_composition, of_adaptation)]
    return [f"{results}/summary.txt", *page, *figures, *(path for paths in ipa for path in paths)]
