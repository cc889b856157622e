"""A live run: everything that adapting in reality needs, as plain data that travels to its process as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ipa_energy import pipelines
from ipa_energy.ipa.deciding import Setting, choose_by, first_configuration, setting_of
from ipa_energy.ipa.loads import load_scale
from ipa_energy.ipa.options import Input
from ipa_energy.ipa.predictors import WINDOW_S
from ipa_energy.ipa.profile import Profile, read_profile
from ipa_energy.ipa.settings import options_for, sla_s, usable_methods
from ipa_energy.ipa.trace_files import read_counts
from ipa_energy.job import Job, job_from_json
from ipa_energy.plan import block_and_role


@dataclass(frozen=True)
class LiveJob:
    """One run of one method under a stretch of a load.

    ``job`` holds files, settings and the configuration to begin with. ``counts`` are the requests of each second, and
    ``before`` those of the seconds before, which predictors may see. ``predictor_files`` are weights and settings of
    the LSTM, None for another predictor. ``replicas`` is the most of a stage, ``scale`` the size of the load in IPA's.
    """

    job: Job
    method: str
    predictor: str
    load: str
    scale: float
    counts: tuple[int, ...]
    before: tuple[int, ...]
    sla_s: float
    replicas: int
    profile: str
    predictor_files: tuple[str, str] | None
    ipa: Mapping[str, Any]
    usd: Mapping[str, float]

    def to_json(self) -> str:
        """JSON text; inverse of :func:`live_job_from_json`."""
        return json.dumps(asdict(self))

    @property
    def drain_timeout_s(self) -> float:
        """How long what is in flight when the load ends may take: an overloaded run is a result, too."""
        return max(300.0, float(len(self.counts)))

    @property
    def title(self) -> str:
        """One line that names the run for people."""
        return f"{self.method} under {self.load}, {len(self.counts)} s"


def live_job_from_json(text: str) -> LiveJob:
    """Rebuild a job from :meth:`LiveJob.to_json`."""
    data = json.loads(text)
    files = data["predictor_files"]
    return LiveJob(
        **(
            data
            | {
                "job": job_from_json(json.dumps(data["job"])),
                "counts": tuple(data["counts"]),
                "before": tuple(data["before"]),
                "predictor_files": None if files is None else tuple(files),
            }
        )
    )


def arrival_seed(live: LiveJob) -> tuple[int, int]:
    """Seed of the arrivals: the same for all methods of a run, others in the next, as with blocks of measurements."""
    return int(live.job.settings["seed"]), block_and_role(live.job.repetition)[0]


def live_setting(live: LiveJob, profile: Profile) -> Setting:
    """The run as :mod:`.ipa.adaptation_study` sees it: with no more replicas than the host can hold."""
    ipa = dict(live.ipa) | {"replicas": live.replicas}
    counts = np.array(live.counts, dtype=np.int64)
    return setting_of(live.load, counts, profile, ipa, live.usd, live.job.settings["max_wait_s"])


def why_not_live(live: LiveJob, profile: Profile) -> str | None:
    """Why the method can't run, or the profile can't be served; None where both can."""
    configuration = live.job.configuration
    wanted = [stage.stage for stage in profile.stages]
    stages = pipelines.get(configuration.pipeline).stage_names
    if wanted != list(stages):
        return (
            f"the profile has the stages {', '.join(wanted)}, and pipeline {configuration.pipeline} has "
            f"{', '.join(stages)}: its variants can't be served"
        )
    at_hand = {json.loads(Path(file).read_text(encoding="utf-8"))["variant"] for file in live.job.variant_weights}
    lacking = [variant for stage in profile.stages for variant in stage.variants if variant not in at_hand]
    if lacking:
        return f"the profile has variants that are not in the grid, so that they have no weights: {', '.join(lacking)}"
    options = options_for(profile, Input(1.0, live.sla_s), live.ipa, live.usd, live.replicas)
    return usable_methods([live.method], options, live.ipa)[1].get(live.method)


def live_job(
    job: Job,
    method: str,
    counts_file: str,
    profile_file: str,
    predictor_files: tuple[str, str] | None,
    ipa: Mapping[str, Any],
    usd: Mapping[str, float],
) -> LiveJob:
    """The live run of ``method`` by the config; ``job`` needs no stages yet, and gets those that the run begins with.

    Predictors may see what the load has in the 120 s before the run. Raises ValueError for a stretch beyond the load.
    """
    adaptation = ipa["adaptation"]
    section = adaptation["live"]
    whole = read_counts(counts_file)
    first, last = section["first"], section["first"] + section["seconds"]
    if last > len(whole):
        raise ValueError(
            f"ipa.adaptation.live wants seconds {first} to {last} of load {section['load']}, which has {len(whole)}: "
            f"make the load longer or the run shorter"
        )
    profile = read_profile(profile_file)
    live = LiveJob(
        job=job,
        method=method,
        predictor=adaptation["predictors"][0],
        load=section["load"],
        scale=load_scale(adaptation["loads"][section["load"]], whole),
        counts=tuple(whole[first:last].tolist()),
        before=tuple(whole[max(0, first - WINDOW_S) : first].tolist()),
        sla_s=sla_s(adaptation["sla_s"], profile, ipa, usd),
        replicas=section["replicas"],
        profile=profile_file,
        predictor_files=predictor_files,
        ipa=ipa,
        usd=usd,
    )
    if why_not_live(live, profile):
        return live  # its supervisor says why
    setting = live_setting(live, profile)
    initial, _ = first_configuration(setting, method, choose_by(setting, method))
    return replace(live, job=replace(job, configuration=replace(job.configuration, stages=initial)))
