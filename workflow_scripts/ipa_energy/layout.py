"""Where files lie: the one place that knows the names under ``results/``, which are a contract for users.

Patterns hold Snakemake wildcards in braces; :func:`record_path` fills them for a measurement.
"""

from __future__ import annotations

RESULTS = "results/{experiment}"
PLAN = f"{RESULTS}/plan.csv"
WEIGHTS = f"{RESULTS}/weights.json"
FRAMES = f"{RESULTS}/frames.npy"
RECORD = f"{RESULTS}/records/{{workload}}/{{configuration}}/{{repetition}}.json"
TRACE = f"{RESULTS}/traces/{{workload}}/{{configuration}}/{{repetition}}.parquet"
MEASURE_LOG = "logs/{experiment}/measure/{workload}/{configuration}/{repetition}.log"


def record_path(experiment: str, workload: str, configuration: str, repetition: str) -> str:
    """Path of the record of one measurement."""
    return RECORD.format(experiment=experiment, workload=workload, configuration=configuration, repetition=repetition)
