"""Run the campaign, print the table; see ``--help``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from .ground import make_ground
from .moments import kills


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ground = make_ground(Path(folder) / "checkout")
        for outcome in kills(ground, arguments.moments, arguments.seed, arguments.part, arguments.parts):
            print(json.dumps({"t": round(time.monotonic()), **asdict(outcome)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
