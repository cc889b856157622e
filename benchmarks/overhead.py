"""Time per configuration outside idle, warm-up and window, split into its parts, from the records of a real run.

From the start of one window to the start of the next lies everything a measurement costs, Snakemake included; what the
phases in the record do not explain is the scheduler, the starting of two interpreters and the writing of the record.
Run: ``python -m benchmarks.overhead [results/video-small]``, after `make run`.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from pathlib import Path

from ipa_energy.record import read_records

WANTED = ("idle_bare", "idle_resident", "warm_up", "window", "idle_after")


def main(folder: str = "results/video-small") -> None:
    reading = read_records(Path(folder, "records").rglob("*.json"))
    records = [r for _, r in reading.records if r["status"]["state"] == "ok"]
    records.sort(key=lambda r: r["window"]["start_monotonic_s"])
    if len(records) < 3:
        print(f"Overhead: {folder} holds {len(records)} measured records; needs 3 or more. Run `make run` first.")
        return
    phases = {
        name: statistics.median(r["window"]["phases_s"][name] for r in records)
        for name in records[0]["window"]["phases_s"]
    }
    starts_s = [r["window"]["start_monotonic_s"] for r in records]
    period_s = statistics.median(b - a for a, b in itertools.pairwise(starts_s))
    known_s = statistics.median(sum(r["window"]["phases_s"].values()) for r in records)
    wanted_s = sum(phases[name] for name in WANTED)
    print(f"Overhead: medians over {len(records)} measurements in {folder}")
    print(f"  one measurement                     {period_s:6.2f} s")
    print(f"  of it idle, warm-up and window      {wanted_s:6.2f} s")
    for name, seconds in phases.items():
        print(f"    {name:33} {seconds:6.2f} s" + ("" if name in WANTED else "   (overhead)"))
    print(f"  scheduler, interpreters, record     {period_s - known_s:6.2f} s   (overhead)")
    first = records[0]["window"]["phases_s"]["start"]
    print(f"  first measurement's start, which imports torch once for the whole run: {first:.2f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
