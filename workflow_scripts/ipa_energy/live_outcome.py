"""What a live run came to: from its journal and decisions to the content of its file (:mod:`.live_record`)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ipa_energy import host
from ipa_energy.configuration import StageKnobs
from ipa_energy.ipa.adaptation_study import Setting
from ipa_energy.ipa.live_log import live_log
from ipa_energy.ipa.outcome import figures, intervals
from ipa_energy.ipa.run_log import Configuration, Decision, Log
from ipa_energy.live_job import LiveJob
from ipa_energy.serving.journal import Journal, ReplicaLife


@dataclass
class Served:
    """The load as it was served: when it began and its last request had left (monotonic s), and the decisions.

    ``cpu`` and ``dispatcher_s`` hold the readings at begin and end: of the host, and of this process's own CPU time.
    """

    begin_s: float = 0.0
    end_s: float = 0.0
    decisions: list[Decision] = field(default_factory=list)
    cpu: list[host.CpuReading] = field(default_factory=list)
    dispatcher_s: list[float] = field(default_factory=list)


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


def content_of(
    live: LiveJob, setting: Setting, journal: Journal, run: Served, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Record, figures, intervals, decisions and replicas of a run, JSON-ready."""
    started = [life.ready_s - life.started_s for life in journal.replicas.values() if life.ready_s is not None]
    start_s = float(np.median(started)) if started else 0.0
    log = live_log(
        journal,
        setting.curves,
        replace(setting.rules, start_s=start_s),
        live.job.configuration.stages,
        run.decisions,
        run.begin_s,
        float(len(live.counts)),
        run.end_s,
    )
    table = intervals(log, live.sla_s)
    return {
        "record": record,
        "figures": figures(log, live.sla_s, setting.profile.host_idle_w),
        "intervals": table.astype(object).where(table.notna(), None).to_dict("records"),
        "decisions": [
            {
                "at_s": decision.at_s,
                "configuration": [asdict(knobs) for knobs in decision.configuration],
                "feasible": decision.chosen is not None,
                "decide_s": decision.decide_s,
                "in_system": decision.in_system,
            }
            for decision in run.decisions
        ],
        "replicas": [_life(life, run.begin_s) for life in journal.replicas.values()],
        "start_s": start_s,
        "oversubscribed_s": _oversubscribed_s(log, len(host.available_cores())),
    }


def _life(life: ReplicaLife, begin_s: float) -> dict[str, Any]:
    def since(moment_s: float | None) -> float | None:
        return None if moment_s is None else moment_s - begin_s

    return {
        "name": life.name,
        "variant": life.knobs.variant,
        "threads": life.knobs.threads,
        "cpus": list(life.cpus),
        "started_s": since(life.started_s),
        "ready_s": since(life.ready_s),
        "gone_s": since(life.gone_s),
    }


def _oversubscribed_s(log: Log, cores: int) -> float:
    """How long living replicas had more threads than the host has cores, as when a switch overlaps."""
    edges_s = sorted(
        {0.0, log.end_s}
        | {min(r.started_s, log.end_s) for r in log.replicas}
        | {min(r.gone_s, log.end_s) for r in log.replicas if r.gone_s is not None}
    )
    total_s = 0.0
    for begin_s, end_s in itertools.pairwise(edges_s):
        threads = sum(
            r.curve.cores for r in log.replicas if r.started_s <= begin_s and (r.gone_s is None or r.gone_s >= end_s)
        )
        total_s += (end_s - begin_s) * (threads > cores)
    return total_s
