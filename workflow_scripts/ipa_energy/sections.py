"""The sections of a record that follow from the job alone: they stand in every record, measured or not."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ipa_energy import cost, pipelines
from ipa_energy.job import Job


def accuracy_section(job: Job) -> dict[str, Any]:
    """Published accuracy of every stage's variant and their product, IPA's pipeline accuracy score (PAS)."""
    pipeline = pipelines.get(job.configuration.pipeline)
    stages = {s.stage: pipeline.variants(s.stage)[s.variant] for s in job.configuration.stages}
    return {
        "pas": math.prod(accuracy.value for accuracy in stages.values()),
        "method": "published figures of the pretrained weights",
        "stages": {name: dataclasses.asdict(accuracy) for name, accuracy in stages.items()},
    }


def cost_section(job: Job, throughput_rps: float | None) -> dict[str, Any]:
    """What the configuration occupies and what that costs at the job's prices."""
    hourly_usd = cost.usd_per_hour(job.configuration.cores, job.configuration.gpus, job.prices)
    return {
        "cores": job.configuration.cores,
        "gpus": job.configuration.gpus,
        "usd_per_hour": hourly_usd,
        "usd_per_1000_requests": (
            None if throughput_rps is None else cost.usd_per_1000_requests(hourly_usd, throughput_rps)
        ),
    }
