"""The real workflow with the real pynvml and pyRAPL, on machines whose power is known."""

import csv
import json
import os
import sys

import pytest

from ipa_energy.record import read_record

from conftest import make_checkout  # isort: skip
from meter_fixtures import STUBS, TESTS, build_nvml_stub, host_sockets, unshare_mount  # isort: skip
from tiny import tiny_config, wait_for  # isort: skip

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a detector and a classifier want a core each")

GPU_W = 300.0
PACKAGE_W = 80.0


def run_on_machine(folder, script, *, powercap=False, experiment="tiny", during=None, **changes):
    """One run of the workflow over the stub library; its checkout and records."""
    checkout = make_checkout(folder / "checkout")
    checkout.configure(experiment, **changes)
    (folder / "nvml.txt").write_text(script)
    command = checkout.command(config=experiment)
    if powercap:
        namespace = unshare_mount()
        if isinstance(namespace, str):
            pytest.skip(f"no mount namespace of one's own here: {namespace}")
        command = [*namespace, sys.executable, str(STUBS / "machine_driver.py"), str(PACKAGE_W), *command]
    path = os.pathsep.join([checkout.environment["PYTHONPATH"], str(TESTS)])
    environment = checkout.environment | {
        "LD_LIBRARY_PATH": str(build_nvml_stub(folder)),
        "NVML_STUB": str(folder / "nvml.txt"),
        "PYTHONPATH": path,
    }
    process = checkout.start(command=command, environment=environment)
    if during:
        during(checkout)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output[-4000:]
    return checkout, [read_record(path) for path in checkout.records(experiment)], output


def test_a_machine_with_two_gpus_and_rapl_is_measured_to_its_known_power(tmp_path):
    script = f"gpus 2\nsegment 1 {GPU_W}\nperiod_ms 50\npower_period_ms 50\npid 4194304\ntemperature 50 0\n"
    meters = {"use": ["nvml", "rapl", "estimate"], "gpus": "all"}
    checkout, records, output = run_on_machine(tmp_path, script, powercap=True, meters=meters, blocks=2)
    sockets = host_sockets()
    truth_w = {"gpu_0": GPU_W, "gpu_1": GPU_W + 50}
    truth_w |= {f"cpu_package_{socket}": PACKAGE_W for socket in sockets}
    truth_w |= {f"dram_{socket}": PACKAGE_W / 4 for socket in sockets}
    assert len(records) == 2
    for record in records:
        energy, window_s = record["energy"], record["window"]["duration_s"]
        domains = {domain["domain"]: domain for domain in energy["domains"]}
        assert domains.keys() == truth_w.keys()
        for name, domain in domains.items():
            # The counter of a GPU is exact; those of powercap are run by a thread of a busy test.
            rel = 0.005 if name.startswith("gpu") else 0.05
            assert domain["gross_j"] == pytest.approx(truth_w[name] * window_s, rel=rel), name
            assert domain["idle_bare_w"] == pytest.approx(truth_w[name], rel=2 * rel), name
            assert domain["uncertainty_j"] > 0
            ratios = [check["ratio"] for check in domain["checks"] if check["ratio"]]
            assert ratios == pytest.approx([1] * len(ratios), abs=0.02)
            assert ratios, name
        assert any("NVML_FI_DEV_POWER_INSTANT" in check["method"] for check in domains["gpu_0"]["checks"])
        assert "pyRAPL" in domains[f"cpu_package_{sockets[0]}"]["method"]
        assert energy["evidence"] == "measured"
        assert energy["gross_j"] == pytest.approx(sum(domain["gross_j"] for domain in domains.values()))
        assert abs(energy["net_j"]) < 0.1 * energy["gross_j"]  # this machine draws the same under load
        flags = {flag["flag"]: flag for flag in record["quality"]["flags"]}
        assert "pid 4194304" in flags["foreign_gpu"]["value"]
        assert 0 < record["quality"]["sampler_cpu_s"] < window_s
        assert record["quality"]["environment"]["gpus"]["gpu_0"]["temperature_c"]["median"] == 50
    with (checkout.folder / "results/tiny/measurements.csv").open() as file:
        assert {row["evidence"] for row in csv.DictReader(file)} == {"measured"}
    assert json.loads((checkout.folder / "results/tiny/verdict.json").read_text())["no_evidence"] is False
    assert "(measured)" in output


def test_a_gpu_lost_in_the_window_makes_the_total_null_and_the_run_goes_on(tmp_path):
    lost = tmp_path / "lost"

    def lose(checkout):
        logs = checkout.folder / "logs"
        wait_for(lambda: any(" window" in log.read_text() for log in logs.rglob("measure/**/*.log")), 120)
        lost.touch()

    checkout, (record,), output = run_on_machine(
        tmp_path,
        f"period_ms 50\npower_period_ms 50\nlost {lost}\n",
        meters={"use": ["nvml", "estimate"], "gpus": "all"},
        protocol=tiny_config()["protocol"] | {"window_s": 3},
        during=lose,
    )
    assert record["energy"]["gross_j"] is None
    assert "GPU is lost" in record["energy"]["reason"]
    assert record["service"]["completed"] > 0
    assert "figure_lost" in {flag["flag"] for flag in record["quality"]["flags"]}
    assert "energy unknown" in output
    assert (checkout.folder / "results/tiny/verdict.json").exists()


def test_a_gpu_cut_by_mig_is_named_in_the_record_and_on_the_terminal(tmp_path):
    _, (record,), output = run_on_machine(tmp_path, "mig 1\n", meters={"use": ["nvml", "estimate"], "gpus": "all"})
    (missing,) = record["energy"]["unavailable"]
    assert missing["meter"] == "nvml"
    assert "MIG" in missing["reason"]
    assert "MIG" in output
    assert record["energy"]["evidence"] == "estimated"
