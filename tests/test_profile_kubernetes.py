"""profiles/kubernetes: the pods that it asks for, and the workflow through it with pods that are processes."""

import importlib.util
import json
import os
import stat
import sys
from pathlib import Path

import pytest
import yaml

from ipa_energy.host import available_cores
from ipa_energy.record import read_record

ROOT = Path(__file__).parents[1]
STUB = ROOT / "tests/stubs/kubectl.py"


def _job_module():
    spec = importlib.util.spec_from_file_location("kubernetes_job", ROOT / "profiles/kubernetes/job.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


job = _job_module()
TEMPLATE = yaml.safe_load(job.TEMPLATE.read_text())


def _manifest(threads=31, **resources):
    properties = {"threads": threads, "resources": {"mem_mb": 16000, "runtime": 30} | resources}
    return job.manifest(TEMPLATE, Path("/study/.snakemake/tmp/job.sh"), properties)


def _pod(manifest):
    return manifest["spec"]["template"]["spec"]


def test_a_pod_gets_cores_memory_and_time_and_as_limits_too():
    manifest = _manifest()
    (container,) = _pod(manifest)["containers"]
    assert container["resources"]["requests"] == {"cpu": "31", "memory": "16000M"}
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert _pod(manifest)["activeDeadlineSeconds"] == 30 * 60 and "activeDeadlineSeconds" not in manifest["spec"]
    assert container["command"] == ["sh", "/study/.snakemake/tmp/job.sh"]


def test_a_gpu_is_asked_for_where_one_is_measured():
    (container,) = _pod(_manifest(gpu=1))["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_a_block_goes_to_the_node_it_belongs_to():
    assert _pod(_manifest(host="worker-3"))["nodeSelector"] == {"kubernetes.io/hostname": "worker-3"}
    assert "nodeSelector" not in _pod(_manifest())


def test_no_two_pods_share_a_node_and_none_is_tried_again_unseen():
    manifest = _manifest()
    (rule,) = _pod(manifest)["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    labels = manifest["spec"]["template"]["metadata"]["labels"]
    assert rule == {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
    assert manifest["spec"]["backoffLimit"] == 0
    assert _pod(manifest)["restartPolicy"] == "Never"


def test_lock_and_journal_lie_on_the_node():
    (container,) = _pod(_manifest())["containers"]
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    (mount,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "host"]
    for name in ("IPA_ENERGY_LOCK", "IPA_ENERGY_JOURNAL"):
        assert values[name].startswith(f"{mount}/")
    assert "hostPath" in next(volume for volume in _pod(TEMPLATE)["volumes"] if volume["name"] == "host")


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        ([], "running"),
        ([{"type": "Suspended", "status": "True"}], "running"),
        ([{"type": "Complete", "status": "True"}], "success"),
        ([{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True"}], "success"),
        ([{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}], "failed"),
        ([{"type": "Failed", "status": "False"}], "running"),
    ],
)
def test_the_state_of_a_job_is_read_from_its_conditions(conditions, state):
    assert job.status_of({"status": {"conditions": conditions}}) == state
    assert job.status_of({}) == "running"


def test_a_script_without_properties_is_refused():
    with pytest.raises(ValueError, match="# properties = "):
        job.properties_of("#!/bin/sh\necho\n")


@pytest.mark.skipif(len(available_cores()) < 2, reason="a detector and a classifier want a core each")
def test_the_workflow_runs_through_it_and_records_tell_the_node(checkout, tmp_path):
    checkout.configure()
    programs, state = tmp_path / "bin", tmp_path / "state"
    programs.mkdir()
    state.mkdir()
    (programs / "kubectl").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STUB}" "$@"\n')
    (programs / "kubectl").chmod(stat.S_IRWXU)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    node = {"KUBECTL_STUB": str(state), "KUBECTL_STUB_NODE": "worker-3", "PATH": path}
    command = [sys.executable, "-m", "snakemake", "--configfile", "tiny.yaml", "--workflow-profile"]
    command += ["profiles/kubernetes", "--max-jobs-per-timespan", "100/1s", "--seconds-between-status-checks", "1"]
    run = checkout.start(
        command=[*command, "--", "results/tiny/configurations.csv"], environment=checkout.environment | node
    )
    output, _ = run.communicate(timeout=400)
    assert run.returncode == 0, output[-4000:]
    (record,) = map(read_record, checkout.records())
    assert record["status"]["state"] == "ok"
    assert record["provenance"]["host"] == "worker-3"
    assert (state / "ipa-energy.measurement.lock").exists()
    (measured,) = [
        manifest
        for manifest in (json.loads(file.read_text()) for file in sorted(state.glob("*.json")))
        if "measure_configuration" in manifest["spec"]["template"]["spec"]["containers"][0]["command"][1]
    ]
    assert measured["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "31"
