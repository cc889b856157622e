"""A sequential study stops for the reason that it gives, never measures anything twice, and says so in its verdict."""

import hashlib
import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import make_checkout
from ipa_energy.analysis import stopping, tables, verdict
from ipa_energy.analysis.caveats import of_look
from ipa_energy.analysis.coupling import pairwise_table
from ipa_energy.analysis.evidence import judge_all
from ipa_energy.analysis.look import look_at, read_look, spent_by, write_look
from ipa_energy.analysis.stopping import BECAUSE, Interval, Seen, Spent, Stopping, outcome, settled
from ipa_energy.analysis.summary import MAX_LINES, summary
from ipa_energy.layout import keys_until
from ipa_energy.plan import make_plan
from ipa_energy.record import Reading
from ipa_energy.study import ConfigError, load_study
from synthetic_records import PRICES, synthetic_study, video_grid
from tiny import PROTOCOL, tiny_config

RULE = {
    "coupled_r2": 0.9,
    "min_configurations": 8,
    "confidence": 0.95,
    "bootstrap": 200,
    "drop_flags": [],
    "spread_threshold": 0.05,
    "gain_threshold": 0.05,
    "expansion_threshold": 0.1,
    "saving_threshold": 0.05,
    "delta_threshold": 0.05,
    "tolerances": {"accuracy": 0.005, "latency": 0.02, "cost": 0.02},
    "draws": 20,
}
NOTHING = Spent(0, 0.0, 0.0, 0.0, 0, 0)
OPEN = Seen("open", "inconclusive", "reaches across", Interval(0.05, 0.02, 0.08), None)
NARROW = Seen("narrow", "inconclusive", "reaches across", Interval(0.05, 0.045, 0.055), Interval(0.01, 0.0, 0.015))
DONE = Seen("done", "coupled", "less than 5%", Interval(0.01, 0.0, 0.02), None)
UNKNOWN = Seen("unknown", "inconclusive", "2 configurations; the rule asks for 8", None, None)


def rule(**changes):
    return Stopping(**{"start": 2, "blocks": 6, "spend": 0.01, "half_width": 0.01} | changes)


def took(minutes=0.0, joules=0.0):
    return Spent(1, minutes, joules, 0.0, 0, 0)


# The rule


def test_the_looks_before_the_last_share_what_they_may_spend_and_the_last_is_the_verdicts_own():
    one = rule()
    looks = [one.confidence_of(number, 0.95) for number in range(2, 7)]
    assert looks == pytest.approx([0.9975] * 4 + [0.95])
    assert sum(1 - c for c in looks[:-1]) == pytest.approx(one.spend)
    # A verdict that is stricter than its looks is not undercut by them.
    assert rule(spend=0.5).confidence_of(2, 0.95) == 0.95


def test_bounds_far_out_get_resamples_of_their_own():
    assert stopping.rule_of_look(RULE, 0.9975)["bootstrap"] == 5000
    assert stopping.rule_of_look(RULE, 0.99)["bootstrap"] == 2000
    assert stopping.rule_of_look(RULE | {"bootstrap": 9000}, 0.99)["bootstrap"] == 9000
    assert stopping.rule_of_look(RULE, 0.95) == RULE | {"bootstrap": 400, "draws": 0}


@pytest.mark.parametrize(
    ("cell", "half_width", "kind"),
    [
        (DONE, None, "decided"),
        (NARROW, 0.01, "narrow"),
        (NARROW, 0.004, None),
        (NARROW, None, None),
        (OPEN, 0.01, None),
    ],
)
def test_a_cell_is_settled_when_it_is_decided_or_narrow(cell, half_width, kind):
    found, why = settled(cell, half_width)
    assert found == kind
    assert cell.reason in why


def test_a_wide_saving_keeps_a_cell_open_and_one_without_an_interval_is_never_narrow():
    wide = Seen("x", "inconclusive", "", NARROW.spread, Interval(0.1, 0.0, 0.2))
    assert settled(wide, 0.01)[0] is None
    assert settled(UNKNOWN, 1e9)[0] is None
    assert UNKNOWN.reason in settled(UNKNOWN, 1e9)[1]


@pytest.mark.parametrize(
    ("cells", "changes", "spent", "because"),
    [
        ([DONE, DONE], {}, NOTHING, "decided"),
        ([DONE, NARROW], {}, NOTHING, "narrow"),
        ([DONE, OPEN], {}, NOTHING, None),
        ([], {}, NOTHING, None),
        ([OPEN], {"minutes": 10}, took(minutes=7.1), "minutes"),
        ([OPEN], {"minutes": 10}, took(minutes=6.9), None),
        ([OPEN], {"joules": 10}, took(joules=7.1), "joules"),
        ([OPEN], {"minutes": 10, "joules": 10}, took(7.1, 7.1), "minutes"),
        # What is settled is settled, whatever it cost.
        ([DONE], {"minutes": 1}, took(minutes=99), "decided"),
    ],
)
def test_a_study_stops_for_the_first_of_its_reasons(cells, changes, spent, because):
    found = outcome(rule(**changes), 3, cells, spent, took(3.0, 3.0))
    assert found.because == because
    assert found.stop == (because is not None)
    assert "after 3 of at most 6 rounds" in found.reason


def test_after_the_last_round_a_study_ends():
    found = outcome(rule(), 6, [OPEN, DONE], NOTHING, NOTHING)
    assert (found.stop, found.because) == (True, "rounds")
    assert found.reason == "all 6 rounds are measured; 1 of 2 cells that count are open"


@settings(max_examples=100, deadline=None)
@given(
    number=st.integers(2, 6),
    cells=st.lists(st.sampled_from([OPEN, NARROW, DONE, UNKNOWN]), max_size=4),
    minutes=st.none() | st.floats(0.1, 10),
    joules=st.none() | st.floats(0.1, 10),
    used=st.floats(0, 12),
    last=st.floats(0, 5),
)
def test_a_study_goes_on_only_within_rounds_and_budget_and_with_something_open(
    number, cells, minutes, joules, used, last
):
    found = outcome(rule(minutes=minutes, joules=joules), number, cells, took(used, used), took(last, last))
    assert found.reason
    if found.stop:
        assert found.because in BECAUSE
        return
    assert found.because is None
    assert number < 6
    assert all(used + last <= budget for budget in (minutes, joules) if budget is not None)
    assert not cells or any(cell in (OPEN, UNKNOWN) for cell in cells)


def test_a_round_has_a_block_of_every_host_and_the_last_takes_what_is_left():
    three = rule(blocks=7, a_round=3)
    assert three.rounds == 3
    assert [three.blocks_after(number) for number in (1, 2, 3)] == [3, 6, 7]
    plan = [m.key for m in make_plan(video_grid()[:3], {"saturated": None}, 7, 0, video_grid()[0])]
    assert len(keys_until(plan, three.blocks_after(2))) == 6 * (3 + 2)


def test_impossible_rules_are_refused():
    for changes in ({"start": 7}, {"start": 0}, {"spend": 0.0}, {"spend": 1.0}):
        with pytest.raises(ValueError, match="give a start from 1 to the 6 rounds"):
            rule(**changes)


# The config


def test_the_config_gives_the_rule_and_records_from_elsewhere_have_none(tmp_path):
    config = tiny_config(blocks=8, sequential={"minutes": 5}, hosts={"a": {}, "b": {}})
    found = stopping.stopping_of(load_study(config).settings)
    assert found == Stopping(2, 8, 0.01, half_width=0.01, minutes=5, a_round=2)
    assert stopping.stopping_of(load_study(config | {"records": str(tmp_path)}).settings) is None
    assert stopping.stopping_of(load_study(tiny_config(blocks=8)).settings) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"blocks": 2, "sequential": {"start": 3}}, "sequential.start is 3 and blocks allows 2 rounds"),
        ({"blocks": 4, "sequential": {"start": 3}, "hosts": {"a": {}, "b": {}}}, "blocks allows 2 rounds"),
        ({"blocks": 4, "sequential": {"start": 1}}, "sequential.start is 1"),
        ({"blocks": 4, "sequential": {"joules": 0}}, "sequential.joules is 0; allowed: more than 0"),
        (
            {
                "blocks": 4,
                "sequential": {},
                "analysis": {"energy_from": "wall"},
                "external_logs": {"wall": {"files": ["wall.csv"]}},
            },
            "analysis.energy_from is 'wall' with sequential",
        ),
    ],
)
def test_a_config_that_can_not_be_is_refused_by_key_and_value(changes, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_study(tiny_config(**changes))


# Looks


def measurements_of(records):
    return tables.measurements_table(Reading(tuple((Path(f"{i:05}"), r) for i, r in enumerate(records)), ()), PRICES)


def look(measurements, number, **changes):
    until = measurements[measurements["block"] <= number]
    return look_at(until, rule(**changes), number, RULE, experiment="synthetic", seed=1)


@pytest.fixture(scope="module")
def coupled():
    return measurements_of(synthetic_study("coupled", blocks=4, noise=0.01, seed=3, anchor=True))


@pytest.fixture(scope="module")
def noisy():
    return measurements_of(synthetic_study("coupled", blocks=3, noise=0.3, seed=3, anchor=True))


def test_a_look_at_a_clear_study_decides_and_one_at_a_noisy_study_goes_on(coupled, noisy):
    clear = look(coupled, 2)
    assert (clear["because"], clear["stop"]) == ("decided", True)
    assert {cell["decision"] for cell in clear["cells"] if cell["counts"]} == {"coupled"}
    unclear = look(noisy, 2)
    assert (unclear["because"], unclear["stop"]) == (None, False)
    assert {cell["settled"] for cell in unclear["cells"]} == {None}
    assert look(noisy, 2, half_width=10.0)["because"] == "narrow"


def test_a_look_is_stricter_than_the_verdict(noisy):
    cells = {cell["energy"]: cell for cell in look(noisy, 2)["cells"]}
    for judged in judge_all(noisy[noisy["block"] <= 2], RULE, seed=1):
        ours, theirs = cells[judged.panel.energy]["spread"], judged.judgement.joint.spread
        assert ours["value"] == theirs.value
        assert ours["lo"] <= theirs.lo and ours["hi"] > theirs.hi


def test_what_was_spent_is_added_up_from_begin_to_end_of_every_record(coupled):
    found = spent_by(coupled[coupled["block"] == 1])
    # 36 configurations and two anchors; each is 13 s of idle and warm-up, then a window of 30 s.
    assert found.records == 38
    assert found.minutes == pytest.approx(38 * 43 / 60)
    assert found.window_j == pytest.approx(coupled.loc[coupled["block"] == 1, "gross_j"].sum())
    assert found.outside_j == pytest.approx(found.window_j * 13 / 30)
    assert found.joules == pytest.approx(found.window_j * 43 / 30)
    whole, last = look(coupled, 3)["spent"], look(coupled, 3)["last_round"]
    assert whole["minutes"] == pytest.approx(3 * last["minutes"])


def test_records_without_figures_add_nothing_and_are_counted():
    records = synthetic_study("coupled", blocks=1, seed=3)[:5]
    records[0]["window"], records[0]["energy"], records[0]["service"] = None, None, None
    records[0]["status"] = {"state": "failed", "reason": "test"}
    records[1]["earlier_tries"] = [records[2]]
    found = spent_by(measurements_of(records))
    assert (found.without_minutes, found.without_joules) == (1, 1)
    assert found.minutes == pytest.approx(5 * 43 / 60)


def test_a_look_takes_no_record_of_a_later_block(coupled):
    with pytest.raises(ValueError, match="records of block 4 in a look at 2 blocks"):
        look_at(coupled, rule(), 2, RULE, experiment="synthetic", seed=1)


def test_a_look_at_nothing_goes_on():
    nothing = measurements_of([])
    found = look_at(nothing, rule(), 2, RULE, experiment="synthetic", seed=1)
    assert not found["stop"]
    assert "no cell has energy to judge" in found["reason"]


def test_a_look_survives_its_file_and_one_that_breaks_the_schema_is_refused(tmp_path, noisy):
    first = look(noisy, 2)
    write_look(tmp_path / "round2.json", first)
    assert read_look(tmp_path / "round2.json") == first
    assert stopping.stops(tmp_path / "round2.json") is False
    second = look_at(
        noisy, rule(), 3, RULE, experiment="x", seed=1, before=read_look(tmp_path / "round2.json")["looks"]
    )
    assert [entry["round"] for entry in second["looks"]] == [2, 3]
    with pytest.raises(ValueError, match=r"refusing to write .*: because"):
        write_look(tmp_path / "bad.json", first | {"because": "tired"})
    (tmp_path / "alien.json").write_text("{}")
    with pytest.raises(ValueError, match=r"alien\.json: .*required"):
        read_look(tmp_path / "alien.json")


def test_the_number_of_workers_changes_nothing(noisy):
    until = noisy[noisy["block"] <= 2]
    assert look_at(until, rule(), 2, RULE, experiment="synthetic", seed=1, workers=2) == look(noisy, 2)


def test_the_verdict_tells_why_the_study_stopped(coupled):
    last = look(coupled, 2)
    until = coupled[coupled["block"] <= 2]
    pairs = pairwise_table(until, confidence=0.95, bootstrap=200, drop_flags=[], seed=1)
    made = verdict.make_verdict(
        until,
        pairs,
        judge_all(until, RULE, seed=1),
        pd.DataFrame(columns=["path", "reason"]),
        experiment="synthetic",
        analysis=RULE,
        seed=1,
        look=last,
    )
    assert made["sequential"] == {"round": 2, "because": "decided", "reason": last["reason"]}
    assert of_look(last)[0] in made["limitations"]
    assert "The 1 look before the last possible one added at most 0.0025" in of_look(last)[0]
    assert of_look(None) == []
    text = summary(made, "results/synthetic")
    assert f"Sequential: {last['reason']}" in text
    assert len(text.splitlines()) <= MAX_LINES


# The workflow


def digests(records):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in records}


def two_configurations():
    stages = tiny_config()["grid"]["stages"]
    stages["classify"]["batch"] = [1, 2]
    return {"stages": stages}


def looked(checkout, number, experiment="tiny"):
    return read_look(checkout.folder / f"results/{experiment}/sequential/round{number}.json")


def counted(output):
    """How many jobs of each rule a run's first table of jobs holds."""
    table = output.partition("Job stats:")[2].partition("total")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


@pytest.fixture(scope="module")
def budgeted(tmp_path_factory):
    """A checkout in which a study ran out of minutes; its dry run before, and its output."""
    done = make_checkout(tmp_path_factory.mktemp("sequential") / "checkout")
    done.configure(grid=two_configurations(), blocks=4, sequential={"minutes": 0.01})
    return done, done.run("-n"), done.run()


def test_the_dry_run_shows_the_blocks_that_are_sure(budgeted):
    found = counted(budgeted[1])
    assert (found["measure_configuration"], found["look_at_round"]) == (4, 1)
    assert "checkpoint" in budgeted[1]


def test_a_budget_that_is_spent_stops_the_study_and_the_run_says_so(budgeted):
    checkout, _, output = budgeted
    assert len(checkout.records()) == 4
    last = looked(checkout, 2)
    assert (last["because"], last["blocks"]) == ("minutes", 2)
    assert last["spent"]["records"] == 4
    assert math.isclose(last["spent"]["minutes"], 2 * last["last_round"]["minutes"], rel_tol=0.9)
    assert not (checkout.folder / "results/tiny/sequential/round3.json").exists()
    assert f"Sequential: {last['reason']}" in output
    measured = tables.read_csv(checkout.folder / "results/tiny/measurements.csv")
    assert sorted(set(measured["block"])) == [1, 2]
    assert last["spent"]["minutes"] == pytest.approx(measured["measurement_s"].sum() / 60)
    page = (checkout.folder / "results/tiny/answer.md").read_text()
    assert f"Measured in rounds until a rule stopped it: {last['reason']}" in page


def test_a_second_run_has_nothing_to_do_and_a_raised_budget_measures_what_is_missing(budgeted):
    checkout = budgeted[0]
    assert "Nothing to be done" in checkout.run("-n")
    before = digests(checkout.records())
    checkout.configure(grid=two_configurations(), blocks=3, sequential={"minutes": None})
    output = checkout.run()
    assert counted(output).get("measure_configuration", 0) == 0  # known only after the look
    assert output.count("Finished jobid") and len(checkout.records()) == 6
    after = digests(checkout.records())
    assert {path: after[path] for path in before} == before
    assert looked(checkout, 2)["stop"] is False
    last = looked(checkout, 3)
    assert (last["because"], len(last["looks"])) == ("rounds", 2)
    assert "Nothing to be done" in checkout.run("-n")
    # A run that was killed in its last look makes that look, and measures nothing.
    for made in ("sequential/round3.json", "verdict.json"):
        (checkout.folder / "results/tiny" / made).unlink()
    assert "measure_configuration" not in counted(checkout.run("results/tiny/verdict.json"))
    assert looked(checkout, 3) == last
    assert digests(checkout.records()) == after


def test_narrow_intervals_stop_a_study(checkout):
    stages = tiny_config()["grid"]["stages"]
    stages["detect"]["batch"], stages["classify"]["batch"] = [1, 2], [1, 2, 3]
    # Without an idle baseline there is no net energy, which on a busy machine is now and then below zero.
    quick = PROTOCOL | {"idle_bare_s": 0, "idle_bare_after_s": 0, "window_s": 0.6}
    checkout.configure(grid={"stages": stages}, blocks=4, protocol=quick, sequential={"half_width": 100.0})
    checkout.run("results/tiny/verdict.json")
    last = looked(checkout, 2)
    assert last["because"] == "narrow"
    assert last["cells"][0]["spread"] is not None
    assert len(checkout.records()) == 12
    judged = json.loads((checkout.folder / "results/tiny/verdict.json").read_text())
    assert judged["sequential"]["because"] == "narrow"


def test_rounds_are_of_what_is_feasible(checkout):
    profile = checkout.folder / "profile.csv"
    profile.write_text(
        "stage,variant,accuracy,cores,batch,latency_s,throughput_rps\n"
        "detect,ssdlite320_mobilenet_v3_large,21.3,1,1,0.1,10\n"
        "classify,resnet18,69.8,1,1,0.1,10\nclassify,resnet18,69.8,1,16,9.0,2\n"
    )
    stages = tiny_config()["grid"]["stages"]
    stages["classify"]["batch"] = [1, 16]
    config = tiny_config(
        grid={"stages": stages},
        measure="feasible",
        blocks=3,
        sequential={"minutes": 0.01},
        ipa={"profile": str(profile), "inputs": {"some": {"rate_rps": 2, "sla_s": 5}}, "replicas": 1},
    )
    (checkout.folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    checkout.run("results/tiny/verdict.json")
    assert [path.parent.name.rpartition("-b")[2][:1] for path in checkout.records()] == ["1", "1"]
    assert looked(checkout, 2)["because"] == "minutes"


def test_rounds_are_of_a_fraction(checkout):
    stages = tiny_config()["grid"]["stages"]
    stages["detect"]["batch"] = [1, 2]
    stages["classify"] = {"variant": ["resnet18", "resnet34"], "batch": [1, 2], "replicas": [1, 2]}
    config = checkout.configure(
        grid={"stages": stages},
        blocks=6,
        design="fraction",
        fraction={"keep": 0.75},
        sequential={},
    )
    kept = len({m.configuration.id for m in load_study(yaml.safe_load(config.read_text())).plan})
    assert kept == 12
    assert counted(checkout.run("-n"))["measure_configuration"] == 2 * kept
