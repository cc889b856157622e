"""Atomic writing: a file is either wholly there under its name, or not there at all, whatever is killed when."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that is renamed to it when the block ends without an exception.

    The data are on disk before the rename, so that a power cut leaves the old file or the new one. Raises OSError when
    the disk is full or the folder can't be written; the temporary file is then removed.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:80]}.", suffix=".part", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
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


def keep_also(path: str | Path, copy: str | Path) -> None:
    """Let ``copy`` name the same content as ``path`` and outlive it: a hard link, or a copy where there are none.

    Raises FileExistsError when ``copy`` exists: what is kept is never replaced.
    """
    Path(copy).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, copy)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if Path(copy).exists():
            raise FileExistsError(f"{copy} exists already") from None
        shutil.copy2(path, copy)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
