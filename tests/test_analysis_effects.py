"""Knob effects: exact on data built from factors, fair when configurations are missing, open about missing ratios."""

import math
from pathlib import Path

import pandas as pd
import pytest

from ipa_energy.analysis import aggregate, effects, tables
from ipa_energy.record import Reading
from synthetic_records import PRICES, make_record, video_grid

FACTOR = {"ssdlite320_mobilenet_v3_large": 1.0, "ssd300_vgg16": 6.0, "resnet18": 1.0, "resnet50": 1.8, 1: 1.0, 4: 0.5}
GRID = video_grid(detectors=("ssd300_vgg16", "ssdlite320_mobilenet_v3_large"), classifiers=("resnet50", "resnet18"))


def energy_j(configuration):
    return 2.0 * math.prod(FACTOR[stage.variant] * FACTOR[stage.batch] for stage in configuration.stages)


def configurations_of(grid, energy=energy_j):
    records = [make_record(c, latency_s=0.1, net_j_per_request=energy(c)) for c in grid]
    reading = Reading(tuple((Path(f"{i:05}"), record) for i, record in enumerate(records)), ())
    return aggregate.configurations_table(tables.measurements_table(reading, PRICES), 0.95, [])


def effect(frame, knob, level, metric="net_energy"):
    (row,) = frame[(frame["knob"] == knob) & (frame["level"] == level) & (frame["metric"] == metric)].to_dict("records")
    return row


@pytest.mark.parametrize("missing", [[], [0], [1, 6, 11]])
def test_a_factor_is_found_exactly_even_when_configurations_are_missing(missing):
    found = effects.knob_effects(configurations_of([c for i, c in enumerate(GRID) if i not in missing]), 0.95)
    assert effect(found, "detect.variant", "ssd300_vgg16")["ratio"] == pytest.approx(6.0)
    assert effect(found, "classify.variant", "resnet50")["ratio"] == pytest.approx(1.8)
    row = effect(found, "detect.batch", "4")
    assert (row["ratio"], row["ratio_lo"], row["ratio_hi"]) == pytest.approx((0.5, 0.5, 0.5))
    assert effect(found, "detect.batch", "4", "accuracy")["ratio"] == pytest.approx(1.0)


def test_the_reference_is_the_smallest_number_and_the_least_accurate_variant():
    found = effects.knob_effects(configurations_of(GRID), 0.95)
    assert dict(zip(found["knob"], found["reference"], strict=True)) == {
        "detect.variant": "ssdlite320_mobilenet_v3_large",
        "detect.batch": "1",
        "classify.variant": "resnet18",
        "classify.batch": "1",
    }


def test_platform_knobs_refer_to_their_default():
    frame = pd.DataFrame({"device": ["cuda", "cpu"], "precision": ["bf16", "fp32"]})
    assert effects.levels(frame, "device") == ["cpu", "cuda"]
    assert effects.levels(frame, "precision") == ["fp32", "bf16"]


def test_variants_of_unknown_accuracy_come_last():
    frame = pd.DataFrame({"detect.variant": ["a", "b", "c"], "detect.accuracy": [math.nan, 0.5, 0.2]})
    assert effects.levels(frame, "detect.variant") == ["c", "b", "a"]


def test_net_energy_that_is_not_positive_has_no_ratio_and_is_counted():
    found = effects.knob_effects(configurations_of(GRID, lambda c: -0.1 if c.stages[0].batch == 4 else 1.0), 0.95)
    row = effect(found, "detect.batch", "4")
    assert math.isnan(row["ratio"])
    assert row["n_pairs"] == 0
    assert row["reason"] == "8 of 8 pairs have a figure that is not positive"


def test_one_pair_has_an_effect_but_no_interval():
    pair = video_grid(detectors=("ssd300_vgg16",), classifiers=("resnet18", "resnet50"), batches=(1,))
    row = effect(effects.knob_effects(configurations_of(pair), 0.95), "classify.variant", "resnet50")
    assert row["ratio"] == pytest.approx(1.8)
    assert row["n_pairs"] == 1
    assert math.isnan(row["ratio_lo"])


def test_a_single_configuration_has_no_effects():
    assert effects.knob_effects(configurations_of(GRID[:1]), 0.95).empty
