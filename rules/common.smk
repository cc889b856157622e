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
from ipa_energy.history import tell_anew
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
