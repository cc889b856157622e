"""Hosts merged as blocks: the truth comes out, plain averages would miss it, and more repetitions decide more."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import yaml

from ipa_energy.analysis import tables
from ipa_energy.analysis.aggregate import configurations_table
from ipa_energy.analysis.cells import in_cells
from ipa_energy.analysis.coupling import pairwise_table
from ipa_energy.analysis.evidence import judge_all
from ipa_energy.analysis.host_notes import split_blocks
from ipa_energy.analysis.joint import joint
from ipa_energy.analysis.judge import judge
from ipa_energy.analysis.merging import members_of, mergings, speaking
from ipa_energy.analysis.outcomes import COUPLED, DECOUPLED, INCONCLUSIVE
from ipa_energy.analysis.panel import ENERGY, merged_panels, panels
from ipa_energy.analysis.tables import measurements_table
from ipa_energy.analysis.verdict import make_verdict
from ipa_energy.record import Reading
from ipa_energy.study import load_study

from synthetic_records import PRICES, synthetic_study, true_energy_j, video_grid, write_study  # isort: skip
from test_analysis_scripts import SMALL, analyse, main_of  # isort: skip

CONFIG = yaml.safe_load((Path(__file__).parents[1] / "config/config.yaml").read_text())
RULE = load_study(CONFIG).settings["analysis"] | {"bootstrap": 200, "draws": 200}
GAINS = {"node01": 1.0, "node02": 1.08}
MERGED = "node01+node02"
JOINT_RULE = ("spread_threshold", "confidence", "min_configurations", "bootstrap")


def table_of(records):
    reading = Reading(tuple((Path(f"{i:05}.json"), record) for i, record in enumerate(records)), ())
    return measurements_table(reading, PRICES)


def with_gain(records, gain):
    """The same records of a host that takes ``gain`` times the energy for everything."""
    for record in records:
        if (energy := record["energy"]) is not None:
            for part in (energy, *energy["domains"]):
                part |= {n: part[n] * gain for n in part if n.startswith(("gross_j", "net_j")) and part[n] is not None}
    return records


def on_hosts(truth, gains=None, *, blocks=3, seed=1, **settings):
    """Records of hosts that measured so many blocks each; blocks were given to them in turn, as by the plan."""
    gains = gains or GAINS
    records = []
    for turn, (host, gain) in enumerate(gains.items()):
        study = synthetic_study(truth, blocks=blocks * len(gains), seed=seed, host=host, **settings)
        records += with_gain([r for r in study if (r["identity"]["block"] - 1) % len(gains) == turn], gain)
    return records


def is_first_round(record):
    """Whether it is of the first block of one of two hosts."""
    return record["identity"]["block"] <= len(GAINS)


def verdict_of(measurements, **changes):
    rule = RULE | changes
    pairwise = pairwise_table(
        measurements,
        confidence=rule["confidence"],
        bootstrap=rule["bootstrap"],
        drop_flags=rule["drop_flags"],
        seed=0,
    )
    judged = judge_all(measurements, rule, seed=0)
    refused = measurements.iloc[:0][["path", "reason"]]
    return make_verdict(measurements, pairwise, judged, refused, experiment="e", analysis=rule, seed=0)


def merged_panel(measurements, energy="net"):
    (found,) = (panel for panel in merged_panels(measurements, []) if panel.energy == energy)
    return found


def truth_of(panel, truth, seed=1):
    """True log net energies of the panel's configurations, about their mean."""
    by_id = {c.id: c for c in video_grid()}
    logs = np.log([true_energy_j(by_id[name], truth, seed) for name in panel.configurations])
    return logs - logs.mean()


def centred(panel):
    means = panel.mean_of(ENERGY)
    return means - means.mean()


# --- what is merged ---


def test_hosts_that_measured_alike_are_one_more_cell_with_the_repetitions_of_all():
    measurements = table_of(on_hosts("independent"))
    alone = [panel for panel in panels(measurements, []) if panel.energy == "net"]
    merged = merged_panel(measurements)
    assert [panel.key["host"] for panel in alone] == list(GAINS)
    assert merged.key == alone[0].key | {"host": MERGED}
    assert members_of(MERGED) == tuple(GAINS)
    assert [set(panel.repetitions) for panel in (*alone, merged)] == [{3}, {3}, {6}]
    # Twice the measurements less one constant for each configuration and five levels of blocks and a trend.
    assert [panel.degrees for panel in (*alone, merged)] == [69, 69, 174]


def test_the_gain_of_a_host_is_taken_out_and_told():
    measurements = table_of(on_hosts("independent", {"a": 1.0, "b": 1.1, "c": 0.95}, noise=0.0))
    (merging,) = mergings(in_cells(measurements, []))
    assert merging.energies == ("gross", "net")
    assert "a, b and c are merged as 9 blocks; b takes 1.158 times the gross energy of c" in merging.notes[0]
    per_host = merging.rows.assign(host=merging.rows["experiment"]).groupby(["configuration", "host"])
    spread = np.log(per_host["net_j_per_request"].mean().unstack()).std(axis=1)
    assert spread.max() == pytest.approx(0, abs=1e-9)
    logs = np.log(merging.rows["net_j_per_request"]).groupby(merging.rows["configuration"]).mean()
    level = np.log(measurements["net_j_per_request"]).groupby(measurements["configuration"]).mean()
    assert (logs - level).abs().max() == pytest.approx(0, abs=1e-9)


def test_joules_of_hosts_never_stand_in_one_row_of_the_configurations():
    measurements = table_of(on_hosts("independent"))
    table = configurations_table(measurements, 0.95, [])
    assert set(table["host"]) == set(GAINS)
    assert set(table["n"]) == {3}


def test_one_host_is_never_merged():
    measurements = table_of(on_hosts("independent", {"node01": 1.0}))
    assert mergings(in_cells(measurements, [])) == []
    assert list(merged_panels(measurements, [])) == []


# --- the truth comes out ---


def test_a_host_with_part_of_a_block_does_not_bias():
    """The second host measured the dearer half only, twice as dear: averages over hosts would tilt the grid."""
    cells = video_grid()
    dear = sorted(cells, key=lambda c: true_energy_j(c, "independent", 1))[len(cells) // 2 :]
    half = {c.id for c in dear}
    records = on_hosts("independent", {"node01": 1.0, "node02": 2.0}, noise=0.01)
    broken = [
        r
        for r in records
        if r["provenance"]["host"] == "node01" or is_first_round(r) or r["identity"]["configuration_id"] in half
    ]
    measurements = table_of(broken)
    merged = merged_panel(measurements)
    assert np.abs(centred(merged) - truth_of(merged, "independent")).max() < 0.02
    (merging,) = mergings(in_cells(measurements, []))
    assert "2 of node02's blocks are left out" in merging.notes[0]
    assert "merged as 4 blocks" in merging.notes[1]
    plain = np.log(measurements["net_j_per_request"]).groupby(measurements["configuration"]).mean()
    assert np.abs(plain - plain.mean() - truth_of(merged, "independent")).max() > 0.08


def test_a_block_with_few_holes_counts_and_does_not_bias():
    records = on_hosts("independent", {"node01": 1.0, "node02": 2.0}, noise=0.01)
    lost = {c.id for c in video_grid()[:3]}
    holed = [r for r in records if r["provenance"]["host"] == "node01" or r["identity"]["configuration_id"] not in lost]
    merged = merged_panel(table_of(holed))
    assert sorted(set(merged.repetitions)) == [3, 6]
    assert np.abs(centred(merged) - truth_of(merged, "independent")).max() < 0.02


@pytest.fixture(scope="module")
def coupled():
    """Two hosts, of which one takes half more energy and measured the slower half of the grid more often."""
    return table_of(on_hosts("coupled", {"node01": 1.0, "node02": 1.08}, blocks=3, noise=0.02))


def test_what_is_coupled_stays_coupled_merged(coupled):
    verdict = verdict_of(coupled)
    assert verdict["decision"] == COUPLED
    first, *rest = verdict["cells"]
    assert first["host"] == MERGED
    assert {cell["host"] for cell in rest} == {MERGED, *GAINS}
    assert verdict["hosts"] == list(GAINS)
    assert verdict["counts"]["usable"] == len(coupled)  # each record once
    assert any("merged as 6 blocks" in note for note in verdict["limitations"])


def test_plain_averages_would_find_an_energy_that_is_not_there():
    """Beside a whole block each, two hosts share seven blocks out by configuration: a gain becomes a spread."""
    mine = dict.fromkeys(GAINS, ())
    for at, one in enumerate(random.Random(1).sample(video_grid(), len(video_grid()))):
        host = list(GAINS)[at % 2]
        mine[host] = (*mine[host], one.id)
    records = [
        record
        for record in on_hosts("coupled", {"node01": 0.9, "node02": 1.1}, blocks=8, noise=0.02)
        if is_first_round(record) or record["identity"]["configuration_id"] in mine[record["provenance"]["host"]]
    ]
    measurements = table_of(records)
    as_one = measurements.assign(host="both", block=1)
    (plain,) = (panel for panel in panels(as_one, []) if panel.energy == "net")
    merged = merged_panel(measurements)
    assert np.abs(centred(plain) - truth_of(plain, "coupled")).max() > 0.05
    assert np.abs(centred(merged) - truth_of(merged, "coupled")).max() < 0.05
    wrong, right = (judge(panel, RULE, seed=0, draws=0).joint.summary for panel in (plain, merged))
    assert wrong["spread_lo"] > RULE["spread_threshold"] > right["spread_hi"]
    assert right["decision"] == COUPLED


def test_merged_hosts_have_the_power_of_one_host_with_as_many_blocks():
    """Upper bounds of the spread, nothing in truth: of each host with two blocks, of both, of one with four."""
    bounds = {MERGED: [], "alone": [], "one": []}
    for seed in range(5):
        measurements = table_of(on_hosts("coupled", blocks=2, noise=0.05, seed=seed))
        one = table_of(on_hosts("coupled", {"one": 1.0}, blocks=4, noise=0.05, seed=seed))
        for panel in (*panels(measurements, []), *merged_panels(measurements, []), *panels(one, [])):
            if panel.energy == "net":
                name = panel.key["host"]
                found = joint(panel, seed=0, **{key: RULE[key] for key in JOINT_RULE})
                bounds[name if name in bounds else "alone"].append(found.summary["spread_hi"])
    means = {name: np.mean(values) for name, values in bounds.items()}
    assert means[MERGED] < 0.85 * means["alone"]
    assert means[MERGED] == pytest.approx(means["one"], rel=0.35)
    assert max(bounds[MERGED]) < RULE["spread_threshold"]
    assert max(bounds["alone"]) > RULE["spread_threshold"]


def test_hosts_of_a_block_each_can_only_be_judged_together():
    verdict = verdict_of(table_of(on_hosts("independent", blocks=1, noise=0.02)), draws=0)
    joint = {c["host"]: c["levels"]["joint"] for c in verdict["cells"] if c["energy"] == "net"}
    assert joint["node01"]["reason"] == joint["node02"]["reason"]
    assert "one repetition each" in joint["node01"]["reason"]
    assert joint[MERGED]["decision"] == DECOUPLED


# --- what is not merged, and why ---


def notes_of(records, drop_flags=()):
    (merging,) = mergings(in_cells(table_of(records), drop_flags))
    return merging, " ".join(merging.notes)


def test_hosts_measured_in_another_way_are_not_merged():
    records = on_hosts("independent", {"node01": 1.0, "node02": 1.0, "node03": 1.0})
    for record in records:
        if record["provenance"]["host"] == "node03":
            record["provenance"]["protocol_digest"] = "1" * 64
    merging, notes = notes_of(records)
    assert merging.cell[2] == MERGED
    assert "node03 was measured with other settings or measuring code and is not merged" in notes
    merging, notes = notes_of([r for r in records if r["provenance"]["host"] != "node01"])
    assert merging.energies == ()
    assert "no two have a whole block" in notes


@pytest.mark.parametrize("noise", [0.02, 0.0])
def test_hosts_on_which_configurations_cost_in_their_own_way_are_not_merged(noise):
    """One host needs 30 % more for half of the grid: a property of host and configuration, and no gain."""
    records = on_hosts("independent", noise=noise)
    odd = {c.id for c in video_grid()[::2]}
    for record in records:
        if record["provenance"]["host"] == "node02" and record["identity"]["configuration_id"] in odd:
            with_gain([record], 1.3)
    merging, notes = notes_of(records)
    assert merging.energies == ()
    assert "not merged for net energy" in notes
    assert "differs between them by" in notes
    assert list(merged_panels(table_of(records), [])) == []
    # 30 % on every other one is a standard deviation of 13 % about the common factor, for both hosts.
    size = float(notes.split("net energy of the same configuration differs between them by ")[1].split("%")[0])
    assert size == pytest.approx(100 * np.log(1.3) / 2 / np.sqrt(2), rel=0.1)


def test_noise_alone_is_no_reason_against_merging():
    kept = [bool(notes_of(on_hosts("independent", noise=0.15, seed=seed, blocks=2))[0].energies) for seed in range(20)]
    assert sum(kept) >= 18


def test_other_meters_or_weights_are_never_merged():
    one = synthetic_study("independent", host="node01")
    other = synthetic_study("independent", host="node02", weights="pretrained")
    assert mergings(in_cells(table_of(one + other), [])) == []
    estimated = synthetic_study("independent", host="node02", evidence="estimated")
    assert mergings(in_cells(table_of(one + estimated), [])) == []


# --- who speaks ---


def cell(host, decision, energy="net"):
    return dict(zip(("pipeline", "workload", "host", "weights", "meters"), ("p", "w", host, "r", "m"), strict=True)) | {
        "energy": energy,
        "decision": decision,
    }


@pytest.mark.parametrize(("together", "alone"), list(itertools.product([COUPLED, DECOUPLED, INCONCLUSIVE], repeat=2)))
def test_merged_hosts_speak_for_their_members_unless_one_says_the_opposite(together, alone):
    cells = [
        cell("a+b", together),
        cell("a", alone),
        cell("b", INCONCLUSIVE),
        cell("c", alone),
        cell("a", alone, "gross"),
    ]
    speak = [(one["host"], one["energy"]) for one in speaking(cells)]
    opposite = {together, alone} == {COUPLED, DECOUPLED}
    assert speak == [("a+b", "net"), *([("a", "net")] if opposite else []), ("c", "net"), ("a", "gross")]


# --- blocks that did not stay together ---


def test_a_block_on_two_hosts_is_told_and_two_studies_of_one_name_are_not():
    both = [synthetic_study("independent", blocks=2, host=host) for host in GAINS]
    assert split_blocks(table_of(itertools.chain(*both))) == []
    assert split_blocks(table_of(on_hosts("independent", blocks=2))) == []
    parts = [
        study[at::2] for at, study in enumerate([r for r in study if r["identity"]["block"] == 1] for study in both)
    ]
    whole = [r for r in both[0] if r["identity"]["block"] == 2]
    (note,) = split_blocks(table_of([*itertools.chain(*parts), *whole]))
    assert "block 1 of synthetic on node01 and node02" in note
    assert "block 2" not in note


# --- tables, figures and pages ---


def test_merged_hosts_stand_in_what_the_verdict_rests_on_and_nowhere_else(tmp_path):
    records = on_hosts("independent", {"node01": 1.0, "node02": 1.08}, blocks=2, configurations=SMALL, noise=0.02)
    out = analyse(tmp_path, write_study(tmp_path / "records", records))
    for name in ("joint", "membership", "matched", "tradeoff", "pairwise"):
        assert set(tables.read_csv(out[name])["host"]) == {MERGED, *GAINS}, name
    for name in ("configurations", "measurements", "effects"):
        assert set(tables.read_csv(out[name])["host"]) == set(GAINS), name
    figures = {
        f"{name}_{kind}": str(tmp_path / f"{name}.{kind}") for name in ("fronts", "matched") for kind in ("svg", "png")
    }
    read = {name: out[name] for name in ("membership", "matched", "residual_knobs", "configurations", "joint")}
    main_of("draw_trade_off")(read, figures, workload="saturated", threshold=0.05)
    assert all(Path(path).stat().st_size > 10_000 for path in figures.values())
    assert MERGED in Path(figures["matched_svg"]).read_text()
    compared = {name: str(tmp_path / f"{name}.out") for name in ("knobs", "generality")}
    compared |= {
        f"{n}_{kind}": str(tmp_path / f"{n}.{kind}") for n in ("shares", "agreement") for kind in ("svg", "png")
    }
    main_of("compare_choices")(out, compared, experiment="x", analysis=RULE, external_logs={}, seed=0)
    hosts = tables.read_csv(compared["generality"])
    hosts = hosts[(hosts["choice"] == "hosts") & (hosts["energy"] == "net")]
    assert hosts[["one", "other"]].values.tolist() == [list(GAINS)]
    assert hosts["bias"].item() == pytest.approx(1 / 1.08, rel=0.03)
    page = tmp_path / "explorer.html"
    main_of("make_explorer")(out, str(page), experiment="x", given={}, confidence=0.95)
    assert f'"{MERGED}"' not in page.read_text()
    summary = Path(tmp_path / "summary.txt").read_text()
    assert f"saturated, {MERGED}, gross" in summary
