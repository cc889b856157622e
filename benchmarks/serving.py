"""Saturated throughput of the pipeline against a bare loop over the same models on the same cores.

The bare loop runs the stages at the same time, each in a process of its own on its own core, as fast as it can, with
nothing between them; the slower stage is the most that any pipeline could reach. Rounds alternate, so that a noisy
machine disturbs both alike; figures are ratios within a round. Run: ``python -m benchmarks.serving``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.jobs import make_job, measured, stage_setup
from ipa_energy import owner, pipelines
from ipa_energy.job import Job

START_IN_S = 12.0
CASES = (("ssdlite320_mobilenet_v3_large", "resnet18"), ("fasterrcnn_mobilenet_v3_large_320_fpn", "resnet50"))
BATCHES = (1, 4)


def bare_loop(setup: dict[str, object], stage: int, frames: str, core: int, start_s: float, seconds: float) -> float:
    """Requests per second of one stage, run batch after batch from ``start_s`` on, in this process on ``core``."""
    import torch  # noqa: PLC0415

    from ipa_energy.serving.replica import build_pipeline_runner  # noqa: PLC0415

    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    batch = setup["knobs"]["batch"]  # type: ignore[index]
    buffers = pipelines.get(str(setup["pipeline"])).buffers({"crops_per_frame": setup["crops_per_frame"]})
    sources = np.load(frames, mmap_mode="r") if stage == 0 else np.zeros((batch, *buffers[0].shape), buffers[0].dtype)
    output = np.zeros((batch, *buffers[stage].shape), buffers[stage].dtype)
    runner = build_pipeline_runner(setup, sources, output)
    rows = np.arange(batch, dtype=np.uint32)
    if time.monotonic() > start_s - 1.0:
        raise SystemExit(f"loading took longer than {START_IN_S:g} s; raise START_IN_S")
    frame = 0
    done = 0
    counted_from_s = 0.0
    while True:
        now_s = time.monotonic()
        if now_s >= start_s + seconds:
            return done / (now_s - counted_from_s)
        if now_s < start_s:
            done, counted_from_s = 0, now_s
        runner((rows + frame) % len(sources) if stage == 0 else rows, rows)
        frame += batch
        done += batch


def bare_throughput_rps(job: Job, seconds: float) -> float:
    """Throughput of the slower stage when both run at once without a pipeline around them."""
    start_s = time.monotonic() + START_IN_S
    cores = sorted(os.sched_getaffinity(0))
    loops = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving", "--bare", json.dumps(stage_setup(job, stage)), str(stage),
             job.frames, str(cores[stage]), str(start_s), str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for stage in range(len(job.configuration.stages))
    ]  # fmt: skip
    return min(float(loop.communicate()[0]) for loop in loops)


def main(rounds: int = 3, seconds: float = 8.0) -> None:
    owner.claim()
    print(f"Serving: saturated pipeline against bare loop, {rounds} rounds of {seconds:g} s")
    print(f"{'detector':40} {'classifier':10} batch  pipeline    bare   ratio (of each round)")
    for detector, classifier in CASES:
        for batch in BATCHES:
            ratios, served, bare = [], [], []
            with tempfile.TemporaryDirectory() as folder:
                job = make_job(Path(folder), detector, classifier, batch, seconds)
                for _ in range(rounds):
                    bare.append(bare_throughput_rps(job, seconds))
                    record = measured(job, Path(folder))
                    served.append(record["service"]["throughput_rps"])
                    ratios.append(served[-1] / bare[-1])
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            rates = f"{statistics.median(served):7.2f}/s {statistics.median(bare):5.2f}/s"
            ratio = statistics.median(ratios)
            print(f"{detector:40} {classifier:10} {batch:5d} {rates}   {ratio:.2f} ({each})", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bare", nargs=6, help="run one bare loop (used by the benchmark itself)")
    arguments = parser.parse_args()
    if arguments.bare:
        setup, stage, frames, core, start_s, seconds = arguments.bare
        print(bare_loop(json.loads(setup), int(stage), frames, int(core), float(start_s), float(seconds)))
    else:
        main()
