"""What sampling power costs: the sampler's own CPU time, and throughput with and without it.

All meters that the host has are open. The sampler's CPU seconds are exact, edges and detection of the ticks included;
what it takes from the serving is at most its share of all cores. The throughput ratio shows that nothing else is lost,
within the machine's noise. Run: ``python -m benchmarks.sampling``.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.jobs import make_job, measured
from ipa_energy import owner
from ipa_energy.host import available_cores

PERIODS_S = (1.0, 0.1, 0.01)


def main(rounds: int = 3, seconds: float = 8.0) -> None:
    owner.claim()
    print(f"Sampling: {rounds} rounds of {seconds:g} s; throughput against a sample period of {PERIODS_S[0]:g} s")
    served: dict[float, list[float]] = {period_s: [] for period_s in PERIODS_S}
    cpu: dict[float, list[float]] = {period_s: [] for period_s in PERIODS_S}
    meters: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for period_s in PERIODS_S:
                job = make_job(
                    Path(folder), "ssdlite320_mobilenet_v3_large", "resnet18", 4, seconds, sample_period_s=period_s
                )
                record = measured(job, Path(folder))
                served[period_s].append(record["service"]["throughput_rps"])
                meters |= {domain["meter"] for domain in record["energy"]["domains"]}
                cpu[period_s].append(record["quality"]["sampler_cpu_s"] / record["window"]["duration_s"])
    print(f"meters: {', '.join(sorted(meters))}; {len(available_cores())} cores")
    for period_s in PERIODS_S:
        ratio = statistics.median(s / b for s, b in zip(served[period_s], served[PERIODS_S[0]], strict=True))
        share = statistics.median(cpu[period_s])
        print(f"period {period_s:5g} s: sampler {share:.2%} of a core, throughput x {ratio:.3f}", flush=True)


if __name__ == "__main__":
    main()
