"""What was measured stays, and is measured once: every result is kept in the history first, then put in its place.

Snakemake deletes the output of a job before it runs it, and that of a job which it saw fail or did not see end: what
was measured in the last instant before a kill would be deleted and measured again. So a result also leaves a note that
Snakemake may not have seen it. A job that finds a note for its own output, made under the same circumstances, takes
that result over instead of measuring. The note goes once Snakemake has gone on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ipa_energy.files import put_in_place, remove_orphans, write_text
from ipa_energy.host import host_name
from ipa_energy.owner import OWNER_VARIABLE

ANEW_VARIABLE = "IPA_ENERGY_ANEW"


def tell_anew(anew: bool) -> None:
    """Tell the jobs that this process starts, by the environment, whether to measure whatever an earlier run left."""
    os.environ[ANEW_VARIABLE] = str(int(anew))


def told_anew() -> bool:
    """What :func:`tell_anew` said; False where nothing was said."""
    return os.environ.get(ANEW_VARIABLE) == "1"


@dataclass(frozen=True)
class Kept:
    """A result in the history: ``path`` has no suffix."""

    path: str

    @property
    def result(self) -> str:
        """Path of the record, or of the file of a profile or live run."""
        return f"{self.path}.json"

    @property
    def trace(self) -> str:
        """Path of its power trace."""
        return f"{self.path}.parquet"


@dataclass(frozen=True)
class Output:
    """Where a result and its trace belong.

    ``path_at`` gives the path in the history, without its suffix, for a stamp; ``notes`` is the folder of the notes;
    ``circumstances`` is the digest (:func:`circumstances`) of all that the result depends on.
    """

    result: str
    trace: str
    path_at: Callable[[str], str]
    notes: str
    circumstances: str


def circumstances(host: str, params: object, files: Iterable[str]) -> str:
    """A digest of the host, of a job's parameters by their ``repr``, and of the files that it reads."""
    digest = hashlib.sha256(f"{host}\n{params!r}\n".encode())
    for file in files:
        digest.update(hashlib.sha256(Path(file).read_bytes()).digest())
    return digest.hexdigest()


def once(output: Output, measure: Callable[[Kept], object], say: Callable[[str], None], *, anew: bool) -> None:
    """Have a result and its trace in their place: from an interrupted run, or by ``measure``, which writes them.

    With ``anew``, what an interrupted run left is measured again. No other measuring job of this workflow may be under
    way on this host. Raises what ``measure`` raises, and OSError when nothing can be written.
    """
    owner = os.environ.get(OWNER_VARIABLE, "")
    forget(output.notes, owner)
    kept = None if anew else _left_behind(output)
    if kept is not None:
        say(f"taken over from an interrupted run, which had measured it: {kept.result} (to measure it anew: --force)")
    else:
        _clear_halves(output)
        kept = _new_entry(output)
        measure(kept)
    note = {"result": output.result, "kept": kept.path, "circumstances": output.circumstances, "owner": owner}
    write_text(_note(output), json.dumps(note))
    # A job of a cluster that outlived its workflow may have been here first: both are in the history.
    put_in_place(kept.trace, output.trace)
    put_in_place(kept.result, output.result)


def forget(notes: str | Path, owner: str | None = None) -> None:
    """Remove the notes on results that are in their place: Snakemake did not delete them, so it has seen them.

    To be called where no job with such an output is under way; with ``owner``, for notes of that workflow only.
    """
    for path in Path(notes).glob("*.note"):
        note = _read(path)
        if note is None or (Path(note["result"]).exists() and owner in (None, note["owner"])):
            with suppress(OSError):  # a note that stays does no harm until its result is asked for again
                path.unlink(missing_ok=True)


def _note(output: Output) -> Path:
    return Path(output.notes) / f"{hashlib.sha256(output.result.encode()).hexdigest()[:24]}.note"


def _read(path: Path) -> dict[str, str] | None:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return {name: str(note[name]) for name in ("result", "kept", "circumstances", "owner")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _left_behind(output: Output) -> Kept | None:
    """The result that an earlier run measured under the same circumstances, and Snakemake may not have seen."""
    note = _read(_note(output))
    if note is None or note["circumstances"] != output.circumstances:
        return None
    kept = Kept(note["kept"])
    return kept if Path(kept.result).exists() and Path(kept.trace).exists() else None


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_.]", "_", host_name())


def _new_entry(output: Output) -> Kept:
    """A free place in the history, by the present moment and this process: others may be about to take theirs.

    The moment may have been before, as clocks are set back.
    """
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{_host()}-{os.getpid()}"
    entry, again = Kept(output.path_at(stamp)), 1
    while Path(entry.result).exists():
        again += 1
        entry = Kept(output.path_at(f"{stamp}-{again}"))
    return entry


def _clear_halves(output: Output) -> None:
    """Remove what killed jobs of this host left in the history: traces without a result, and half-written files."""
    stem = Path(output.path_at(""))
    if not stem.parent.is_dir():
        return
    remove_orphans(stem.parent, f".{stem.name}")
    trace = re.compile(re.escape(stem.name) + r"\d{8}T\d{6}Z-" + re.escape(_host()) + r"-(\d+)(-\d+)?\.parquet")
    for path in stem.parent.iterdir():
        ours = trace.fullmatch(path.name)
        if ours and not path.with_suffix(".json").exists() and not Path("/proc", ours[1]).exists():
            path.unlink()
