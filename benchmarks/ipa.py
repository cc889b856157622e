"""IPA's library: rows of the space per second, time of an optimum against HiGHS, of a decision, and of Pareto fronts.

Instances are made up (``ipa_reference.py``); that their optima are the same is checked here and in the tests.
Run: ``python -m benchmarks.ipa``. Needs highspy, which is a development dependency.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.ipa_reference import VIDEO_ACCURACY, highs_optimum, made_up_profile, shortest_latency_s
from ipa_energy.ipa.front import METRICS, pareto_mask, space_front
from ipa_energy.ipa.objective import AccuracyKind, Objective, Weights, normalising_scales
from ipa_energy.ipa.options import Input, Options, make_options
from ipa_energy.ipa.solver import solve
from ipa_energy.ipa.space import blocks, write_space

T = TypeVar("T")

WEIGHTS = Weights(alpha=1.0, beta=1.0, gamma=1e-3, delta=0.3)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    begin = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begin


def video(given: Input, replicas: int) -> Options:
    profile = made_up_profile(2, 5, [1, 2, 4, 8, 16], 0, VIDEO_ACCURACY)
    return make_options(profile, given, replicas)


def instances(stages: int, variants: int, batches: list[int], seeds: int) -> Iterator[Options]:
    """Profiles at low and high rate, with an SLA that binds hard, one that binds and one that hardly does."""
    for seed in range(seeds):
        profile = made_up_profile(stages, variants, batches, seed)
        for rate_rps in (5.0, 30.0):
            options = make_options(profile, Input(rate_rps, 1e5), 20)
            for slack in (1.1, 1.5, 4.0):
                yield options.with_sla(slack * shortest_latency_s(options))


def space(replicas: int = 40, large: int = 127) -> None:
    """Rows per second, and the memory that ten million rows take on their way to a file."""
    given = Input(20.0, 3.0)
    print("Space: two stages of 5 variants x 5 batch sizes, all columns")
    options, objective = video(given, replicas), Objective(WEIGHTS)
    size = options.size
    rates = [size / timed(lambda: sum(len(b) for b in blocks(options, objective)))[1] for _ in range(5)]
    print(f"  {size:.1e} rows in memory, block by block   {statistics.median(rates) / 1e6:5.1f} million rows/s")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("space.parquet", "space.csv"):
            _, seconds = timed(lambda name=name: write_space(Path(folder, name), options, objective))
            mb = Path(folder, name).stat().st_size / 1e6
            print(f"  to {name:15}                      {size / seconds / 1e6:5.1f} million rows/s, {mb:.0f} MB")
        options = video(given, large)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        _, seconds = timed(lambda: write_space(Path(folder, "large.parquet"), options, objective))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"  {options.size:.1e} rows to Parquet               {options.size / seconds / 1e6:5.1f} "
            f"million rows/s; peak memory of the process {before / 1e3:.0f} MB before, {after / 1e3:.0f} MB after"
        )


def solver(stages: int = 10, variants: int = 10, seeds: int = 3) -> None:
    """The optimum of the same instances by this library and by HiGHS, one after the other."""
    batches = [1, 2, 4, 8, 16, 32, 64, 128]
    print(f"Solver: {stages} stages x {variants} variants x {len(batches)} batch sizes, up to 20 replicas")
    kinds: tuple[AccuracyKind, ...] = ("rank_sum", "pas")
    for kind in kinds:
        own_s, highs_s, differences, programs = [], [], [], []
        for options in instances(stages, variants, batches, seeds):
            objective = Objective(WEIGHTS, kind, normalising_scales(options, kind))
            found, seconds = timed(lambda o=options, t=objective: solve(o, t))
            reference = highs_optimum(options, objective)
            assert found.best is not None
            own_s.append(seconds)
            highs_s.append(reference.run_s)
            programs.append(reference.programs)
            differences.append(abs(found.best.objective - reference.value))
        ratio = [h / o for h, o in zip(highs_s, own_s, strict=True)]
        print(f"  {kind:8} {len(own_s)} instances: median {1e3 * statistics.median(own_s):.1f} ms, ", end="")
        print(
            f"longest {1e3 * max(own_s):.1f} ms; HiGHS, its run() alone: median {1e3 * statistics.median(highs_s):.0f}"
        )
        print(
            f"    ms in {statistics.median(programs):.0f} programs; HiGHS / own: median {statistics.median(ratio):.1f},"
        )
        print(f"    least {min(ratio):.1f}; largest difference of the objectives {max(differences):.1e}")


def decision(rounds: int = 200) -> None:
    """What an adaptation step does once a rate is predicted: options for it, then the optimum."""
    profile = made_up_profile(2, 5, [1, 2, 4, 8, 16], 0, VIDEO_ACCURACY)
    rates = np.random.default_rng(0).uniform(3, 34, rounds)
    for kind in ("pas", "rank_sum"):
        times = []
        for rate_rps in rates.tolist():
            given = Input(rate_rps, 3.0)
            times.append(timed(lambda g=given, k=kind: solve(make_options(profile, g, 20), Objective(WEIGHTS, k)))[1])
        print(
            f"Decision: video, 20 replicas, {kind}: median {1e3 * statistics.median(times):.1f} ms, "
            f"95th percentile {1e3 * float(np.quantile(times, 0.95)):.1f} ms, longest {1e3 * max(times):.1f} ms"
        )


def front(n: int = 100_000) -> None:
    """Fronts of points, and of a space without enumerating it."""
    rng = np.random.default_rng(0)
    ball = np.abs(rng.normal(size=(n, 4)))
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    for name, points in (("uniform", rng.uniform(size=(n, 4))), ("all on the front", ball)):
        mask, seconds = timed(lambda p=points: pareto_mask(p))
        print(f"Front: {n} points, 4 objectives, {name}: {seconds:.2f} s, {int(mask.sum())} on it")
    given = Input(20.0, 3.0)
    options, objective = video(given, 40), Objective(WEIGHTS)
    found, seconds = timed(lambda: space_front(options, objective, METRICS))
    print(f"Front: video space of {options.size:.1e} rows: {1e3 * seconds:.1f} ms, {len(found)} on it")
    profile = made_up_profile(5, 6, [1, 2, 4, 8, 16], 0)
    options = make_options(profile, Input(20.0, 1e5), 10)
    options = options.with_sla(3.0 * shortest_latency_s(options))
    found, seconds = timed(lambda: space_front(options, objective, METRICS))
    print(f"Front: 5 stages x 6 variants x 5 batch sizes, {options.size:.1e} rows: {seconds:.2f} s, {len(found)} on it")


def main() -> None:
    space()
    solver()
    decision()
    front()


if __name__ == "__main__":
    main()
