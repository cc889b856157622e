"""Designs of a study that are compared by simulation: the whole grid or a fraction, with fixed blocks or until decided.

A preset is a file in ``config/error_rates/designs/``: which studies are simulated, and the designs that each of them is
run through.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from ipa_energy.analysis.stopping import Stopping
from ipa_energy.error_rates.service import LARGEST_NARROW
from ipa_energy.error_rates.truths import TRUTHS

FOLDER = Path(__file__).parents[1] / "config" / "error_rates" / "designs"
PUBLISHED = "published"

_LIST = {"type": "array", "minItems": 1, "uniqueItems": True}
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["truths", "noise", "configurations", "seeds", "designs"],
    "properties": {
        "truths": _LIST | {"items": {"enum": list(TRUTHS)}},
        "noise": _LIST | {"items": {"type": "number", "minimum": 0, "maximum": 1}},
        "configurations": _LIST | {"items": {"type": "integer", "minimum": 1, "maximum": LARGEST_NARROW // 2}},
        "seeds": {"type": "integer", "minimum": 1},
        "designs": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": "^[A-Za-z0-9_]+$"},
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["blocks"],
                "properties": {
                    "blocks": {"type": "integer", "minimum": 1},
                    "keep": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                    "sequential": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["start", "spend", "half_width"],
                        "properties": {
                            "start": {"type": "integer", "minimum": 2},
                            "spend": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                            "half_width": {"type": ["number", "null"], "exclusiveMinimum": 0},
                        },
                    },
                },
            },
        },
    },
}


@dataclass(frozen=True, slots=True)
class Design:
    """How a study is measured: ``keep`` of the grid, in ``blocks``, or in fewer where ``stopping`` says so."""

    name: str
    blocks: int
    keep: float = 1.0
    stopping: Stopping | None = None


@dataclass(frozen=True, slots=True, order=True)
class Simulated:
    """A simulated study: a truth by name, the noise (a fraction), least configurations of the whole grid, a seed."""

    truth: str
    noise: float
    configurations: int
    seed: int


def preset_names(folder: Path = FOLDER) -> list[str]:
    """The presets that there are."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_preset(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """A preset. Raises ValueError that names file, key and value for one that is none."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"no preset {name!r}; there are {', '.join(preset_names(folder))} in {folder}")
    preset = yaml.safe_load(path.read_text(encoding="utf-8"))
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(SCHEMA).iter_errors(preset))
    if error is not None:
        raise ValueError(f"{path}: {'/'.join(map(str, error.absolute_path)) or 'the file'}: {error.message[:300]}")
    try:
        designs_of(preset)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return dict(preset)


def designs_of(preset: Mapping[str, Any]) -> list[Design]:
    """The designs of a preset, in its order. Raises ValueError for a first look after the last block."""
    return [
        Design(
            name,
            given["blocks"],
            float(given.get("keep", 1.0)),
            Stopping(blocks=given["blocks"], **given["sequential"]) if "sequential" in given else None,
        )
        for name, given in preset["designs"].items()
    ]


def studies_of(preset: Mapping[str, Any], truth: str) -> Iterator[Simulated]:
    """The studies of one truth, in order."""
    for levels in itertools.product(preset["noise"], preset["configurations"], range(preset["seeds"])):
        yield Simulated(truth, float(levels[0]), int(levels[1]), int(levels[2]))


def of_truth(preset: Mapping[str, Any], truth: str) -> dict[str, Any]:
    """What a preset asks of one truth, so that a change of the others does not simulate it again."""
    return dict(preset) | {"truths": [truth]}
