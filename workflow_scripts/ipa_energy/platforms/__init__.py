"""Changing the platform for a measurement, and putting it back: power limits of GPUs, sharing a GPU through MPS.

Whatever is changed is written to a journal first (:mod:`ipa_energy.platforms.journal`) and undone when the measurement
is left, however it is left; what a killed process could not undo, :func:`restore_left_behind` does in the next run.
A level that can't be set is refused with the reason and never run as something else. Clocks, compute mode and MIG are
left alone.
"""

from __future__ import annotations

from collections.abc import Callable

from ipa_energy.platforms import journal, mps, power_limit
from ipa_energy.platforms.journal import Restoration

_RESTORERS: dict[str, journal.Restorer] = {power_limit.KIND: power_limit.restore, mps.KIND: mps.restore}


def restore_left_behind(say: Callable[[str], None]) -> list[Restoration]:
    """Undo what dead processes left changed on this host; each entry of the journal is one line to ``say``.

    To be called under the host's measurement lock, before anything is measured. Entries of living processes are passed
    over in silence. What is ``kept`` could not be undone (no permission, GPU absent), and the platform may not be as it
    was before.
    """
    done: list[Restoration] = []
    if not journal.folder().is_dir():
        return done
    try:
        with journal.locked():
            for path, entry in journal.read_all():
                restoration = _settle(path.name, entry)
                if restoration is not None:
                    done.append(restoration)
                    say(restoration.line)
    except (journal.JournalError, OSError) as error:
        done.append(Restoration("journal", str(journal.folder()), "kept", str(error)))
        say(done[-1].line)
    return done


def _settle(name: str, entry: journal.Entry | str) -> Restoration | None:
    if isinstance(entry, str):
        return Restoration(
            "journal", name, "kept", f"the journal's entry {journal.folder() / name} is unusable: {entry}"
        )
    restorer = _RESTORERS.get(entry.kind)
    if restorer is None:
        known = ", ".join(_RESTORERS)
        line = f"the journal's entry {journal.folder() / name} is of the kind {entry.kind!r}; known are {known}"
        return Restoration(entry.kind, entry.device, "kept", line)
    return journal.settle(entry, restorer)
