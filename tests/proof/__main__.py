"""Play all scenarios to all tools and rewrite the table of docs/proof.md; see ``--help``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from meter_fixtures import build_nvml_stub, unshare_mount

from . import outcomes, report, tools
from .scenarios import SCENARIOS, CpuScenario, GpuScenario, Scenario

ENVIRONMENTS = Path(__file__).resolve().parents[2] / ".venv-proof"
LONG_S = 30.0
"""Scenarios that last longer are played once."""


def _outcome(scenario: Scenario, tool: tools.Tool, library: Path, namespace: tuple[str, ...]) -> outcomes.Outcome:
    raw = tools.play(scenario, tool, library, namespace)
    if tool.name == tools.OURS:
        return outcomes.of_ours(scenario, tool.name, raw)
    noise = (*tool.noise, *(tool.cpu_noise if isinstance(scenario, GpuScenario) else ()))
    return outcomes.of_rival(scenario, tool.name, raw, noise)


def main() -> int:
    """Play, print, write; 1 where one of our figures is not what it has to be."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument("--ours", action="store_true", help="only our meters; prints the table and writes nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=SCENARIOS, help="only these; writes nothing")
    parser.add_argument("--plays", type=int, default=3, help="of each scenario; the worst is shown (%(default)s)")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where the other tools are installed")
    arguments = parser.parse_args()
    scenarios = [SCENARIOS[name] for name in arguments.only or SCENARIOS]
    namespace = unshare_mount()
    if isinstance(namespace, str):
        scenarios = [scenario for scenario in scenarios if not isinstance(scenario, CpuScenario)]
        print(f"the scenarios of a CPU are left out, no mount namespace can be had: {namespace}", file=sys.stderr)
        namespace = ()
    others = () if arguments.ours else tools.rivals(arguments.environments.resolve())
    played = (tools.our_meters(), *others)
    found: dict[tuple[str, str], outcomes.Outcome] = {}
    wrong: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        library = build_nvml_stub(Path(folder))

        def play(name: str, tool: tools.Tool) -> None:
            scenario = SCENARIOS[name]
            times = arguments.plays if scenario.window_s < LONG_S else 1
            plays = [_outcome(scenario, tool, library, namespace) for _ in range(times)]
            found[name, tool.name] = outcomes.worst(plays)
            if tool.name == tools.OURS:
                wrong[name] = [problem for outcome in plays for problem in outcomes.problems(outcome)]
            print(f"{name}, {tool.name}", file=sys.stderr)

        # Two at a time: more would take each other's time at the edges of a window. The longest go first.
        order = sorted(scenarios, key=lambda scenario: -scenario.window_s)
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(play, scenario.name, tool) for scenario in order for tool in played]:
                done.result()
    text = report.table(scenarios, found, [tool.name for tool in played])
    print(text)
    if not (arguments.ours or arguments.only or len(scenarios) < len(SCENARIOS)):
        report.write(text)
    for name, problems in wrong.items():
        for problem in problems:
            print(f"{name}: {problem}", file=sys.stderr)
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
