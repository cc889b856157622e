"""What a dry run of a large study costs, against bare Snakemake workflows of as many jobs.

Three bare workflows, each with a rule that is run once per configuration and one that takes all its outputs:

- *plain*: the least that Snakemake can do. One output, and a shell command; no input, no log, no parameters.
- *script*: what a rule that measures can't do without. A script, an input that another rule makes, record and trace,
  a log, the configuration as a parameter, a priority that is the random order of the run, a resource that is limited.
- *models*: the same where a configuration is made of two models, whose files other rules make and a function names, and
  of a file of data that all share: as in any workflow that measures pipelines of models.

Rounds of all sides alternate, and ratios are taken within a round. Memory is the largest resident set.
Run: ``python -m benchmarks.dag [configurations [rounds]]``; for 2500, 10 000 or 50 000 configurations.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3
SIZES = {2_500: (5, 5, 1, 1), 10_000: (5, 5, 2, 2), 50_000: (5, 5, 5, 4)}
"""By number of configurations: batches, replicas, threads of the detector, threads of the classifier."""

ALL = """
rule all:
    input: "results/table.csv"
"""
AGGREGATE = """
rule aggregate:
    input: expand("results/records/{configuration}.json", configuration=order)
    output: "results/table.csv"
    script: "aggregate.py"
"""
PLAIN = """
order = {{f"c{{number}}": number for number in range({count})}}


rule measure:
    output: "results/records/{{configuration}}.json"
    shell: "echo {{wildcards.configuration}} > {{output}}"
"""
_MEASURED = """
    output:
        record="results/records/{{configuration}}.json",
        trace="results/traces/{{configuration}}.parquet",
    log: "logs/{{configuration}}.log"
    priority: lambda wildcards: order[wildcards.configuration]
    resources: power_meter=1
    params: configuration=lambda wildcards: {{"id": wildcards.configuration, "place": order[wildcards.configuration]}}
    script: "measure.py"
"""
SCRIPT = (
    """
order = {{f"c{{number}}": number for number in range({count})}}


rule prepare:
    output: "results/prepared.json"
    script: "prepare.py"


rule measure:
    input: "results/prepared.json"
"""
    + _MEASURED
)
MODELS = (
    """
order = {{f"c{{number}}": number for number in range({count})}}


rule prepare:
    output: "results/data.json"
    script: "prepare.py"


rule provide:
    input: "results/data.json"
    output: "results/models/{{model}}.json"
    script: "prepare.py"


def models_of(wildcards):
    number = order[wildcards.configuration]
    return [f"results/models/first{{number % 2}}.json", f"results/models/second{{number // 2 % 2}}.json"]


rule measure:
    input:
        models=models_of,
        data=ancient("results/data.json"),
"""
    + _MEASURED
)


@dataclass(frozen=True)
class DryRun:
    """Cost of one dry run: wall and CPU seconds, peak memory in MB, and the number of jobs that measure."""

    wall_s: float
    cpu_s: float
    memory_mb: float
    jobs: int


def study(count: int, *, ipa: bool) -> dict[str, Any]:
    """The config of a study of ``count`` configurations, measured once each; with IPA's rules or without."""
    batches, replicas, detector_threads, classifier_threads = SIZES[count]
    common = {"batch": list(range(1, batches + 1)), "replicas": list(range(1, replicas + 1))}
    config: dict[str, Any] = {
        "experiment": "large",
        "weights": "random",
        "blocks": 1,
        "anchor": False,
        "max_measurements": count,
        "grid": {
            "stages": {
                "detect": common
                | {
                    "variant": ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"],
                    "threads": list(range(1, detector_threads + 1)),
                },
                "classify": common
                | {"variant": ["resnet18", "resnet50"], "threads": list(range(1, classifier_threads + 1))},
            }
        },
    }
    if ipa:
        config["ipa"] = {
            "inputs": {"quiet": {"rate_rps": 5}, "busy": {"rate_rps": 29}},
            "adaptation": {"loads": {"bursty": {"pattern": "bursty"}}},
        }
    return config


def write_bare(folder: Path, workflow: str, count: int) -> None:
    """A bare workflow in ``folder``."""
    folder.mkdir()
    (folder / "Snakefile").write_text(ALL + workflow.format(count=count) + AGGREGATE)
    for script in ("prepare", "measure", "aggregate"):
        (folder / f"{script}.py").write_text("print(snakemake.output)\n")


def dry_run(folder: Path, snakefile: Path, *arguments: str) -> DryRun:
    """Dry-run ``snakefile`` in ``folder``. Raises RuntimeError with what Snakemake printed when it fails."""
    command = [sys.executable, "-m", "snakemake", "-n", "-q", "all", "--cores", "all", "-s", str(snakefile)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow_scripts"), "IPA_ENERGY_WORKFLOW_PID": ""}
    with tempfile.TemporaryFile("w+") as printed:
        begin_s = time.monotonic()
        child = subprocess.Popen(
            [*command, "--directory", str(folder), *arguments], stdout=printed, stderr=printed, env=environment
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.monotonic() - begin_s
        child.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        text = printed.read()
    if child.returncode:
        raise RuntimeError(text[-4000:])
    rows = [line.split() for line in text.splitlines()]
    jobs = next(int(row[1]) for row in rows if len(row) == 2 and row[0] in ("measure", "measure_configuration"))
    return DryRun(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3, jobs)


def main(count: int = 10_000, rounds: int = ROUNDS) -> None:
    """Print times, memory and ratios, without IPA's rules and with them."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sides: dict[str, tuple[Path, Path, Sequence[str]]] = {}
        for name, workflow in (("plain", PLAIN), ("script", SCRIPT), ("models", MODELS)):
            write_bare(folder / name, workflow, count)
            sides[f"bare, {name}"] = (folder / name, folder / name / "Snakefile", ())
        for name, ipa in (("this workflow", False), ("the same, with IPA", True)):
            own = folder / name.replace(" ", "-").replace(",", "")
            own.mkdir()
            config = own / "config.yaml"
            config.write_text(yaml.safe_dump(study(count, ipa=ipa)))
            sides[name] = (own, ROOT / "Snakefile", ("--configfile", str(config)))
        runs: dict[str, list[DryRun]] = {name: [] for name in sides}
        print(f"Dry run: {count} configurations, {rounds} rounds")
        for _ in range(rounds):
            for name, (own, snakefile, arguments) in sides.items():
                runs[name].append(dry_run(own, snakefile, *arguments))
                assert runs[name][-1].jobs == count, runs[name][-1]
    for name, found in runs.items():
        print(
            f"  {name:20} {statistics.median(run.wall_s for run in found):7.1f} s   "
            f"{statistics.median(run.cpu_s for run in found):7.1f} s of CPU   "
            f"{max(run.memory_mb for run in found):6.0f} MB"
        )
    for bare in ("bare, plain", "bare, script", "bare, models"):
        for name in ("this workflow", "the same, with IPA"):
            ratios = [own.cpu_s / other.cpu_s for own, other in zip(runs[name], runs[bare], strict=True)]
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"  CPU time, {name} against {bare}: {statistics.median(ratios):.2f} ({each})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
