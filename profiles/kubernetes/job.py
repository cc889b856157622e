"""Jobs of the workflow as Jobs of Kubernetes, by kubectl: the commands of the profile beside.

``submit SCRIPT`` makes the pod of pod.yaml run Snakemake's job script and prints the job's name, ``status NAME`` prints
running, success or failed, ``cancel NAME...`` deletes jobs with their pods. The script, and all that it reads and
writes, lies on a volume that Snakemake and the pods share.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

TEMPLATE = Path(__file__).with_name("pod.yaml")
PROPERTIES = "# properties = "


def properties_of(script: str) -> dict[str, Any]:
    """What Snakemake says of a job in its script: threads, resources, rule. Raises ValueError where it says nothing."""
    for line in script.splitlines():
        if line.startswith(PROPERTIES):
            return dict(json.loads(line.removeprefix(PROPERTIES)))
    raise ValueError(f"the job script has no line that begins with {PROPERTIES!r}")


def manifest(template: Mapping[str, Any], script: Path, properties: Mapping[str, Any]) -> dict[str, Any]:
    """The Job that runs ``script``: the template with the command and all that the job asks for.

    Requests are limits, so that a kubelet with the static CPU policy gives the pod cores of its own.
    """
    job: dict[str, Any] = json.loads(json.dumps(template))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    resources = properties["resources"]
    wanted = {"cpu": str(properties["threads"]), "memory": f"{resources['mem_mb']}M"}
    if resources.get("gpu"):
        wanted["nvidia.com/gpu"] = str(resources["gpu"])
    container["command"] = ["sh", str(script.resolve())]
    container["resources"] = {"requests": wanted, "limits": wanted}
    # Of the pod: its clock starts with the node's kubelet, and that of a Job while the pod still waits for a node.
    pod["activeDeadlineSeconds"] = 60 * int(resources["runtime"])
    if resources.get("host"):
        pod["nodeSelector"] = pod.get("nodeSelector", {}) | {"kubernetes.io/hostname": resources["host"]}
    return job


def status_of(job: Mapping[str, Any]) -> str:
    """``success``, ``failed`` or ``running``, from what the API tells of a Job."""
    for condition in job.get("status", {}).get("conditions", ()):
        if condition["status"] == "True" and condition["type"] in ("Complete", "Failed"):
            return "success" if condition["type"] == "Complete" else "failed"
    return "running"


def _kubectl(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["kubectl", *arguments], check=False, input=text, capture_output=True, text=True)


def _or_exit(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode:
        sys.exit(f"{' '.join(done.args)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def submit(script: str) -> str:
    """Create the Job; its name, as kubectl takes it."""
    path = Path(script)
    job = manifest(yaml.safe_load(TEMPLATE.read_text()), path, properties_of(path.read_text()))
    return _or_exit(_kubectl("create", "-f", "-", "-o", "name", text=json.dumps(job))).strip()


def status(name: str) -> str:
    """The state of a Job; one that is no more has failed."""
    done = _kubectl("get", name, "-o", "json")
    if done.returncode and "NotFound" in done.stderr:
        return "failed"
    return status_of(json.loads(_or_exit(done)))


def main(command: str, arguments: Sequence[str]) -> None:
    """Do what the profile asks for."""
    if command == "cancel":
        _or_exit(_kubectl("delete", "--ignore-not-found", "--wait=false", *arguments))
    else:
        print({"submit": submit, "status": status}[command](*arguments))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
