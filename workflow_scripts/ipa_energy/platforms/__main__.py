"""``python -m ipa_energy.platforms restore|show``: put back what dead processes left changed, or only look."""

from __future__ import annotations

import argparse
import sys

from ipa_energy.platforms import journal, restore_left_behind
from ipa_energy.platforms.gpus import GpuUnavailable, handle_of, opened_nvml, uuids
from ipa_energy.platforms.power_limit import read_limits

_CONDITIONS = {
    "alive": "its process lives",
    "dead": "its process is gone: restore puts it back",
    "rebooted": "from before the host was started anew: restore drops it",
    "unknown": "of another pid namespace: nobody here can tell whether its process lives",
}


def _show() -> None:
    try:
        with opened_nvml() as nvml:
            for uuid in uuids(nvml):
                print(f"GPU {uuid}: {_limits(nvml, uuid)}")
    except GpuUnavailable as error:
        print(f"no GPU to look at: {error}")
    print(f"journal {journal.folder()}:")
    count = 0
    for path, entry in journal.read_all():
        count += 1
        if isinstance(entry, str):
            print(f"  {path.name}: {entry}")
        else:
            change = ", ".join(f"{name} {value}" for name, value in entry.change.items())
            condition = _CONDITIONS[journal.state(entry)]
            print(f"  {entry.kind} of {entry.device}: {change or 'started'} by {entry.by}; {condition}")
    if count == 0:
        print("  nothing is changed")


def _limits(nvml: object, uuid: str) -> str:
    limits = read_limits(nvml, handle_of(nvml, uuid))
    return (
        f"power limit {limits.requested_w:g} W requested, {limits.enforced_w:g} W enforced, "
        f"{limits.min_w:g} to {limits.max_w:g} W possible, {limits.default_w:g} W by default"
    )


def main() -> int:
    """The command line; its exit code is 1 when something could not be put back."""
    parser = argparse.ArgumentParser(prog="python -m ipa_energy.platforms", description=__doc__)
    parser.add_argument("action", choices=("restore", "show"))
    if parser.parse_args().action == "show":
        _show()
        return 0
    done = restore_left_behind(print)
    if not done:
        print("nothing was left behind")
    return int(any(restoration.outcome == "kept" for restoration in done))


if __name__ == "__main__":
    sys.exit(main())
