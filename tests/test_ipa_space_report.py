"""The space of an input as it is reported: optima, front and marks against enumeration, and every way to be empty."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from matplotlib.text import Text

from ipa_energy.configuration import Configuration, Platform, StageKnobs
from ipa_energy.figures import space as space_figure
from ipa_energy.ipa.feasible import choose_feasible, feasible_configurations
from ipa_energy.ipa.measured_marks import measured_configurations
from ipa_energy.ipa.profile import make_profile
from ipa_energy.ipa.settings import METHOD_NAMES, inputs
from ipa_energy.ipa.space import space_table
from ipa_energy.ipa.space_json import summaries_table, summary_json
from ipa_energy.ipa.space_report import SpaceTooLargeError, front_table, optima_table, space_of, write_rows
from ipa_energy.ipa.space_sample import feasible_sample
from ipa_energy.ipa.totals import COLUMNS
from ipa_instances import exact, instances
from ipa_studies import ENERGY, USD, profile_of, rows, settings_of

CPU = Platform()
STAGES = ("detect", "classify")


def section_of(instance):
    """The config's section for an instance of the exact enumeration."""
    weights = instance.objective.weights
    return {
        "inputs": {"one": {"rate_rps": instance.given.rate_rps, "sla_s": instance.given.sla_s}},
        "cost": "cores",
        "sla_factor": 5,
        "latency": "p99",
        "replicas": instance.replicas,
        "accuracy": instance.objective.accuracy,
        "weights": {name: getattr(weights, name) for name in ("alpha", "beta", "gamma", "delta")},
        "scales": "raw",
        "fa2_high": {},
        "rim_replicas": 2,
        "max_space_rows": 10**6,
        "space_rows": "all",
    }


def knobs_of(table):
    stages = [name.removesuffix(".variant") for name in table.columns if name.endswith(".variant")]
    columns = [
        list(zip(*(table[f"{s}.{k}"].tolist() for k in ("variant", "threads", "batch", "replicas")), strict=True))
        for s in stages
    ]
    return list(zip(*columns, strict=True))


@given(instances(energy=("net", "gross"), most_stages=2))
@settings(max_examples=60, deadline=None)
def test_every_method_chooses_an_optimum_of_what_it_may_choose(instance):
    ipa = section_of(instance)
    space = space_of("one", make_profile(pd.DataFrame(instance.rows), instance.energy_kind), ipa, USD)
    table = optima_table(space).set_index("method")
    configurations = [(k, f) for k, f in instance.configurations() if not f["violates"]]
    weights, accuracy = instance.objective.weights, instance.objective.accuracy

    def value(figures, with_energy):
        found = exact(weights.alpha) * figures["accuracy" if accuracy == "pas" else "rank"]
        found -= exact(weights.beta) * figures["cost"] + exact(weights.gamma) * figures["batch"]
        return found - exact(weights.delta) * figures["energy"] if with_energy else found

    accuracies = {
        stage: {row["variant"]: row["accuracy"] for row in instance.rows if row["stage"] == stage}
        for stage in instance.stages()
    }

    def only(extreme):
        worth = {stage: extreme(of.values()) for stage, of in accuracies.items()}
        return lambda knobs: all(accuracies[s][k[0]] == worth[s] for s, k in zip(instance.stages(), knobs, strict=True))

    allowed = {
        "ipa": lambda _: True,
        "ipa_energy": lambda _: True,
        "rim": lambda knobs: all(k[3] == min(2, instance.replicas) for k in knobs),
    }
    for name, may in allowed.items():
        values = {k: value(f, name == "ipa_energy") for k, f in configurations if may(k)}
        row = table.loc[name]
        if not values:
            assert not row["chosen"] and row["constraint"] and row["reason"]
            continue
        best = max(values.values())
        (chosen,) = knobs_of(table.loc[[name]])
        assert values[chosen] == best
        assert row["ties"] == sum(v == best for v in values.values())
        assert row["objective"] == pytest.approx(float(best), abs=1e-9)
        assert row["solve_s"] >= 0
    for name, extreme in (("fa2_low", min), ("fa2_high", max)):
        may = only(extreme)
        if not table.loc[name, "chosen"]:
            continue
        (chosen,) = knobs_of(table.loc[[name]])
        assert may(chosen)  # of equally accurate variants it takes one, so the others don't count
        fixed = [k[0] for k in chosen]
        values = {k: value(f, False) for k, f in configurations if [one[0] for one in k] == fixed}
        assert values[chosen] == max(values.values())


@given(instances(energy=(None, "net", "gross"), most_stages=2))
@settings(max_examples=60, deadline=None)
def test_the_front_is_exact_and_marks_what_is_optimal_without_energy(instance):
    space = space_of("one", make_profile(pd.DataFrame(instance.rows), instance.energy_kind), section_of(instance), USD)
    front = front_table(space)
    accuracy = "accuracy" if instance.objective.accuracy == "pas" else "rank"
    three = [accuracy, "cost", "latency"]
    without = instance.front(three)
    whole = instance.front([*three, "energy"]) if instance.energy_kind else without
    assert set(knobs_of(front)) == whole
    assert len(front) == len(whole)
    marked = front["optimal_without_energy"].to_numpy(dtype=bool)
    assert set(knobs_of(front[marked])) == whole & without
    values = front["accuracy_pas" if accuracy == "accuracy" else "accuracy_rank_sum"].to_numpy()
    assert np.all(np.diff(values) <= 1e-12)


def report_of(tmp_path, settings_, name, profile, measured=()):
    space = space_of(name, profile, settings_["ipa"], settings_["prices"], measured)
    path = tmp_path / f"{name}.parquet"
    summary = write_rows(path, space)
    front, optima = front_table(space), optima_table(space)
    told = summary_json(space, summary, front)
    points = feasible_sample(path, list(COLUMNS), summary.feasible, 1)
    return space, told, front, optima, points


def words(figure):
    return " ".join("\n".join(text.get_text() for text in figure.findobj(Text)).split())


def test_the_summary_says_what_the_figures_rest_on(tmp_path):
    profile = profile_of(rows(evidence="estimated"))
    made = settings_of(tmp_path, profile, {"given": {"rate_rps": 4, "sla_s": 1.0}, "rule": {"rate_rps": 4}})
    space, told, front, optima, points = report_of(tmp_path, made, "given", profile)
    table = space_table(space.options, space.objective)
    assert told["configurations"] == len(table) == (2 * 3 * 3) * (3 * 3 * 3)
    assert told["feasible"] == table["feasible"].sum() == len(points)
    assert told["sla_s"] == 1.0 and told["sla_from"] == "config"
    assert told["objective"]["method"] == "ipa_energy"
    assert told["energy"] == {
        "known": True,
        "evidence": "estimated",
        "boundary": profile.energy_boundary,
        "reason": None,
    }
    assert told["front"]["configurations"] == len(front)
    assert told["front"]["optimal_only_with_energy"] == (~front["optimal_without_energy"]).sum() > 0
    assert optima["method"].tolist() == list(METHOD_NAMES)
    figure = space_figure.draw(points, front, optima, told)
    assert "estimated net energy (J / request)" in words(figure)
    assert "SLA, 1 s" in words(figure)
    rule = report_of(tmp_path, made, "rule", profile)[1]
    # five times the mean over the variants of the p99 of a batch of one, summed over the stages
    assert rule["sla_s"] == pytest.approx(5 * 1.25 * ((0.1 + 0.16) / 2 + (0.05 + 0.08 + 0.09) / 3))
    assert "5 x" in rule["sla_from"]


@pytest.mark.parametrize(
    ("given_", "constraint"),
    [({"rate_rps": 500, "sla_s": 9}, "throughput"), ({"rate_rps": 2, "sla_s": 0.05}, "latency")],
)
def test_an_empty_space_is_explained_everywhere(tmp_path, given_, constraint):
    profile = profile_of()
    made = settings_of(tmp_path, profile, {"hard": given_})
    _, told, front, optima, points = report_of(tmp_path, made, "hard", profile)
    assert told["feasible"] == len(front) == len(points) == 0
    assert set(optima["constraint"]) == {constraint} and optima["reason"].notna().all()
    assert optima["cost"].isna().all()
    text = words(space_figure.draw(points, front, optima, told))
    assert " ".join(told["empty_because"].split()) in text
    row = summaries_table([told]).iloc[0]
    assert row["feasible"] == 0 and row["empty_because"] == told["empty_because"] and pd.isna(row["cost.min"])


def test_at_a_rate_of_0_there_is_no_energy_and_all_else_works(tmp_path):
    profile = profile_of()
    made = settings_of(tmp_path, profile, {"idle": {"rate_rps": 0}, "some": {"rate_rps": 3}})
    _, told, front, optima, points = report_of(tmp_path, made, "idle", profile)
    assert told["objective"]["method"] == "ipa" and told["energy"]["evidence"] == "none"
    assert told["energy"]["reason"].startswith("the rate is 0")
    assert front["energy_j_per_request"].isna().all() and front["optimal_without_energy"].all()
    by_method = optima.set_index("method")
    assert not by_method.loc["ipa_energy", "chosen"] and by_method.drop("ipa_energy")["chosen"].all()
    assert "the rate is 0" in words(space_figure.draw(points, front, optima, told))
    some = report_of(tmp_path, made, "some", profile)[1]
    table = summaries_table([told, some])
    assert table["input"].tolist() == ["idle", "some"]
    assert pd.isna(table.loc[0, "energy_j_per_request.min"]) and table.loc[1, "energy_j_per_request.min"] > 0
    assert pd.isna(table.loc[0, "front.optimal_only_with_energy"])


def test_a_profile_without_energy_gives_space_and_choices_without_it(tmp_path):
    profile = profile_of(without=ENERGY)
    made = settings_of(tmp_path, profile, {"some": {"rate_rps": 3}})
    _, told, front, optima, points = report_of(tmp_path, made, "some", profile)
    assert told["energy"]["known"] is False and "energy_j" in told["energy"]["reason"]
    assert told["front"]["optimal_only_with_energy"] is None
    assert optima.set_index("method").loc["ipa_energy", "reason"].startswith("the energy of some options is not known")
    assert "estimated" not in words(space_figure.draw(points, front, optima, told))


def test_energy_of_unknown_origin_is_called_so(tmp_path):
    profile = profile_of(without=["evidence"])
    made = settings_of(tmp_path, profile, {"some": {"rate_rps": 3}})
    _, told, front, optima, points = report_of(tmp_path, made, "some", profile)
    assert "evidence unknown" in words(space_figure.draw(points, front, optima, told))


def test_one_feasible_configuration_is_drawn(tmp_path):
    profile = profile_of([row for row in rows(batches=(1,)) if row["variant"] in ("small", "r18")])
    made = settings_of(tmp_path, profile, {"one": {"rate_rps": 3}}, replicas=1)
    _, told, front, optima, points = report_of(tmp_path, made, "one", profile)
    assert told["feasible"] == len(front) == 1
    assert "1 of 1 configurations" in words(space_figure.draw(points, front, optima, told))


def test_a_space_that_is_too_large_is_refused_with_its_size(tmp_path):
    profile = profile_of()
    made = settings_of(tmp_path, profile, {"some": {"rate_rps": 3}}, max_space_rows=100)
    with pytest.raises(SpaceTooLargeError, match=r"486 configurations .*lower ipa\.replicas"):
        space_of("some", profile, made["ipa"], made["prices"])


def test_the_summary_counts_all_rows_when_only_feasible_ones_are_written(tmp_path):
    profile = profile_of()
    told = {}
    for kind in ("all", "feasible"):
        made = settings_of(tmp_path, profile, {"some": {"rate_rps": 12, "sla_s": 0.6}}, space_rows=kind)
        space, told[kind], *_ = report_of(tmp_path, made, "some", profile)
        assert told[kind].pop("rows_written") == kind
        written = pd.read_parquet(tmp_path / "some.parquet")
        assert len(written) == (space.options.size if kind == "all" else told[kind]["feasible"])
    assert told["all"] == told["feasible"]
    assert sum(told["all"]["violations"].values()) == told["all"]["configurations"] - told["all"]["feasible"] > 0


def configuration(detect, classify, platform=CPU):
    return Configuration("video", (StageKnobs("detect", *detect), StageKnobs("classify", *classify)), platform)


def test_measured_configurations_are_marked_in_space_front_and_optima(tmp_path):
    profile = profile_of()
    made = settings_of(tmp_path, profile, {"some": {"rate_rps": 3}})
    best = optima_table(space_of("some", profile, made["ipa"], made["prices"])).iloc[0]
    knobs = [tuple(best[f"{s}.{k}"] for k in ("variant", "batch", "replicas", "threads")) for s in STAGES]
    wanted = configuration(*knobs)
    others = [
        configuration(("small", 1, 1, 1), ("r18", 1, 1, 1)),
        configuration(*knobs, Platform("cuda")),
        configuration(("small", 2, 1, 1), ("r18", 1, 1, 1)),
        configuration(("unheard-of", 1, 1, 1), ("r18", 1, 1, 1)),
    ]
    table = pd.DataFrame(
        [
            {"configuration": c.id, "pipeline": "video", "n": n} | c.knobs()
            for c, n in zip([wanted, *others], (2, 1, 3, 0, 1), strict=True)
        ]
        + [{"configuration": wanted.id, "pipeline": "video", "n": 0} | wanted.knobs()]
    )
    measured = measured_configurations(table, STAGES, CPU)
    assert [c.id for c in measured] == [wanted.id, others[0].id, others[3].id]
    _, told, front, optima, points = report_of(tmp_path, made, "some", profile, measured)
    assert told["measured"] == 2
    assert points.loc[points["measured"]].shape[0] == told["measured_feasible"]
    row = optima.set_index("method").loc["ipa"]
    assert row["measured"] and row["configuration_id"] == wanted.id
    assert set(front.loc[front["measured"], "configuration_id"]) <= {wanted.id, others[0].id}
    assert wanted.id in set(front["configuration_id"].dropna())
    assert "measured" in words(space_figure.draw(points, front, optima, told))


def test_a_sample_is_seeded_and_holds_every_measured_row(tmp_path):
    profile = profile_of()
    made = settings_of(tmp_path, profile, {"some": {"rate_rps": 3}})
    one = configuration(("small", 1, 1, 1), ("r18", 1, 1, 1))
    space = space_of("some", profile, made["ipa"], made["prices"], [one])
    feasible = write_rows(tmp_path / "s.parquet", space).feasible
    samples = [feasible_sample(tmp_path / "s.parquet", ["cost", "latency_s"], feasible, seed, 20) for seed in (1, 1, 2)]
    assert samples[0].equals(samples[1]) and not samples[0].equals(samples[2])
    assert all(20 <= len(s) <= 21 and s["measured"].sum() == 1 and s["feasible"].all() for s in samples)


def test_feasible_configurations_are_those_of_the_space(tmp_path):
    profile = profile_of()
    made = settings_of(
        tmp_path, profile, {"low": {"rate_rps": 3, "sla_s": 0.5}, "high": {"rate_rps": 20, "sla_s": 0.4}}
    )
    ipa, usd = made["ipa"], made["prices"]
    configurations = [
        configuration((d, b, n, {"small": 1, "large": 2}[d]), (c, b2, n2, 2 if c == "r152" else 1))
        for d, b, n, c, b2, n2 in itertools.product(
            ("small", "large"), (1, 2), (1, 3), ("r18", "r50", "r152"), (1, 4), (1, 2)
        )
    ]
    truth = {}
    for name in inputs(profile, ipa, usd):
        space = space_of(name, profile, ipa, usd, configurations)
        table = space_table(space.options, space.objective, measured=configurations)
        mine = table[table["measured"]].set_index("configuration_id")
        assert len(mine) == len(configurations)
        truth[name] = mine
    chosen = feasible_configurations(profile, ipa, usd, configurations, CPU)
    expected = [c.id for c in configurations if any(of.loc[c.id, "feasible"] for of in truth.values())]
    assert chosen == expected and 0 < len(chosen) < len(configurations)
    for row in choose_feasible(profile, ipa, usd, configurations, CPU).to_dict("records"):
        of = {name: table.loc[row["configuration"]] for name, table in truth.items()}
        named = [] if pd.isna(row["inputs"]) else row["inputs"].split(";")
        assert named == [name for name, one in of.items() if one["feasible"]]
        if not row["chosen"]:
            assert row["reason"] == "; ".join(f"{n}: {one['violates'].replace('; ', ' and ')}" for n, one in of.items())


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (configuration(("small", 1, 1, 1), ("r18", 1, 1, 1), Platform("cuda")), "runs on cuda in fp32"),
        (configuration(("nano", 1, 1, 1), ("r18", 1, 1, 1)), "no option of detect has variant nano"),
        (configuration(("small", 1, 1, 4), ("r18", 1, 1, 1)), "no option of detect with small has cores 4"),
        (configuration(("small", 1, 1, 1), ("r18", 3, 1, 1)), "no option of classify with r18 has batch 3"),
        (configuration(("small", 1, 9, 1), ("r18", 1, 1, 1)), "no option of detect with small has replicas 9"),
    ],
)
def test_what_cannot_be_judged_is_left_out_with_its_reason(tmp_path, one, reason):
    profile = profile_of()
    made = settings_of(tmp_path, profile, {"low": {"rate_rps": 3}})
    (row,) = choose_feasible(profile, made["ipa"], made["prices"], [one], CPU).to_dict("records")
    assert not row["chosen"] and reason in row["reason"] and row["reason"].startswith("not judged")


def test_fa2_high_with_a_variant_that_was_not_profiled_has_a_reason(tmp_path):
    profile = profile_of()
    made = settings_of(tmp_path, profile, {"low": {"rate_rps": 3}}, fa2_high={"detect": "huge", "classify": "r50"})
    table = optima_table(space_of("low", profile, made["ipa"], made["prices"])).set_index("method")
    assert "detect (huge)" in table.loc["fa2_high", "reason"] and table.drop("fa2_high")["chosen"].all()
