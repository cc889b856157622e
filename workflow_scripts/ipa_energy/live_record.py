"""The file of a live run: a record of its whole window, and everything that was decided, started, ended and served.

``results/{experiment}/adaptation/live/{method}.{run}.json`` holds the run's settings, ``state`` and ``reason``, and,
where it is ``ok``, ``record`` (:mod:`.record`, with the first configuration), ``journal`` and ``decisions``
(:mod:`.live_outcome`), and ``settled``. Figures are made of it afterwards, by :mod:`.ipa.live_log`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipa_energy import record
from ipa_energy.files import write_text
from ipa_energy.live_job import LiveJob, arrival_seed
from ipa_energy.plan import block_and_role

SCHEMA_VERSION = 1
CONTENT = ("record", "journal", "decisions", "settled")


class LiveFileError(ValueError):
    """A file is no live run. The text names the file and what is wrong."""


def live_content(live: LiveJob, state: str, reason: str | None, content: Mapping[str, Any]) -> dict[str, Any]:
    """What the file holds; all of :data:`CONTENT` is None where nothing ran."""
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": live.job.experiment,
        "method": live.method,
        "predictor": live.predictor,
        "load": live.load,
        "run": f"run{block_and_role(live.job.repetition)[0]}",
        "counts": list(live.counts),
        "before": list(live.before),
        "sla_s": live.sla_s,
        "replicas_limit": live.replicas,
        "initial": live.job.configuration.as_dict()["stages"],
        "arrival_seed": list(arrival_seed(live)),
        "max_wait_s": live.job.settings["max_wait_s"],
        "state": state,
        "reason": reason,
        **{key: content.get(key) for key in CONTENT},
    }


def write_live_file(path: str | Path, content: Mapping[str, Any]) -> None:
    """Validate the record and write the file atomically. Raises RecordError, and OSError when it can't be written."""
    if content["record"] is not None:
        problem = record.fault(content["record"])
        if problem:
            raise record.RecordError(f"refusing to write {path}: {problem}")
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_live_file(path: str | Path) -> dict[str, Any]:
    """Read one file. Raises LiveFileError naming it and the fault."""
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {content['schema_version']!r}; this release reads {SCHEMA_VERSION}")
        missing = [key for key in ("method", "load", "state", *CONTENT) if key not in content]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LiveFileError(f"{path} is no file of a live run ({error}): run it again") from error
    problem = f"lacks {', '.join(missing)}" if missing else None
    if problem is None and content["record"] is not None:
        problem = record.fault(content["record"])
    if problem:
        raise LiveFileError(f"{path}: {problem}")
    return content
