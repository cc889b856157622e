"""Generality: places, meters, energies, weights and workloads whose agreement is known; and what can't be compared."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ipa_energy.analysis import agreement_points, generality, tables
from ipa_energy.record import Reading
from synthetic_records import ESTIMATE, NVML, PRICES, make_record, synthetic_study, true_energy_j, video_grid

SMALL = video_grid(classifiers=("resnet18", "resnet50"))
NODE = {"wall": "node"}


def measurements_of(records):
    return tables.measurements_table(Reading(tuple((Path(f"{i:05}"), r) for i, r in enumerate(records)), ()), PRICES)


def study(factor=1.0, *, own=0.0, noise=0.02, blocks=3, configurations=SMALL, rate=2.0, **settings):
    """Records of net energies that are ``factor`` times a common truth, times an own part of each configuration."""
    records = []
    for i, c in enumerate(configurations):
        place = random.Random(f"{settings.get('host')}{settings.get('workload')}{i}")
        truth = factor * true_energy_j(c, "coupled") * math.exp(place.gauss(0, own))
        for block in range(1, blocks + 1):
            scatter = random.Random(f"{settings}{i}{block}").lognormvariate(0, noise)
            energy = truth * scatter
            records.append(
                make_record(
                    c,
                    latency_s=0.1 + i,
                    net_j_per_request=energy,
                    throughput_rps=rate,
                    block=block,
                    order=i,
                    **settings,
                )
            )
    return records


def table_of(data, **changes):
    measurements = data if isinstance(data, pd.DataFrame) else measurements_of(data)
    how = {"confidence": 0.95, "bootstrap": 100, "drop_flags": [], "seed": 1} | changes
    return generality.generality_table(measurements, **how)


def rows_of(table, choice, energy="net"):
    return table[(table["choice"] == choice) & ((table["energy"] == energy) | (choice == "energy"))]


def test_a_host_that_costs_5_percent_more_everywhere_has_that_bias_and_the_same_ranking():
    (row,) = rows_of(table_of(study(1.05, host="a") + study(host="b")), "hosts").to_dict("records")
    assert (row["one"], row["other"], row["n_configurations"]) == ("a", "b", 24)
    assert row["bias_lo"] <= 1.05 <= row["bias_hi"]
    assert row["bias"] == pytest.approx(1.05, abs=0.01)
    assert row["limit_lo"] < row["bias_lo"]
    assert row["tau"] > 0.9
    assert row["w"] > 0.99
    assert row["dependence"] < 0.001
    assert row["spread_excess"] < 0.01
    assert row["spread_p"] > 0.01
    assert pd.isna(row["host"])
    assert row["meters"] == "cpu_package_0:rapl"


def test_without_noise_the_ratio_is_exact_and_nothing_depends_on_the_host():
    (row,) = rows_of(table_of(study(1.05, host="a", noise=0) + study(host="b", noise=0)), "hosts").to_dict("records")
    assert (row["bias"], row["limit_lo"], row["limit_hi"]) == pytest.approx((1.05, 1.05, 1.05))
    assert (row["tau"], row["w"]) == pytest.approx((1.0, 1.0))
    assert (row["share_interaction"], row["dependence"], row["spread_excess"]) == pytest.approx((0, 0, 0), abs=1e-9)


def test_the_more_a_host_ranks_its_own_way_the_lower_w_and_the_greater_the_interaction():
    found = []
    for own in (0.0, 0.5, 3.0):
        (row,) = rows_of(table_of(study(host="a") + study(own=own, host="b")), "hosts").to_dict("records")
        found.append(row)
    assert found[0]["w"] > found[1]["w"] > found[2]["w"]
    assert found[0]["dependence"] < found[1]["dependence"] < found[2]["dependence"]
    assert found[0]["tau"] > found[1]["tau"] > found[2]["tau"]
    assert found[2]["interaction_p"] < 1e-6
    for row in found:
        assert row["dependence_lo"] <= row["dependence"] <= row["dependence_hi"]
        assert row["tau_lo"] <= row["tau"] <= row["tau_hi"]
        shares = [row[f"share_{name}"] for name in ("configuration", "choice", "interaction", "noise")]
        assert sum(shares) == pytest.approx(1)


def test_three_hosts_have_a_row_of_all_beside_the_pairs():
    table = rows_of(table_of(study(host="a") + study(1.2, host="b") + study(0.8, host="c")), "hosts")
    assert table["n_members"].tolist() == [2, 2, 2, 3]
    last = table.iloc[-1]
    assert last["members"] == "a | b | c"
    assert last["w"] > 0.99
    assert last["share_choice"] > last["share_interaction"]
    assert pd.isna(last["bias"])


def test_only_configurations_that_both_have_are_compared():
    table = rows_of(
        table_of(study(host="a", configurations=SMALL[:15]) + study(host="b", configurations=SMALL[8:])), "hosts"
    )
    assert table["n_configurations"].tolist() == [7]


def test_hosts_without_common_meters_are_compared_with_a_remark():
    table = rows_of(table_of(study(host="a") + study(host="b", domains=[ESTIMATE, NVML])), "hosts")
    (row,) = table.to_dict("records")
    assert pd.isna(row["meters"])
    assert row["evidence"] == "mixed"
    assert "differ in host and meters at once" in row["reason"]


def test_sets_of_meters_are_compared_in_the_same_place():
    records = study(host="a") + study(1.3, host="a", experiment="again", domains=[ESTIMATE, NVML])
    (row,) = rows_of(table_of(records), "meters").to_dict("records")
    assert row["one"] == "cpu:estimate (estimated) + gpu_0:nvml"
    assert row["bias"] == pytest.approx(1.3, abs=0.03)
    assert row["evidence"] == "mixed"
    assert row["host"] == "a"


def test_weights_and_workloads_are_compared():
    records = study(weights="random") + study(1.1, weights="pretrained", experiment="again")
    records += study(0.5, weights="random", workload="steady")
    table = table_of(records)
    (weights,) = rows_of(table, "weights").to_dict("records")
    assert (weights["one"], weights["other"]) == ("pretrained", "random")
    assert weights["bias"] == pytest.approx(1.1, abs=0.02)
    (workloads,) = rows_of(table, "workloads").to_dict("records")
    assert (workloads["one"], workloads["other"]) == ("saturated", "steady")
    assert workloads["bias"] == pytest.approx(2, abs=0.05)


def test_gross_and_net_are_compared_record_by_record():
    table = table_of(study(noise=0.0))
    (row,) = table[table["choice"] == "energy"].to_dict("records")
    net = np.array([true_energy_j(c, "coupled") for c in SMALL])
    ratio = (net + 5.0) / net  # 10 W of idle power at 2 requests/s
    assert row["bias"] == pytest.approx(math.exp(np.mean(np.log(ratio))), rel=1e-6)
    assert row["spread"] == pytest.approx(np.std(np.log(ratio), ddof=1), rel=1e-6)
    assert row["trend"] < 0
    assert row["tau"] == pytest.approx(1)
    assert pd.isna(row["energy"])


def test_a_log_of_the_node_is_compared_with_the_sum_of_the_parts_and_parts_with_the_whole():
    measurements = measurements_of(study(domains=[ESTIMATE, NVML]))
    for kind in ("gross_j", "net_j"):
        measurements[f"wall.{kind}"] = 1.4 * measurements[kind]
        measurements[f"card.{kind}"] = 1.1 * measurements[f"gpu_0.{kind}"]
    table = rows_of(table_of(measurements, logs=NODE | {"card": "gpu"}), "domains").set_index(["one", "other"])
    whole = table.loc[("wall (external log)", "cpu (estimated) + gpu_0")]
    assert whole["bias"] == pytest.approx(1.4)
    assert whole["evidence"] == "mixed"
    assert table.loc[("card (external log)", "gpu_0"), "bias"] == pytest.approx(1.1)
    assert table.loc[("card (external log)", "gpu_0"), "evidence"] == "measured"
    part = table.loc[("gpu_0", "cpu (estimated) + gpu_0")]
    assert part["bias"] == pytest.approx(0.5)
    assert "by construction" in part["reason"]


def test_a_choice_made_once_has_one_row_that_says_what_is_not_shown():
    table = table_of(study()).set_index("choice")
    for choice, says in {
        "hosts": "one host (host-a)",
        "meters": "one set of meters (cpu_package_0:rapl)",
        "weights": "one kind of weights (random)",
        "workloads": "one workload (saturated)",
        "domains": "one part of the machine",
    }.items():
        row = table.loc[choice]
        assert says in row["reason"]
        assert "nothing shows that the answer holds" in row["reason"]
        assert row.drop("reason").isna().all()


def test_hosts_without_common_configurations_are_not_compared():
    (reason,) = (
        table_of(study(host="a", configurations=SMALL[:5]) + study(host="b", configurations=SMALL[5:]))
        .set_index("choice")
        .loc[["hosts"], "reason"]
    )
    assert "2 hosts (a, b)" in reason
    assert "3 configurations in common" in reason


def test_without_repetitions_noise_is_unknown_and_said_to_be():
    (row,) = rows_of(table_of(study(host="a", blocks=1) + study(host="b", blocks=1)), "hosts").to_dict("records")
    assert "replicate noise is unknown" in row["reason"]
    assert row["bias"] == pytest.approx(1, abs=0.02)
    for name in ("noise", "spread_excess", "spread_p", "share_noise", "interaction_p"):
        assert pd.isna(row[name])


def test_a_constant_energy_has_no_ranking():
    def constant(host):
        return [
            make_record(c, latency_s=0.1, net_j_per_request=1.0, throughput_rps=2.0, host=host, block=b)
            for c in SMALL
            for b in (1, 2)
        ]

    (row,) = rows_of(table_of(constant("a") + constant("b")), "hosts").to_dict("records")
    assert pd.isna(row["tau"])
    assert row["bias"] == pytest.approx(1)
    assert "no ranking" in row["reason"]


@pytest.mark.parametrize("records", [[], synthetic_study("coupled", SMALL, state="failed")])
def test_nothing_usable_is_a_reason_for_every_choice(records):
    table = table_of(records)
    assert table["choice"].tolist() == list(generality.CHOICES)
    assert set(table["reason"]) == {"no usable record has an energy"}


def test_decisions_of_the_sides_stand_beside_the_comparison():
    cells = {("video", "saturated", host, "random", "cpu_package_0:rapl") for host in ("a", "b")}
    decisions = {(*cell, "net"): "coupled" for cell in cells} | {(*cell, "gross"): cell[2] for cell in cells}
    table = table_of(study(host="a") + study(host="b"), decisions=decisions)
    net, gross = rows_of(table, "hosts").iloc[0], rows_of(table, "hosts", "gross").iloc[0]
    assert (net["decisions"], net["same_decision"]) == ("coupled | coupled", "yes")
    assert (gross["decisions"], gross["same_decision"]) == ("a | b", "no")
    assert (table.loc[table["choice"] == "energy", "same_decision"] == "no").all()


def test_the_table_does_not_depend_on_the_order_of_records_and_survives_the_file(tmp_path):
    records = study(host="a") + study(host="b")
    table = table_of(records)
    pd.testing.assert_frame_equal(table_of(records[::-1]), table)
    tables.write_csv(tmp_path / "generality.csv", table)
    pd.testing.assert_frame_equal(tables.read_csv(tmp_path / "generality.csv"), table)
    assert tuple(table.columns) == generality.COLUMNS


def test_points_are_those_of_the_comparison_and_each_choice_comes_first():
    records = study(1.05, host="a") + study(host="b") + json.loads(json.dumps(study(host="c")))
    measurements = measurements_of(records)
    table = table_of(measurements)
    points = agreement_points.points_table(measurements, table, drop_flags=[], most=3)
    assert list(points.columns) == agreement_points.COLUMNS
    assert points.groupby("comparison").size().tolist() == [24, 24, 24]
    assert set(points["choice"]) == {"hosts", "energy"}
    for _, group in points.groupby("comparison"):
        assert math.exp(np.log(group["ratio"]).mean()) == pytest.approx(group["bias"].iloc[0])
    assert agreement_points.points_table(measurements_of([]), table_of([]), drop_flags=[]).empty
