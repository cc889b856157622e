"""A mount namespace of our own: disks can be made small or read-only, and shared memory holds nothing of others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from meter_fixtures import unshare_mount

INSIDE = "IPA_ENERGY_FAULTS_INSIDE"


def enter(module: str, arguments: Sequence[str]) -> str | None:
    """Start ``python -m module`` anew in a mount namespace, in place of this process; why that can't be, or None.

    In the new process, shared memory is made empty and None is returned.
    """
    if os.environ.get(INSIDE):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
        return None
    command = unshare_mount()
    if isinstance(command, str):
        return command
    environment = os.environ | {INSIDE: "1"}
    return os.execvpe(command[0], [*command, sys.executable, "-m", module, *arguments], environment)
