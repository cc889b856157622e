# Which records a step needs: those of the plan, of a round, of the hosts within reach, or of a folder.


def records_of(wildcards):
    """Records to analyse: those of the plan, or every one below the folder that the config names."""
    if study.settings["records"] is not None:
        return given_records()[0]
    keys = keys_of(wildcards)
    if stopping is not None:
        keys = keys_until(keys, stopping.blocks_after(last_round(wildcards)))
    found = at_hand(keys)
    if keys and not found:
        raise WorkflowError(
            f"This is {host_name()}, and hosts in the config names {', '.join(place.host for place in study.places)}: "
            "nothing is measured here. Start the workflow on one of these, or through a cluster profile."
        )
    return found


def is_within_reach(key):
    """Whether this run can send a planned measurement to its host."""
    return all_hosts or planned[key].host in (None, own_host)


def at_hand(keys):
    """Records of these measurements; of hosts that this run does not reach, those that are there already."""
    paths = []
    for workload, configuration, repetition in keys:
        if is_within_reach((workload, configuration, repetition)):
            paths.append(record_path(study.experiment, workload, configuration, repetition))
            continue
        # By the rule, which knows a prefix; absolute, or Snakemake would take it for its own to make.
        made = expand(
            rules.measure_configuration.output.record,
            experiment=study.experiment,
            workload=workload,
            configuration=configuration,
            repetition=repetition,
        )
        paths += [str(path) for path in (Path(made[0]).absolute(),) if path.exists()]
    return paths


def elsewhere():
    """Lines on the hosts that this run does not reach, and whose measurements are not all there."""
    missing = [m for m in study.plan if not is_within_reach(m.key) and not at_hand([m.key])]
    if study.settings["records"] is not None:
        return []
    return [
        f"This is {own_host or host_name()}. Of the blocks of {host}, {sum(m.host == host for m in missing)} "
        f"measurements are not there yet: run the same command on {host}, or through a cluster profile."
        for host in dict.fromkeys(m.host for m in missing)
    ]


def keys_of(wildcards):
    """Keys of the measurements that a study which is measured here may want, in the plan's order."""
    keys = list(planned)
    if study.settings["measure"] == "feasible":
        chosen = checkpoints.choose_feasible.get(experiment=wildcards.experiment).output.chosen
        keys = chosen_keys(keys, chosen)
    return keys


def last_round(wildcards):
    """The round that a sequential study ends with; as long as that is open, the next look is asked for."""
    for number in range(stopping.start, stopping.rounds + 1):
        made = checkpoints.look_at_round.get(experiment=wildcards.experiment, round=number)
        if stops(made.output.look):
            return number


def records_until(wildcards):
    """Records of the rounds that a look comes after."""
    keys = keys_until(keys_of(wildcards), stopping.blocks_after(int(wildcards.round)))
    found = at_hand(keys)
    if len(found) < len(keys):
        raise WorkflowError(
            f"The look after round {wildcards.round} needs the blocks of all hosts, and {len(keys) - len(found)} records "
            f"of others than {own_host or host_name()} are not there. A sequential study on several hosts goes through a "
            "cluster profile."
        )
    return found


def looks_before(wildcards):
    """The look before this one; nothing before the first."""
    number = int(wildcards.round) - 1
    folder = f"results/{wildcards.experiment}/sequential"
    return [f"{folder}/round{number}.json"] if number >= stopping.start else []


def last_look_of(wildcards):
    """The look that a sequential study ended with; nothing for another study."""
    if stopping is None:
        return []
    return [f"results/{wildcards.experiment}/sequential/round{last_round(wildcards)}.json"]


def inputs_of_look(wildcards):
    """The profile, where IPA's inputs are those that choices are made for."""
    named = study.settings["ipa"]["inputs"]
    return [f"results/{wildcards.experiment}/profile.csv"] if named else []


@lru_cache(maxsize=1)
def given_records():
    """Records of the folder that the config names, looked for once; and what is named like one and is no file."""
    return records_below(study.settings["records"])


def no_files_of(wildcards):
    """What is named like a record and is no file; Snakemake can't have it as an input."""
    return {} if study.settings["records"] is None else given_records()[1]


def plan_of(wildcards):
    """The plan of a study that is measured here; nothing for records from elsewhere."""
    return (
        []
        if study.settings["records"] is not None
        else [f"results/{wildcards.experiment}/plan.csv"]
    )


def design_of(wildcards):
    """What the measured fraction of the grid can carry; nothing where the whole grid is measured."""
    drawn = draws_fraction(study.settings)
    return [f"results/{wildcards.experiment}/design.json"] if drawn else []


def external_of(wildcards):
    """The table of the external logs, cut to the records; nothing without logs."""
    return (
        [f"results/{wildcards.experiment}/external.csv"] if study.settings["external_logs"] else []
    )


def external_logs_of(wildcards):
    """Every file of every external log; absolute, as they are no output of the workflow."""
    logs = study.settings["external_logs"].values()
    return [str(Path(file).resolve()) for log in logs for file in matching_files(log["files"])]
