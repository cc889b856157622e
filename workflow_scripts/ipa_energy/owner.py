"""The workflow's process: what a measurement belongs to, and ends with.

The workflow claims ownership when it is parsed; its jobs inherit the claim in their environment, watch that process and
stop when it is gone, also after ``kill -9``. On a cluster each job parses the workflow itself and so is its own owner.
"""

from __future__ import annotations

import os
from pathlib import Path

OWNER_VARIABLE = "IPA_ENERGY_WORKFLOW_PID"


def claim() -> None:
    """Make this process the owner of everything it starts from now on."""
    os.environ[OWNER_VARIABLE] = str(os.getpid())


def owner_pid() -> int:
    """Process id of the workflow where a living one runs us, else our own."""
    text = os.environ.get(OWNER_VARIABLE, "")
    return int(text) if text.isdigit() and Path(f"/proc/{text}").exists() else os.getpid()
