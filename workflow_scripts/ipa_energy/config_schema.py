"""The contract of the config file: its schema, the defaults in it, and what is wrong with a config in words."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

SCHEMAS = Path(__file__).parent / "config" / "schemas"


@lru_cache(maxsize=1)
def config_schema() -> dict[str, Any]:
    """The JSON Schema of the config file."""
    return dict(yaml.safe_load((SCHEMAS / "config.schema.yaml").read_text()))


def fill_defaults(data: Any, schema: Mapping[str, Any]) -> Any:
    """``data`` with the defaults of ``schema`` for all keys that it lacks, at every depth; changed in place."""
    if not isinstance(data, dict):
        return data
    for key, sub in schema.get("properties", {}).items():
        if key not in data and "default" in sub:
            data[key] = copy.deepcopy(sub["default"])
        if key in data:
            data[key] = fill_defaults(data[key], sub)
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict):
        for key in data.keys() - schema.get("properties", {}).keys():
            data[key] = fill_defaults(data[key], extra)
    return data


def _allowed(error: jsonschema.ValidationError) -> str:
    """What the schema allows at the place of an error, in words."""
    schema: dict[str, Any] = dict(error.schema)  # type: ignore[arg-type]
    wanted: Any = error.validator_value
    match error.validator:
        case "enum":
            return "one of " + ", ".join(map(str, wanted))
        case "additionalProperties":
            return "only the keys " + ", ".join(sorted(schema.get("properties", {})))
        case "required":
            return "all of the keys " + ", ".join(wanted)
        case "type":
            return "a value of type " + (wanted if isinstance(wanted, str) else " or ".join(wanted))
        case "minItems":
            return "a list of at least one value"
        case "minProperties":
            return "at least one entry"
        case "uniqueItems":
            return "each value only once"
        case "pattern":
            return f"text that matches {wanted}"
    words = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "more than",
        "exclusiveMaximum": "less than",
    }
    return " and ".join(f"{words[k]} {schema[k]}" for k in words if k in schema) or str(error.message)


def _path(error: jsonschema.ValidationError) -> str:
    text = ""
    for part in error.absolute_path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the config"


def _matches(_: Any, pattern: str, text: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    """The keyword ``pattern``, whose ``$`` is the very end; Python's is also before a last line break."""
    if isinstance(text, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), text):
        yield jsonschema.ValidationError(f"{text!r} does not match {pattern!r}")


_Validator = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator, {"pattern": _matches}
)


def schema_faults(data: Any) -> list[str]:
    """Every fault of a config by the schema: key, value, what is allowed."""
    validator = _Validator(config_schema())
    return [
        f"{_path(e)} is {_shown(e.instance)}; allowed: {_allowed(e)}"
        for e in sorted(validator.iter_errors(data), key=lambda e: [str(p) for p in e.absolute_path])
    ]


def _shown(value: Any) -> str:
    text = repr(sorted(value)) if isinstance(value, dict) else repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
