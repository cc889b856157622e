"""A run in reality in the form of a simulated one, so that both go through the same figures (:mod:`.outcome`).

The content of a live file goes in. Replicas, batches, requests and drops are those that were; what a batch or a waiting
replica costs, and what a variant's accuracy is, comes from the profile's curves as in the simulation. What the meters
said stands apart.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ipa_energy.configuration import StageKnobs
from ipa_energy.ipa.deciding import Setting
from ipa_energy.ipa.run_log import Batch, Configuration, Decision, Drop, Log, Replica


def live_log(content: Mapping[str, Any], setting: Setting) -> Log:
    """The log of a run. Raises KeyError for a replica that the setting's curves don't have."""
    journal = content["journal"]
    stages = list(setting.curves)
    lives = journal["replicas"]
    curve_of = [setting.curves[stages[life["stage"]]][life["variant"], life["threads"]] for life in lives]
    # A batch is known by who served it and when it ended; who was in it, by the requests.
    members: dict[tuple[int, float], list[int]] = defaultdict(list)
    for number, passed in journal["requests"]:
        for replica, _, done_s in passed:
            if done_s is not None:
                members[replica, done_s].append(number)
    return Log(
        curves=setting.curves,
        rules=replace(setting.rules, start_s=start_s(content)),
        arrivals_s=np.array(journal["arrivals_s"]),
        duration_s=float(len(content["counts"])),
        end_s=journal["end_s"],
        initial=tuple(StageKnobs(**knobs) for knobs in content["initial"]),
        batches=tuple(
            Batch(stage, place, curve_of[place], begin_s, end_s, tuple(sorted(members[place, end_s])))
            for stage, place, begin_s, end_s, _ in journal["batches"]
        ),
        drops=tuple(Drop(stage, number, at_s) for number, stage, at_s in journal["drops"]),
        replicas=tuple(
            Replica(
                number=place,
                stage=life["stage"],
                curve=curve_of[place],
                # Those of the first configuration were there when the load began.
                started_s=max(0.0, life["started_s"]),
                ready_s=None if life["ready_s"] is None else max(0.0, life["ready_s"]),
                gone_s=life["gone_s"],
            )
            for place, life in enumerate(lives)
        ),
        decisions=tuple(_decision(one) for one in content["decisions"]),
    )


def _decision(one: Mapping[str, Any]) -> Decision:
    configuration: Configuration = tuple(StageKnobs(**knobs) for knobs in one["configuration"])
    return Decision(
        one["at_s"], configuration, configuration if one["feasible"] else None, one["decide_s"], one["in_system"]
    )


def lost(content: Mapping[str, Any]) -> int:
    """Requests of the load that were neither completed, through every stage, nor dropped."""
    stages = len(content["initial"])
    journal = content["journal"]
    completed = {
        number
        for number, passed in journal["requests"]
        if len(passed) == stages and all(done_s is not None for _, _, done_s in passed)
    }
    dropped = {number for number, _, _ in journal["drops"]}
    return int(sum(content["counts"])) - len(completed | dropped)


def start_s(content: Mapping[str, Any]) -> float:
    """Median time from starting a replica until it could serve, in s, of those that were started while it served.

    Where none was, of those that were there at the begin.
    """
    known = [life for life in content["journal"]["replicas"] if life["ready_s"] is not None]
    live = [life for life in known if life["started_s"] >= 0]
    return float(np.median([life["ready_s"] - life["started_s"] for life in live or known]))


def oversubscribed_s(log: Log, cores: int) -> float:
    """How long living replicas had more threads than the host has cores, in s, as when a switch overlaps."""
    moments = {0.0, log.end_s} | {min(r.started_s, log.end_s) for r in log.replicas}
    moments |= {min(r.gone_s, log.end_s) for r in log.replicas if r.gone_s is not None}
    total_s = 0.0
    for begin_s, end_s in itertools.pairwise(sorted(moments)):
        there = (r for r in log.replicas if r.started_s <= begin_s and (r.gone_s is None or r.gone_s >= end_s))
        total_s += (end_s - begin_s) * (sum(r.curve.cores for r in there) > cores)
    return total_s
