"""Runs a command on a machine whose CPU packages draw a known power: fake powercap counters under /sys/class.

Has to start in a mount namespace of its own (``unshare -m``). Arguments: watts of a package (its DRAM draws a quarter
of that), then the command. Ends with the command's code.
"""

import subprocess
import sys
from pathlib import Path

from meter_fixtures import FakePowercap, host_sockets


def main() -> int:
    watts, command = float(sys.argv[1]), sys.argv[2:]
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/sys/class"], check=True)
    tree = FakePowercap(Path("/sys/class/powercap"))
    for socket in host_sockets():
        tree.add_package(f"package-{socket}", dram=True, watts=watts)
    with tree.running():
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
