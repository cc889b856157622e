"""Atomic writing: a file is either wholly there under its name, or not there at all, whatever is killed when."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PART = ".part"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that is renamed to it when the block ends without an exception.

    The data are on disk before the rename, so that a power cut leaves the old file or the new one. Raises OSError when
    the disk is full or the folder can't be written; the temporary file is then removed. What a killed writer
    of the same file left goes with the next one.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name[:80]}."
    remove_orphans(target.parent, prefix)
    handle, temporary = _locked_temporary(target.parent, prefix)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _locked_temporary(folder: Path, prefix: str) -> tuple[int, Path]:
    """A new temporary file, under a lock that shows others that its writer lives: its descriptor and its path."""
    while True:
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=_PART, dir=folder)
        with suppress(OSError):  # a file system without locks keeps its orphans
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # another writer took it for an orphan before it was locked


def remove_orphans(folder: Path, prefix: str) -> None:
    """Remove the temporary files that no living writer holds the lock of."""
    for path in folder.iterdir():
        if not (path.name.startswith(prefix) and path.name.endswith(_PART)):
            continue
        with suppress(OSError):  # its writer holds it, or has just renamed it
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(handle)


def put_in_place(path: str | Path, place: str | Path) -> None:
    """Let ``place`` name the same content as ``path``: a hard link, or a copy where there are none.

    What was there before is replaced in one step; ``path`` outlives what becomes of ``place``, unless it is edited.
    """
    target = Path(place)
    with atomic_path(target) as temporary:
        link = temporary.with_name(f"{temporary.name}.link{_PART}")
        try:
            os.link(path, link)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, temporary)
            return
        link.replace(temporary)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def seconds_ahead(folder: str | Path) -> float:
    """By how many seconds the newest file in ``folder`` is from the future; 0 where none is, or there is no folder."""
    path = Path(folder)
    newest_s = (
        max((file.stat().st_mtime for file in path.iterdir() if file.is_file()), default=0.0) if path.is_dir() else 0
    )
    return max(0.0, newest_s - time.time())
