"""The pipelines that can be served, by name.

A name from the config goes in, a :class:`~ipa_energy.pipelines.base.Pipeline` comes out. Importing this package, and
getting any pipeline from it, loads no deep-learning framework: the workflow does so whenever it is parsed.
"""

from __future__ import annotations

from pkgutil import resolve_name

from ipa_energy.pipelines.base import Pipeline

_WHERE = {"video": "ipa_energy.pipelines.video:VIDEO"}


def names() -> tuple[str, ...]:
    """Names of all pipelines."""
    return tuple(_WHERE)


def get(name: str) -> Pipeline:
    """The pipeline called ``name``. Raises KeyError naming the known ones."""
    if name not in _WHERE:
        raise KeyError(f"there is no pipeline {name!r}; known pipelines: {', '.join(names())}")
    pipeline = resolve_name(_WHERE[name])
    assert isinstance(pipeline, Pipeline)
    return pipeline
