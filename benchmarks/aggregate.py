"""The rule that reads all records, in the workflow itself: seconds, and memory of Snakemake and of the job beside it.

Made-up records lie in a folder that the config names, so that only the rule runs. How Snakemake hands the paths to the
script is seen too: as the head of the file that it writes for the job.
Run: ``python -m benchmarks.aggregate [configurations [cells]]``; 3 records of each configuration and cell.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import yaml

from benchmarks.dag import ROOT
from benchmarks.made_up_records import write_study

GRID = {"stages": {"detect": {"variant": ["ssd300_vgg16"]}, "classify": {"variant": ["resnet18"]}}}


def _bytes(processes: list[psutil.Process]) -> int:
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def _job_bytes(workflow: psutil.Process) -> int:
    try:
        return _bytes(workflow.children(recursive=True))
    except psutil.NoSuchProcess:
        return 0


def main(count: int = 3334, cells: int = 1) -> None:
    """Run the rule over ``3 * count * cells`` records and print what it took."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = write_study(folder / "records", count, cells=cells)
        config = {"experiment": "large", "grid": GRID, "records": str(folder / "records")}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow_scripts"), "IPA_ENERGY_WORKFLOW_PID": ""}
        command = [sys.executable, "-m", "snakemake", "results/large/measurements.csv", "--cores", "2"]
        command += [
            "-s",
            str(ROOT / "Snakefile"),
            "--directory",
            str(folder),
            "--configfile",
            str(folder / "config.yaml"),
        ]
        begin_s, own, job, script = time.monotonic(), 0, 0, 0
        with (folder / "log").open("w+") as log:
            run = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            workflow = psutil.Process(run.pid)
            while run.poll() is None:
                own, job = max(own, _bytes([workflow])), max(job, _job_bytes(workflow))
                heads = [path.stat().st_size for path in (folder / ".snakemake" / "scripts").glob("*.py")]
                script = max([script, *heads])
                time.sleep(0.1)
            if run.returncode:
                log.seek(0)
                raise RuntimeError(log.read()[-4000:])
        whole_s = time.monotonic() - begin_s
        source = (ROOT / "workflow_scripts" / "aggregate_records.py").stat().st_size
        print(f"Aggregation in the workflow: {len(paths)} records")
        print(f"  whole run                   {whole_s:8.1f} s")
        print(f"  Snakemake, largest          {own / 1e6:8.0f} MB")
        print(f"  the job, largest            {job / 1e6:8.0f} MB, all its processes together")
        head = script - source
        print(f"  head of the job's script    {head / 1e6:8.2f} MB, {head / len(paths):.0f} bytes a record")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
