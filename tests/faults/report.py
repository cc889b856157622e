"""The table of a campaign: a row for each fault, from the outcomes of its injections."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .outcome import Outcome

BEGIN, END = "<!-- the table begins -->", "<!-- the table ends -->"
HEAD = "| fault | times | where it fell | what the user saw | restart | broken promises |"
MOST = 3
_OURS = re.compile(
    r"pid \d+|process \d+|/tmp/\S+?/checkout|for \d+ s|after \d+ s|\S*\.snakemake/log/\S+|(?<=left: )\d+ \S+"
)
_WHICH = re.compile(r"\[\d+/\d+\] \S+ under \w+, block\d+: |results/\S+/(?=block\d)| --address \S+")
"""Which of the measurements it was, which says nothing."""


def parse(line: str) -> Outcome:
    """An outcome from its line of JSON."""
    facts = json.loads(line)
    facts.pop("at_s")
    return Outcome(**facts | {"problems": tuple(facts["problems"])})


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: the rows in the order in which the faults came first."""
    rows = [HEAD, "|---" * 6 + "|"]
    for fault in dict.fromkeys(outcome.fault for outcome in outcomes):
        of_it = [outcome for outcome in outcomes if outcome.fault == fault]
        broken = [problem for outcome in of_it for problem in outcome.problems]
        cells = [
            fault,
            str(len(of_it)),
            _counted([outcome.fell for outcome in of_it], most=20),
            _counted([outcome.saw for outcome in of_it]),
            _counted([outcome.restart for outcome in of_it]),
            _counted(broken) if broken else "none",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _counted(texts: Sequence[str], most: int = MOST) -> str:
    plain = [_OURS.sub("…", _WHICH.sub("", text)).replace("|", "/").replace("`", "") for text in texts]
    counts = Counter(" ".join(text.split())[:180] for text in plain).most_common()
    named = [text if count == 1 else f"{text} ({count})" for text, count in counts[:most]]
    rest = sum(count for _, count in counts[most:])
    return "; ".join([*named, f"others ({rest})"] if rest else named)


def write(text: str, document: Path) -> None:
    """Put ``text`` between the markers of ``document``, or make the document where there is none."""
    page = document.read_text(encoding="utf-8") if document.exists() else f"{BEGIN}\n{END}\n"
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    document.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")
