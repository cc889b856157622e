"""Which names are taken: those that are the same for a file system, a shell, a page, a figure and a terminal.

Records come from elsewhere, too. What they call their experiment, configuration, host or meter ends up in paths, in
HTML, in figures, where ``$`` begins a formula, and on a terminal, to which an escape character is a command. A record
with another kind of name is refused by :mod:`.record` instead of being defused in each of these places.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+~-]{0,254}")
"""What we name ourselves, by the config or by the knobs. The schema of the config is stricter still."""

LABEL = re.compile(r"\w[\w.:+~ ()-]{0,254}")
"""What is found: hosts and devices. Letters of any language, and no character that means something to anybody."""

HOST = re.compile(r"\w[\w.:~ ()-]{0,254}")
"""A label without ``+``, which joins the names of hosts that are merged."""

_NOT_OF_LABEL = re.compile(r"[^\w.:+~ ()-]")


def as_label(text: str) -> str:
    """``text``, made one that :data:`LABEL` takes: with ``_`` for what it doesn't, cut, and never empty."""
    made = _NOT_OF_LABEL.sub("_", text)[:254]
    return made if LABEL.fullmatch(made) else f"_{made}"


def as_host(text: str) -> str:
    """The same for the name of a host (:data:`HOST`)."""
    return as_label(text).replace("+", "_")


def printable(text: object) -> str:
    """``text`` as one line for a terminal: what may control it is replaced."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in str(text))


def names_fault(record: Mapping[str, Any]) -> str | None:
    """The first name in a record, valid by its schema, that is not taken; None when there is none."""
    for place, name, kind in _names(record):
        if not kind.fullmatch(name):
            return f"{place} is {name[:100]!r}; allowed: text that matches {kind.pattern}"
    return None


def _names(record: Mapping[str, Any]) -> Iterator[tuple[str, str, re.Pattern[str]]]:
    identity, provenance = record["identity"], record["provenance"]
    configuration = identity["configuration"]
    for key in ("experiment", "configuration_id", "workload", "repetition"):
        yield f"identity/{key}", identity[key], NAME
    yield "identity/configuration/pipeline", configuration["pipeline"], NAME
    for stage in configuration["stages"]:
        for key in ("stage", "variant"):
            yield f"identity/configuration/stages/{key}", stage[key], NAME
    for key in ("device", "precision"):
        yield f"identity/configuration/platform/{key}", configuration["platform"][key], NAME
    for key in ("host", "machine"):
        if key in provenance:
            yield f"provenance/{key}", provenance[key], HOST
    for domain in (record["energy"] or {"domains": ()})["domains"]:
        for key in ("domain", "meter"):
            yield f"energy/domains/{key}", domain[key], LABEL
    for flag in (record["quality"] or {"flags": ()})["flags"]:
        yield "quality/flags/flag", flag["flag"], LABEL
