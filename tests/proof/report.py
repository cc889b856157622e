"""The table of docs/proof.md, between its two markers."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from .outcomes import Figure, Outcome
from .scenarios import Scenario

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "proof.md"
BEGIN, END = "<!-- the table begins -->", "<!-- the table ends -->"
WRONG = 0.01
"""A figure off by more than this, and by more than its slack, is set in bold where nothing was said of it."""
LONGEST_QUOTE = 110
PARTS = {"gpu": "", "cpu": "", "dram": ", memory"}


def table(scenarios: Sequence[Scenario], outcomes: Mapping[tuple[str, str], Outcome], tools: Sequence[str]) -> str:
    """Markdown: a row for each scenario and part, a column for each tool."""
    lines = [f"| machine | {' | '.join(tools)} |", "|---" * (len(tools) + 1) + "|"]
    for scenario in scenarios:
        for part in scenario.parts:
            cells = [cell(outcomes[scenario.name, tool], part) for tool in tools]
            lines.append(f"| {scenario.title}{PARTS[part]} | {' | '.join(cells)} |")
    made = datetime.now(UTC).strftime("%Y-%m-%d")
    system = f"Python {platform.python_version()}, {platform.system()} on {platform.machine()}"
    return "\n".join([*lines, "", f"Made on {made}; {system}."])


def cell(outcome: Outcome, part: str) -> str:
    """One tool's figure for one part of one scenario, and what it said of it."""
    figures = [figure for figure in outcome.figures if figure.part == part]
    said = " ".join(f"`{flag}`" for flag in outcome.flags)
    if any(figure.energy_j is None for figure in figures):
        why = next((figure.reason for figure in figures if figure.reason), None) or outcome.said
        return " ".join(filter(None, [f"none: {_quote(why)}" if why else "**none, and nothing said**", said]))
    figure = _sum(part, figures)
    text, wrong = _figure(figure)
    if figure.reason:
        text = f"{text}, {figure.reason}"
    said = " ".join(filter(None, [said, _quote(outcome.said) if outcome.said else ""]))
    if wrong and not said and not figure.reason:
        return f"**{text}, and nothing said**"
    return " ".join(filter(None, [text, said]))


def _sum(part: str, figures: Sequence[Figure]) -> Figure:
    truths = [figure.truth_j for figure in figures if figure.truth_j is not None]
    return Figure(
        part,
        sum(figure.energy_j for figure in figures if figure.energy_j is not None),
        sum(truths) if truths else None,
        sum(figure.slack_j for figure in figures),
        reason=next((figure.reason for figure in figures if figure.reason), None),
    )


def _figure(figure: Figure) -> tuple[str, bool]:
    """The figure beside the truth, and whether it is wrong."""
    energy_j, truth_j, error_j = figure.energy_j, figure.truth_j, figure.error_j
    if truth_j is None or error_j is None:
        return f"{energy_j:.2f} J of the whole board", False
    wrong = abs(error_j) > WRONG * abs(truth_j) + figure.slack_j
    coarse = figure.part == "gpu" or wrong or abs(error_j) > 1e-3
    percent = f"{100 * error_j / truth_j:+.2f} %" if coarse else None
    slack = f" ± {100 * figure.slack_j / truth_j:.1f}" if figure.slack_j > 2e-3 * truth_j else ""
    error = percent.replace(" %", f"{slack} %") if percent else f"{error_j * 1e6:+.0f} µJ"
    return f"{energy_j:.2f} of {truth_j:.2f} J ({error})", wrong


def _quote(text: str) -> str:
    plain = " ".join(text.replace("|", "/").replace("`", "'").split())
    return f"*{plain if len(plain) <= LONGEST_QUOTE else plain[: LONGEST_QUOTE - 1] + '…'}*"


def write(text: str, document: Path = DOCUMENT) -> None:
    """Put ``text`` between the markers of ``document``. Raises ValueError where they are missing."""
    page = document.read_text(encoding="utf-8")
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"{document} must hold {BEGIN!r} and {END!r} once each")
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    document.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")
