"""Fronts and matched energy: what is drawn is the table, counts stand above it, and what is missing is said."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.text import Text

from draw_trade_off import main
from ipa_energy.analysis import aggregate, evidence, tables
from ipa_energy.analysis.cells import CELL
from ipa_energy.figures import fronts, matched_energy, style
from ipa_energy.record import Reading
from ipa_energy.study import load_study
from synthetic_records import ESTIMATE, NVML, PRICES, synthetic_study, video_grid
from tiny import tiny_config

GRID = video_grid(classifiers=("resnet18", "resnet50"))
STUDIES = {
    "independent": lambda: synthetic_study("independent", GRID),
    "coupled": lambda: synthetic_study("coupled", GRID),
    "estimated": lambda: synthetic_study("independent", GRID, evidence="estimated"),
    "one repetition": lambda: synthetic_study("independent", GRID, blocks=1),
    "one configuration": lambda: synthetic_study("independent", GRID[:1]),
    "nothing": list,
    "two cells": lambda: (
        synthetic_study("independent", GRID, domains=[ESTIMATE, NVML])
        + synthetic_study("coupled", GRID, host="host-b", experiment="b")
    ),
}


@lru_cache
def tables_of(study):
    reading = Reading(tuple((Path(f"{i:05}"), record) for i, record in enumerate(STUDIES[study]())), ())
    measurements = tables.measurements_table(reading, PRICES)
    rule = load_study(tiny_config()).settings["analysis"] | {"draws": 50}
    found = evidence.tables(evidence.judge_all(measurements, rule, seed=1))
    return found | {"configurations": aggregate.configurations_table(measurements, 0.95, [])}


def fronts_of(study):
    return fronts.draw(tables_of(study)["membership"], "Workload saturated")


def matched_of(study, threshold=0.05):
    of = tables_of(study)
    return matched_energy.draw(
        of["matched"],
        of["residual_knobs"],
        of["configurations"],
        "Workload saturated",
        threshold=threshold,
        notes=matched_energy.notes_of(of["joint"]),
    )


def words(figure):
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def on_one_line(figure):
    return " ".join(words(figure).split())


def markers_of(axes):
    return {c.get_label(): c for c in axes.collections if isinstance(c, PathCollection)}


def a_membership(n=40, seed=0, **changes):
    rng = np.random.default_rng(seed)
    without, with_energy = rng.random(n) < 0.2, rng.random(n) < 0.5
    with_energy |= without
    only = with_energy & ~without
    cell = dict(zip(CELL, ("video", "saturated", "host-a", "random", "cpu_package_0:rapl"), strict=True))
    frame = pd.DataFrame(
        cell
        | {"energy": "gross", "evidence": "measured", "configuration": [f"c{i}" for i in range(n)]}
        | {name: rng.lognormal(size=n) for name in (fronts.ACCURACY, fronts.LATENCY, fronts.COST, fronts.ENERGY)}
        | {"front_without": without.astype(int), "front_with": with_energy.astype(int)}
        | {"p_front_without": rng.random(n), "p_front_with": rng.random(n), "p_only_with": rng.random(n)}
        | {"only_with": np.where(only & (rng.random(n) < 0.5), "yes", "open"), "reason": None}
    )
    return frame.assign(**changes)


def test_every_configuration_is_drawn_once_in_its_group_with_its_figures_and_its_probability():
    table = a_membership()
    figure = fronts.draw(table, "x")
    without = table["front_without"] == 1
    only = (table["front_with"] == 1) & ~without
    groups = {
        "without": (table[without], "p_front_without"),
        "only with, open": (table[only & (table["only_with"] == "open")], "p_only_with"),
        "only with, beyond noise": (table[only & (table["only_with"] == "yes")], "p_only_with"),
    }
    assert len(figure.axes) == len(fronts.PANELS)
    for axes, (x, y) in zip(figure.axes, fronts.PANELS, strict=True):
        for label, (rows, probability) in groups.items():
            drawn = markers_of(axes)[label]
            np.testing.assert_array_equal(drawn.get_offsets(), rows[[x, y]])
            alpha = drawn.get_facecolors()[:, 3]
            assert list(np.argsort(alpha)) == list(np.argsort(rows[probability]))
        (rest,) = [line for line in axes.lines if line.get_label() == "dominated"]
        np.testing.assert_array_equal(np.transpose(rest.get_data()), table.loc[~without & ~only, [x, y]])


def test_the_counts_above_a_row_are_those_of_the_table():
    table = a_membership()
    without, with_energy = table["front_without"] == 1, table["front_with"] == 1
    certain = (table["only_with"] == "yes").sum()
    said = (
        f"of 40 configurations {without.sum()} are optimal without energy, {with_energy.sum()} with, "
        f"{(with_energy & ~without).sum()} only because of it (at least {certain} beyond noise)"
    )
    assert said in on_one_line(fronts.draw(table, "x"))


def test_counts_agree_with_the_trade_off_table():
    of = tables_of("independent")
    for row in of["tradeoff"].to_dict("records"):
        group = of["membership"][of["membership"]["energy"] == row["energy"]]
        text = fronts.counts(group)
        assert f"{row['n_front_without']} are optimal without energy, {row['n_front_with']} with" in text
        assert f"{row['n_only_with']} only because of it (at least {row['n_only_with_lo']} beyond noise)" in text


def test_groups_differ_in_marker_and_not_in_colour_alone():
    drawn = markers_of(fronts.draw(a_membership(), "x").axes[0])
    shapes = {label: len(c.get_paths()[0].vertices) for label, c in drawn.items()}
    assert shapes["without"] != shapes["only with, open"]
    edges = {label: tuple(c.get_edgecolors()[0]) for label, c in drawn.items()}
    assert edges["only with, open"] != edges["only with, beyond noise"] == (0, 0, 0, 1)


def test_without_probabilities_faces_are_empty_and_noise_is_said_to_be_unknown():
    figure = fronts_of("one repetition")
    for drawn in markers_of(figure.axes[0]).values():
        assert not drawn.get_facecolors()[:, 3].any()
    assert "(noise not known)" in on_one_line(figure)
    assert "of draws" not in words(figure)


def test_large_fronts_are_drawn_small_and_as_pixels(tmp_path):
    table = a_membership(5000)
    figure = fronts.draw(table, "x")
    style.save(figure, [tmp_path / "a.svg"])
    assert all(c.get_rasterized() for c in markers_of(figure.axes[0]).values())
    assert (tmp_path / "a.svg").stat().st_size < 1_000_000


def test_matched_ratios_are_drawn_in_order_with_their_intervals():
    figure = matched_of("independent")
    table = tables_of("independent")["matched"]
    for axes, energy in zip(figure.axes[::2], ("gross", "net"), strict=True):
        rows = table[table["energy"] == energy].sort_values("ratio")
        kind = matched_energy.kinds(rows, 0.05)
        points = {line.get_label(): line for line in axes.lines if line.get_label() in ("less", "more", "open")}
        for which, line in points.items():
            np.testing.assert_array_equal(line.get_ydata(), rows["ratio"][kind == which])
            np.testing.assert_array_equal(line.get_xdata(), np.flatnonzero(kind == which) + 1)
        bars = np.concatenate([path.vertices[:, 1] for c in axes.collections for path in c.get_paths()])
        np.testing.assert_allclose(np.sort(bars), np.sort(rows[["ratio_lo", "ratio_hi"]].to_numpy().ravel()))
        assert len({line.get_marker() for line in points.values()}) == 3


def test_what_is_less_and_more_lies_outside_the_band_with_its_whole_interval():
    table = pd.DataFrame({"ratio_lo": [0.8, 0.94, 1.0, 1.06, np.nan], "ratio_hi": [0.9, 0.97, 1.2, 1.2, np.nan]})
    assert list(matched_energy.kinds(table, 0.05)) == ["less", "open", "open", "more", "open"]


def test_the_head_of_a_row_counts_and_tells_the_spread():
    of = tables_of("independent")
    text = on_one_line(matched_of("independent"))
    for energy in ("gross", "net"):
        rows = of["matched"][of["matched"]["energy"] == energy]
        kind = matched_energy.kinds(rows, 0.05)
        less, more = (kind == "less").sum(), (kind == "more").sum()
        assert f"{energy} energy: of 24 configurations {less} need less and {more} more than predicted" in text
        (row,) = of["joint"][of["joint"]["energy"] == energy].to_dict("records")
        assert f"Energy differs by {100 * row['spread']:.1f} % [" in text
        assert f"(jointly {row['decision']})" in text


def test_the_knob_on_the_right_is_the_one_that_carries_most():
    of = tables_of("independent")
    figure = matched_of("independent")
    for axes, energy in zip(figure.axes[1::2], ("gross", "net"), strict=True):
        left = of["residual_knobs"][of["residual_knobs"]["energy"] == energy]
        best = left.loc[left["omega2"].idxmax()]
        if best["omega2"] <= 0:
            assert "no knob carries" in "".join(text.get_text() for text in axes.texts)
            continue
        assert axes.get_title(loc="right") == f"{best['knob']}, which carries {100 * best['omega2']:.0f} %"
        matched = of["matched"][of["matched"]["energy"] == energy]
        level_of = of["configurations"].set_index("configuration")[best["knob"]]
        level = matched["configuration"].map(level_of).astype(str)
        medians = [line.get_xdata()[0] for line in axes.lines if line.get_label() == "median"]
        names = [label.get_text() for label in axes.get_yticklabels()]
        assert medians == pytest.approx([matched["ratio"][level == name].median() for name in names])


@pytest.mark.parametrize("figure_of", [fronts_of, matched_of], ids=["fronts", "matched"])
def test_estimated_energy_is_called_so_and_measured_is_not(figure_of):
    labels = [axes.get_ylabel() for axes in figure_of("estimated").axes if "energy" in axes.get_ylabel()]
    assert labels
    assert all("estimated" in label for label in labels)
    assert "estimated gross energy: of" in on_one_line(figure_of("estimated"))
    assert "estimated" not in words(figure_of("independent"))


@pytest.mark.parametrize("figure_of", [fronts_of, matched_of], ids=["fronts", "matched"])
def test_cells_are_told_apart(figure_of):
    text = on_one_line(figure_of("two cells"))
    for name in ("host-a, meters A: partly estimated gross", "host-b, meters B: net", "meters B: cpu_package_0:rapl"):
        assert name in text


@pytest.mark.parametrize(
    ("figure_of", "study", "said"),
    [
        (fronts_of, "nothing", "no configuration has accuracy, latency, cost and energy"),
        (matched_of, "nothing", "no cell has energy, accuracy, latency and cost"),
        (matched_of, "one repetition", "one repetition each, so replicate noise is unknown"),
        (matched_of, "one configuration", "1 configuration"),
        (fronts_of, "one configuration", "of 1 configurations 1 are optimal without energy, 1 with"),
    ],
)
def test_what_is_missing_is_said(figure_of, study, said):
    assert said in on_one_line(figure_of(study))


def test_nothing_runs_off_the_page():
    for figure in (fronts_of("two cells"), matched_of("two cells")):
        with style.print_style():
            box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
        assert box.x0 >= 0
        assert box.x1 <= style.TEXT_WIDTH_IN
        assert box.y0 >= 0
        assert box.y1 <= figure.get_figheight()


def test_the_script_draws_both_from_the_files_and_the_bytes_stay(tmp_path):
    names = ("membership", "matched", "joint", "residual_knobs", "configurations")
    for name in names:
        tables.write_csv(tmp_path / f"{name}.csv", tables_of("independent")[name])
    inputs = {name: str(tmp_path / f"{name}.csv") for name in names}
    for run in ("a", "b"):
        outputs = {
            f"{figure}_{kind}": str(tmp_path / f"{run}.{figure}.{kind}")
            for figure in ("fronts", "matched")
            for kind in ("svg", "png")
        }
        main(inputs, outputs, workload="saturated", threshold=0.05)
    for figure in ("fronts", "matched"):
        for kind in ("svg", "png"):
            first, second = (tmp_path / f"{run}.{figure}.{kind}" for run in ("a", "b"))
            assert first.read_bytes() == second.read_bytes()
            assert first.stat().st_size > 10_000
