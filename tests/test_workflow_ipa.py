"""IPA in the real workflow: profile, what is feasible, space, composition, adaptation, live; on a tiny grid."""

import csv
import json
import os
import re

import pandas as pd
import pytest
import yaml

from conftest import make_checkout
from tiny import tiny_config

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a detector and a classifier want a core each")

MEASURING = ("profile_variant", "measure_configuration", "adapt_live")


def jobs(output):
    """How many jobs of each rule a run's first table of jobs holds."""
    table = output.partition("Job stats:")[2].partition("total")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


def config():
    made = tiny_config(
        measure="feasible",
        workloads={"saturated": {"kind": "saturated"}, "slow": {"kind": "rate", "rate_rps": 3, "sample": 2}},
        ipa={
            # Only one replica a stage: at no rate a batch of 16 is filled within the SLA.
            "inputs": {
                "some": {"rate_rps": 2, "sla_s": 5},
                "none": {"rate_rps": 2, "sla_s": 0.001},
                "idle": {"rate_rps": 0, "sla_s": 0.12},
            },
            "batches": {"detect": [1, 2, 3, 4], "classify": [1, 2, 16]},
            "replicas": 2,
            "adaptation": {
                "loads": {"small": {"pattern": "bursty", "scale": 0.1, "seconds": 180}},
                "predictors": ["lstm", "reactive"],
                "history_days": 0.5,
                "interval_s": 5,
                "seeds": 2,
                "live": {"load": "small", "seconds": 10, "first": 20, "methods": ["ipa", "ipa_energy"]},
            },
        },
    )
    made["grid"]["stages"]["classify"] |= {"variant": ["resnet18", "resnet34"], "batch": [1, 16]}
    return made


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A checkout in which the experiment ran once; its dry run before, and its output."""
    done = make_checkout(tmp_path_factory.mktemp("workflow") / "checkout")
    (done.folder / "tiny.yaml").write_text(yaml.safe_dump(config()))
    return done, done.run("-n"), done.run()


def results_of(adapted):
    return adapted[0].folder / "results/tiny"


def test_the_dry_run_names_every_profile_and_live_run(adapted):
    _, dry, _ = adapted
    assert jobs(dry)["profile_variant"] == 3
    assert jobs(dry)["adapt_live"] == 2
    for words in (
        "Profile resnet34 in stage classify",
        "Adapt live by ipa_energy, run1",
        "that are feasible for an input",
    ):
        assert words in dry


def test_a_run_leaves_everything_it_promises(adapted):
    results = results_of(adapted)
    for name in (
        *("profile.csv", "profile/measured.csv", "profile/fits.csv", "profile/allocation.csv", "figures/profile.png"),
        *("space/chosen.csv", "space/summary.csv", "space/some.parquet", "space/some.json", "space/some.front.csv"),
        *(
            "space/none.optima.csv",
            "figures/space.idle.svg",
            "composition/configurations.csv",
            "composition/errors.csv",
        ),
        *("composition/answer.txt", "figures/composition.svg", "adaptation/check.csv", "adaptation/check_errors.csv"),
        *("adaptation/loads/small.txt", "adaptation/predictor.pt", "adaptation/predictor.json", "adaptation/small.csv"),
        *(
            "adaptation/predictors.csv",
            "adaptation/summary.csv",
            "adaptation/answer.txt",
            "figures/adaptation.small.png",
        ),
        *("adaptation/live/ipa.run1.json", "adaptation/live.csv", "adaptation/live.txt", "figures/live.svg"),
    ):
        assert (results / name).stat().st_size > 0, name
    assert (results / "profile/remarks.txt").exists()
    assert len(list((results / "history/profile").glob("*.json"))) == 3
    assert len(list((results / "history/live").glob("*.parquet"))) == 2


def test_only_what_is_feasible_for_an_input_was_measured(adapted):
    results = results_of(adapted)
    with (results / "space/chosen.csv").open() as file:
        chosen = {row["configuration"]: row["inputs"] for row in csv.DictReader(file)}
    assert len(chosen) == 4
    feasible = {one for one, inputs in chosen.items() if inputs}
    assert {one.rpartition("+")[2].split("-b")[1].split("-")[0] for one in feasible} == {"1"}
    assert all("some" in chosen[one] for one in feasible)
    measured = {path.parent.name for path in (results / "records/saturated").rglob("*.json")}
    assert measured == feasible
    assert {path.parent.name for path in (results / "records/slow").rglob("*.json")} <= feasible


def test_spaces_answer_also_where_nothing_is_feasible(adapted):
    results = results_of(adapted)
    table = pd.read_csv(results / "space/summary.csv").set_index("input")
    assert table.loc["none", "feasible"] == 0
    assert "the SLA is 0.001 s" in table.loc["none", "empty_because"]
    assert table.loc["some", "feasible"] > 0
    assert table.loc["some", "measured"] == 2
    assert table.loc["idle", "configurations"] == table.loc["some", "configurations"] == (4 * 2) * (2 * 3 * 2)
    optima = pd.read_csv(results / "space/none.optima.csv")
    assert not optima["chosen"].any()
    assert "cache" not in json.loads((results / "space/some.json").read_text())


def test_live_runs_lost_nothing_and_stand_beside_their_simulation(adapted):
    table = pd.read_csv(results_of(adapted) / "adaptation/live.csv")
    assert list(table["how"]) == ["real", "composed", "simulated"] * 2
    with (results_of(adapted) / "adaptation/loads/small.txt").open() as file:
        wanted = sum(map(int, file.read().split()[20:30]))
    assert list(table["completed"]) == [wanted] * 6
    assert list(table["lost"].dropna()) == [0] * 4
    assert set(table["evidence"]) == {"estimated"}


def test_the_run_ends_with_what_ipa_found(adapted):
    checkout, _, output = adapted
    summary = (checkout.folder / "results/tiny/summary.txt").read_text()
    assert summary.strip() in output
    for words in (
        "Space none",
        "Can IPA choose by energy",
        "Load small, predictor lstm",
        "Live, IPA with energy",
        "0 lost",
    ):
        assert words in summary
    for line in summary.splitlines():
        assert "J/request" not in line or "estimated" in line
    assert re.search(r"^\[profile\] classify resnet18: batch 16, 1 threads: .* J/request \(estimated\)", output, re.M)
    assert re.search(r"^\[live\] ipa, run1: \d+ of \d+ requests, .*\(estimated\)", output, re.M)


def test_a_second_run_has_nothing_to_do(adapted):
    assert "Nothing to be done" in adapted[0].run()


@pytest.mark.parametrize(
    ("file", "old", "new", "again", "not_again"),
    [
        ("figures/adaptation.py", "\n\n\n", "\n\n_EDITED = True\n\n\n", {"simulate_adaptation"}, set(MEASURING)),
        ("ipa/space.py", "\n\n\n", "\n\n_EDITED = True\n\n\n", {"enumerate_space"}, set(MEASURING)),
        ("profiling.py", "\n\n\n", "\n\n_EDITED = True\n\n\n", {"profile_variant"}, {"measure_configuration"}),
        ("live.py", "steady = _warm(", "steady = not not _warm(", {"adapt_live"}, set(MEASURING[:2])),
        ("ipa/fit.py", "\n\n\n", "\n\n_EDITED = True\n\n\n", {"describe_profile"}, set(MEASURING)),
        ("ipa/outcome.py", "\n\n\n", "\n\n_EDITED = True\n\n\n", {"summarise_live"}, set(MEASURING)),
        ("ipa/solver.py", '"""The exact', '"""An edited text. The exact', set(), {*MEASURING, "enumerate_space"}),
    ],
    ids=["figure", "space", "profiler", "live run", "fit", "figures of runs", "docstring of the solver"],
)
def test_editing_runs_again_exactly_what_it_affects(adapted, file, old, new, again, not_again):
    checkout = adapted[0]
    path = checkout.folder / "workflow_scripts/ipa_energy" / file
    source = path.read_text()
    assert old in source
    try:
        path.write_text(source.replace(old, new, 1))
        ran = set(jobs(checkout.run("-n")))
        assert again <= ran
        assert not (not_again & ran)
    finally:
        path.write_text(source)


@pytest.mark.parametrize(
    ("path", "value", "not_again"),
    [
        (("ipa", "inputs", "more"), {"rate_rps": 1, "sla_s": 5}, set(MEASURING)),
        (("ipa", "adaptation", "seeds"), 1, set(MEASURING)),
        (
            ("ipa", "adaptation", "loads", "more"),
            {"pattern": "steady_low", "seconds": 150, "scale": 0.05},
            set(MEASURING),
        ),
        (("prices",), {"core_hour_usd": 1.0}, set(MEASURING)),
        (("ipa", "weights"), {"delta": 3}, {"profile_variant", "measure_configuration"}),
    ],
    ids=["another input", "fewer simulations", "another load", "prices", "weights"],
)
def test_a_changed_config_runs_again_exactly_what_it_affects(adapted, path, value, not_again):
    checkout = adapted[0]
    made = config()
    section = made
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    (checkout.folder / "changed.yaml").write_text(yaml.safe_dump(made))
    ran = set(jobs(checkout.run("-n", config="changed")))
    assert ran & {"enumerate_space", "simulate_adaptation"}
    assert not (not_again & ran)


def test_a_profile_from_a_file_is_studied_without_measuring_anything(adapted):
    checkout = adapted[0]
    profile = checkout.folder / "published.csv"
    profile.write_text(
        "# made up\nstage,variant,accuracy,cores,batch,latency_s,throughput_rps\n"
        "listen,small,-0.4,1,1,0.3,4\nlisten,large,-0.3,4,1,0.6,2\nanswer,base,77.1,1,1,0.2,6\nanswer,big,82.9,2,1,0.5,3\n"
    )
    study = {
        "experiment": "published",
        "measure": "none",
        "ipa": {
            "profile": str(profile),
            "inputs": {"steady": {"rate_rps": 5, "sla_s": 3}},
            "adaptation": {
                "loads": {"low": {"pattern": "steady_low", "seconds": 120}},
                "predictors": ["max"],
                "noise": 0,
                "seeds": 1,
            },
        },
    }
    (checkout.folder / "published.yaml").write_text(yaml.safe_dump(study))
    output = checkout.run(config="published")
    assert not set(MEASURING) & set(jobs(output))
    results = checkout.folder / "results/published"
    remarks = (results / "profile/remarks.txt").read_text()
    assert "word error rates, negative as in IPA, turned into 1 - WER" in remarks
    optima = pd.read_csv(results / "space/steady.optima.csv").set_index("method")
    assert "energy" in optima.loc["ipa_energy", "reason"]
    assert optima.loc["ipa", "chosen"]
    summary = (results / "summary.txt").read_text()
    assert "Space steady (5 requests/s, SLA 3 s)" in summary
    assert "J/request" not in summary


def test_nothing_feasible_is_an_answer_too(adapted):
    checkout = adapted[0]
    made = config() | {"experiment": "hopeless", "anchor": True}
    made["ipa"] |= {"inputs": {"none": {"rate_rps": 2, "sla_s": 0.001}}, "adaptation": {}}
    profile = results_of(adapted) / "profile.csv"
    made["ipa"]["profile"] = str(profile)
    (checkout.folder / "hopeless.yaml").write_text(yaml.safe_dump(made))
    output = checkout.run(config="hopeless")
    assert jobs(output).get("profile_variant") is None
    records = sorted((checkout.folder / "results/hopeless/records").rglob("*.json"))
    assert {path.stem for path in records} == {"block1-anchor-first", "block1-anchor-last"}
    summary = (checkout.folder / "results/hopeless/summary.txt").read_text()
    assert "0 of" in summary and "the SLA is 0.001 s" in summary
    assert "No answer: there is no configuration" in summary
    assert "is coupled" not in summary and "is decoupled" not in summary


def test_a_bad_profile_says_what_is_wrong_with_it(adapted):
    checkout = adapted[0]
    (checkout.folder / "bad.csv").write_text(
        "stage,variant,accuracy,cores,batch,latency_s,throughput_rps\na,b,0.5,1,1,,4\n"
    )
    study = {"experiment": "bad", "measure": "none", "ipa": {"profile": "bad.csv", "inputs": {"x": {"rate_rps": 1}}}}
    (checkout.folder / "bad.yaml").write_text(yaml.safe_dump(study))
    output = checkout.run(config="bad", expect=1)
    assert "bad.csv" in output and "latency_s of a/b, batch 1 is missing" in output
