# What a job that measures is told, and when its turn is.


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


def before_jobs():
    """What has to be set before the first job starts and after Snakemake has its settings: when priorities are asked for.

    Jobs are told whether something is forced: then what an interrupted run measured is no reason not to measure. The
    jobs of a cluster are always forced, and so never told.

    Snakemake's limit on the jobs that start in a time span is lifted, so that it sleeps until a job ends. With a limit,
    it looks at all jobs that wait once more in each time span, for every job that has ended: after 300 of them at a fifth
    of a core, in the middle of a measurement. On a cluster nothing measures here, and the limit is for its scheduler.
    """
    wanted = workflow.dag_settings
    forced = wanted and (wanted.forceall or wanted.forcetargets or wanted.forcerun)
    tell_anew(bool(forced) and not workflow.remote_exec)
    if workflow.scheduling_settings is not None and workflow.resource_settings.nodes is None:
        workflow.scheduling_settings.max_jobs_per_timespan = None


@asked_often
def run_order(wildcards):
    """Priority that makes the scheduler follow the plan's randomised order: the first is the most urgent."""
    before_jobs()
    return len(live_runs) + len(study.plan) - measurement_of(wildcards).order


def live_order(wildcards):
    """Priority of a live run: below every measurement of the plan, and in an order of its own."""
    before_jobs()
    return len(live_runs) - live_runs.index((wildcards.method, wildcards.run))


def before_measuring(wildcards):
    """Priority above every measurement's."""
    before_jobs()
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
