"""Boards whose power sensor is known to see only a part of the time.

In: a board's name as NVML gives it. Out: the part of each update period that the instant power reading covers, with its
source; None where nobody published it, which says nothing about the board. The figures are of the boards and drivers of
the study; what this board does can be measured.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

STUDY = (
    "Yang, Adámek and Armour, Accurate and Convenient Energy Measurements for GPUs, SC'24, and its published results"
)


@dataclass(frozen=True, slots=True)
class Coverage:
    """The sensor sees ``window_ms`` of every ``period_ms``."""

    window_ms: float
    period_ms: float
    source: str


KNOWN = (
    (r"\bA100\b", Coverage(25, 100, STUDY)),
    # Ten boards on PCIe were in the study, none of the SXM kind.
    (r"\bH100 PCIe\b", Coverage(25, 100, STUDY)),
    (r"\bGH200\b", Coverage(20, 100, f"second-hand account of {STUDY}")),
    (r"\bV100\b", Coverage(10, 20, STUDY)),
    (r"\bP100\b", Coverage(10, 20, STUDY)),
    (r"\bQuadro RTX 8000\b", Coverage(20, 100, STUDY)),
)
"""Patterns of board names, and what the instant reading of such a board covers."""


def known_coverage(board: str) -> dict[str, Any] | None:
    """The published coverage of ``board``, JSON-ready; None where there is none."""
    return next((asdict(coverage) for pattern, coverage in KNOWN if re.search(pattern, board)), None)
