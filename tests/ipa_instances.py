"""Small instances of IPA's problem with the truth beside them: every configuration, in exact fractions, no library."""

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction

import pandas as pd
from hypothesis import strategies as st

from ipa_energy.ipa.objective import Objective, Scales, Weights
from ipa_energy.ipa.options import Input, make_options
from ipa_energy.ipa.profile import make_profile


def exact(value):
    """The decimal that a float was written as."""
    return Fraction(str(value))


@dataclass(frozen=True)
class Instance:
    """Rows of a profile (dicts), an input, the largest number of replicas, an objective, and the kind of energy."""

    rows: list
    given: Input
    replicas: int
    objective: Objective
    energy_kind: str | None

    def options(self):
        return make_options(make_profile(pd.DataFrame(self.rows), self.energy_kind), self.given, self.replicas)

    def stages(self):
        return list(dict.fromkeys(row["stage"] for row in self.rows))

    def choices(self, stage):
        """Every option of a stage as (knobs, figures): what the paper's formulas say of it, in fractions."""
        rate, found = exact(self.given.rate_rps), []
        mine = [row for row in self.rows if row["stage"] == stage]
        accuracies = {row["variant"]: exact(row["accuracy"]) for row in mine}
        for row, n in itertools.product(mine, range(1, self.replicas + 1)):
            b, a = row["batch"], accuracies[row["variant"]]
            below, same = sum(x < a for x in accuracies.values()), sum(x == a for x in accuracies.values())
            rank = Fraction(2 * below + same - 1, 2) / (len(accuracies) - 1) if len(accuracies) > 1 else Fraction(1)
            energy = None
            if self.energy_kind:
                idle, h = exact(row["idle_w"]), exact(row["throughput_rps"])
                own = exact(row["energy_j"]) / b - (idle / h if self.energy_kind == "gross" else 0)
                energy = own + n * idle / rate
            figures = {
                "accuracy": a,
                "rank": rank,
                "cost": n * row["cores"],
                "batch": b,
                "latency": exact(row["latency_s"]) + Fraction(b - 1) / rate,
                "throughput": n * exact(row["throughput_rps"]),
                "energy": energy,
            }
            found.append(((row["variant"], row["cores"], b, n), figures))
        return found

    def configurations(self):
        """Every configuration as (knobs of the stages, figures of the whole), feasible or not."""
        weights, scales = self.objective.weights, self.objective.scales
        for combination in itertools.product(*(self.choices(stage) for stage in self.stages())):
            figures = [f for _, f in combination]
            total = {key: sum(f[key] for f in figures) for key in ("rank", "cost", "batch", "latency")}
            total["accuracy"] = math.prod(f["accuracy"] for f in figures)
            total["throughput"] = min(f["throughput"] for f in figures)
            total["energy"] = sum(f["energy"] for f in figures) if self.energy_kind else None
            accuracy = total["accuracy" if self.objective.accuracy == "pas" else "rank"]
            total["objective"] = (
                exact(weights.alpha) * accuracy / exact(scales.accuracy)
                - exact(weights.beta) * total["cost"] / exact(scales.cost)
                - exact(weights.gamma) * total["batch"] / exact(scales.batch)
            )
            if weights.delta:
                total["objective"] -= exact(weights.delta) * total["energy"] / exact(scales.energy)
            total["violates"] = ["latency"] if total["latency"] > exact(self.given.sla_s) else []
            for stage, f in zip(self.stages(), figures, strict=True):
                if f["throughput"] < exact(self.given.rate_rps):
                    total["violates"].append(f"throughput of {stage}")
            yield tuple(k for k, _ in combination), total

    def optima(self):
        """The largest objective and all feasible configurations that have it; None and nothing if none is feasible."""
        feasible = [(knobs, f["objective"]) for knobs, f in self.configurations() if not f["violates"]]
        best = max((value for _, value in feasible), default=None)
        return best, {knobs for knobs, value in feasible if value == best}

    def front(self, metrics):
        """Feasible configurations that no other equals or beats in all metrics and beats in one."""
        sign = {"accuracy": -1, "rank": -1}
        points = [
            (knobs, tuple(sign.get(m, 1) * f[m] for m in metrics))
            for knobs, f in self.configurations()
            if not f["violates"]
        ]
        distinct = {point for _, point in points}
        best = {
            p for p in distinct if not any(q != p and all(x <= y for x, y in zip(q, p, strict=True)) for q in distinct)
        }
        return {knobs for knobs, point in points if point in best}


def thousandths(low, high):
    return st.integers(low, high).map(lambda n: n / 1000)


@st.composite
def instances(draw, accuracy=("pas", "rank_sum"), energy=(None, "net", "gross"), most_stages=3):
    """Few variants and coarse figures, so that ties and equal sums are common; rates that divide decimals exactly."""
    stages = draw(st.integers(1, most_stages))
    replicas = draw(st.integers(1, 2 if stages > 2 else 3))
    kind = draw(st.sampled_from(energy))
    coarse = draw(st.booleans())
    rows = []
    for s in range(stages):
        batches = draw(st.sampled_from([[1], [1, 2], [1, 4], [2, 8], [1, 2, 4]][: 4 if stages > 2 else 5]))
        for v in range(draw(st.integers(1, 3 if stages < 3 else 2))):
            a = draw(st.sampled_from([0.5, 0.6, 0.75, 0.8, 1.0]))
            cores = draw(st.integers(1, 3))
            for b in batches:
                row = {"stage": f"s{s}", "variant": f"v{v}", "accuracy": a, "cores": cores, "batch": b}
                row["latency_s"] = draw(st.sampled_from([0.1, 0.2, 0.3])) if coarse else draw(thousandths(1, 900))
                row["throughput_rps"] = draw(st.sampled_from([2.5, 5, 10, 20]))
                if kind:
                    row["energy_j"] = draw(st.sampled_from([0.5, 1.0, 2.0]) if coarse else thousandths(0, 5000))
                    row["idle_w"] = draw(st.sampled_from([0.0, 0.0, 0.5, 1.0]))
                rows.append(row)
    weights = Weights(
        alpha=draw(st.sampled_from([0.0, 1.0, 2.0, 10.0])),
        beta=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        gamma=draw(st.sampled_from([0.0, 0.001, 0.25])),
        delta=draw(st.sampled_from([0.0, 0.1, 1.0])) if kind else 0.0,
    )
    scales = draw(st.sampled_from([Scales(), Scales(accuracy=0.25, cost=8.0, batch=2.0, energy=0.5)]))
    given = Input(draw(st.sampled_from([1, 2.5, 5, 10, 20])), draw(st.sampled_from([0.3, 0.5, 0.6, 1.0, 2.0, 5.0])))
    return Instance(rows, given, replicas, Objective(weights, draw(st.sampled_from(accuracy)), scales), kind)
