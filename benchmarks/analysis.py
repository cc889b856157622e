"""The analysis of a large study: seconds and memory of each step over 10^5 made-up records in several cells.

Each step runs in an interpreter of its own, as a rule does, reads what the steps before it wrote, and has two
processes. Memory is the largest sum over the step's processes, pages that they share counted for each of them.
Run: ``python -m benchmarks.analysis [configurations [cells]]``; 10^5 records take 1.7 GB of the folder for temporary
files.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.made_up_records import write_study
from ipa_energy.analysis import aggregate, coupling, evidence, intake, panel, tables, verdict
from ipa_energy.analysis.generality import generality_table
from ipa_energy.analysis.knob_variance import knobs_table
from ipa_energy.record import Reading
from ipa_energy.study import load_study

PRICES = {"core_hour_usd": 0.04, "gpu_hour_usd": 2.5}
DROP = ["foreign_cpu"]
CONFIDENCE, RESAMPLES = 0.95, 1000
PROCESSES = 2
_GRID = {"stages": {"detect": {"variant": ["ssd300_vgg16"]}, "classify": {"variant": ["resnet18"]}}}
RULE = load_study({"experiment": "large", "grid": _GRID}).settings["analysis"]


def read_records(folder: Path) -> None:
    paths = sorted(str(path) for path in (folder / "records").rglob("*.json"))
    measurements, refused = intake.read_measurements(paths, PRICES, PROCESSES)
    tables.write_csv(folder / "measurements.csv", measurements)
    tables.write_csv(folder / "refused.csv", tables.refused_table(paths, Reading((), refused)))


def configurations(folder: Path) -> None:
    measurements = tables.read_csv(folder / "measurements.csv")
    table = aggregate.configurations_table(measurements, CONFIDENCE, DROP)
    tables.write_csv(folder / "configurations.csv", table)


def pairwise(folder: Path) -> None:
    measurements = tables.read_csv(folder / "measurements.csv")
    table = coupling.pairwise_table(
        measurements, confidence=CONFIDENCE, bootstrap=RESAMPLES, drop_flags=DROP, seed=1, processes=PROCESSES
    )
    tables.write_csv(folder / "pairwise.csv", table)


def judge(folder: Path) -> None:
    measurements = tables.read_csv(folder / "measurements.csv")
    judged = evidence.judge_all(measurements, RULE, seed=1, workers=PROCESSES)
    for name, table in evidence.tables(judged).items():
        tables.write_csv(folder / f"{name}.csv", table)
    pairs, refused = tables.read_csv(folder / "pairwise.csv"), tables.read_csv(folder / "refused.csv")
    made = verdict.make_verdict(measurements, pairs, judged, refused, experiment="large", analysis=RULE, seed=1)
    verdict.write_verdict(folder / "verdict.json", made)


def compare(folder: Path) -> None:
    measurements = tables.read_csv(folder / "measurements.csv")
    found = list(panel.panels(measurements, DROP))
    common: dict[str, Any] = {"confidence": CONFIDENCE, "drop_flags": DROP, "found": found}
    tables.write_csv(folder / "knobs.csv", knobs_table(measurements, **common))
    table = generality_table(measurements, bootstrap=RESAMPLES, seed=1, **common)
    tables.write_csv(folder / "generality.csv", table)


STEPS: dict[str, Callable[[Path], None]] = {
    "read_records": read_records,
    "configurations": configurations,
    "pairwise": pairwise,
    "judge": judge,
    "compare": compare,
}


def cost_of(step: str, folder: str) -> tuple[float, float]:
    """Seconds and peak memory in GiB of one step. Raises CalledProcessError when it fails."""
    command = [sys.executable, "-m", "benchmarks.analysis", step, folder]
    begin, peak = time.perf_counter(), 0
    with subprocess.Popen(command) as child:
        process = psutil.Process(child.pid)
        while child.poll() is None:
            peak = max(peak, _tree_bytes(process))
            time.sleep(0.05)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return time.perf_counter() - begin, peak / 2**30


def _tree_bytes(process: psutil.Process) -> int:
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def main(count: int = 8334, cells: int = 4) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = write_study(Path(folder, "records"), count, cells=cells)
        size = Path(paths[0]).stat().st_size
        print(f"Analysis: {len(paths)} records of some {size / 1e3:.0f} kB, {cells} cells of {count} configurations")
        whole = 0.0
        for step in STEPS:
            seconds, peak = cost_of(step, folder)
            whole += seconds
            print(f"  {step:16} {seconds:6.1f} s   {peak:5.2f} GiB")
        print(f"  {'together':16} {whole:6.1f} s")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [step, folder] if step in STEPS:
            STEPS[step](Path(folder))
        case numbers:
            main(*map(int, numbers))
