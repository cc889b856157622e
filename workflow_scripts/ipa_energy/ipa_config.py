"""The ``ipa`` section of a config: what is wrong with it, and which variants have to be profiled for it.

Read whenever the workflow is parsed, so nothing here imports pandas. What the section means to IPA's own modules is in
:mod:`ipa_energy.ipa.settings`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipa_energy.configuration import Configuration, Platform, StageKnobs

_PATTERN_S = 1200
"""Length of IPA's load patterns, in s."""


def wanted(settings: Mapping[str, Any]) -> bool:
    """Whether any part of IPA is to run."""
    ipa = settings["ipa"]
    return bool(ipa["inputs"] or ipa["adaptation"]["loads"])


def platform(settings: Mapping[str, Any]) -> Platform:
    """The platform on which variants are profiled: the one named, else the first of the grid."""
    ipa, grid = settings["ipa"], settings["grid"]["platform"]
    return Platform(ipa["device"] or grid["device"][0], ipa["precision"] or grid["precision"][0])


def profiled(settings: Mapping[str, Any]) -> dict[tuple[str, str], tuple[Configuration, ...]]:
    """By (stage, variant), the configurations of one stage that make up its profile: by cores, then by batch size.

    Empty without IPA, and where a file holds the profile.
    """
    ipa = settings["ipa"]
    if not wanted(settings) or ipa["profile"] is not None:
        return {}
    found = {}
    for stage, knobs in settings["grid"]["stages"].items():
        batches = sorted(ipa["batches"].get(stage, knobs["batch"]))
        for variant in knobs["variant"]:
            alone = (
                StageKnobs(stage, variant, batch, 1, threads)
                for threads, batch in itertools.product(sorted(knobs["threads"]), batches)
            )
            found[stage, variant] = tuple(
                Configuration(settings["pipeline"], (one,), platform(settings)) for one in alone
            )
    return found


def planned_live(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(method, run) of every live run in its order, drawn by the seed within each repetition; none without a load."""
    live = settings["ipa"]["adaptation"]["live"]
    if live["load"] is None:
        return []
    order = []
    for number in range(1, live["repetitions"] + 1):
        methods = list(live["methods"])
        random.Random(f"{settings['seed']}:live{number}").shuffle(methods)
        order += [(method, f"run{number}") for method in methods]
    return order


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the section on which the decisions of a live run depend; a change elsewhere runs nothing again."""
    ipa = dict(settings["ipa"])
    adaptation = dict(ipa["adaptation"])
    live = dict(adaptation["live"])
    for key in ("inputs", "batches", "space_rows", "max_space_rows"):
        del ipa[key]
    for key in ("methods", "seeds"):
        del adaptation[key]
    # These mean something to simulations only, or are given for live runs by another key.
    adaptation |= {"start_s": 0.0, "noise": 0.0}
    ipa["replicas"] = live["replicas"]
    if adaptation["predictors"][0] != "lstm":
        adaptation["history_days"] = 0
    for key in ("methods", "repetitions"):
        del live[key]
    adaptation["predictors"] = adaptation["predictors"][:1]
    adaptation["loads"] = {name: load for name, load in adaptation["loads"].items() if name == live["load"]}
    return ipa | {"adaptation": adaptation | {"live": live}}


def faults(settings: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with the section and with ``measure``, beyond what the schema can say."""
    ipa, measure = settings["ipa"], settings["measure"]
    stages = settings["grid"]["stages"]
    found = []
    if measure != "all" and not wanted(settings):
        found.append(f"measure is {measure!r} without ipa.inputs or ipa.adaptation.loads; allowed: all")
    if measure == "feasible" and not ipa["inputs"]:
        found.append(
            "measure is 'feasible' without ipa.inputs; allowed: at least one input that decides what is feasible"
        )
    if not stages and not (measure == "none" and ipa["profile"] is not None):
        found.append("grid is missing; allowed: a grid, or measure: none together with ipa.profile")
    if not wanted(settings):
        return found
    if ipa["profile"] is not None and not Path(ipa["profile"]).is_file():
        found.append(
            f"ipa.profile is {ipa['profile']!r}; allowed: an existing CSV file, or null to profile the variants"
        )
    if ipa["profile"] is None and settings["records"] is not None:
        found.append(
            "ipa.profile is null with a folder of records; allowed: a CSV file, such as the profile.csv of a run"
        )
    if ipa["profile"] is None:
        found += _measured_profile_faults(settings)
    return found + _adaptation_faults(ipa, stages)


def _measured_profile_faults(settings: Mapping[str, Any]) -> list[str]:
    ipa, grid = settings["ipa"], settings["grid"]
    found = []
    for key in ("device", "precision"):
        if ipa[key] is not None and ipa[key] not in grid["platform"][key]:
            found.append(f"ipa.{key} is {ipa[key]!r}; allowed: one of grid.platform.{key}: {grid['platform'][key]}")
    if platform(settings).device == "cuda" and ipa["cost"] == "cores":
        found.append("ipa.cost is 'cores' for a profile on cuda; allowed: usd, as a GPU has no price in cores")
    return (
        found
        + [
            f"ipa.{key} names the stage {stage!r}; allowed: {', '.join(grid['stages'])}"
            for key in ("batches", "fa2_high")
            for stage in ipa[key]
            if stage not in grid["stages"]
        ]
        + [
            f"ipa.fa2_high.{stage} is {variant!r}; allowed: one of {', '.join(grid['stages'][stage]['variant'])}"
            for stage, variant in ipa["fa2_high"].items()
            if stage in grid["stages"] and variant not in grid["stages"][stage]["variant"]
        ]
    )


def _adaptation_faults(ipa: Mapping[str, Any], stages: Mapping[str, Any]) -> list[str]:
    found = []
    loads = ipa["adaptation"]["loads"]
    for name, load in loads.items():
        if ("pattern" in load) == ("file" in load):
            found.append(f"ipa.adaptation.loads.{name} has {sorted(load)}; allowed: exactly one of pattern, file")
        elif "file" in load and not Path(load["file"]).is_file():
            found.append(f"ipa.adaptation.loads.{name}.file is {load['file']!r}; allowed: an existing text file")
        if load["last"] is not None and load["last"] <= load["first"]:
            found.append(
                f"ipa.adaptation.loads.{name}.last is {load['last']}; allowed: more than first, {load['first']}"
            )
    live = ipa["adaptation"]["live"]["load"]
    if live is not None and live not in loads:
        known = ", ".join(loads) or "none, as there are no loads"
        found.append(f"ipa.adaptation.live.load is {live!r}; allowed: {known}")
    elif live is not None and "pattern" in loads[live]:
        section, seconds = ipa["adaptation"]["live"], loads[live]["seconds"] or _PATTERN_S
        if section["first"] + section["seconds"] > seconds:
            found.append(
                f"ipa.adaptation.live.first + seconds is {section['first'] + section['seconds']}; allowed: at most the "
                f"length of load {live}, {seconds} s"
            )
    if live is not None and not stages:
        found.append(
            "ipa.adaptation.live needs a grid, whose variants can be loaded; allowed: live.load null without one"
        )
    return found
