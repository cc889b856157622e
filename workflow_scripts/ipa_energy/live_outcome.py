"""What a live run left: its journal and decisions as plain data for its file (:mod:`.live_record`).

Figures follow from it afterwards (:mod:`.ipa.live_log`), so that a change of what is made of a run never runs it again.
All times are seconds since the load began.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ipa_energy import host
from ipa_energy.configuration import StageKnobs
from ipa_energy.ipa.run_log import Configuration, Decision
from ipa_energy.serving.journal import Journal, ReplicaLife, Request


@dataclass
class Served:
    """The load as it was served: when it began and its last request had left (monotonic s), and the decisions.

    ``cpu`` and ``dispatcher_s`` hold the readings at begin and end: of the host, and of this process's own CPU time.
    ``settled`` says whether every stage served what was decided last when the idle phase after it began.
    """

    begin_s: float = 0.0
    end_s: float = 0.0
    decisions: list[Decision] = field(default_factory=list)
    cpu: list[host.CpuReading] = field(default_factory=list)
    dispatcher_s: list[float] = field(default_factory=list)
    settled: bool = True


def mean_stages(journal: Journal, first: Sequence[StageKnobs], run: Served) -> list[tuple[str, float, float]]:
    """(stage, batch, replicas) as means over the run: of the batches decided, and of the replicas that could serve."""
    edges_s = [0.0, *(decision.at_s for decision in run.decisions), run.end_s - run.begin_s]
    in_force: list[Configuration] = [tuple(first), *(decision.configuration for decision in run.decisions)]
    seconds = np.diff(edges_s)
    found = []
    for number, knobs in enumerate(first):
        batch = float(np.average([configuration[number].batch for configuration in in_force], weights=seconds))
        ready_s = sum(
            max(0.0, min(life.gone_s or run.end_s, run.end_s) - max(life.ready_s, run.begin_s))
            for life in journal.replicas.values()
            if life.stage == number and life.ready_s is not None
        )
        found.append((knobs.stage, batch, ready_s / (run.end_s - run.begin_s)))
    return found


def journal_content(journal: Journal, run: Served) -> dict[str, Any]:
    """Arrivals, what every request went through, drops, batches and replicas, JSON-ready.

    ``requests`` holds for each completed one, and for each dropped one as far as it came: its number in the order of
    arrival, and per stage the number of the replica, when it was taken and when it was done. ``batches`` hold stage,
    replica, begin, end and size, ``drops`` number, stage and time.
    """
    begin_s = run.begin_s
    number_of = {arrival_s: number for number, arrival_s in enumerate(journal.arrivals_s)}
    places = {name: place for place, name in enumerate(journal.replicas)}

    def passed(request: Request) -> list[Any]:
        done_s = [*request.done_s, *[None] * (len(request.taken_s) - len(request.done_s))]
        stages = zip(request.served_by, request.taken_s, done_s, strict=True)
        return [
            number_of[request.arrival_s],
            [[places[name], taken - begin_s, _since(done, begin_s)] for name, taken, done in stages],
        ]

    return {
        "end_s": run.end_s - begin_s,
        "arrivals_s": [arrival_s - begin_s for arrival_s in journal.arrivals_s],
        "requests": [passed(one) for one in (*journal.completed, *(drop.request for drop in journal.drops))],
        "drops": [[number_of[drop.arrival_s], drop.stage, drop.at_s - begin_s] for drop in journal.drops],
        "batches": [
            [b.stage, places[b.replica], b.begin_s - begin_s, b.end_s - begin_s, b.size] for b in journal.batches
        ],
        "replicas": [_life(life, begin_s) for life in journal.replicas.values()],
    }


def decisions_content(run: Served) -> list[dict[str, Any]]:
    """Every decision, JSON-ready."""
    return [
        {
            "at_s": decision.at_s,
            "configuration": [asdict(knobs) for knobs in decision.configuration],
            "feasible": decision.chosen is not None,
            "decide_s": decision.decide_s,
            "in_system": decision.in_system,
        }
        for decision in run.decisions
    ]


def _since(moment_s: float | None, begin_s: float) -> float | None:
    return None if moment_s is None else moment_s - begin_s


def _life(life: ReplicaLife, begin_s: float) -> dict[str, Any]:
    return {
        "name": life.name,
        "stage": life.stage,
        "variant": life.knobs.variant,
        "threads": life.knobs.threads,
        "cpus": list(life.cpus),
        "started_s": life.started_s - begin_s,
        "ready_s": _since(life.ready_s, begin_s),
        "gone_s": _since(life.gone_s, begin_s),
    }
