"""Presets: which studies are simulated. One file each in ``config/error_rates/``, so that no experiment's config grows.

A preset is a list of *designs*, each the product of its ``truths`` (a list of names, or ``all``), ``noise``,
``repetitions``, ``configurations``, and a number of ``seeds``. A setting that several designs hold is simulated as
often as the design with the most seeds asks for.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from ipa_energy.error_rates.service import LARGEST_NARROW
from ipa_energy.error_rates.truths import TRUTHS

FOLDER = Path(__file__).parents[1] / "config" / "error_rates"
PUBLISHED = "published"

SCHEMA: Mapping[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["truths", "noise", "repetitions", "configurations", "seeds"],
        "properties": {
            "truths": {
                "oneOf": [{"const": "all"}, {"type": "array", "minItems": 1, "items": {"enum": list(TRUTHS)}}],
            },
            "noise": {"type": "array", "minItems": 1, "items": {"type": "number", "minimum": 0, "maximum": 1}},
            "repetitions": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 1}},
            "configurations": {
                "type": "array",
                "minItems": 1,
                "items": {"type": "integer", "minimum": 1, "maximum": LARGEST_NARROW},
            },
            "seeds": {"type": "integer", "minimum": 1},
        },
    },
}


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """A truth by name, the noise (a fraction), repetitions, and number of configurations of a simulated study."""

    truth: str
    noise: float
    repetitions: int
    configurations: int


Designs = Sequence[Mapping[str, Any]]


def preset_names(folder: Path = FOLDER) -> list[str]:
    """The presets that there are."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_preset(name: str, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The designs of a preset. Raises ValueError that names file, key and value for one that is no preset."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"no preset {name!r}; there are {', '.join(preset_names(folder))} in {folder}")
    designs = yaml.safe_load(path.read_text(encoding="utf-8"))
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(SCHEMA).iter_errors(designs))
    if error is not None:
        raise ValueError(f"{path}: {'/'.join(map(str, error.absolute_path)) or 'the list'}: {error.message[:300]}")
    return [dict(design) for design in designs]


def truths_of(designs: Designs) -> list[str]:
    """The names of all truths that the designs ask for, in the order of :data:`.truths.TRUTHS`."""
    wanted = {name for design in designs for name in _named(design)}
    return [name for name in TRUTHS if name in wanted]


def designs_of(designs: Designs, truth: str) -> list[dict[str, Any]]:
    """What the designs ask of one truth, so that a change of the others does not simulate it again."""
    return [dict(design) | {"truths": [truth]} for design in designs if truth in _named(design)]


def settings_of(designs: Designs, truth: str) -> dict[Setting, int]:
    """The settings of one truth in order, and how many seeds each gets."""
    found: dict[Setting, int] = {}
    for design in designs:
        if truth not in _named(design):
            continue
        for levels in itertools.product(design["noise"], design["repetitions"], design["configurations"]):
            setting = Setting(truth, float(levels[0]), int(levels[1]), int(levels[2]))
            found[setting] = max(found.get(setting, 0), int(design["seeds"]))
    return dict(sorted(found.items()))


def _named(design: Mapping[str, Any]) -> list[str]:
    return list(TRUTHS) if design["truths"] == "all" else list(design["truths"])
