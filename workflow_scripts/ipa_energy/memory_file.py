"""Files in memory that a supervisor and its child share by their descriptors: no kill leaves any of them behind.

A job goes to the child as one text; its results come back as lines of JSON, of which the last whole one counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def memory_file(name: str, text: str = "") -> Iterator[int]:
    """The descriptor of a file in memory that holds ``text``. It goes with the last process that has it open."""
    descriptor = os.memfd_create(f"ipa-energy.{name}")
    try:
        with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
            file.write(text)
        yield descriptor
    finally:
        os.close(descriptor)


def read_text(descriptor: int) -> str:
    """All of it, from wherever others have read or written."""
    return Path(f"/proc/self/fd/{descriptor}").read_text(encoding="utf-8")


def append_line(descriptor: int, content: dict[str, Any]) -> None:
    """Add ``content`` as a line of JSON. Raises ValueError for NaN and infinity."""
    line = json.dumps(content, allow_nan=False) + "\n"
    with open(descriptor, "a", encoding="utf-8", closefd=False) as file:
        file.write(line)


def last_line(descriptor: int) -> dict[str, Any]:
    """The last whole line; empty where there is none. What stands behind it was cut off by a kill."""
    lines = read_text(descriptor).split("\n")[:-1]
    return dict(json.loads(lines[-1])) if lines else {}
