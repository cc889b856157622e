"""What fractions of the shipped grids, and of larger ones, can tell: `python -m benchmarks.fractions`."""

import copy
import time
from pathlib import Path

import numpy as np
import yaml
from threadpoolctl import threadpool_limits

from ipa_energy.analysis import anova
from ipa_energy.design import draw, factors_of, least_size
from ipa_energy.design_check import Model, check
from ipa_energy.plan import size_of
from ipa_energy.study import load_study

CONFIGS = ("config.yaml", "video-ipa.yaml", "video-cpu.yaml", "video-gpu.yaml")
KEEPS = (0.1, 0.125, 0.2, 0.25, 0.5, 0.75)
SEEDS = range(10)
ROUNDS = 9


def of_config(name):
    return yaml.safe_load((Path(__file__).parents[1] / "config" / name).read_text())


def large(batches, replicas, threads):
    """The grid of video-gpu.yaml with more values of its knobs, one block, one load."""
    config = of_config("video-gpu.yaml")
    for knobs in config["grid"]["stages"].values():
        knobs |= {"batch": batches, "replicas": replicas, "threads": threads}
    return config | {"blocks": 1, "workloads": {"saturated": {"kind": "saturated"}}, "max_measurements": 100_000}


def row(*cells):
    print("| " + " | ".join(map(str, cells)) + " |")


def shipped():
    """Efficiency, inflation and balance: the middle and the worst of ten seeds."""
    row(
        "grid",
        "configurations",
        "coefficients",
        "least share",
        "`keep`",
        "measured",
        "efficiency",
        "inflation",
        "balance",
    )
    row(*["---"] * 9)
    for name in CONFIGS:
        factors = factors_of(load_study(of_config(name) | {"anchor": False}).configurations)
        total = len(factors[0].codes)
        least = least_size(factors, 2024)
        for keep in KEEPS:
            size = size_of(keep, total)
            if size < least or size == total:
                continue
            found = [check(factors, draw(factors, size, seed)) for seed in SEEDS]
            efficiency = np.array([one.d_efficiency for one in found])
            inflation = np.array([one.worst_inflation or np.inf for one in found])
            even = np.array([one.balance for one in found])
            row(
                *(f"`config/{name}`", total, found[0].columns, f"{least / total:.3f}", keep, size),
                f"{np.median(efficiency):.3f} ({efficiency.min():.3f})",
                f"{np.median(inflation):.2f} ({inflation.max():.2f})",
                f"{np.median(even):.2f} ({even.min():.2f})",
            )


def shares():
    """Shares of the variance in fractions of the grid of video-gpu.yaml against the whole, without any noise."""
    print()
    row("`keep`", "shares add up to", "mean difference of a share", "largest")
    row(*["---"] * 4)
    factors = factors_of(load_study(of_config("video-gpu.yaml")).configurations)
    codes = np.column_stack([factor.codes for factor in factors])
    model = Model(factors)
    everything = model.matrix(np.arange(len(codes)))
    truths = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        effects = np.zeros(model.columns)
        for term, columns in zip(model.terms, model.slices, strict=True):
            width = columns.stop - columns.start
            effects[columns] = (
                rng.choice([0.2, 1]) * (1 if len(term) == 1 else 0.3) * rng.normal(size=width) / width**0.5
            )
        truths.append(everything @ effects)
    for keep in (*KEEPS[:-1], 1.0):
        sums, off = [], []
        for seed, truth in zip(SEEDS, truths, strict=True):
            chosen = draw(factors, size_of(keep, len(codes)), seed)
            part, whole = (
                np.array([line.squares[0] for line in found.lines]) / found.total[0]
                for found in (
                    anova.type_two(codes[chosen], truth[chosen, None], model.terms),
                    anova.type_two(codes, truth[:, None], model.terms),
                )
            )
            sums.append(part.sum())
            off.append(np.abs(part - whole))
        row(keep, f"{np.mean(sums):.3f}", f"{np.mean(off):.4f}", f"{np.max(off):.3f}")


def time_to_lay_out():
    """Processor time of a study that is loaded, as whenever the workflow is parsed."""
    print()
    row("configurations", "`keep`", "full (ms)", "fraction (ms)", "drawing alone (ms)")
    row(*["---"] * 5)
    wide = [1, 2, 4, 8, 16]
    for config in (of_config("video-gpu.yaml"), large(wide, [1, 2, 3, 4], [2]), large(wide, [1, 2, 3, 4], [2, 4])):
        config["blocks"] = 1
        for keep in (0.1, 0.25, 0.5):
            times = []
            for _ in range(ROUNDS):
                one = []
                for design in ("full", "fraction"):
                    began = time.process_time()
                    study = load_study(copy.deepcopy(config) | {"design": design, "fraction": {"keep": keep}})
                    one.append(time.process_time() - began)
                factors = factors_of(study.configurations)
                began = time.process_time()
                draw(factors, len(study.measured), study.settings["seed"])
                times.append([*one, time.process_time() - began])
            row(len(study.configurations), keep, *(f"{1000 * t:.0f}" for t in np.median(times, axis=0)))


def main():
    """Print the three tables of docs/designs.md."""
    with threadpool_limits(1):
        shipped()
        shares()
        time_to_lay_out()


if __name__ == "__main__":
    main()
