# What the steps of IPA need.


def profiles_of(wildcards):
    """The files that the profile is made of: one of each variant, or the one that the config names."""
    file = study.settings["ipa"]["profile"]
    if file is not None:
        return [str(Path(file).resolve())]
    return [profile_path(study.experiment, stage, variant) for stage, variant in profiled]


def prices_of_ipa():
    """The prices, where IPA's cost depends on them: else a change of them would run live runs again."""
    prices = study.settings["prices"]
    return prices if study.settings["ipa"]["cost"] == "usd" else dict.fromkeys(prices, 1.0)


def measured_of(wildcards):
    """The table of the configurations that were measured; nothing where none is."""
    return [f"results/{wildcards.experiment}/configurations.csv"] if measuring else []


def spaces_of(file):
    """A file of every input of IPA's, ``{input}`` in it standing for the name; none without inputs."""
    return [
        f"results/{{experiment}}/space/{file.format(input=given)}"
        for given in study.settings["ipa"]["inputs"]
    ]


def loads_of(wildcards):
    """The counts of every load, in the order of the config."""
    return expand(
        "results/{experiment}/adaptation/loads/{load}.txt",
        experiment=wildcards.experiment,
        load=adaptation["loads"],
    )


def loads_from_files(wildcards):
    """The counts of the loads that come from files, whose scale only their counts tell."""
    return expand(
        "results/{experiment}/adaptation/loads/{load}.txt",
        experiment=wildcards.experiment,
        load=[name for name, load in adaptation["loads"].items() if "file" in load],
    )


def trained_of(wildcards):
    """The trained LSTM, its weights first; nothing where no predictor is one."""
    folder = f"results/{wildcards.experiment}/adaptation"
    files = [f"{folder}/predictor.pt", f"{folder}/predictor.json"]
    return files if "lstm" in adaptation["predictors"] else []


def file_of_load(wildcards):
    """The user's file of a load; absolute, as it is no output of the workflow. Nothing for a pattern."""
    load = adaptation["loads"][wildcards.load]
    return [str(Path(load["file"]).resolve())] if "file" in load else []


def weights_of_all(wildcards):
    """What identifies the weights of every variant that may be decided for."""
    variants = dict.fromkeys(variant for _, variant in profiled)
    for knobs in study.settings["grid"]["stages"].values():
        variants |= dict.fromkeys(knobs["variant"])
    return [f"results/{wildcards.experiment}/weights/{variant}.json" for variant in variants]


def load_of_live(wildcards):
    """The counts of the load that live runs serve."""
    load = study.settings["ipa"]["adaptation"]["live"]["load"]
    return f"results/{wildcards.experiment}/adaptation/loads/{load}.txt"


def predictor_of_live(wildcards):
    """The trained LSTM, where it is the predictor of live runs."""
    uses = study.settings["ipa"]["adaptation"]["predictors"][0] == "lstm"
    return trained_of(wildcards) if uses else []
