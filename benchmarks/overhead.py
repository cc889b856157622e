"""Time per configuration outside idle, warm-up and window, split into its parts, from the records of a real run.

From the start of one window to the start of the next lies everything a measurement costs, Snakemake included; what the
phases in the record do not explain is the scheduler, the starting of two interpreters and the writing of the record.
Run: ``python -m benchmarks.overhead [results/video-small]``, after `make run`.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections import Counter
from pathlib import Path

from ipa_energy.record import Record, read_records

WANTED = ("idle_bare", "idle_resident", "warm_up", "window", "settle", "idle_after", "idle_bare_after")


def phases_s(record: Record) -> Counter[str]:
    """Seconds in each phase; those of a name that comes twice are added."""
    seconds: Counter[str] = Counter()
    for phase in record["window"]["timeline"]:
        seconds[phase["phase"]] += phase["end_s"] - phase["begin_s"]
    return seconds


def main(folder: str = "results/video-small") -> None:
    reading = read_records(Path(folder, "records").rglob("*.json"))
    records = [r for _, r in reading.records if r["status"]["state"] == "ok"]
    records.sort(key=lambda r: r["window"]["start_monotonic_s"])
    if len(records) < 3:
        print(f"Overhead: {folder} holds {len(records)} measured records; needs 3 or more. Run `make run` first.")
        return
    each_s = [phases_s(record) for record in records]
    phases = {name: statistics.median(seconds[name] for seconds in each_s) for name in each_s[0]}
    starts_s = [r["window"]["start_monotonic_s"] for r in records]
    period_s = statistics.median(b - a for a, b in itertools.pairwise(starts_s))
    known_s = statistics.median(sum(seconds.values()) for seconds in each_s)
    wanted_s = sum(phases.get(name, 0.0) for name in WANTED)
    print(f"Overhead: medians over {len(records)} measurements in {folder}")
    print(f"  one measurement                     {period_s:6.2f} s")
    print(f"  of it idle, warm-up and window      {wanted_s:6.2f} s")
    for name, seconds in phases.items():
        print(f"    {name:33} {seconds:6.2f} s" + ("" if name in WANTED else "   (overhead)"))
    print(f"  scheduler, interpreters, record     {period_s - known_s:6.2f} s   (overhead)")
    print(f"  first measurement's start, which imports torch once for the whole run: {each_s[0]['start']:.2f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
