"""The record: one JSON file per measurement, the contract between measuring and analysing.

The schema is ``config/schemas/record.schema.json``. Writing validates and is atomic; reading refuses what is damaged or
alien by name, so that one bad file never spoils the rest of a folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_energy.files import write_text
from ipa_energy.names import names_fault
from ipa_energy.quick_schema import quick_check

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

SCHEMA_VERSION = 2
SCHEMA_FILE = Path(__file__).parent / "config" / "schemas" / "record.schema.json"

MAX_BYTES = 64 * 2**20
"""A larger file is no record, and is not read: a record has some ten to a hundred kilobytes."""

Record = dict[str, Any]


class RecordError(ValueError):
    """A file is not a valid record. The text names the file and what is wrong."""


@lru_cache(maxsize=1)
def _validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator  # noqa: PLC0415  # an eighth of a second that measuring does not wait for

    return Draft202012Validator(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))


@lru_cache(maxsize=1)
def _quickly_valid() -> Callable[[Any], bool]:
    return quick_check(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON knows")


def fault(data: Any) -> str | None:
    """What makes ``data`` an invalid record, in one line; None when it is valid."""
    if isinstance(data, Mapping) and data.get("schema_version") != SCHEMA_VERSION:
        return f"schema_version is {data.get('schema_version')!r}; this release reads {SCHEMA_VERSION}"
    from jsonschema.exceptions import best_match  # noqa: PLC0415

    error = best_match(_validator().iter_errors(data))
    if error is None:
        return None
    return f"{'/'.join(map(str, error.absolute_path)) or 'record'}: {error.message[:300]}"


def write_record(path: str | Path, record: Record) -> None:
    """Validate ``record`` and write it atomically.

    Raises RecordError when it breaks the schema or holds NaN or infinity, OSError when it can't be written.
    """
    problem = fault(record)
    if problem:
        raise RecordError(f"refusing to write {path}: {problem}")
    try:
        text = json.dumps(record, indent=1, sort_keys=False, allow_nan=False)
    except ValueError as error:
        raise RecordError(f"refusing to write {path}: {error}") from error
    write_text(path, text + "\n")


def read_record(path: str | Path) -> Record:
    """Read and validate one record. Raises RecordError naming the file and the fault."""
    try:
        data = _parsed(path)
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: not readable as JSON ({error})") from error
    problem = (None if _quickly_valid()(data) else fault(data)) or names_fault(data)
    if problem:
        raise RecordError(f"{path}: {problem}")
    return dict(data)


def _parsed(path: str | Path) -> Any:
    """The JSON in a file. Raises OSError, ValueError or RecursionError."""
    if (size := Path(path).stat().st_size) > MAX_BYTES:
        raise ValueError(f"it has {size} bytes, more than any record")
    text = Path(path).read_text(encoding="utf-8")
    data = json.loads(text, parse_constant=_reject_constant)
    if "\\ud" in text.lower():  # half of a surrogate pair: JSON may escape it, but no table can be written with it
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    return data


@dataclass(frozen=True)
class Reading:
    """Records that could be read, with their paths, and one line about each file that could not."""

    records: tuple[tuple[Path, Record], ...]
    refused: tuple[str, ...]


def read_records(paths: Iterable[str | Path]) -> Reading:
    """Read many records; the damaged and alien ones are named and left out."""
    good: list[tuple[Path, Record]] = []
    refused: list[str] = []
    for path in paths:
        try:
            good.append((Path(path), read_record(path)))
        except RecordError as error:
            refused.append(str(error))
    return Reading(tuple(good), tuple(refused))


def finite(value: float | None) -> float | None:
    """``value``, or None where it is NaN or infinite: JSON knows neither, and neither is a figure."""
    return None if value is None or not math.isfinite(value) else float(value)
