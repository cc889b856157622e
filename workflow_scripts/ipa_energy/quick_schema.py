"""A quick yes to data that meet a JSON Schema: the schema compiled to code once, for folders of many files.

jsonschema stays the one that judges and explains: what is not quickly found valid goes to it. The compiler knows the
drafts up to 7, so only a schema made of keywords that mean the same there and in draft 2020-12 is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_SIZES = {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"}
_SINGLE = {"items", "additionalProperties", "not"}
_LISTS = {"oneOf", "anyOf", "allOf"}
_NOTES = {"$schema", "title", "description", "default", "examples"}
SAME_IN_ALL_DRAFTS = _NUMBERS | _SIZES | _SINGLE | _LISTS | _NOTES | {"type", "enum", "const", "required", "properties"}
"""Keywords with one meaning in the drafts 7 and 2020-12; ``items`` only with one schema for all items."""


def quick_check(schema: Mapping[str, Any]) -> Callable[[Any], bool]:
    """A function of parsed JSON that is True only for what ``schema`` (draft 2020-12) allows.

    False says invalid, or that it can't be told quickly: always so for a schema with other keywords than
    :data:`SAME_IN_ALL_DRAFTS`. Data must come from a JSON parser, as a tuple would pass for an array.
    """
    if any(set(part) - SAME_IN_ALL_DRAFTS or isinstance(part.get("items"), list) for part in _parts(schema)):
        return lambda _: False
    import fastjsonschema  # noqa: PLC0415  # measuring does not wait for it

    validate = fastjsonschema.compile(dict(schema), use_default=False)

    def check(data: Any) -> bool:
        try:
            validate(data)
        except fastjsonschema.JsonSchemaException:
            return False
        return True

    return check


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """The schema and all schemas within it; those that are just true or false need no look."""
    if not isinstance(schema, Mapping):
        return
    yield schema
    for key in _SINGLE & set(schema):
        yield from _parts(schema[key])
    for key in _LISTS & set(schema):
        for part in schema[key]:
            yield from _parts(part)
    for part in schema.get("properties", {}).values():
        yield from _parts(part)
