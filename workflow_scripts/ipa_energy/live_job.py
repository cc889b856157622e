"""A live run: everything that adapting in reality needs, as plain data that travels to its process as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ipa_energy.job import Job, job_from_json


@dataclass(frozen=True)
class LiveJob:
    """One run of one method under a stretch of a load.

    ``job`` holds files, settings and the configuration to begin with. ``counts`` are the requests of each second, and
    ``before`` those of the seconds before, which predictors may see. ``predictor_files`` are weights and settings of
    the LSTM, None for another predictor. ``replicas`` is the most of a stage.
    """

    job: Job
    method: str
    predictor: str
    load: str
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
