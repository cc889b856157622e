"""The log of a workflow job: everything that the job prints, from Python or native code, goes to one file."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def redirect_to(path: str) -> None:
    """Send stdout and stderr of this process (and of children it starts later) to the file ``path``.

    Works on file descriptors, so that native libraries are caught too.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
