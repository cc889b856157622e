"""CPU time that Snakemake itself takes while a measurement runs: the share of a core, with the default profile.

The real Snakefile, rules and profile, in a copy of the checkout; only the script that measures is replaced, by one
that writes empty files. It does so at once, but for some places in the run order: there it sleeps as a measurement
does, and meanwhile reads what all processes of the workflow but itself have used. As many jobs as wanted stay pending.
Run: ``python -m benchmarks.background [pending [seconds of a measurement]]``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "rules", "workflow_scripts", "config", "profiles", "report", "resources", "environment.yaml")
PLACES = (2, 100, 300, 600)
"""Places in the run order, and so numbers of measurements that have ended, at which the share is taken."""

STAND_IN = """
import json
import os
import time
from pathlib import Path

import psutil

SECONDS, PLACES, FOUND = {seconds!r}, {places!r}, {found!r}


def used_s(workflow):
    used_s = 0.0
    for process in (workflow, *workflow.children(recursive=True)):
        try:
            if process.pid != os.getpid():
                times = process.cpu_times()
                used_s += times.user + times.system
        except psutil.NoSuchProcess:
            pass
    return used_s


if __name__ == "__main__":
    place = snakemake.resources.run_order
    if place in PLACES:
        workflow = psutil.Process(int(os.environ["IPA_ENERGY_WORKFLOW_PID"].split(":")[0]))
        times_s = [used_s(workflow)]
        begin_s = time.monotonic()
        for second in range(1, SECONDS + 1):
            time.sleep(max(0.0, begin_s + second - time.monotonic()))
            times_s.append(used_s(workflow))
        shares = [after - before for before, after in zip(times_s, times_s[1:])]
        share = (times_s[-1] - times_s[0]) / (time.monotonic() - begin_s)
        with open(FOUND, "a") as file:
            file.write(json.dumps({{"ended": place, "share": share, "largest": max(shares)}}) + "\\n")
    for path in snakemake.output:
        Path(path).write_text("")
"""


def checkout(folder: Path, pending: int, seconds: int, found: Path) -> None:
    """A copy of the workflow in ``folder``, its measuring script replaced, with a study that leaves enough pending."""
    folder.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(source, folder / part)
    stand_in = STAND_IN.format(seconds=seconds, places=PLACES, found=str(found))
    (folder / "workflow_scripts" / "measure_configuration.py").write_text(stand_in)
    wanted = pending + PLACES[-1]
    # As long as the list of a knob has to be for so many configurations; nothing is served, so any number will do.
    replicas = -(-wanted // 100)
    config = {
        "experiment": "background",
        "weights": "random",
        "frames": {"count": 2, "width": 96, "height": 72},
        "oversubscribe": True,
        "blocks": 1,
        "anchor": False,
        "max_measurements": 100 * replicas,
        "grid": {
            "stages": {
                "detect": {
                    "variant": ["ssdlite320_mobilenet_v3_large"],
                    "batch": list(range(1, 11)),
                    "replicas": list(range(1, replicas + 1)),
                },
                "classify": {"variant": ["resnet18"], "batch": list(range(1, 11))},
            }
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def main(pending: int = 1000, seconds: int = 30) -> None:
    """Run until the last of :data:`PLACES` has been measured, print each share, and stop the run."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, found = Path(temporary, "checkout"), Path(temporary, "found.jsonl")
        checkout(folder, pending, seconds, found)
        environment = os.environ | {
            "PYTHONPATH": str(folder / "workflow_scripts"),
            "IPA_ENERGY_WORKFLOW_PID": "",
            "IPA_ENERGY_LOCK": str(Path(temporary, "lock")),
        }
        command = [sys.executable, "-m", "snakemake", "--cores", "all", "--configfile", "config.yaml"]
        print(
            f"Background: Snakemake's share of a core in {seconds} s, at least {pending} measurements pending",
            flush=True,
        )
        with Path(temporary, "log").open("w+") as log:
            run = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
            try:
                seen = 0
                while run.poll() is None and seen < len(PLACES):
                    time.sleep(1)
                    lines = found.read_text().splitlines() if found.exists() else []
                    for line in lines[seen:]:
                        one = json.loads(line)
                        print(
                            f"  {one['ended']:4} have ended   mean {100 * one['share']:5.2f} %   "
                            f"largest in 1 s {100 * one['largest']:5.1f} %",
                            flush=True,
                        )
                    seen = len(lines)
            finally:
                if run.poll() is None:
                    os.killpg(run.pid, signal.SIGTERM)
                    run.wait()
            log.seek(0)
            if seen < len(PLACES):
                raise RuntimeError(log.read()[-4000:])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
