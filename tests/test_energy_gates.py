"""Energy totals and quality gates."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_energy import gates, host
from ipa_energy.energy import domain_section, energy_section, evidence_of, idle_power
from ipa_energy.meters.base import Check, Domain, Energy
from ipa_energy.study import config_schema

WINDOW_S = 10.0


def a_domain(name="gpu_0", covers="gpu", evidence="measured"):
    return Domain(name, covers, f"{name} board", "counter difference", evidence, 0.1)


def section(energy_j=2000.0, own_s=10.0, bare_w=50.0, uncertainty_j=20.0, check=None, reason=None, **kind):
    domain = a_domain(**kind)
    window = Energy(domain.name, energy_j, 100.0, 100.0 + own_s, uncertainty_j, check, reason)
    return domain_section("nvml", domain, window, {"bare": bare_w, "resident": 60.0, "after": 61.0}, WINDOW_S)


@given(st.floats(1, 1000), st.floats(0.5, 100), st.floats(0, 200))
def test_gross_is_mean_power_over_the_service_window_and_net_is_less_bare_idle(power_w, own_s, bare_w):
    figures = section(power_w * own_s, own_s, bare_w)
    assert figures["gross_j"] == pytest.approx(power_w * WINDOW_S)
    assert figures["net_j"] == pytest.approx((power_w - bare_w) * WINDOW_S, abs=1e-6)
    assert figures["uncertainty_j"] == pytest.approx(20.0 / own_s * WINDOW_S)


def test_a_lost_figure_is_null_with_its_reason_and_makes_the_total_null():
    lost = section(energy_j=None, reason="GPU is lost", uncertainty_j=None)
    assert lost["gross_j"] is lost["net_j"] is None
    total = energy_section([lost, section(name="cpu", covers="cpu")], frozenset({"gpu", "cpu"}), [], "cuda", 100)
    assert total["gross_j"] is total["gross_j_per_request"] is total["uncertainty_j"] is None
    assert "gpu_0: GPU is lost" in total["reason"]


def test_without_bare_idle_net_is_null_and_says_why():
    total = energy_section([section(bare_w=None)], frozenset({"gpu"}), [], "cuda", 100)
    assert total["gross_j"] == pytest.approx(2000.0)
    assert total["net_j"] is None
    assert "no bare idle baseline" in total["reason"]


def test_totals_add_each_domain_once_and_uncertainties_in_quadrature():
    parts = [section(), section(name="cpu_package_0", covers="cpu", energy_j=1000.0, uncertainty_j=15.0)]
    total = energy_section(parts, frozenset({"gpu", "cpu"}), [], "cuda", 50)
    assert total["gross_j"] == pytest.approx(3000.0)
    assert total["gross_j_per_request"] == pytest.approx(60.0)
    assert total["uncertainty_j"] == pytest.approx(math.hypot(20.0, 15.0))
    assert total["evidence"] == "measured"
    assert total["reason"] is None


def test_a_total_without_the_part_that_did_the_work_is_null():
    total = energy_section([section(name="cpu", covers="cpu")], frozenset({"cpu"}), [("nvml", "no driver")], "cuda", 10)
    assert total["gross_j"] is None
    assert "no meter covers the gpu" in total["reason"]
    assert total["unavailable"] == [{"meter": "nvml", "reason": "no driver"}]


def test_a_total_that_adds_an_estimate_is_mixed_and_its_boundary_says_estimated():
    parts = [section(), section(name="cpu", covers="cpu", evidence="estimated")]
    total = energy_section(parts, frozenset({"gpu", "cpu"}), [], "cuda", 10)
    assert total["evidence"] == "mixed"
    assert "cpu board (estimated)" in total["boundary"]
    assert evidence_of([]) == "none"


def test_no_request_means_no_energy_per_request():
    total = energy_section([section()], frozenset({"gpu"}), [], "cuda", 0)
    assert total["gross_j"] == pytest.approx(2000.0)
    assert total["gross_j_per_request"] is None
    assert "no request was completed" in total["reason"]


def test_the_check_is_scaled_alike_and_its_ratio_kept():
    figures = section(check=Check("integral of instant power", 1900.0))
    assert figures["check"]["gross_j"] == pytest.approx(1900.0)
    assert figures["check"]["ratio"] == pytest.approx(2000.0 / 1900.0)


def test_idle_power_is_none_for_phases_left_out():
    readings = {"bare": [Energy("cpu", 30.0, 0.0, 3.0, None)], "resident": None, "after": []}
    assert idle_power(readings, "cpu") == {"bare": 10.0, "resident": None, "after": None}


QUIET = gates.Observations(
    window_s=60.0,
    fewest_batches=100,
    coarsest_period_s=0.1,
    steady_before=True,
    drift=0.01,
    foreign_cores=0.01,
    idle_before_w=60.0,
    idle_after_w=61.0,
    samples=600,
    late_samples=1,
    served_fraction=None,
    busiest_utilisation=0.97,
    cores_wanted=4,
    cores_available=16,
    throttle_counts=(3, 3),
    gpu_throttle_reasons=(),
    foreign_gpu_processes=(),
    check_ratios=(1.01,),
)
DEFAULTS = {k: v["default"] for k, v in config_schema()["properties"]["gates"]["properties"].items()}


def test_a_quiet_steady_measurement_raises_no_flag():
    assert gates.raised(QUIET, DEFAULTS) == []


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"window_s": 20.0}, "short_window"),
        ({"fewest_batches": 5}, "short_window"),
        ({"coarsest_period_s": 1.0}, "short_window"),
        ({"steady_before": False}, "unsteady_warm_up"),
        ({"drift": 0.2}, "unsteady"),
        ({"foreign_cores": 0.5}, "foreign_cpu"),
        ({"foreign_gpu_processes": ("python (pid 7)",)}, "foreign_gpu"),
        ({"idle_after_w": 70.0}, "idle_drift"),
        ({"late_samples": 100}, "missed_deadline"),
        ({"throttle_counts": (3, 9)}, "throttled"),
        ({"gpu_throttle_reasons": ("sw_power_cap",)}, "throttled"),
        ({"served_fraction": 0.5}, "overloaded"),
        ({"cores_wanted": 20}, "oversubscribed"),
        ({"check_ratios": (1.0, 0.8)}, "meters_disagree"),
    ],
)
def test_each_gate_raises_its_flag_alone(change, flag):
    seen = gates.Observations(**({f: getattr(QUIET, f) for f in QUIET.__dataclass_fields__} | change))
    raised = gates.raised(seen, DEFAULTS)
    assert [f.name for f in raised] == [flag]
    assert set(raised[0].as_dict()) == {"flag", "value", "threshold", "meaning"}


def test_a_shortfall_without_a_busy_stage_is_chance_and_no_overload():
    change = {"served_fraction": 0.8, "busiest_utilisation": 0.6}
    seen = gates.Observations(**({f: getattr(QUIET, f) for f in QUIET.__dataclass_fields__} | change))
    assert gates.raised(seen, DEFAULTS) == []


def test_readings_the_machine_does_not_give_raise_nothing():
    change = {
        "throttle_counts": (None, None),
        "idle_before_w": None,
        "drift": None,
        "coarsest_period_s": None,
    }
    seen = gates.Observations(**({f: getattr(QUIET, f) for f in QUIET.__dataclass_fields__} | change))
    assert gates.raised(seen, DEFAULTS) == []


def test_foreign_cpu_is_what_the_host_used_less_what_we_used():
    begin = host.CpuReading(100.0, {1: 10.0, 2: 5.0})
    end = host.CpuReading(104.0, {1: 12.0, 2: 5.5, 3: 9.0})
    assert host.own_core_seconds(begin, end) == pytest.approx(2.5)
    assert host.foreign_core_seconds(begin, end) == pytest.approx(1.5)
    assert host.foreign_core_seconds(begin, host.CpuReading(100.0, {1: 11.0})) == 0.0
