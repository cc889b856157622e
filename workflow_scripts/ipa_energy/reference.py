"""The reference pages of the docs, generated from the schemas, so that they can't say something else than the code.

``config/schemas/config.schema.yaml`` becomes docs/config.md, ``config/schemas/record.schema.json`` docs/record.md.
``python -m ipa_energy.reference`` compares the pages with the schemas, with ``--write`` it rewrites them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_energy.config_schema import config_schema
from ipa_energy.files import write_text
from ipa_energy.record import SCHEMA_FILE

DOCS = Path(__file__).resolve().parents[2] / "docs"
COMMAND = "python -m ipa_energy.reference --write"

Schema = Mapping[str, Any]

_UNITS = (
    ("_j_per_request", "J/request"),
    ("_per_1000_requests", "US$ per 1000 requests"),
    ("usd_per_hour", "US$/h"),
    ("_hour_usd", "US$/h"),
    ("_cpu_s", "core seconds"),
    ("_rps", "requests/s"),
    ("_cores", "cores"),
    ("_utc", "ISO 8601, UTC"),
    ("_j", "J"),
    ("_w", "W"),
    ("_s", "s"),
)
"""Units by the end of a name, the longest ending first: names carry their unit throughout the project."""

_WORDS = {"string": "text", "boolean": "true or false", "object": "mapping", "array": "list", "null": "null"}


@dataclass(frozen=True, slots=True)
class Row:
    """One key: its dotted path, whether it has to be given, and its part of the schema."""

    path: str
    required: bool
    schema: Schema


def rows(schema: Schema, path: str = "") -> Iterator[Row]:
    """Every key below ``schema``, depth first; a name that the user chooses stands as ``{name}``, an item as ``[]``."""
    required = schema.get("required", ())
    for key, sub in schema.get("properties", {}).items():
        here = f"{path}.{key}" if path else key
        yield Row(here, key in required, sub)
        yield from rows(_mapping(sub), here)
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping) and _mapping(extra).get("properties"):
        # A map of mappings has no row of its own for the chosen name: the row of the map describes it.
        yield from rows(_mapping(extra), f"{path}.{{{_chosen_name(path)}}}")
    items = schema.get("items")
    if isinstance(items, Mapping) and items.get("properties"):
        yield from rows(items, f"{path}[]")


def _chosen_name(path: str) -> str:
    return "stage" if path.endswith("stages") else "name"


def _mapping(schema: Schema) -> Schema:
    """The alternative of a ``oneOf`` that is a mapping, or the schema itself."""
    return next((option for option in schema.get("oneOf", ()) if option.get("type") == "object"), schema)


def _nullable(schema: Schema) -> bool:
    kinds = schema.get("type", ())
    return (not isinstance(kinds, str) and "null" in kinds) or {"type": "null"} in schema.get("oneOf", ())


def _bounds(schema: Schema) -> str:
    words = (
        ("minimum", "at least {}"),
        ("exclusiveMinimum", "above {}"),
        ("maximum", "at most {}"),
        ("exclusiveMaximum", "below {}"),
    )
    return " and ".join(text.format(f"{schema[key]:g}") for key, text in words if key in schema)


def allowed(schema: Schema) -> str:
    """What a value may be, in words."""
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        values = ", ".join(f"`{value}`" for value in schema["enum"] if value is not None)
        return f"one of {values}" + " or null" * _nullable(schema)
    inner = _mapping(schema)
    kinds = inner.get("type", "any value")
    names = [kinds] if isinstance(kinds, str) else [kind for kind in kinds if kind != "null"]
    text = " or ".join(_WORDS.get(name, name) for name in names)
    if names == ["array"]:
        limits = ["not empty"] * (inner.get("minItems", 0) > 0) + ["no value twice"] * inner.get("uniqueItems", False)
        text = "list" + f" ({', '.join(limits)})" * bool(limits)
        text += " of mappings" if "properties" in inner["items"] else f", each {allowed(inner['items'])}"
    if "pattern" in inner:
        text += f" that matches `{inner['pattern']}`"
    if bounds := _bounds(inner):
        text += f", {bounds}"
    return text + " or null" * _nullable(schema)


def unit(path: str) -> str:
    """The unit that the last part of a path names, or nothing."""
    name = path.rpartition(".")[2]
    return next((unit for ending, unit in _UNITS if name.endswith(ending)), "")


def _default(row: Row) -> str:
    if row.required:
        return "required"
    if "default" not in row.schema:
        return "none"
    value = row.schema["default"]
    return "its keys' defaults" if value == {} and "properties" in row.schema else f"`{json.dumps(value)}`"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, lines)])


def config_page(schema: Schema) -> str:
    """docs/config.md: every key of the config, a section for each mapping at the top."""

    def table(found: Sequence[Row]) -> str:
        cells = [(f"`{r.path}`", allowed(r.schema), _default(r), r.schema.get("description", "")) for r in found]
        return _table(("key", "allowed", "default", "what it is"), cells)

    everything = list(rows(schema))
    sections = [key for key, sub in schema["properties"].items() if sub.get("type") == "object"]
    parts = [
        "# Keys of the config file",
        f"Generated from `config/schemas/config.schema.yaml` by `{COMMAND}`; edit the schema, not this page.",
        f"{schema['description']} A config given with `--configfile` stands alone: nothing of `config/config.yaml` is "
        "mixed in. Keys that are not listed here are refused. A `{name}` in a path is a name of your own.",
        "## The experiment",
        table([row for row in everything if row.path.split(".")[0] not in sections]),
    ]
    for section in sections:
        own = schema["properties"][section]
        parts += [f"## {section}", _describe(own, section in schema["required"])]
        parts.append(table([row for row in everything if row.path.startswith(f"{section}.")]))
    return "\n\n".join(parts) + "\n"


def _describe(section: Schema, required: bool) -> str:
    default = section.get("default")
    text = str(section["description"])
    return text + " Required." * required + (f" Default: `{json.dumps(default)}`." if default else "")


def record_page(schema: Schema) -> str:
    """docs/record.md: every field of a record, section by section."""
    parts = [
        "# Fields of a record",
        f"Generated from `config/schemas/record.schema.json` by `{COMMAND}`; edit the schema, not this page.",
        "A record is one JSON file for one measurement, `results/{experiment}/records/{workload}/{configuration}/"
        "{repetition}.json`. A figure that could not be had is null, never 0. Where `status.state` is not `ok`, the "
        "sections `window`, `service`, `energy` and `quality` are null as a whole. What the figures mean: "
        "[measuring](measuring.md), [serving](serving.md).",
    ]
    for section, sub in schema["properties"].items():
        found = [Row(section, True, sub), *rows(_mapping(sub), section)] if not _mapping(sub).get("properties") else []
        found = found or list(rows(_mapping(sub), section))
        parts.append(f"## {section}")
        parts += ["May be null as a whole."] * _nullable(sub)
        if sub.get("additionalProperties") is True:
            parts.append("Holds more fields than these, as far as the host shows them.")
        lines = [(f"`{r.path}`", allowed(r.schema), unit(r.path), r.schema.get("description", "")) for r in found]
        parts.append(_table(("field", "type", "unit", "what it is"), lines))
    return "\n\n".join(parts) + "\n"


def pages() -> dict[Path, str]:
    """The generated pages as they should be, by path."""
    record_schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return {DOCS / "config.md": config_page(config_schema()), DOCS / "record.md": record_page(record_schema)}


def outdated() -> list[Path]:
    """The pages that are missing or say something else than the schemas."""
    return [p for p, text in pages().items() if not p.is_file() or p.read_text(encoding="utf-8") != text]


def main() -> None:
    """Compare the reference pages with the schemas, or rewrite them."""
    parser = argparse.ArgumentParser(prog="python -m ipa_energy.reference", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="rewrite the pages from the schemas")
    if parser.parse_args().write:
        for path, text in pages().items():
            write_text(path, text)
    elif late := outdated():
        names = ", ".join(f"docs/{path.name}" for path in late)
        parser.exit(1, f"not up to date with the schemas: {names}; run {COMMAND}\n")


if __name__ == "__main__":
    main()
