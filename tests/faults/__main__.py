"""Play the faults, each followed by a restart, print a line of JSON for each and a table at the end; see ``--help``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from . import namespace, report
from .caps import killed_with_a_cap
from .clock import set_back
from .damage import damaged_records
from .ground import Ground, make_ground
from .moments import importing, kills, unseen
from .outcome import Outcome
from .places import lost_nodes, stale_locks, two_workflows
from .storage import full_disk, read_only_results

FAULTS: dict[str, Callable[[Ground], Iterator[Outcome]]] = {
    "unseen": unseen,
    "importing": importing,
    "full_disk": full_disk,
    "read_only_results": read_only_results,
    "lost_nodes": lost_nodes,
    "stale_locks": stale_locks,
    "set_back": set_back,
    "damaged_records": damaged_records,
    "two_workflows": two_workflows,
    "caps": killed_with_a_cap,
}
IN_A_NAMESPACE = ("full_disk", "read_only_results")
MOMENTS = "moments"


def main() -> int:
    """The command line; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="FAULT", choices=(MOMENTS, *FAULTS), default=(MOMENTS, *FAULTS))
    parser.add_argument("--moments", type=int, default=50, help="random moments to kill at (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (%(default)s)")
    parser.add_argument("--part", type=int, default=0, help="only every --parts-th moment, from this one on")
    parser.add_argument("--parts", type=int, default=1, help="campaigns side by side that share the moments")
    parser.add_argument("--lines", type=Path, help="also write the lines of JSON to this file")
    parser.add_argument("--table", nargs="+", type=Path, metavar="LINES", help="play nothing: a table of such files")
    parser.add_argument("--out", type=Path, help="write the table to this file; docs/faults.md: between its markers")
    arguments = parser.parse_args()
    if arguments.table:
        outcomes = [report.parse(line) for path in arguments.table for line in path.read_text().splitlines()]
    else:
        missing = namespace.enter("faults", sys.argv[1:])
        outcomes = list(_played(arguments, missing))
    table = report.table(outcomes)
    print(table)
    if arguments.out:
        report.write(table, arguments.out)
    return int(any(outcome.problems for outcome in outcomes))


def _played(arguments: argparse.Namespace, missing: str | None) -> Iterator[Outcome]:
    # A campaign in the background of a shell ignores Ctrl-C, and so would the runs that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began_s = time.monotonic()
    lines = arguments.lines.open("a") if arguments.lines else None
    for name in arguments.only:
        if missing and name in IN_A_NAMESPACE:
            print(f"{name} is left out, no mount namespace can be had: {missing}", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory(prefix="faults.") as folder:
            ground = make_ground(Path(folder) / "checkout")
            if name == MOMENTS:
                found = kills(ground, arguments.moments, arguments.seed, arguments.part, arguments.parts)
            else:
                found = FAULTS[name](ground)
            for outcome in found:
                line = json.dumps(asdict(outcome) | {"at_s": round(time.monotonic() - began_s)})
                print(line, file=sys.stderr, flush=True)
                if lines:
                    print(line, file=lines, flush=True)
                yield outcome


if __name__ == "__main__":
    sys.exit(main())
