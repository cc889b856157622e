"""Energy by domain and power over time: what is drawn is what was measured, and estimates are said."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from ipa_energy.analysis import aggregate, tables
from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.split import energy_split, parts_of
from ipa_energy.figures import energy_split as figure_of_split
from ipa_energy.figures import power_over_time, style
from ipa_energy.record import Reading
from synthetic_records import ESTIMATE, NVML, PRICES, RAPL, make_record, synthetic_study, video_grid

SMALL = video_grid(classifiers=("resnet18", "resnet50"), batches=(1,))
MANY = video_grid(replicas=(1, 2))[:60]
BOTH = [RAPL, NVML]


def measurements_of(records):
    return tables.measurements_table(Reading(tuple((Path(f"{i:05}"), r) for i, r in enumerate(records)), ()), PRICES)


def with_wall(measurements):
    """The same with an external log of the whole node that sees 1.5 times as much."""
    return measurements.assign(
        **{"wall.gross_j": 1.5 * measurements["gross_j"], "wall.net_j": 1.5 * measurements["net_j"]}
    )


def words(figure):
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def bars_of(axes):
    """Width of every drawn bar by its label and place from the top."""
    return {
        (container.get_label(), i): patch.get_width()
        for container in axes.containers
        for i, patch in enumerate(container.patches)
    }


@pytest.mark.parametrize("domains", [[RAPL], BOTH, [ESTIMATE, NVML]], ids=["one", "two", "mixed"])
def test_the_parts_add_up_to_the_energies_of_the_configurations_table(domains):
    measurements = measurements_of(synthetic_study("independent", SMALL, domains=domains))
    split = energy_split(measurements, [])
    configurations = aggregate.configurations_table(measurements, 0.95, []).set_index("configuration")
    sums = split.groupby("configuration")[["gross_j_per_request", "idle_j_per_request", "net_j_per_request"]].sum()
    for name in ("gross_j_per_request", "net_j_per_request"):
        np.testing.assert_allclose(sums[name], configurations.loc[sums.index, name], rtol=1e-12)
    np.testing.assert_allclose(sums["idle_j_per_request"] + sums["net_j_per_request"], sums["gross_j_per_request"])
    assert len(split) == len(SMALL) * len(domains)


def test_stacked_bars_end_at_the_totals():
    measurements = measurements_of(synthetic_study("independent", SMALL, domains=BOTH))
    figure = figure_of_split.draw(energy_split(measurements, []), "Workload saturated")
    (axes,) = figure.axes
    totals = sorted(aggregate.configurations_table(measurements, 0.95, [])["gross_j_per_request"])
    drawn = bars_of(axes)
    for i, total in enumerate(totals):
        mine = {label: width for (label, at), width in drawn.items() if at == i}
        assert len(mine) == 4
        assert sum(mine.values()) == pytest.approx(total)
        ends = [patch.get_x() + patch.get_width() for c in axes.containers for patch in [c.patches[i]]]
        assert max(ends) == pytest.approx(total)


def test_a_net_part_below_zero_hangs_to_the_left_and_the_sum_stays():
    records = [make_record(SMALL[0], latency_s=0.1, net_j_per_request=-0.5, throughput_rps=2.0)]
    records += [make_record(SMALL[1], latency_s=0.1, net_j_per_request=0.5, throughput_rps=2.0)]
    figure = figure_of_split.draw(energy_split(measurements_of(records), []), "x")
    drawn = bars_of(figure.axes[0])
    assert sorted(width for (label, _), width in drawn.items() if "net" in label) == pytest.approx([-0.5, 0.5])
    assert min(p.get_x() + p.get_width() for p in figure.findobj(Rectangle) if p in figure.axes[0].patches) < 0
    assert "−0.5 J" in words(figure)


def test_an_external_log_is_a_marker_and_in_no_sum():
    measurements = with_wall(measurements_of(synthetic_study("independent", SMALL, domains=BOTH)))
    split = energy_split(measurements, [], ["wall"])
    inside = split[split["in_total"] == "yes"].groupby("configuration")["gross_j_per_request"].sum()
    wall = split[split["domain"] == "wall"].set_index("configuration")["gross_j_per_request"]
    assert set(split.loc[split["in_total"] == "no", "domain"]) == {"wall"}
    np.testing.assert_allclose(wall.sort_index(), 1.5 * inside.sort_index())
    axes = figure_of_split.draw(split, "x").axes[0]
    assert not [label for label, _ in bars_of(axes) if "wall" in label]
    (line,) = [line for line in axes.lines if line.get_label() == "wall gross_j_per_request"]
    np.testing.assert_allclose(line.get_xdata(), 1.5 * inside.sort_values())
    assert "external log" in words(axes.figure)


def test_with_the_energy_from_a_log_the_bar_is_that_log():
    measurements = with_wall(measurements_of(synthetic_study("independent", SMALL, domains=BOTH)))
    for name in ("gross_j", "net_j"):
        measurements[name] = measurements[f"wall.{name}"]
        measurements[f"{name}_per_request"] = measurements[name] / measurements["completed"]
    split = energy_split(measurements.assign(meters="node:external(wall)"), [], ["wall"])
    assert set(split["domain"]) == {"wall"}
    assert set(split["in_total"]) == {"yes"}


def test_parts_of_a_total_are_read_from_its_name():
    assert parts_of("cpu:estimate (estimated) + gpu_0:nvml") == {"cpu": "estimated", "gpu_0": "measured"}
    assert parts_of("node:external(wall)") == {"wall": "measured"}
    assert parts_of("none") == {}


def test_without_a_baseline_the_gross_energy_stands_alone_and_says_so():
    records = [make_record(c, latency_s=0.1, net_j_per_request=None, domains=BOTH) for c in SMALL]
    split = energy_split(measurements_of(records), [])
    assert split["net_j_per_request"].isna().all()
    assert (split["reason"] == "no net energy in any repetition").all()
    text = words(figure_of_split.draw(split, "x"))
    assert "idle part not known" in text
    assert "net not known" in text


def test_repetitions_without_net_energy_do_not_spoil_the_sum():
    records = [make_record(SMALL[0], latency_s=0.1, net_j_per_request=1.0, throughput_rps=2.0, domains=BOTH)]
    records += [make_record(SMALL[0], latency_s=0.1, net_j_per_request=None, throughput_rps=2.0, domains=BOTH, block=2)]
    split = energy_split(measurements_of(records), [])
    assert list(split["n"]) == [1, 1]
    assert split["net_j_per_request"].sum() == pytest.approx(1.0)
    assert split["gross_j_per_request"].sum() == pytest.approx(6.0)


def test_many_configurations_become_tenths_and_means_of_variants():
    measurements = measurements_of(synthetic_study("independent", MANY, domains=BOTH))
    split = energy_split(measurements, [])
    axes = figure_of_split.draw(split, "x").axes[0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels[0] == "1st tenth (least energy)"
    assert labels[9] == "10th tenth (most energy)"
    totals = np.sort(split.groupby("configuration")["gross_j_per_request"].sum())
    drawn = bars_of(axes)
    for i, label in enumerate(labels[:10]):
        width = sum(width for (_, at), width in drawn.items() if at == i)
        assert width == pytest.approx(totals[6 * i : 6 * i + 6].mean()), label
    variants = {stage.variant for configuration in MANY for stage in configuration.stages}
    assert {label.removeprefix("mean with ") for label in labels[10:]} == variants


def test_estimated_domains_are_hatched_and_called_so_and_measured_ones_are_not():
    split = energy_split(measurements_of(synthetic_study("independent", SMALL, domains=[ESTIMATE, NVML])), [])
    figure = figure_of_split.draw(split, "x")
    hatched = {c.get_label().split()[0]: bool(c.patches[0].get_hatch()) for c in figure.axes[0].containers}
    assert hatched == {"cpu": True, "gpu_0": False}
    assert "cpu (estimated): net of idle" in words(figure)
    assert "partly estimated energy per request (J / request)" in words(figure)
    measured = energy_split(measurements_of(synthetic_study("independent", SMALL)), [])
    assert "estimated" not in words(figure_of_split.draw(measured, "x"))


def test_cells_have_panels_of_their_own():
    records = synthetic_study("independent", SMALL, domains=[ESTIMATE, NVML])
    records += synthetic_study("independent", SMALL, host="host-b", experiment="b")
    figure = figure_of_split.draw(energy_split(measurements_of(records), []), "x")
    assert len(figure.axes) == 2
    text = words(figure)
    for name in ("host-a, meters A: 6 configurations", "host-b, meters B: 6 configurations"):
        assert name in text
    assert "meters B: cpu_package_0:rapl" in text


@pytest.mark.parametrize("records", [[], synthetic_study("coupled", SMALL, state="failed")], ids=["none", "failed"])
def test_without_any_energy_the_split_says_why(records):
    split = energy_split(measurements_of(records), [])
    assert split.empty
    assert {"configuration", *CELL, "domain", "in_total", "reason"} <= set(split.columns)
    assert "no usable record has an energy" in words(figure_of_split.draw(split, "x")).replace("\n", " ")


def test_the_split_survives_its_file_and_draws_the_same_bytes(tmp_path):
    split = energy_split(measurements_of(synthetic_study("independent", SMALL, domains=[ESTIMATE, NVML])), [])
    tables.write_csv(tmp_path / "split.csv", split)
    for name, table in {"a": split, "b": tables.read_csv(tmp_path / "split.csv")}.items():
        style.save(figure_of_split.draw(table, "x"), [tmp_path / f"{name}.svg", tmp_path / f"{name}.png"])
    for kind in ("svg", "png"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def a_record(**changes):
    settings = {"latency_s": 0.1, "net_j_per_request": 1.0, "domains": BOTH} | changes
    return make_record(SMALL[0], **settings)


def a_trace(samples, domains=("cpu_package_0", "gpu_0"), seed=0):
    rng = np.random.default_rng(seed)
    return pd.concat(
        pd.DataFrame(
            {"time_s": np.sort(rng.uniform(0, 30, samples)), "domain": name, "power_w": rng.uniform(5, 50, samples)}
        )
        for name in domains
    )


def panels_of(figure):
    """The panel of each domain, by its name."""
    return {axes.get_title(loc="left").split()[0]: axes for axes in figure.axes if axes.get_title(loc="left")}


def test_the_drawn_steps_are_the_samples_and_the_lines_the_levels_of_the_record():
    record, trace = a_record(), a_trace(200)
    panels = panels_of(power_over_time.draw(record, trace))
    assert set(panels) == {"cpu_package_0", "gpu_0"}
    for domain in record["energy"]["domains"]:
        lines = {line.get_label(): line for line in panels[domain["domain"]].lines}
        samples = trace[trace["domain"] == domain["domain"]]
        np.testing.assert_array_equal(lines[domain["domain"]].get_xdata(), samples["time_s"])
        np.testing.assert_array_equal(lines[domain["domain"]].get_ydata(), samples["power_w"])
        for level in ("mean_w", *power_over_time.LEVELS):
            assert set(lines[level].get_ydata()) == {domain[level]}
    styles = {name: axes.lines[0].get_drawstyle() for name, axes in panels.items()}
    assert styles == {"cpu_package_0": "steps-pre", "gpu_0": "steps-post"}


def test_a_long_trace_keeps_every_peak():
    time_s, power_w = np.linspace(0, 30, 100_000), np.full(100_000, 10.0)
    power_w[[123, 77_777]] = 99.0
    power_w[50_000] = 1.0
    edges, low, mean, high = power_over_time.envelope(time_s, power_w, 500)
    assert len(edges) == 501
    assert sorted(high)[-3:] == [10.0, 99.0, 99.0]
    assert min(low) == 1.0
    assert np.average(mean, weights=np.diff(edges)) == pytest.approx(power_w.mean(), rel=1e-4)
    for i in range(0, 500, 50):
        inside = (time_s >= edges[i]) & (time_s < edges[i + 1])
        assert (low[i], high[i]) == (power_w[inside].min(), power_w[inside].max())


def test_a_long_trace_with_a_pause_has_a_span_over_it():
    time_s = np.concatenate([np.linspace(0, 1, 3000), np.linspace(9, 10, 3000)])
    edges, low, _, high = power_over_time.envelope(time_s, np.ones(6000), 10)
    assert list(edges) == pytest.approx([0, 1, 9, 10])
    assert list(low) == list(high) == [1.0, 1.0, 1.0]


def test_long_and_short_traces_look_alike_in_range():
    trace = pd.concat([a_trace(5000, ["cpu_package_0"]), a_trace(100, ["gpu_0"])])
    panels = panels_of(power_over_time.draw(a_record(), trace))
    stairs = {patch.get_label(): patch for patch in panels["cpu_package_0"].patches if patch.get_label()}
    mine = trace.loc[trace["domain"] == "cpu_package_0", "power_w"]
    values, _, below = stairs["cpu_package_0 range"].get_data()
    assert (below.min(), values.max()) == (mine.min(), mine.max())
    assert "cpu_package_0" in stairs


def test_window_and_phases_are_marked_where_the_record_has_them():
    record = a_record()
    figure = power_over_time.draw(record, a_trace(50))
    window = next(patch for patch in panels_of(figure)["gpu_0"].patches if isinstance(patch, Rectangle))
    assert (window.get_x(), window.get_width()) == (0, record["window"]["duration_s"])
    strip = figure.axes[-1]
    zero_s = record["window"]["start_monotonic_s"]
    begins = [collection.get_paths()[0].vertices[:, 0].min() for collection in strip.collections]
    assert begins == pytest.approx([phase["begin_s"] - zero_s for phase in record["window"]["timeline"]])
    for phase in ("idle", "warm-up", "window"):
        assert f"phase: {phase}" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_flags_mean_power_and_energies_stand_in_the_figure():
    text = words(power_over_time.draw(a_record(flags=["foreign_cpu", "unsteady"]), a_trace(50)))
    assert "Flags: foreign_cpu, unsteady." in text
    assert "All domains: mean" in text
    assert "estimated" not in text
    assert "No flags." in words(power_over_time.draw(a_record(), a_trace(50)))


def test_an_estimated_domain_says_so_in_title_axis_and_totals():
    figure = power_over_time.draw(a_record(domains=[ESTIMATE, NVML]), a_trace(50, ("cpu", "gpu_0")))
    panels = panels_of(figure)
    assert "estimated by a model" in panels["cpu"].get_title(loc="left")
    assert panels["cpu"].get_ylabel() == "estimated power (W)"
    assert panels["gpu_0"].get_ylabel() == "power (W)"
    assert "partly estimated mean" in words(figure)


@pytest.mark.parametrize(
    ("record", "trace", "said"),
    [
        (a_record(state="failed", reason="out of memory"), None, "failed, out of memory"),
        (a_record(), None, "the trace of this record is missing"),
        (a_record(), a_trace(0), "the trace of this record is empty"),
    ],
    ids=["failed", "no trace", "empty trace"],
)
def test_what_has_no_power_to_draw_says_why(record, trace, said):
    assert said in words(power_over_time.draw(record, trace)).replace("\n", " ")


def test_a_record_without_idle_baseline_has_no_idle_lines():
    figure = power_over_time.draw(a_record(net_j_per_request=None), a_trace(50))
    assert {line.get_label() for line in panels_of(figure)["gpu_0"].lines} == {"gpu_0", "mean_w"}
    assert "no net energy per request" in words(figure)


def test_a_long_name_stays_on_the_page():
    record = a_record()
    record["identity"]["configuration_id"] = "video+" + "fasterrcnn_mobilenet_v3_large_320_fpn-b4-r1-t1+" * 4
    figure = power_over_time.draw(record, a_trace(50))
    with style.print_style():
        box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    assert box.x0 >= 0
    assert box.x1 <= style.TEXT_WIDTH_IN


def test_the_power_of_a_record_is_the_same_bytes_each_time(tmp_path):
    for name in "ab":
        figure = power_over_time.draw(a_record(), a_trace(3000))
        style.save(figure, [tmp_path / f"{name}.svg", tmp_path / f"{name}.png"])
    for kind in ("svg", "png"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
