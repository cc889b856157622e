"""The space holds every configuration once, with the figures that the paper's formulas give, whatever its blocks."""

import dataclasses
import itertools
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings

from benchmarks.ipa_reference import made_up_profile
from ipa_energy.configuration import Configuration, Platform, StageKnobs
from ipa_energy.ipa.objective import Objective, Weights
from ipa_energy.ipa.options import Input, Prices, make_options
from ipa_energy.ipa.profile import make_profile
from ipa_energy.ipa.profile_table import ProfileError
from ipa_energy.ipa.space import blocks, row_of, space_table, summarise, write_space
from ipa_energy.ipa.ticks import from_ticks, to_ticks
from ipa_energy.ipa.totals import COLUMNS
from ipa_instances import instances

ROOT = Path(__file__).parents[1]
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
IPA = Objective(Weights(2.0, 1.0, 1e-6))


def two_stages(**more):
    rows = [
        ("detect", "n", 0.457, 1, 1, 0.08, 13.0),
        ("detect", "n", 0.457, 1, 4, 0.3, 15.0),
        ("detect", "s", 0.568, 2, 1, 0.15, 7.0),
        ("classify", "r18", 0.6975, 1, 2, 0.12, 17.0),
    ]
    columns = ["stage", "variant", "accuracy", "cores", "batch", "latency_s", "throughput_rps"]
    return make_profile(pd.DataFrame(rows, columns=columns).assign(**more))


def knobs_of(row, stages):
    return tuple(tuple(row[f"{s}.{k}"] for k in ("variant", "threads", "batch", "replicas")) for s in stages)


@settings(RELAXED, max_examples=30)
@given(instances())
def test_every_configuration_is_there_once_with_the_figures_of_the_formulas(instance):
    table = space_table(instance.options(), instance.objective)
    truth = dict(instance.configurations())
    assert len(table) == len(truth) == instance.options().size
    names = {
        "accuracy_pas": "accuracy",
        "accuracy_rank_sum": "rank",
        "cost": "cost",
        "batch_sum": "batch",
        "latency_s": "latency",
        "throughput_rps": "throughput",
        "energy_j_per_request": "energy",
        "objective": "objective",
    }
    seen = set()
    for row in table.to_dict("records"):
        knobs = knobs_of(row, instance.stages())
        seen.add(knobs)
        for column, key in names.items():
            if truth[knobs][key] is None:
                assert pd.isna(row[column])
            else:
                assert row[column] == pytest.approx(float(truth[knobs][key]), rel=1e-9, abs=1e-9), column
        assert row["violates"] == "; ".join(truth[knobs]["violates"])
        assert row["feasible"] == (not truth[knobs]["violates"])
        assert row["latency_s"] == pytest.approx(row["service_s"] + row["queue_s"])
    assert seen == set(truth)


@settings(RELAXED, max_examples=30)
@given(instances())
def test_the_feasible_space_is_the_feasible_part_of_the_space(instance):
    options = instance.options()
    whole = space_table(options, instance.objective)
    part = space_table(options, instance.objective, only_feasible=True)
    expected = whole[whole["feasible"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, expected, check_categorical=False, check_dtype=False)


@pytest.mark.parametrize("rows", [1, 7, 100, 10**6])
def test_the_size_of_the_blocks_changes_nothing(rows):
    options = make_options(made_up_profile(3, 2, [1, 4], 0), Input(10, 1.0), 3)
    whole = space_table(options, IPA)
    made = list(blocks(options, IPA, rows=rows))
    together = pd.concat([b.to_pandas() for b in made], ignore_index=True)
    pd.testing.assert_frame_equal(together, whole, check_dtype=False, check_categorical=False)
    assert all(len(b) <= max(rows, len(options.stages[-1])) for b in made)


def test_the_queue_is_the_papers_and_not_that_of_its_code():
    # Its code adds a constant for every batch size that could have been chosen; the first request of a batch waits for
    # b - 1 more, and a batch of one for none.
    table = space_table(make_options(two_stages(), Input(10, 1.0), 1), IPA)
    waited = table[(table["detect.variant"] == "n") & (table["detect.batch"] == 4)].iloc[0]
    assert waited["queue_s"] == pytest.approx(3 / 10 + 1 / 10)
    assert table[table["detect.batch"] == 1]["queue_s"].tolist() == pytest.approx([1 / 10] * 2)


@pytest.mark.parametrize(
    ("kind", "idle_w", "expected"),
    [
        ("net", 1.5, 8 / 4 + 3 * 1.5 / 10),
        ("gross", 1.5, 8 / 4 - 1.5 / 15 + 3 * 1.5 / 10),
        ("net", None, 8 / 4),
        ("gross", None, 8 / 4),
    ],
)
def test_energy_is_that_of_batches_and_of_waiting_replicas(kind, idle_w, expected):
    profile = two_stages(energy_j=[2.0, 8.0, 4.0, 0.0], energy_kind=kind, idle_w=idle_w)
    stage = make_options(profile, Input(10, 1.0), 3).stages[0]
    option = (stage.batch == 4) & (stage.replicas == 3)
    assert from_ticks(stage.energy[option]) == pytest.approx(expected)


def test_gross_energy_at_full_load_is_what_was_measured():
    # At the rate that all replicas together sustain, none waits: gross energy of a batch over its requests is all.
    profile = two_stages(energy_j=[2.0, 8.0, 4.0, 1.0], energy_kind="gross", idle_w=1.5)
    stage = make_options(profile, Input(45, 1.0), 3).stages[0]
    option = (stage.batch == 4) & (stage.replicas == 3)
    assert from_ticks(stage.throughput[option]) == 45
    assert from_ticks(stage.energy[option]) == pytest.approx(8.0 / 4)


def test_an_idle_pipeline_has_no_queue_needs_one_replica_and_no_energy_per_request():
    profile = two_stages(energy_j=1.0, energy_kind="net", idle_w=1.0)
    idle = Input(0, 1.0)
    table = space_table(make_options(profile, idle, 2), IPA)
    assert table["feasible"].all() and (table["queue_s"] == 0).all()
    assert table["energy_j_per_request"].isna().all() and table["objective"].notna().all()


def test_cost_is_cores_or_what_the_prices_say():
    profile = two_stages(gpu_share=[0.5, 0.5, 0.0, 0.0])
    with pytest.raises(ProfileError, match="stage detect uses shares of a GPU: give a GPU a price"):
        make_options(profile, Input(1, 1.0), 2)
    stage = make_options(profile, Input(1, 1.0), 2, prices=Prices(core=0.04, gpu=2.5)).stages[0]
    assert from_ticks(stage.cost).tolist() == pytest.approx([1.29, 2.58, 1.29, 2.58, 0.08, 0.16])
    assert from_ticks(make_options(two_stages(), Input(1, 1.0), 2).stages[0].cost).tolist() == [1, 2, 1, 2, 2, 4]


def test_the_kind_of_latency_is_a_choice():
    profile = made_up_profile(1, 2, [1, 2], 0)
    p99, mean = (make_options(profile, Input(1, 9.0), 1, latency=kind).stages[0].service for kind in ("p99", "mean"))
    np.testing.assert_allclose(p99, 1.2 * mean, rtol=1e-6)


def test_replicas_and_batches_can_be_limited_by_stage():
    profile = two_stages()
    options = make_options(profile, Input(1, 9.0), {"detect": [2, 4], "classify": 1}, batches={"detect": [1]})
    assert [sorted(set(s.replicas.tolist())) for s in options.stages] == [[2, 4], [1]]
    assert [sorted(set(s.batch.tolist())) for s in options.stages] == [[1], [2]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda p: make_options(p, Input(1, 1), 2, batches={"detect": [1, 4]}),
            "detect/s on 2 cores has no batch 4, only",
        ),
        (lambda p: make_options(p, Input(1, 1), 0), "replicas of stage detect are 0: give a largest number"),
        (lambda p: make_options(p, Input(1, 1), {"detect": 2}), "given for detect but not for stage classify"),
        (lambda p: make_options(p, Input(1, 1), 2, latency="p50"), None),
        (lambda p: Input(-1, 1), "rate_rps of input '' is -1: give requests per second, 0 or more"),
        (lambda p: Input(float("nan"), 1), "rate_rps of input '' is nan"),
        (lambda p: Input(1, 0, "night"), "sla_s of input 'night' is 0: give seconds, above 0"),
        (lambda p: Prices(core=-1), "price of a core is -1"),
        (lambda p: to_ticks([1.0, 2e6], "latency in s"), "latency in s is 2e.06: figures above 1e.06"),
    ],
)
def test_inputs_that_make_no_sense_are_refused(call, words):
    if words is None:
        call(two_stages())  # a profile with the one column latency_s gives that for any kind
        return
    with pytest.raises(ValueError, match=words):
        call(two_stages())


def test_a_batch_so_slow_to_fill_that_no_sla_allows_it_violates_latency():
    slow = Input(1e-7, 100.0)
    table = space_table(make_options(two_stages(), slow, 1), IPA)
    assert table["violates"].unique().tolist() == ["latency"]


# Measured configurations, files, summaries.


def configuration(detect, classify, device="cpu"):
    stages = (StageKnobs("detect", *detect), StageKnobs("classify", *classify))
    return Configuration("video", stages, Platform(device))


def test_measured_configurations_are_marked_with_their_ids():
    options = make_options(two_stages(), Input(10, 1.0), 3)
    inside = [configuration(("n", 4, 3, 1), ("r18", 2, 1, 1)), configuration(("s", 1, 2, 2), ("r18", 2, 3, 1))]
    outside = [configuration(("n", 4, 3, 2), ("r18", 2, 1, 1)), configuration(("x", 4, 3, 1), ("r18", 2, 1, 1))]
    table = space_table(options, IPA, measured=[*inside, *outside])
    marked = table[table["measured"]]
    assert set(marked["configuration_id"]) == {c.id for c in inside}
    for c in inside:
        row = table.iloc[row_of(options, c)]
        assert row["configuration_id"] == c.id
        assert all(row[f"{s.stage}.{k}"] == getattr(s, k) for s in c.stages for k in ("variant", "batch", "replicas"))
    assert table.loc[~table["measured"], "configuration_id"].isna().all()
    assert [row_of(options, c) for c in outside] == [None, None]
    assert row_of(dataclasses.replace(options, stages=options.stages[:1]), inside[0]) is None


def test_two_platforms_of_one_configuration_are_not_mixed():
    options = make_options(two_stages(), Input(10, 1.0), 3)
    both = [configuration(("n", 4, 3, 1), ("r18", 2, 1, 1), device) for device in ("cpu", "cuda")]
    with pytest.raises(ValueError, match=r"r18-b2-r1-t1 and .*\+cuda are one configuration of the space"):
        space_table(options, IPA, measured=both)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("only_feasible", [False, True])
def test_a_file_holds_the_table_and_its_summary_counts_it(tmp_path, suffix, only_feasible):
    given_input = Input(10, 0.5, "day")
    options = make_options(two_stages(energy_j=1.0, energy_kind="net"), given_input, 3)
    measured = [configuration(("n", 1, 2, 1), ("r18", 2, 1, 1)), configuration(("n", 4, 1, 1), ("r18", 2, 1, 1))]
    path = tmp_path / f"space.{suffix}"
    summary = write_space(path, options, IPA, only_feasible=only_feasible, measured=measured)
    table = space_table(options, IPA, only_feasible=only_feasible, measured=measured)
    read = pd.read_parquet(path) if suffix == "parquet" else pd.read_csv(path, keep_default_na=False, na_values=[""])
    assert read.columns.tolist() == table.columns.tolist()
    for column in table.columns:
        got, wanted = read[column].tolist(), table[column].tolist()
        if table[column].dtype == float:
            np.testing.assert_allclose(got, wanted, rtol=1e-12)
        else:
            assert [None if pd.isna(v) or v == "" else v for v in got] == [
                None if pd.isna(v) or v == "" else v for v in wanted
            ], column
    assert (summary.rows, summary.feasible) == (len(table), int(table["feasible"].sum()))
    assert summary.feasible > 0 and (only_feasible or summary.feasible < summary.rows)
    assert (summary.measured, summary.measured_feasible) == (
        int(table["measured"].sum()),
        int((table["measured"] & table["feasible"]).sum()),
    )
    counted = table.loc[~table["feasible"], "violates"].value_counts()
    assert summary.violations == {k: v for k, v in counted.items() if v}
    feasible = table[table["feasible"]]
    for column in COLUMNS:
        assert (summary.ranges[column].least, summary.ranges[column].most) == (
            feasible[column].min(),
            feasible[column].max(),
        )
    row = summary.as_row()
    assert (row["input"], row["cost.min"], row["empty_because"]) == ("day", feasible["cost"].min(), None)


def test_an_empty_space_is_written_with_its_columns_and_the_reason(tmp_path):
    given_input = Input(1000, 0.5)
    options = make_options(two_stages(), given_input, 3)
    summary = write_space(tmp_path / "space.parquet", options, IPA, only_feasible=True)
    read = pd.read_parquet(tmp_path / "space.parquet")
    assert len(read) == summary.rows == 0 and "objective" in read.columns and "detect.variant" in read.columns
    assert "stage detect reaches at most 45 requests/s" in summary.empty_because
    assert summary.ranges["cost"].least is None
    assert (
        summarise(options, IPA).violations.keys()
        == {
            "throughput of detect; throughput of classify",
            "latency; throughput of detect; throughput of classify",
        }
        & summarise(options, IPA).violations.keys()
    )


def test_a_killed_writer_leaves_no_half_file(tmp_path, monkeypatch):
    def fail(*args, **more):
        yield from itertools.islice(blocks(*args, **more), 1)
        raise KeyboardInterrupt

    monkeypatch.setattr("ipa_energy.ipa.space.blocks", fail)
    options = make_options(two_stages(), Input(10, 1.0), 3)
    with pytest.raises(KeyboardInterrupt):
        write_space(tmp_path / "space.parquet", options, IPA)
    assert list(tmp_path.iterdir()) == []


def test_many_stages_are_enumerated_too():
    stage = two_stages().table.query("stage == 'classify'")
    rows = pd.concat([stage.assign(stage=f"s{i}") for i in range(20)])
    options = make_options(make_profile(rows), Input(10, 0.5), {f"s{i}": 2 if i in (0, 19) else 1 for i in range(20)})
    table = space_table(options, IPA)
    assert len(table) == 4
    assert table["accuracy_pas"].tolist() == pytest.approx([0.6975**20] * 4)
    assert table["violates"].tolist() == ["latency"] * 4


def test_the_library_needs_neither_torch_nor_snakemake():
    code = textwrap.dedent("""
        import sys
        from ipa_energy.ipa import allocation, baselines, fit, front, solver, space
        print(sorted(m for m in ("torch", "snakemake", "highspy", "sklearn") if m in sys.modules))
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_docs_name_every_column():
    from ipa_energy.ipa import profile_table

    page = (ROOT / "docs/ipa.md").read_text()
    missing = [name for name in (*profile_table.COLUMNS, *COLUMNS) if f"`{name}`" not in page]
    assert not missing
