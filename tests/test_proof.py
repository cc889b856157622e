"""Every scenario of the proof, played to our meters, against the truth; and that this could fail."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from meter_fixtures import build_nvml_stub, unshare_mount
from proof import outcomes, report, tools
from proof.outcomes import Figure, Outcome
from proof.scenarios import SCENARIOS, CpuScenario, null

AT_ONCE = 4
RELEASES = [f"Zeus {tools.RELEASES['zeus']}", f"CodeCarbon {tools.RELEASES['codecarbon']}"]


def _playable():
    namespace = isinstance(unshare_mount(), tuple)
    return [name for name, scenario in SCENARIOS.items() if namespace or not isinstance(scenario, CpuScenario)]


@pytest.fixture(scope="module")
def plays(tmp_path_factory):
    """What our meters said in each scenario: one play, and where a busy host may have spoilt that, one more, alone."""
    library = build_nvml_stub(tmp_path_factory.mktemp("nvml"))
    command = unshare_mount()
    namespace = command if isinstance(command, tuple) else ()

    def play(name):
        scenario = SCENARIOS[name]
        lapse = scenario.lapse if isinstance(scenario, CpuScenario) else 1.0
        return tools.play(scenario, tools.our_meters(), library, namespace, lapse)

    # The longest first. The plays wait rather than compute, so there may be more of them than cores.
    names = sorted(_playable(), key=lambda name: -SCENARIOS[name].window_s)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = {name: [play] for name, play in zip(names, pool.map(play, names), strict=True)}
    for name in names:
        if outcomes.problems(ours(name, found[name][0])):
            found[name].append(play(name))
    return found


@pytest.fixture(scope="module")
def played(plays):
    return {name: raws[-1] for name, raws in plays.items()}


def ours(name, raw) -> Outcome:
    return outcomes.of_ours(SCENARIOS[name], tools.OURS, raw)


def _played_or_skipped(name, played):
    if name not in played:
        pytest.skip(f"no mount namespace of our own for the paths of powercap: {unshare_mount()}")
    return played[name]


@pytest.mark.parametrize("name", SCENARIOS)
def test_our_figure_is_what_the_scenario_expects(played, name):
    assert outcomes.problems(ours(name, _played_or_skipped(name, played))) == []


def test_no_play_gives_a_wrong_figure_without_a_flag_a_doubt_or_a_reason(plays):
    wrong = [(name, outcomes.silently_wrong(ours(name, raw))) for name, raws in plays.items() for raw in raws]
    assert [(name, figures) for name, figures in wrong if figures] == []


def test_a_wrong_truth_of_a_gpu_is_caught(played):
    scenario = SCENARIOS["constant"]
    wrong = replace(scenario, segments=((1.0, 306.0),))
    outcome = outcomes.of_ours(wrong, tools.OURS, played["constant"])
    (problem,) = outcomes.problems(outcome)
    assert "J allowed" in problem
    assert len(outcomes.silently_wrong(outcome)) == 1


def test_a_truth_that_is_two_steps_off_is_caught(played):
    raw = _played_or_skipped("rapl_constant", played)
    truth = {
        path: zone | {"energy_j": zone["energy_j"] + 2 * zone["step_uj"] / 1e6} for path, zone in raw["truth"].items()
    }
    outcome = outcomes.of_ours(SCENARIOS["rapl_constant"], tools.OURS, raw | {"truth": truth})
    assert len(outcomes.problems(outcome)) == len(outcomes.silently_wrong(outcome)) == 2  # package and memory


def test_a_flag_that_is_missing_or_raised_for_nothing_is_caught(played):
    aliased = ours("part_time_locked", played["part_time_locked"])
    assert outcomes.silently_wrong(aliased) == []
    assert outcomes.problems(replace(aliased, flags=())) == ["no flag aliasing"]
    assert len(outcomes.silently_wrong(replace(aliased, flags=()))) == 1
    assert outcomes.problems(replace(ours("constant", played["constant"]), flags=("aliasing",))) == [
        "unexpected flag aliasing"
    ]


def test_a_figure_where_none_can_be_had_and_none_where_one_can_are_caught(played):
    lost, constant = ours("lost", played["lost"]), ours("constant", played["constant"])
    assert "no figure can be had" in outcomes.problems(replace(lost, figures=constant.figures))[0]
    assert "no figure" in outcomes.problems(replace(constant, figures=lost.figures))[0]
    other = replace(lost, scenario=replace(lost.scenario, expect=null("another reason")))
    assert "without 'another reason'" in outcomes.problems(other)[0]


def test_the_truth_of_a_repeating_power_is_its_integral():
    steps = SCENARIOS["steps"]  # 100 W for 0.31 s, then 400 W for 0.23 s
    cycle_j = 31 + 92
    assert steps.truth_j(0, 10.0, 10.31, 10.0) == pytest.approx(31)
    assert steps.truth_j(0, 10.31, 10.54, 10.0) == pytest.approx(92)
    assert steps.truth_j(0, 10.2, 10.2 + 7 * 0.54, 10.0) == pytest.approx(7 * cycle_j)
    assert steps.truth_j(1, 10.0, 12.0, 10.0) == pytest.approx(steps.truth_j(0, 10.0, 12.0, 10.0) + 100)
    assert SCENARIOS["two_gpus"].peak_w == 650


def outcome(*figures, flags=(), said=""):
    return Outcome(SCENARIOS["constant"], "tool", figures, flags, said)


@pytest.mark.parametrize(
    ("of", "text"),
    [
        (outcome(Figure("gpu", 330.0, 330.01)), "330.00 of 330.01 J (-0.00 %)"),
        (outcome(Figure("cpu", 200.010009, 200.01001)), "200.01 of 200.01 J (-1 µJ)"),
        (
            outcome(Figure("gpu", 100.0, 200.0), Figure("gpu", 50.0, 100.0)),
            "**150.00 of 300.00 J (-50.00 %), and nothing said**",
        ),
        (outcome(Figure("gpu", 100.0, 200.0), said="a | warning"), "100.00 of 200.00 J (-50.00 %) *a / warning*"),
        (outcome(Figure("gpu", 100.0, 200.0), flags=("aliasing",)), "100.00 of 200.00 J (-50.00 %) `aliasing`"),
        (outcome(Figure("gpu", 100.0, 102.0, slack_j=1.0)), "100.00 of 102.00 J (-1.96 ± 1.0 %)"),
        (outcome(Figure("gpu", 100.0, 102.0, reason="estimated")), "100.00 of 102.00 J (-1.96 %), estimated"),
        (outcome(Figure("gpu", None, 200.0)), "**none, and nothing said**"),
        (outcome(Figure("gpu", None, 200.0, reason="GPU is lost")), "none: *GPU is lost*"),
        (outcome(Figure("gpu", 300.0, None)), "300.00 J of the whole board"),
    ],
)  # fmt: skip
def test_a_cell_says_figure_truth_error_and_what_the_tool_said(of, text):
    assert report.cell(of, of.figures[0].part) == text


def test_of_several_plays_the_worst_is_shown():
    plays = [outcome(Figure("gpu", joules, 100.0)) for joules in (101.0, 90.0, None)]
    assert outcomes.worst(plays) is plays[1]


def test_the_table_is_put_between_its_markers(tmp_path):
    page = tmp_path / "proof.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write("new", page)
    assert page.read_text() == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="must hold"):
        report.write("new", page)


def test_the_published_table_has_a_row_for_every_scenario_and_a_column_for_every_tool():
    table = report.DOCUMENT.read_text().split(report.BEGIN)[1].split(report.END)[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert [cell.strip("| ") for cell in rows[0]] == ["machine", tools.OURS, *RELEASES]
    expected = [s.title + report.PARTS[part] for s in SCENARIOS.values() for part in s.parts]
    assert [row[0].removeprefix("| ") for row in rows[1:]] == expected


def test_the_published_table_shows_no_silent_fault_of_ours():
    table = report.DOCUMENT.read_text().split(report.BEGIN)[1].split(report.END)[0]
    cells = [line.split(" | ")[1] for line in table.splitlines() if line.startswith("| ")]
    assert len(cells) > len(SCENARIOS)
    assert not [cell for cell in cells if "nothing said" in cell]
