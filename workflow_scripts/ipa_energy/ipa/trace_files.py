"""Trace files: requests per second as text, from a user or from IPA, and back.

A file holds one whole number for each second, on lines of their own or parted by spaces, as in the file of the Twitter
trace that IPA's load tester reads. What is written has one a line, which the serving engine replays as well.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ipa_energy.files import write_text
from ipa_energy.ipa.ticks import Ints

_NUMBER = re.compile(r"[0-9]+", re.ASCII)
_MOST = 10**9


def read_counts(path: str | Path, damping: int = 1, first: int = 0, last: int | None = None) -> Ints:
    """Requests per second, shape (seconds,); lines that begin with # and empty ones are passed over.

    ``first`` and ``last`` cut the seconds [first, last) out of the file. Each count is divided by ``damping`` and
    rounded down, as IPA does with 8. Raises ValueError, naming the line, for what is not a number of requests, and for
    a cut that holds no second or no request.
    """
    counts: list[int] = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("#"):
            continue
        for word in line.split():
            if not _NUMBER.fullmatch(word) or len(word) > 10 or int(word) > _MOST:
                raise ValueError(
                    f"{path}, line {number}: {word[:40]!r} is not a number of requests; allowed: 0, 1, 2, ... for each "
                    f"second, on lines of their own or parted by spaces"
                )
            counts.append(int(word))
    if damping < 1:
        raise ValueError(f"damping of {path} is {damping}: give 1 or more")
    end = len(counts) if last is None else last
    if not 0 <= first < end <= len(counts):
        raise ValueError(f"{path} holds {len(counts)} seconds: seconds {first} to {end} can't be cut out of it")
    cut = np.array(counts[first:end], dtype=np.int64) // damping
    if cut.sum() == 0:
        raise ValueError(f"{path} holds no request in seconds {first} to {end} after division by {damping}")
    return cut


def write_counts(path: str | Path, counts: Ints) -> None:
    """Write one count a line, atomically."""
    write_text(path, "".join(f"{int(count)}\n" for count in counts))
