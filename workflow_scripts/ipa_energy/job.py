"""A measuring job: everything one measurement needs, as plain data that travels to the measuring process as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ipa_energy.configuration import Configuration, configuration_from_dict
from ipa_energy.plan import block_and_role

MEASURING_SETTINGS = (
    "seed",
    "oversubscribe",
    "crops_per_frame",
    "max_wait_s",
    "protocol",
    "gates",
    "meters",
)
"""The sections of the config that change what a measurement yields; a change elsewhere re-measures nothing."""


@dataclass(frozen=True)
class Job:
    """One measurement: identity, settings and files. ``settings`` holds :data:`MEASURING_SETTINGS` only."""

    experiment: str
    configuration: Configuration
    workload: str
    workload_settings: dict[str, Any]
    repetition: str
    order: int
    settings: dict[str, Any]
    prices: dict[str, float]
    frames: str
    frames_facts: str
    weights: str
    variant_weights: tuple[str, ...]
    weights_folder: str
    trace: str
    protocol_digest: str

    def to_json(self) -> str:
        """JSON text; inverse of :func:`job_from_json`."""
        return json.dumps(asdict(self))

    def identity(self) -> dict[str, Any]:
        """The ``identity`` section of the record."""
        block, role = block_and_role(self.repetition)
        return {
            "experiment": self.experiment,
            "configuration_id": self.configuration.id,
            "configuration": self.configuration.as_dict(),
            "workload": self.workload,
            "workload_settings": self.workload_settings,
            "block": block,
            "repetition": self.repetition,
            "role": role,
            "order": self.order,
        }

    @property
    def title(self) -> str:
        """One line that names the measurement for people."""
        return f"{self.configuration.id} under {self.workload}, {self.repetition}"


def job_from_json(text: str) -> Job:
    """Rebuild a job from :meth:`Job.to_json`."""
    data = json.loads(text)
    return Job(**(data | {"configuration": configuration_from_dict(data["configuration"])}))


def measuring_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The slice of a study's ``settings`` that every measurement depends on."""
    return {key: settings[key] for key in MEASURING_SETTINGS}


def decided_weights(path: str | Path) -> dict[str, Any]:
    """The decision on weights that holds for the whole run (``weights.json``)."""
    return dict(json.loads(Path(path).read_text(encoding="utf-8")))
