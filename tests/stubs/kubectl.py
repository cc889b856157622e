"""A kubectl whose pods are processes of this machine: enough of create, get and delete for the profile's job.py.

KUBECTL_STUB names the folder of its state, KUBECTL_STUB_NODE the node that every pod comes to run on.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ["KUBECTL_STUB"])
RUN = 'sh "$1" >"$2.log" 2>&1; echo $? >"$2.part"; mv "$2.part" "$2.code"'


def _value(variable):
    """A variable of the container: given, or a field of the pod."""
    if "valueFrom" in variable:
        assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
        return os.environ["KUBECTL_STUB_NODE"]
    return variable["value"].replace("/host/", f"{FOLDER}/")


def create():
    job = json.load(sys.stdin)
    name = f"{job['metadata']['generateName']}{len(list(FOLDER.glob('*.json')))}"
    container = job["spec"]["template"]["spec"]["containers"][0]
    shell, script = container["command"]
    assert shell == "sh"
    environment = os.environ | {variable["name"]: _value(variable) for variable in container["env"]}
    pod = subprocess.Popen(
        ["bash", "-c", RUN, "pod", script, str(FOLDER / name)], env=environment, start_new_session=True
    )
    (FOLDER / f"{name}.json").write_text(json.dumps(job | {"pid": pod.pid}))
    print(f"job.batch/{name}")


def get(name):
    name = name.removeprefix("job.batch/")
    if not (FOLDER / f"{name}.json").exists():
        sys.exit(f'Error from server (NotFound): jobs.batch "{name}" not found')
    code = FOLDER / f"{name}.code"
    kinds = ["Failed" if code.read_text().strip() != "0" else "Complete"] if code.exists() else []
    print(json.dumps({"status": {"conditions": [{"type": kind, "status": "True"} for kind in kinds]}}))


def delete(names):
    for name in names:
        path = FOLDER / f"{name.removeprefix('job.batch/')}.json"
        os.killpg(json.loads(path.read_text())["pid"], signal.SIGKILL)
        path.unlink()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["create", "-f", "-", "-o", "name"]:
            create()
        case ["get", name, "-o", "json"]:
            get(name)
        case ["delete", "--ignore-not-found", "--wait=false", *names]:
            delete(names)
        case unknown:
            sys.exit(f"no such command here: {unknown}")
