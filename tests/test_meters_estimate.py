from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from ipa_energy.meters import open_meters
from ipa_energy.meters.estimate import TICK_S, EstimateMeter, busy_core_s

BURN = """
import resource, time
while time.process_time() < 1: pass
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime)
"""


def test_a_burning_core_is_counted_as_its_own_usage_says():
    meter = EstimateMeter(idle_w=3, watts_per_core=7, relative_uncertainty=0.4)
    meter.begin()
    burned_s = float(subprocess.run([sys.executable, "-c", BURN], capture_output=True, check=True).stdout)
    (energy,) = meter.end()
    busy_s = (energy.energy_j - 3 * (energy.end_s - energy.begin_s)) / 7
    # Others work on this machine too, so that only the lower bound is sharp. The kernel books ticks by sampling.
    assert busy_s >= 0.95 * burned_s - 2 * TICK_S
    assert busy_s <= (energy.end_s - energy.begin_s) * psutil.cpu_count() + 10 * TICK_S
    assert energy.uncertainty_j == pytest.approx(0.4 * energy.energy_j)


def test_the_idle_term_is_exact():
    meter = EstimateMeter(idle_w=12.5, watts_per_core=0, relative_uncertainty=0.5)
    meter.begin()
    (energy,) = meter.end()
    assert energy.energy_j == 12.5 * (energy.end_s - energy.begin_s)


def stat(**ticks: int) -> str:
    order = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
    assert ticks.keys() <= set(order)
    return " ".join(["cpu", *(str(ticks.get(state, 0)) for state in order)]) + "\n"


def test_only_work_of_this_host_is_busy_and_guests_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    file = tmp_path / "stat"
    file.write_text(stat(user=1000, nice=200, system=30, irq=4, softirq=5, guest=400, guest_nice=100, idle=7000))
    assert busy_core_s() == pytest.approx(1239 * TICK_S)
    file.write_text(stat(user=1000, nice=200, system=30, irq=4, softirq=5, idle=9000, iowait=80, steal=900))
    assert busy_core_s() == pytest.approx(1239 * TICK_S)


def test_busy_time_that_goes_backwards_gives_null(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    (tmp_path / "stat").write_text(stat(user=1000))
    meter = EstimateMeter(idle_w=1, watts_per_core=1, relative_uncertainty=0.5)
    meter.begin()
    (tmp_path / "stat").write_text(stat(user=900))
    (energy,) = meter.end()
    assert energy.energy_j is None
    assert "backwards" in energy.reason


def test_an_estimate_is_never_called_measured():
    (domain,) = EstimateMeter(idle_w=1, watts_per_core=1, relative_uncertainty=0.5).domains
    assert domain.evidence == "estimated"
    assert domain.method.startswith("estimated")


def test_only_the_meters_listed_are_opened():
    parameters = {"idle_w": 2.0, "watts_per_core": 3.0, "relative_uncertainty": 0.5}
    opened = open_meters({"use": ["estimate"], "gpus": "used", "estimate": parameters}, gpu_needed=False)
    assert [meter.name for meter in opened.meters] == ["estimate"]
    assert opened.meters[0].provenance() == parameters
    assert opened.unavailable == ()
    none = open_meters({"use": ["nvml"], "gpus": "used", "estimate": parameters}, gpu_needed=False)
    assert none.meters == ()
    assert none.unavailable[0][0] == "nvml"
    assert "CPU alone" in none.unavailable[0][1]
