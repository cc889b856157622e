"""A tiny real measurement: the smallest models of the zoo, phases of fractions of a second."""

import json
import time

import numpy as np
import psutil

from ipa_energy.digest import protocol_digest
from ipa_energy.job import Job, measuring_settings
from ipa_energy.study import load_study

PROTOCOL = {
    "idle_bare_s": 0.2,
    "idle_resident_s": 0.2,
    "idle_after_s": 0.2,
    "idle_bare_after_s": 0.2,
    "settle_s": 0,
    "retries": 0,
    "warm_up_min_s": 0.2,
    "warm_up_max_s": 6,
    "warm_up_batches": 2,
    "steady_cv": 0.5,
    "window_s": 1.0,
    "timeout_s": 120,
}


def tiny_config(**changes):
    """A complete config of one detector and one classifier; ``changes`` replace top-level keys."""
    stages = {
        "detect": {"variant": ["ssdlite320_mobilenet_v3_large"], "batch": [1]},
        "classify": {"variant": ["resnet18"], "batch": [1]},
    }
    return {
        "experiment": "tiny",
        "grid": {"stages": stages},
        "weights": "random",
        "frames": {"count": 2, "width": 96, "height": 72},
        "protocol": dict(PROTOCOL),
        # Tests run on busy machines; what the gates do has tests of its own.
        "gates": {"max_foreign_cores": 1000, "max_drift": 10},
        "analysis": {"drop_flags": [], "bootstrap": 100},
        "anchor": False,
    } | changes


def tiny_job(folder, workload="saturated", **changes):
    """The first job of a tiny study, with its files in ``folder``."""
    study = load_study(tiny_config(**changes))
    frames = folder / "frames.npy"
    np.save(frames, np.random.default_rng(0).integers(0, 255, (2, 72, 96, 3), dtype=np.uint8))
    (folder / "frames.json").write_text(json.dumps({"sha256": "0" * 64}))
    weights = folder / "weights.json"
    weights.write_text(json.dumps({"weights": "random", "seed": 0, "reason": "test"}))
    measurement = study.plan[0]
    return Job(
        experiment=study.experiment,
        configuration=measurement.configuration,
        workload=workload,
        workload_settings=study.workloads[workload],
        repetition=measurement.repetition,
        order=0,
        settings=measuring_settings(study.settings),
        prices=study.settings["prices"],
        frames=str(frames),
        frames_facts=str(folder / "frames.json"),
        variant_weights=(),
        weights=str(weights),
        weights_folder=str(folder / "weights"),
        trace=str(folder / "trace.parquet"),
        protocol_digest=protocol_digest(),
    )


def living(pids):
    """Those of ``pids`` that still run."""
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def descendants(pid):
    """Process ids of all children of ``pid``, and theirs; our servers and measuring processes stay among them."""
    try:
        return [p.pid for p in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def replicas_of(owner):
    """Pids of the replicas of one workflow, and of no other on this host.

    A replica is forked from its preload server, and so has its command line, which names the owner.
    """
    ours = {
        p.pid: p.info["ppid"]
        for p in psutil.process_iter(["cmdline", "ppid"])
        if "ipa_energy.serving.preload" in (line := p.info["cmdline"] or [])
        and line[line.index("--owner") + 1] == str(owner)
    }
    return [pid for pid, parent in ours.items() if parent in ours]


def wait_for(condition, timeout_s=60.0, period_s=0.05):
    """The first true result of ``condition()``. Raises TimeoutError."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        result = condition()
        if result:
            return result
        time.sleep(period_s)
    raise TimeoutError(f"did not come about in {timeout_s} s")
