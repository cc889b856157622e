"""The figures of variance by knob and of agreement: for every kind of data, good or missing, and the same each time."""

from functools import lru_cache
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from ipa_energy.analysis import agreement_points, generality, tables
from ipa_energy.analysis import knob_variance as variance
from ipa_energy.figures import agreement, knob_variance, style
from ipa_energy.record import Reading
from synthetic_records import ESTIMATE, NVML, PRICES, synthetic_study, video_grid

SMALL = video_grid(classifiers=("resnet18", "resnet50"), batches=(1, 4))[:12]

STUDIES = {
    "good": lambda: synthetic_study("coupled", SMALL),
    "estimated": lambda: synthetic_study("coupled", SMALL, evidence="estimated"),
    "mixed": lambda: synthetic_study("coupled", SMALL, domains=[ESTIMATE, NVML]),
    "hosts": lambda: synthetic_study("coupled", SMALL) + synthetic_study("independent", SMALL, host="host-b"),
    "many hosts": lambda: [r for host in "abcde" for r in synthetic_study("coupled", SMALL[:6], blocks=1, host=host)],
    "one repetition": lambda: synthetic_study("coupled", SMALL, blocks=1),
    "one configuration": lambda: synthetic_study("coupled", SMALL[:1]),
    "all failed": lambda: synthetic_study("coupled", SMALL, state="failed"),
    "nothing": list,
}


@lru_cache
def figures(study):
    """Both figures of a study."""
    records = STUDIES[study]()
    reading = Reading(tuple((Path(f"{i:05}"), record) for i, record in enumerate(records)), ())
    measurements = tables.measurements_table(reading, PRICES)
    knobs = variance.knobs_table(measurements, confidence=0.95, drop_flags=[])
    general = generality.generality_table(measurements, confidence=0.95, bootstrap=20, drop_flags=[], seed=1)
    points = agreement_points.points_table(measurements, general, drop_flags=[])
    return knob_variance.draw(knobs, "Workload saturated"), agreement.draw(general, points, "Workload saturated")


def words(figure):
    return "\n".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_gives_both_figures_at_print_width_with_all_words_on_the_page(study, tmp_path):
    figures.cache_clear()
    for name, figure in zip(("knobs", "agreement"), figures(study), strict=True):
        assert figure.get_figwidth() == style.TEXT_WIDTH_IN
        with style.print_style():
            FigureCanvasAgg(figure).draw()
            # Ticks outside of the axes are no part of the drawing.
            ticks = {
                t
                for axes in figure.axes
                for t in (*axes.get_xticklabels(which="both"), *axes.get_yticklabels(which="both"))
            }
            for text in figure.findobj(Text):
                if text.get_text() and text.get_visible() and text not in ticks:
                    box = text.get_window_extent()
                    assert box.x0 >= figure.bbox.x0 - 1, text.get_text()
                    assert box.x1 <= figure.bbox.x1 + 1, text.get_text()
                    assert box.y0 >= figure.bbox.y0 - 1, text.get_text()
                    assert box.y1 <= figure.bbox.y1 + 1, text.get_text()
        paths = [tmp_path / f"{name}.svg", tmp_path / f"{name}.png"]
        style.save(figure, paths)
        assert paths[0].read_bytes().lstrip().startswith(b"<?xml")
        assert paths[1].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("study", "knobs_say", "agreement_says"),
    [
        ("nothing", "no cell has a usable record", "no usable record has an energy"),
        ("all failed", "no usable record", "no usable record has an energy"),
        ("one configuration", "one configuration", "nothing to compare"),
    ],
)
def test_missing_data_are_said_in_the_figure(study, knobs_say, agreement_says):
    first, second = figures(study)
    assert knobs_say in words(first).replace("\n", " ")
    assert agreement_says in words(second).replace("\n", " ")


def test_shares_stand_in_the_fields_with_their_intervals():
    text = words(figures("good")[0])
    for label in ("accuracy\n(PAS)", "gross energy\nper request", "detect.variant", "throughput"):
        assert label in text
    assert " %" in text
    assert "[" in text


def test_estimated_energy_is_never_drawn_without_the_word():
    for study, word in (("estimated", "estimated"), ("mixed", "partly estimated")):
        for figure in figures(study):
            labels = [t.get_text() for t in figure.findobj(Text) if "energy" in t.get_text()]
            assert labels
            assert all(word in label for label in labels), labels
    for figure in figures("good"):
        assert "estimated" not in words(figure)


def test_hosts_are_told_apart_and_more_cells_than_fit_are_counted():
    for figure in figures("hosts"):
        assert "host-a" in words(figure)
        assert "host-b" in words(figure)
    assert "1 more cells are in knobs.csv" in words(figures("many hosts")[0]).replace("\n", " ")


def test_comparisons_carry_ratio_limits_tau_and_units():
    text = words(figures("hosts")[1])
    assert "hosts: host-a / host-b" in text
    assert "τ = " in text
    assert "(J / request)" in text
    assert "n = 12" in text


def test_the_same_data_give_the_same_bytes(tmp_path):
    for run in ("a", "b"):
        figures.cache_clear()
        for name, figure in zip(("knobs", "agreement"), figures("hosts"), strict=True):
            style.save(figure, [tmp_path / f"{run}-{name}.svg"])
    for name in ("knobs", "agreement"):
        assert (tmp_path / f"a-{name}.svg").read_bytes() == (tmp_path / f"b-{name}.svg").read_bytes()
