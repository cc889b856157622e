"""What was measured stays: Snakemake deletes an output before it makes it anew, so every result is kept twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from ipa_energy.files import keep_also


def keep(path_at: Callable[[str], str], files: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Keep ``files`` (by suffix) under the path, without suffix, that ``path_at`` gives for the present moment.

    That a result can't be kept twice is no reason to lose it once, which is what failing here would do: it is said.
    """
    kept = path_at(datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
    try:
        for suffix, path in files.items():
            keep_also(path, f"{kept}.{suffix}")
    except OSError as error:
        say(f"not kept in the history: {error}")
