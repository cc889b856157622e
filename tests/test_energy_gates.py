"""Energy totals and quality gates."""

import math
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_energy import gates, host
from ipa_energy.config_schema import config_schema
from ipa_energy.energy import Idle, baseline, domain_section, energy_section, evidence_of, idle_figure
from ipa_energy.meters import OpenMeters
from ipa_energy.meters.base import Check, Domain, Doubt, Energy, PowerSample
from ipa_energy.meters.recorder import WindowReading
from ipa_energy.observation import Window, build_record
from ipa_energy.record import fault
from ipa_energy.serving.journal import Batch, Journal, Request

from tiny import tiny_config, tiny_job  # isort: skip

WINDOW_S = 10.0


def a_domain(name="gpu_0", covers="gpu", evidence="measured"):
    return Domain(name, covers, f"{name} board", "counter difference", evidence, 0.1)


UNKNOWN, BARE = Idle(), Idle(50.0, 0.1)


def idle(bare=BARE, after=UNKNOWN):
    return {"bare": bare, "resident": Idle(60.0, 0.1), "after": Idle(61.0, 0.1), "bare_after": after}


GAIN_AND_EDGES = {"gain": 16.0, "edges": 12.0}


def section(energy_j=2000.0, own_s=10.0, phases=None, uncertainty=None, checks=(), reason=None, opinions=(), **kind):
    domain = a_domain(**kind)
    parts_j = GAIN_AND_EDGES if uncertainty is None else uncertainty
    window = Energy(domain.name, energy_j, 100.0, 100.0 + own_s, parts_j, checks, reason)
    return domain_section("nvml", domain, window, phases or idle(), WINDOW_S, opinions)


@given(st.floats(1, 1000), st.floats(0.5, 100), st.floats(0, 200))
def test_gross_is_mean_power_over_the_service_window_and_net_is_less_bare_idle(power_w, own_s, bare_w):
    figures = section(power_w * own_s, own_s, idle(Idle(bare_w, 0.1)))
    assert figures["gross_j"] == pytest.approx(power_w * WINDOW_S)
    assert figures["net_j"] == pytest.approx((power_w - bare_w) * WINDOW_S, abs=1e-6)
    assert figures["uncertainty_j"] == pytest.approx(20.0 / own_s * WINDOW_S)


def test_a_lost_figure_is_null_with_its_reason_and_makes_the_total_null():
    lost = section(energy_j=None, reason="GPU is lost")
    assert lost["gross_j"] is lost["net_j"] is None
    assert lost["uncertainty_j"] is lost["net_uncertainty_j"] is None
    total = energy_section([lost, section(name="cpu", covers="cpu")], [], {"gpu"}, 100)
    assert total["gross_j"] is total["gross_j_per_request"] is total["uncertainty_j"] is None
    assert "gpu_0: GPU is lost" in total["reason"]


def test_without_bare_idle_net_is_null_and_says_why():
    total = energy_section([section(phases=idle(Idle()))], [], {"gpu"}, 100)
    assert total["gross_j"] == pytest.approx(2000.0)
    assert total["net_j"] is None
    assert "no bare idle baseline" in total["reason"]


def test_totals_add_each_domain_once_and_uncertainties_in_quadrature():
    parts = [section(), section(name="cpu_package_0", covers="cpu", energy_j=1000.0, uncertainty={"edges": 15.0})]
    total = energy_section(parts, [], {"gpu"}, 50)
    assert total["gross_j"] == pytest.approx(3000.0)
    assert total["gross_j_per_request"] == pytest.approx(60.0)
    assert total["uncertainty_j"] == pytest.approx(math.hypot(20.0, 15.0))
    assert total["evidence"] == "measured"
    assert total["reason"] is None


def test_a_total_without_the_part_that_did_the_work_is_null():
    total = energy_section([section(name="cpu", covers="cpu")], [("nvml", "no driver")], {"gpu"}, 10)
    assert total["gross_j"] is None
    assert "no meter covers the gpu" in total["reason"]
    assert total["unavailable"] == [{"meter": "nvml", "reason": "no driver"}]


def test_a_total_that_adds_an_estimate_is_mixed_and_its_boundary_says_estimated():
    parts = [section(), section(name="cpu", covers="cpu", evidence="estimated")]
    total = energy_section(parts, [], {"gpu"}, 10)
    assert total["evidence"] == "mixed"
    assert total["estimated_fraction"] == pytest.approx(0.5)
    assert "cpu board (estimated)" in total["boundary"]
    assert evidence_of([]) == "none"


def test_no_request_means_no_energy_per_request():
    total = energy_section([section()], [], {"gpu"}, 0)
    assert total["gross_j"] == pytest.approx(2000.0)
    assert total["gross_j_per_request"] is None
    assert "no request was completed" in total["reason"]


def test_checks_are_scaled_alike_and_compared_as_powers():
    checks = (Check("integral of instant power", 1900.0), Check("lost", None, reason="field 185 failed"))
    opinion = Check("another tool", 1050.0, window_s=5.0)
    first, lost, other = section(checks=checks, opinions=[opinion])["checks"]
    assert first["gross_j"] == pytest.approx(1900.0)
    assert first["ratio"] == pytest.approx(2000.0 / 1900.0)
    assert lost == {"method": "lost", "gross_j": None, "ratio": None, "reason": "field 185 failed"}
    assert other["gross_j"] == pytest.approx(2100.0)
    assert other["ratio"] == pytest.approx(200.0 / 210.0)


def test_a_second_figure_of_zero_has_no_ratio_and_says_so():
    (check,) = section(checks=(Check("a field that answers 0", 0.0),))["checks"]
    assert check == {
        "method": "a field that answers 0",
        "gross_j": 0.0,
        "ratio": None,
        "reason": "the second figure is 0 J",
    }


def test_a_baseline_without_any_scatter_has_no_error():
    assert baseline(idle(Idle(50.0), Idle(50.0))) == Idle(50.0)
    assert baseline(idle(Idle(50.0, 0.1), Idle(52.0))) == Idle(51.0)


def test_the_uncertainty_of_net_has_the_baseline_and_less_of_what_is_proportional_and_no_offset():
    figures = section(uncertainty={"gain": 57.7, "offset": 28.9, "edges": 3.0}, phases=idle(Idle(50.0, 0.5)))
    assert figures["uncertainty_j"] == pytest.approx(math.hypot(57.7, 28.9, 3.0))
    parts_j = figures["net_uncertainty_parts_j"]
    # net is three quarters of gross
    assert parts_j == pytest.approx({"gain": 57.7 * 0.75, "edges": 3.0, "idle": 0.5 * WINDOW_S})
    assert figures["net_uncertainty_j"] == pytest.approx(math.hypot(*parts_j.values()))


def test_a_baseline_that_says_nothing_of_its_scatter_leaves_the_uncertainty_of_net_null():
    figures = section(phases=idle(Idle(50.0, None)))
    assert figures["net_j"] is not None
    assert figures["net_uncertainty_j"] is None


@given(st.floats(1, 500), st.floats(1, 500), st.floats(0, 5), st.floats(0, 5))
def test_the_baseline_is_the_mean_of_before_and_after_and_half_their_change_is_in_its_error(first, second, e1, e2):
    found = baseline(idle(Idle(first, e1), Idle(second, e2)))
    assert found.mean_w == pytest.approx((first + second) / 2)
    assert found.standard_error_w == pytest.approx(
        math.hypot(abs(first - second) / math.sqrt(12), e1 / 2, e2 / 2), abs=1e-9
    )
    assert baseline(idle(Idle(), Idle(second, e2))) == Idle(second, e2)


def reading(powers_w, energy_j):
    samples = [PowerSample(0.1 * i, "cpu", power_w) for i, power_w in enumerate(powers_w)]
    return WindowReading((Energy("cpu", energy_j, 0.0, 3.0),), samples, len(samples), 0, 0.0, ((0.0, {}), (3.0, {})))


def test_idle_power_is_the_meters_mean_with_the_scatter_of_what_it_saw():
    found = idle_figure(reading([9.0, 9.0, 9.0, 11.0, 11.0, 10.0], 30.0), "cpu")
    assert found.mean_w == pytest.approx(10.0)
    assert found.standard_error_w == pytest.approx(1.0 / math.sqrt(3))  # three updates: 9, 11 and 10
    assert idle_figure(None, "cpu") == idle_figure(reading([], None), "cpu") == Idle()


QUIET = gates.Observations(
    window_s=60.0,
    fewest_batches=100,
    coarsest_period_s=0.1,
    steady_before=True,
    drift=0.01,
    foreign_cores=0.01,
    idle_before_and_after_w=(("models resident", 60.0, 61.0), ("bare", 50.0, None)),
    samples=600,
    late_samples=1,
    served_fraction=None,
    busiest_utilisation=0.97,
    cores_wanted=4,
    cores_available=16,
    throttle_counts=(3, 3),
    gpu_throttle_reasons=(),
    foreign_gpu_processes=(),
    gpu_processes_hidden=False,
    graphics_processes=(),
    clock_changes=(("gpu_0", 0.01), ("CPU", None)),
    temperature_changes_c=(("gpu_0", -1.0), ("CPU", None)),
    check_ratios=(("gpu_0: integral", 1.01),),
    phase_locking=(("gpu_0, detect/0", 0.1), ("gpu_1", None)),
    doubts=(),
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
        ({"idle_before_and_after_w": (("models resident", 60.0, 70.0),)}, "idle_drift"),
        ({"idle_before_and_after_w": (("bare", 60.0, 50.0),)}, "idle_drift"),
        ({"late_samples": 100}, "missed_deadline"),
        ({"throttle_counts": (3, 9)}, "throttled"),
        ({"gpu_throttle_reasons": ("sw_power_cap",)}, "throttled"),
        ({"served_fraction": 0.5}, "overloaded"),
        ({"cores_wanted": 20}, "oversubscribed"),
        ({"check_ratios": (("gpu_0: a", 1.0), ("gpu_0: b", 0.8))}, "meters_disagree"),
        ({"gpu_processes_hidden": True}, "gpu_processes_hidden"),
        ({"graphics_processes": ("gpu_0: Xorg (pid 9)",)}, "graphics_gpu"),
        ({"clock_changes": (("gpu_0", 0.2),)}, "clock_drift"),
        ({"temperature_changes_c": (("CPU", -9.0),)}, "temperature_drift"),
        ({"phase_locking": (("gpu_0, detect/0", 0.9),)}, "aliasing"),
        ({"doubts": (Doubt("edge_off_tick", "no tick within 0.3 s"),)}, "edge_off_tick"),
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
        "idle_before_and_after_w": (("models resident", None, 61.0), ("bare", 50.0, None)),
        "drift": None,
        "coarsest_period_s": None,
    }
    seen = gates.Observations(**({f: getattr(QUIET, f) for f in QUIET.__dataclass_fields__} | change))
    assert gates.raised(seen, DEFAULTS) == []


def test_the_flags_that_can_be_retried_are_those_that_exist():
    retry = config_schema()["properties"]["protocol"]["properties"]["retry_flags"]
    assert sorted(retry["items"]["enum"]) == sorted(gates.MEANING)
    assert sorted(retry["default"]) == sorted(gates.PASSING)


def test_foreign_cpu_is_what_the_host_used_less_what_we_used():
    begin = host.CpuReading(100.0, {1: 10.0, 2: 5.0})
    end = host.CpuReading(104.0, {1: 12.0, 2: 5.5})
    assert host.own_core_seconds(begin, end) == pytest.approx(2.5)
    assert host.foreign_core_seconds(begin, end) == pytest.approx(1.5)
    assert host.foreign_core_seconds(begin, host.CpuReading(100.0, {1: 11.0})) == 0.0


# --- from what was seen to the flags of a record ---

METER = SimpleNamespace(
    name="model",
    domains=(Domain("cpu", "cpu", "the CPU", "a model", "estimated", None),),
    provenance=dict,
)


def a_slowing_journal():
    """Both stages serve one request at a time without a gap, and twice as slowly from second 4 to 8 as before."""
    journal = Journal()
    begin_s = 0.0
    while begin_s < 8.0:
        end_s = begin_s + (0.1 if begin_s < 4.0 else 0.2)
        journal.arrivals_s.append(begin_s)
        journal.batches += [Batch(stage, f"{stage}/0", begin_s, end_s, 1, 0) for stage in (0, 1)]
        journal.completed.append(Request(begin_s, [begin_s, end_s], [begin_s, end_s], [end_s, end_s]))
        begin_s = end_s
    return journal


def a_window(cpu, gpu=None):
    found = WindowReading((Energy("cpu", 80.0, 0.0, 8.0),), [], 0, 0, 0.0, ((0.0, gpu or {}), (8.0, gpu or {})))
    around = {"cpu_hottest_celsius": None, "cpu_clock_mhz": None, "cpu_throttle_count": None, "load_average_1min": 0.0}
    return Window(0.0, 8.0, datetime.now(UTC), found, cpu, (around, around), 0.1, True)


QUIET_CPU = (host.CpuReading(0.0, {1: 0.0}), host.CpuReading(1.0, {1: 1.0}))


def flags_of(job, window, served, bare_after_j=30.0):
    """The flags of the record with their details, of a run whose resident idle power rises from 10 to 20 W."""
    idle_j = {"bare": 30.0, "resident": 30.0, "after": 60.0, "bare_after": bare_after_j}
    phases = {phase: reading([], energy_j) for phase, energy_j in idle_j.items()}
    meters = OpenMeters((METER,), ())
    record = build_record(job, a_slowing_journal(), window, phases, meters, {}, [], served)
    assert fault(record) is None
    return {flag["flag"]: str(flag["value"]) for flag in record["quality"]["flags"]}


@pytest.fixture
def _four_cores(monkeypatch):
    monkeypatch.setattr(host, "available_cores", lambda: [0, 1, 2, 3])


@pytest.mark.usefixtures("_four_cores")
@pytest.mark.parametrize("workload", ["saturated", "rate"])
def test_what_a_change_of_configuration_changes_is_no_doubt_about_a_live_run(tmp_path, workload):
    quick = {"min_window_s": 0, "min_batches": 1, "max_drift": 0.05, "max_idle_change": 0.05}
    kinds = {"saturated": {"kind": "saturated"}, "rate": {"kind": "rate", "rate_rps": 8}}
    job = tiny_job(tmp_path, workload, gates=quick, workloads={workload: kinds[workload]})
    served = [("detect", 1.3, 1.2), ("classify", 1.0, 1.5)]
    found = flags_of(job, a_window(QUIET_CPU), None)
    assert found.keys() == {"unsteady", "idle_drift"} and found["idle_drift"] == "1 (models resident)"
    assert flags_of(job, a_window(QUIET_CPU), served) == {}
    assert flags_of(job, a_window(QUIET_CPU), served, bare_after_j=45.0) == {"idle_drift": "0.5 (bare)"}


def test_a_replica_that_started_within_the_window_is_ours_on_the_gpu_and_one_that_ended_in_it_too(tmp_path):
    job = tiny_job(tmp_path, grid=tiny_config()["grid"] | {"platform": {"device": ["cuda"]}})
    cpu = (host.CpuReading(0.0, {1: 0.0, 2: 0.0}), host.CpuReading(1.0, {1: 0.0, 3: 1.0}))

    def on_gpu(*pids):
        processes = [{"pid": pid, "name": "python"} for pid in pids]
        return a_window(cpu, {"nvml": {"gpu_0": {"compute_processes": processes}}})

    served = [("detect", 1.0, 1.0), ("classify", 1.0, 1.0)]
    for pids in ((2,), (3,), (2, 3)):
        assert not {"foreign_gpu", "gpu_processes_hidden"} & flags_of(job, on_gpu(*pids), served).keys()
    assert flags_of(job, on_gpu(2, 3, 4), served)["foreign_gpu"] == "gpu_0: python (pid 4)"
    assert "gpu_processes_hidden" in flags_of(job, on_gpu(4), served)
