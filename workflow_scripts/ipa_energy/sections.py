"""The sections of a record that follow from the job alone: they stand in every record, measured or not."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from ipa_energy import cost, host, pipelines
from ipa_energy.job import Job, decided_weights
from ipa_energy.record import SCHEMA_VERSION, Record


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


def job_provenance(job: Job) -> dict[str, Any]:
    """What it was measured with: weights, frames, the settings that it depends on, and the digest of the code."""
    return {
        "weights": decided_weights(job.weights),
        "weights_of_variants": [json.loads(Path(file).read_text(encoding="utf-8")) for file in job.variant_weights],
        "frames": json.loads(Path(job.frames_facts).read_text(encoding="utf-8")),
        "settings": job.settings,
        "protocol_digest": job.protocol_digest,
    }


def empty_record(job: Job, state: str, reason: str) -> Record:
    """The record of a measurement without figures."""
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": job.identity(),
        "status": {"state": state, "reason": reason},
        "window": None,
        "service": None,
        "accuracy": accuracy_section(job),
        "cost": cost_section(job, None),
        "energy": None,
        "quality": None,
        "provenance": host.provenance() | job_provenance(job),
        "earlier_tries": [],
    }
