"""Figures are written for every kind of data, good or missing, say *estimated* where it is, and are reproducible."""

from functools import lru_cache
from pathlib import Path

import pytest
from matplotlib.text import Text

from ipa_energy.analysis import aggregate, coupling, effects, tables
from ipa_energy.figures import energy_against_metrics, knob_effects, style
from ipa_energy.record import Reading
from synthetic_records import ESTIMATE, NVML, PRICES, make_record, synthetic_study, video_grid

SMALL = video_grid(classifiers=("resnet18", "resnet50"), batches=(1,))


@lru_cache
def tables_of(study):
    """Configurations, pairwise statistics and effects of one of the studies below."""
    records = STUDIES[study]()
    reading = Reading(tuple((Path(f"{i:05}"), record) for i, record in enumerate(records)), ())
    measurements = tables.measurements_table(reading, PRICES)
    configurations = aggregate.configurations_table(measurements, 0.95, [])
    pairwise = coupling.pairwise_table(measurements, confidence=0.95, bootstrap=100, drop_flags=[], seed=1)
    return configurations, pairwise, effects.knob_effects(configurations, 0.95)


def both_figures(study):
    configurations, pairwise, found = tables_of(study)
    evidence = aggregate.evidence_of(configurations["evidence"])
    return (
        knob_effects.draw(found, evidence, "Workload saturated"),
        energy_against_metrics.draw(configurations, pairwise, "Workload saturated"),
    )


def words(figure):
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def without_net():
    return [
        make_record(c, latency_s=0.1 * (i + 1), net_j_per_request=None, block=b)
        for i, c in enumerate(SMALL)
        for b in (1, 2)
    ]


STUDIES = {
    "good": lambda: synthetic_study("coupled", SMALL),
    "estimated": lambda: synthetic_study("independent", SMALL, evidence="estimated"),
    "two hosts": lambda: synthetic_study("coupled", SMALL) + synthetic_study("coupled", SMALL, host="host-b"),
    "two sets of meters": lambda: (
        synthetic_study("coupled", SMALL) + synthetic_study("coupled", SMALL, domains=[ESTIMATE, NVML], experiment="b")
    ),
    "one repetition": lambda: synthetic_study("coupled", SMALL, blocks=1),
    "no net energy": without_net,
    "one configuration": lambda: synthetic_study("coupled", SMALL[:1]),
    "all failed": lambda: synthetic_study("coupled", SMALL, state="failed"),
    "nothing": list,
    "negative net energy": lambda: [make_record(c, latency_s=0.1, net_j_per_request=-0.01) for c in SMALL],
    "constant energy": lambda: [
        make_record(c, latency_s=0.1, net_j_per_request=1.0, throughput_rps=2.0) for c in SMALL
    ],
}


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_gives_both_figures_as_svg_and_png(study, tmp_path):
    for name, figure in zip(("effects", "energy"), both_figures(study), strict=True):
        paths = [tmp_path / f"{name}.svg", tmp_path / f"{name}.png"]
        style.save(figure, paths)
        assert paths[0].read_bytes().lstrip().startswith(b"<?xml")
        assert paths[1].read_bytes().startswith(b"\x89PNG")
        assert figure.get_figwidth() == style.TEXT_WIDTH_IN


@pytest.mark.parametrize(
    ("study", "effects_say", "energy_says"),
    [
        ("all failed", "no two configurations have figures", "no configuration has a usable record"),
        ("nothing", "no knob has two levels", "no configuration has a usable record"),
        ("one configuration", "no knob has two levels", "no statistics"),
        ("no net energy", "no figure", "no net energy"),
        ("negative net energy", "no figure", "net energy (J / request)"),
    ],
)
def test_missing_data_are_said_in_the_figure(study, effects_say, energy_says):
    first, second = both_figures(study)
    assert effects_say in words(first)
    assert energy_says in words(second)


def test_estimated_energy_is_never_drawn_without_the_word():
    for figure in both_figures("estimated"):
        labels = [text.get_text() for text in figure.findobj(Text) if "net energy" in text.get_text()]
        assert labels
        assert all("estimated" in label for label in labels)
    for figure in both_figures("good"):
        assert "estimated" not in words(figure)


def test_effects_show_sign_and_size():
    figure, _ = both_figures("good")
    colours = {text.get_text(): text.get_color() for text in figure.findobj(Text) if text.get_text().startswith("×")}
    # The accuracy of ssd300_vgg16 over ssdlite320: 0.251 / 0.213.
    assert colours["×1.18"] == style.VERMILLION
    assert "≈1" not in colours


def test_panels_carry_units_and_statistics():
    _, figure = both_figures("good")
    text = words(figure)
    for label in ("p99 latency (s)", "cost (USD / 1000 requests)", "accuracy (PAS)", "gross energy (J / request)"):
        assert label in text
    assert "τ = " in text
    assert "R² = " in text


def test_hosts_are_told_apart():
    for figure in both_figures("two hosts"):
        assert "host-a" in words(figure)
        assert "host-b" in words(figure)


def test_sets_of_meters_are_told_apart_and_one_alone_is_not_named():
    for figure in both_figures("two sets of meters"):
        text = words(figure)
        for name in ("meters A: cpu:estimate (estimated) + gpu_0:nvml", "meters B: cpu_package_0:rapl"):
            assert name in text
        assert "partly estimated" in text
    for figure in both_figures("good"):
        assert "rapl" not in words(figure)


def test_the_same_data_give_the_same_bytes(tmp_path):
    for run in ("a", "b"):
        for name, figure in zip(("effects", "energy"), both_figures("good"), strict=True):
            style.save(figure, [tmp_path / f"{run}-{name}.svg"])
    for name in ("effects", "energy"):
        assert (tmp_path / f"a-{name}.svg").read_bytes() == (tmp_path / f"b-{name}.svg").read_bytes()


def test_no_label_of_the_effects_runs_off_the_page():
    figure, _ = both_figures("good")
    with style.print_style():
        figure.canvas.draw()
        page = figure.bbox
        for text in figure.findobj(Text):
            if text.get_text() and text.get_visible():
                box = text.get_window_extent()
                assert box.x0 >= page.x0 - 1, text.get_text()
                assert box.x1 <= page.x1 + 1, text.get_text()
