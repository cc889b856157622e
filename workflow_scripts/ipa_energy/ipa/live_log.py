"""A run in reality in the form of a simulated one, so that both go through the same figures (:mod:`.outcome`).

The engine's journal and the decisions go in. Times are shifted to the moment at which the load began. Replicas,
batches, requests and drops are those that were; what a batch or a waiting replica costs, and what a variant's accuracy
is, comes from the profile's curves as in the simulation. What the meters said stands apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ipa_energy.ipa.run_log import Batch, Configuration, Decision, Drop, Log, Replica, Rules
from ipa_energy.ipa.service import Curves
from ipa_energy.serving.journal import Journal


def live_log(
    journal: Journal,
    curves: Curves,
    rules: Rules,
    initial: Configuration,
    decisions: Sequence[Decision],
    begin_s: float,
    duration_s: float,
    end_s: float,
) -> Log:
    """The log of a run whose load began at ``begin_s`` (monotonic) and whose last request had left at ``end_s``.

    Decisions are in seconds since the begin already. Raises KeyError for a replica that the curves don't have.
    """
    stages = list(curves)
    arrivals_s = np.array(journal.arrivals_s) - begin_s
    number_of = {arrival_s: number for number, arrival_s in enumerate(journal.arrivals_s)}
    who: dict[tuple[int, str, float], list[int]] = defaultdict(list)
    entries = [*journal.completed, *(drop.request for drop in journal.drops)]
    for entry in entries:
        for stage, (name, taken_s) in enumerate(zip(entry.served_by, entry.taken_s, strict=True)):
            who[stage, name, taken_s].append(number_of[entry.arrival_s])
    numbers = {name: number for number, name in enumerate(journal.replicas)}
    curve_of = {
        name: curves[stages[life.stage]][life.knobs.variant, life.knobs.threads]
        for name, life in journal.replicas.items()
    }
    taken = {
        (stage, name, entry.done_s[stage]): entry.taken_s[stage]
        for entry in entries
        for stage, name in enumerate(entry.served_by)
    }
    batches = tuple(
        Batch(
            b.stage,
            numbers[b.replica],
            curve_of[b.replica],
            b.begin_s - begin_s,
            b.end_s - begin_s,
            tuple(sorted(who[b.stage, b.replica, taken[b.stage, b.replica, b.end_s]])),
        )
        for b in journal.batches
    )
    return Log(
        curves=curves,
        rules=rules,
        arrivals_s=arrivals_s,
        duration_s=duration_s,
        end_s=end_s - begin_s,
        initial=initial,
        batches=batches,
        drops=tuple(Drop(d.stage, number_of[d.request.arrival_s], d.at_s - begin_s) for d in journal.drops),
        replicas=tuple(
            Replica(
                number=numbers[name],
                stage=life.stage,
                curve=curve_of[name],
                # Those of the first configuration were there when the load began.
                started_s=max(0.0, life.started_s - begin_s),
                ready_s=None if life.ready_s is None else max(0.0, life.ready_s - begin_s),
                gone_s=None if life.gone_s is None else life.gone_s - begin_s,
            )
            for name, life in journal.replicas.items()
        ),
        decisions=tuple(decisions),
    )
