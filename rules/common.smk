import gc
import inspect
import re
import time
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

from ipa_energy import ipa_config, owner, walltime
from ipa_energy.analysis.stopping import stopping_of, stops
from ipa_energy.digest import (
    analysis_digest,
    design_digest,
    feasible_digest,
    ipa_digest,
    live_digest,
    predictor_digest,
    profile_table_digest,
    profiling_digest,
    protocol_digest,
)
from ipa_energy.external.settings import matching_files
from ipa_energy.files import seconds_ahead
from ipa_energy.host import host_name
from ipa_energy.job import measuring_settings
from ipa_energy.layout import (
    chosen_keys,
    keys_until,
    power_path,
    profile_path,
    record_path,
    records_below,
)
from ipa_energy.pipelines.frames import frames_digest
from ipa_energy.place import here
from ipa_energy.plan import GRID
from ipa_energy.study import ConfigError, draws_fraction, load_study

# Jobs watch the workflow by this and end with it, also under kill -9.
owner.claim()

# The jobs of a large plan are millions of objects that live as long as the workflow. By default, Python goes through all
# of them whenever their number has grown by a quarter.
gc.set_threshold(100_000, 50, 100)

try:
    study = load_study(config)
except ConfigError as error:
    raise WorkflowError(str(error)) from None
# Not in place: where the workflow is a module, the config is a part of somebody else's, and read once for each `use rule`.
config = study.settings

# One measurement at a time on a host without anybody having to ask for it: an undeclared resource would be unlimited.
# On a cluster the limit holds per submitted job, so that nodes measure side by side.
workflow.global_resources.setdefault("power_meter", 1)

parsed_s = time.time()
planned = {m.key: m for m in study.plan}
profiled = study.profiled
adaptation = study.settings["ipa"]["adaptation"]
live_runs = ipa_config.planned_live(study.settings)
stopping = stopping_of(study.settings)
measuring = study.settings["records"] is not None or study.settings["measure"] != "none"
# Threads of a job that measures: every core of the run, so that no other job of the workflow runs beside it.
all_cores = workflow._cores or 1

# Every host is within reach through a cluster, and for the jobs of one; else only the host that the workflow runs on.
all_hosts = not workflow.is_main_process or workflow.resource_settings.nodes is not None
own_host = here(place.host for place in study.places)
# A profile is of one host. Live runs are held against it.
of_profile_host = [place for place in study.places if all_hosts or place.host == own_host]
profile_host, profile_gpu = next(
    ((place.host, place.gpu) for place in (*of_profile_host, *study.places)), (None, None)
)


resource_scopes:
    power_meter="local",


wildcard_constraints:
    # Two modules of one workflow may stand for two experiments: each makes its own files only.
    experiment=re.escape(study.experiment),
    workload="[^/]+",
    configuration="[^/]+",
    variant="[^/]+",
    repetition="[^/]+",
    stage="[^/.]+",
    input="[^/]+",
    load="[A-Za-z0-9_-]+",
    method="[a-z0-9_]+",
    run="run[0-9]+",
    round="[0-9]+",


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


def asked_often(function):
    """Keep a function's signature, which Snakemake else works out anew several times for each job."""
    function.__signature__ = inspect.signature(function)
    return function


def measurement_of(wildcards):
    """The planned measurement that a record's path names."""
    return planned[(wildcards.workload, wildcards.configuration, wildcards.repetition)]


def in_plan(value_of):
    """What ``value_of`` gives for a measurement: the value itself where all have the same, else a function of wildcards.

    Snakemake calls a function for each job, which costs it more than all that the function does.
    """
    values = (value_of(measurement) for measurement in study.plan)
    first = next(values, None)
    if all(value == first for value in values):
        return first
    return asked_often(lambda wildcards: value_of(measurement_of(wildcards)))


def let_scheduler_sleep():
    """Lift Snakemake's limit on the jobs that start in a time span, so that it sleeps until a job ends.

    With a limit, it looks at all jobs that wait once more in each time span, for every job that has ended: after 300 of
    them at a fifth of a core, in the middle of a measurement. Priorities ask for this, as they are wanted before the
    first job starts and after Snakemake has its settings.
    """
    if workflow.scheduling_settings is not None:
        workflow.scheduling_settings.max_jobs_per_timespan = None


@asked_often
def run_order(wildcards):
    """Priority that makes the scheduler follow the plan's randomised order: the first is the most urgent."""
    let_scheduler_sleep()
    return len(live_runs) + len(study.plan) - measurement_of(wildcards).order


def live_order(wildcards):
    """Priority of a live run: below every measurement of the plan, and in an order of its own."""
    let_scheduler_sleep()
    return len(live_runs) - live_runs.index((wildcards.method, wildcards.run))


def before_measuring(wildcards):
    """Priority above every measurement's."""
    let_scheduler_sleep()
    return len(live_runs) + len(study.plan) + 1


@asked_often
def weights_of(wildcards):
    """What identifies the weights of every variant in a configuration."""
    variants = [stage.variant for stage in measurement_of(wildcards).configuration.stages]
    return [f"results/{wildcards.experiment}/weights/{variant}.json" for variant in variants]


def on_node(host):
    """What Slurm is told besides: the whole node, and the one where the job belongs."""
    return f"--exclusive --nodelist={host}" if host else "--exclusive"


def gpus_on(device):
    """GPUs that a job asks the cluster for; None, which asks for nothing, where the CPU is measured."""
    return 1 if device == "cuda" else None


@asked_often
def wanted_anew(wildcards):
    """Whether something is forced: then what an interrupted run measured is no reason not to measure."""
    wanted = workflow.dag_settings
    # The jobs of a cluster are always forced.
    return int(
        not workflow.remote_exec and bool(wanted.forceall or wanted.forcetargets or wanted.forcerun)
    )


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


onstart:
    for line in elsewhere():
        print(line)


onsuccess:
    # By the rule, which knows a prefix.
    summary = Path(expand(rules.summarise.output[0], experiment=study.experiment)[0])
    if (
        summary.exists() and summary.stat().st_mtime >= parsed_s
    ):  # else this run did not get as far, or did not have to
        print(summary.read_text())


onerror:
    print(
        f"The run of experiment {study.experiment} did not finish; what was measured is kept. The log is {log}. "
        "Run the same command again to go on (after a kill: `snakemake --unlock` first)."
    )
    if (ahead_s := seconds_ahead(f"results/{study.experiment}")) > 1:
        print(
            f"Files of this experiment are {ahead_s:.0f} s from the future: the clock was set back, and Snakemake refuses "
            "what is older than its inputs. Set the clock right, or the files: "
            "find results -newermt now -exec touch {} +"
        )
