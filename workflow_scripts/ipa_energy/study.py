"""The study: a config file, checked and completed, and what follows from it.

:func:`load_study` takes the raw mapping that Snakemake or YAML gives, reports everything that is wrong with it at once
(key, value, what is allowed) and returns a frozen :class:`Study` with configurations, workloads and plan. It reads only
the schema and the model zoo's table, so that it is quick enough to run whenever the workflow is parsed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_energy import ipa_config, pipelines
from ipa_energy.config_schema import config_schema, fill_defaults, schema_faults
from ipa_energy.configuration import PLATFORM_KNOBS, STAGE_KNOBS, Configuration, Platform, grid
from ipa_energy.external import settings as external
from ipa_energy.host import same_host
from ipa_energy.plan import Measurement, Place, make_plan, size_of

MAX_DRAWN_FROM = 500_000
"""Configurations of a grid that a fraction is drawn from: 40 000 take half a second whenever the workflow is parsed."""


class ConfigError(ValueError):
    """The config can't be used. The text lists every fault: key, value, what is allowed."""


@dataclass(frozen=True)
class Study:
    """A checked experiment. ``settings`` is the whole config with all defaults filled in.

    ``configurations`` are the whole grid, ``measured`` those that the plan draws from: all, a fraction, or none.
    """

    settings: dict[str, Any]
    configurations: tuple[Configuration, ...]
    measured: tuple[Configuration, ...]
    plan: tuple[Measurement, ...]

    @property
    def experiment(self) -> str:
        """Name of the experiment."""
        return str(self.settings["experiment"])

    @property
    def profiled(self) -> dict[tuple[str, str], tuple[Configuration, ...]]:
        """By (stage, variant), the configurations of that stage alone that its profile is made of."""
        return ipa_config.profiled(self.settings)

    @property
    def places(self) -> tuple[Place, ...]:
        """The hosts that get the blocks in turn, each with its GPU; none where any host measures."""
        return _places(self.settings)

    @property
    def workloads(self) -> dict[str, dict[str, Any]]:
        """Settings of each workload by name; how many configurations run under it is no property of the load."""
        return {
            name: {key: value for key, value in load.items() if key != "sample"}
            for name, load in self.settings["workloads"].items()
        }


def _places(settings: Mapping[str, Any]) -> tuple[Place, ...]:
    return tuple(Place(name, (entry or {}).get("gpu")) for name, entry in (settings["hosts"] or {}).items())


def _grid_faults(settings: Mapping[str, Any]) -> list[str]:
    pipeline = pipelines.get(settings["pipeline"])
    stages = settings["grid"]["stages"]
    faults = []
    if set(stages) != set(pipeline.stage_names):
        faults.append(
            f"grid.stages has {sorted(stages)}; allowed: exactly the stages of pipeline {pipeline.name}: "
            f"{', '.join(pipeline.stage_names)}"
        )
        return faults
    for stage in stages:
        known = pipeline.variants(stage)
        for i, variant in enumerate(stages[stage]["variant"]):
            if variant not in known:
                faults.append(
                    f"grid.stages.{stage}.variant[{i}] is {variant!r}; allowed: one of {', '.join(sorted(known))}"
                )
    return faults


def _workload_faults(workloads: Mapping[str, Mapping[str, Any]]) -> list[str]:
    faults = []
    for name, load in workloads.items():
        if load["kind"] == "rate" and ("rate_rps" in load) == ("trace" in load):
            faults.append(f"workloads.{name} of kind rate has {sorted(load)}; allowed: exactly one of rate_rps, trace")
        if load["kind"] == "saturated" and ({"rate_rps", "trace"} & load.keys()):
            faults.append(f"workloads.{name} of kind saturated has a rate; allowed: rate_rps, trace for kind rate only")
        if "trace" in load and not Path(load["trace"]).is_file():
            faults.append(f"workloads.{name}.trace is {load['trace']!r}; allowed: an existing text file")
    return faults


def _host_faults(settings: Mapping[str, Any]) -> list[str]:
    names = list(settings["hosts"] or {})
    number, blocks = len(names), settings["blocks"]
    alike = [(one, other) for i, one in enumerate(names) for other in names[:i] if same_host(one, other)]
    if alike:
        one, other = alike[0]
        return [f"hosts names {other} and {one}, which are the same host; allowed: each host once"]
    if settings["measure"] == "none" or settings["records"] is not None or blocks >= number:
        return []
    return [
        f"hosts names {number} hosts and blocks is {blocks}, so that some would measure nothing; allowed: blocks of at "
        f"least {number}, best a multiple of it, or fewer hosts"
    ]


def _sequential_faults(settings: Mapping[str, Any]) -> list[str]:
    wanted = settings["sequential"]
    if wanted is None or settings["measure"] == "none" or settings["records"] is not None:
        return []
    faults = []
    rounds = math.ceil(settings["blocks"] / (len(settings["hosts"] or {}) or 1))
    if wanted["start"] > rounds:
        faults.append(
            f"sequential.start is {wanted['start']} and blocks allows {rounds} rounds; allowed: a start of at most "
            f"{rounds}, or more blocks"
        )
    if (source := settings["analysis"]["energy_from"]) != external.RECORD:
        faults.append(
            f"analysis.energy_from is {source!r} with sequential; allowed: {external.RECORD!r}, as a look can't wait "
            "for a log of the whole study"
        )
    return faults


def _other_faults(settings: Mapping[str, Any], measurements: int) -> list[str]:
    faults = _host_faults(settings) + _sequential_faults(settings)
    if measurements > settings["max_measurements"]:
        faults.append(
            f"the grid needs {measurements} measurements; allowed: at most max_measurements = "
            f"{settings['max_measurements']}. Make the grid smaller or raise max_measurements"
        )
    frames = settings["frames"]["source"]
    if frames != "bundled" and not Path(frames).is_dir():
        faults.append(f"frames.source is {frames!r}; allowed: 'bundled' or an existing folder of images")
    if settings["records"] is not None and not Path(settings["records"]).is_dir():
        faults.append(f"records is {settings['records']!r}; allowed: an existing folder of records, or null to measure")
    protocol = settings["protocol"]
    if protocol["warm_up_max_s"] < protocol["warm_up_min_s"]:
        faults.append(
            f"protocol.warm_up_max_s is {protocol['warm_up_max_s']}; allowed: at least warm_up_min_s = "
            f"{protocol['warm_up_min_s']}"
        )
    return faults + external.faults(settings["external_logs"], settings["analysis"]["energy_from"])


def draws_fraction(settings: Mapping[str, Any]) -> bool:
    """Whether a fraction of the grid is measured here instead of all of it."""
    return bool(settings["design"] == "fraction" and settings["measure"] != "none" and settings["records"] is None)


def _design_faults(settings: Mapping[str, Any], cells: int) -> list[str]:
    if not draws_fraction(settings):
        return []
    faults = []
    if settings["measure"] == "feasible":
        faults.append(
            "design is 'fraction' with measure: feasible; allowed: design: full, as the feasible part of a fraction is "
            "balanced no more, or measure: all"
        )
    if cells > MAX_DRAWN_FROM:
        faults.append(
            f"the grid has {cells} configurations, each of which is laid out before a fraction is drawn; allowed: at "
            f"most {MAX_DRAWN_FROM}. Make the grid smaller"
        )
    return faults


def _cells(settings: Mapping[str, Any]) -> int:
    """Number of configurations of the grid, without building it."""
    cells = 1
    for knobs in settings["grid"]["stages"].values():
        for knob in STAGE_KNOBS:
            cells *= len(knobs[knob])
    for knob in PLATFORM_KNOBS:
        cells *= len(settings["grid"]["platform"][knob])
    return cells


def _count(settings: Mapping[str, Any], cells: int) -> int:
    """Number of measurements the plan will hold, without building it, from the number of configurations."""
    if settings["measure"] == "none":
        return 0
    if draws_fraction(settings):
        cells = size_of(settings["fraction"]["keep"], cells)
    samples = [load["sample"] for load in settings["workloads"].values()]
    a_block = sum(cells if sample is None else min(sample, cells) for sample in samples)
    return int(settings["blocks"] * (a_block + 2 * settings["anchor"]))


def _refuse(faults: list[str]) -> None:
    if faults:
        raise ConfigError("The config can't be used:\n" + "\n".join(f"  - {fault}" for fault in faults))


def _measured(settings: Mapping[str, Any], configurations: tuple[Configuration, ...]) -> tuple[Configuration, ...]:
    """The configurations that are measured: the whole grid, a fraction that tells the knobs apart, or none."""
    if settings["measure"] == "none":
        return ()
    if not draws_fraction(settings):
        return configurations
    from ipa_energy import design  # noqa: PLC0415 - NumPy, which no other study waits for here

    keep = settings["fraction"]["keep"]
    try:
        return design.fraction(configurations, keep, settings["seed"]).configurations
    except design.DesignError as error:
        raise ConfigError(f"The config can't be used:\n  - fraction.keep is {keep}: {error}") from None


def load_study(config: Mapping[str, Any]) -> Study:
    """Check ``config``, fill in the defaults and lay out the plan.

    Raises :class:`ConfigError` naming every fault found by the schema, or else every one found beyond it.
    """
    settings = fill_defaults(copy.deepcopy(dict(config)), config_schema())
    _refuse(schema_faults(settings))
    if "grid" not in settings:  # a study of a profile alone; with anything to measure, the check below wants a grid
        settings["grid"] = {"stages": {}, "platform": {knob: [getattr(Platform(), knob)] for knob in PLATFORM_KNOBS}}
    stages = settings["grid"]["stages"]
    cells = _cells(settings) if stages and not _grid_faults(settings) else 0
    _refuse(
        (_grid_faults(settings) if stages else [])
        + _workload_faults(settings["workloads"])
        + _other_faults(settings, _count(settings, cells) if stages else 0)
        + _design_faults(settings, cells)
        + ipa_config.faults(settings)
    )
    in_order = {name: stages[name] for name in pipelines.get(settings["pipeline"]).stage_names if name in stages}
    settings["grid"]["stages"] = in_order
    configurations = tuple(grid(settings["pipeline"], in_order, settings["grid"]["platform"])) if stages else ()
    if len({c.id for c in configurations}) != len(configurations):
        raise ConfigError("The config can't be used:\n  - two configurations of the grid have the same id")
    measured = _measured(settings, configurations)
    plan = make_plan(
        measured,
        {name: load["sample"] for name, load in settings["workloads"].items()},
        settings["blocks"] if settings["measure"] != "none" else 0,
        settings["seed"],
        configurations[0] if settings["anchor"] and configurations else None,
        _places(settings),
    )
    return Study(settings, configurations, measured, tuple(plan))
