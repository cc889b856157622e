"""Jobs for benchmarks: the default experiment's frames and protocol, any knobs."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np

from ipa_energy.digest import protocol_digest
from ipa_energy.job import Job, measuring_settings
from ipa_energy.pipelines.frames import make_frames
from ipa_energy.record import Record
from ipa_energy.study import load_study
from ipa_energy.supervisor import run

QUIET = {
    **dict.fromkeys(("idle_bare_s", "idle_resident_s", "idle_after_s", "idle_bare_after_s", "settle_s"), 0),
    "warm_up_min_s": 2,
    "warm_up_max_s": 10,
    "retries": 0,
}


def make_job(folder: Path, detector: str, classifier: str, batch: int, window_s: float, **protocol: float) -> Job:
    """A saturated job of one configuration with one replica of one core per stage, its files in ``folder``."""
    stages = {
        "detect": {"variant": [detector], "batch": [batch]},
        "classify": {"variant": [classifier], "batch": [batch]},
    }
    config = {
        "experiment": "benchmark",
        "grid": {"stages": stages},
        "protocol": QUIET | {"window_s": window_s, "steady_cv": 0.2} | protocol,
        # Every meter that the host has, so that what they cost is seen.
        "meters": {"gpus": "all"},
    }
    study = load_study(config)
    frames = study.settings["frames"]
    np.save(folder / "frames.npy", make_frames(frames["source"], frames["count"], frames["width"], frames["height"], 0))
    (folder / "frames.json").write_text(json.dumps(frames))
    (folder / "weights.json").write_text(json.dumps({"weights": "random", "seed": 0, "reason": "benchmark"}))
    return Job(
        experiment="benchmark",
        configuration=study.configurations[0],
        workload="saturated",
        workload_settings=study.workloads["saturated"],
        repetition="block1",
        order=0,
        settings=measuring_settings(study.settings),
        prices=study.settings["prices"],
        frames=str(folder / "frames.npy"),
        frames_facts=str(folder / "frames.json"),
        variant_weights=(),
        weights=str(folder / "weights.json"),
        weights_folder=str(folder / "weights"),
        trace=str(folder / "trace.parquet"),
        protocol_digest=protocol_digest(),
    )


def measured(job: Job, folder: Path) -> Record:
    """Run ``job`` as the workflow would, without what its processes print."""
    terminal, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    os.dup2(nowhere, 1)
    try:
        return run(job, str(folder / "r.json"), print)
    finally:
        sys.stdout.flush()
        os.dup2(terminal, 1)
        os.close(terminal)
        os.close(nowhere)


def stage_setup(job: Job, stage: int) -> dict[str, object]:
    """What a replica of ``stage`` is told, as the measurement tells it."""
    return {
        "pipeline": job.configuration.pipeline,
        "knobs": dataclasses.asdict(job.configuration.stages[stage]),
        "device": "cpu",
        "precision": "fp32",
        "weights": {"kind": "random", "seed": 0, "folder": job.weights_folder},
        "crops_per_frame": job.settings["crops_per_frame"],
    }
