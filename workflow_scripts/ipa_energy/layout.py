"""Where files lie: the one place that knows the names under ``results/``, which are a contract for users.

Patterns hold Snakemake wildcards in braces; functions fill them for a measurement.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from ipa_energy.plan import block_and_role

RESULTS = "results/{experiment}"
PLAN = f"{RESULTS}/plan.csv"
WEIGHTS = f"{RESULTS}/weights.json"
FRAMES = f"{RESULTS}/frames.npy"
RECORD = f"{RESULTS}/records/{{workload}}/{{configuration}}/{{repetition}}.json"
TRACE = f"{RESULTS}/traces/{{workload}}/{{configuration}}/{{repetition}}.parquet"
POWER = f"{RESULTS}/figures/power/{{workload}}/{{configuration}}/{{repetition}}.{{kind}}"


def record_path(experiment: str, workload: str, configuration: str, repetition: str) -> str:
    """Path of the record of one measurement."""
    return RECORD.format(experiment=experiment, workload=workload, configuration=configuration, repetition=repetition)


def power_path(experiment: str, workload: str, configuration: str, repetition: str, kind: str) -> str:
    """Path of the figure of power over time of one measurement; ``kind`` is its suffix."""
    return POWER.format(
        experiment=experiment, workload=workload, configuration=configuration, repetition=repetition, kind=kind
    )


def trace_of(record: str | Path) -> Path:
    """Where the trace of a record lies; from the record's own path, as that has a prefix in a module."""
    path = Path(record)
    return path.parents[3] / "traces" / path.relative_to(path.parents[2]).with_suffix(".parquet")


def history_path(record: str | Path, stamp: str) -> str:
    """Path, without its suffix, under which a record and its trace are kept for good; ``stamp`` tells tries apart."""
    path = Path(record)
    return f"{path.parents[3] / 'history' / path.relative_to(path.parents[2]).with_suffix('')}.{stamp}"


def profile_path(experiment: str, stage: str, variant: str) -> str:
    """Path of the profile of one variant."""
    return f"{RESULTS}/profile/{{stage}}.{{variant}}.json".format(experiment=experiment, stage=stage, variant=variant)


def profile_history_path(profile: str | Path, stamp: str) -> str:
    """Path, without its suffix, under which the profile of a variant and its trace are kept for good."""
    path = Path(profile)
    return f"{path.parents[1] / 'history' / 'profile' / path.stem}.{stamp}"


def live_history_path(result: str | Path, stamp: str) -> str:
    """Path, without its suffix, under which a live run and its trace are kept for good."""
    path = Path(result)
    return f"{path.parents[2] / 'history' / 'live' / path.stem}.{stamp}"


def notes_folder(file: str | Path) -> str:
    """Where the notes on results lie that Snakemake may not have seen; ``file`` is one of the experiment's folder."""
    return str(Path(file).parent / "history" / "unseen")


def records_below(folder: str | Path) -> tuple[list[str], dict[str, str]]:
    """Everything below ``folder`` that is named ``*.json``, a ``history/`` left out: files, and why others are none.

    Paths are absolute and sorted.
    """
    root = Path(folder).resolve()
    named = sorted(path for path in root.rglob("*.json") if "history" not in path.relative_to(root).parts)
    others = {str(path): _no_file(path) for path in named if not path.is_file()}
    return [str(path) for path in named if str(path) not in others], others


def _no_file(path: Path) -> str:
    if path.is_symlink():
        return "a link that leads to no file"
    return "a folder, not a file" if path.is_dir() else "not a regular file"


def chosen_keys(keys: Iterable[tuple[str, str, str]], chosen: str | Path) -> list[tuple[str, str, str]]:
    """Those of the keys of measurements whose configuration is feasible for an input, by the table ``chosen``.

    Anchors stay whatever they are: they show the machine's drift, and are no part of the statistics.
    """
    with Path(chosen).open(encoding="utf-8", newline="") as file:
        feasible = {row["configuration"] for row in csv.DictReader(file) if row["inputs"]}
    return [key for key in keys if key[1] in feasible or "-anchor" in key[2]]


def keys_until(keys: Iterable[tuple[str, str, str]], block: int) -> list[tuple[str, str, str]]:
    """Those of the keys of measurements that are of the block or an earlier one."""
    return [key for key in keys if block_and_role(key[2])[0] <= block]
