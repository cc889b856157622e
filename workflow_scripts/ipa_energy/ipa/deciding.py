"""What decides in an adaptation, simulated or live: a setting, a method as a way to choose, what a run begins with."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ipa_energy.ipa.controller import Choose, chooser
from ipa_energy.ipa.options import Input
from ipa_energy.ipa.profile import Profile
from ipa_energy.ipa.profile_table import ProfileError
from ipa_energy.ipa.run_log import Configuration, Rules
from ipa_energy.ipa.service import Curves, service_curves
from ipa_energy.ipa.settings import Ipa, method, options_for, prices, sla_s
from ipa_energy.ipa.ticks import LARGEST, Ints, from_ticks

LEAST_RPS = 0.1
"""Decisions are never made for less: energy per request doesn't exist at 0, and a request in 10 s, an interval of
IPA's, is as good as none."""

ANY_SLA_S = LARGEST - 1


@dataclass(frozen=True, slots=True)
class Setting:
    """What all runs over a load share; ``counts`` has shape (seconds,)."""

    load: str
    counts: Ints
    profile: Profile
    ipa: Ipa
    usd: Mapping[str, float]
    sla_s: float
    curves: Curves
    rules: Rules

    @property
    def adaptation(self) -> Mapping[str, Any]:
        """The section ``ipa.adaptation``."""
        section: Mapping[str, Any] = self.ipa["adaptation"]
        return section


def setting_of(
    load: str, counts: Ints, profile: Profile, ipa: Ipa, usd: Mapping[str, float], max_wait_s: float
) -> Setting:
    """The setting by the config. Service times are means, with the noise that the config names.

    Raises ProfileError where the noise is to come from the profile and can't.
    """
    adaptation = ipa["adaptation"]
    try:
        curves = service_curves(
            profile,
            noise="p99" if adaptation["noise"] is None else adaptation["noise"],
            prices=prices(ipa, usd),
        )
    except ProfileError as error:
        if adaptation["noise"] is not None:
            raise
        raise ProfileError(f"ipa.adaptation.noise is null: {error}, 0 for none") from error
    rules = Rules(adaptation["interval_s"], adaptation["start_s"], max_wait_s, adaptation["drop_after_s"])
    return Setting(load, counts, profile, ipa, usd, sla_s(adaptation["sla_s"], profile, ipa, usd), curves, rules)


@dataclass(slots=True)
class Remembered:
    """A way to choose that solves a rate once, and what each answer took in real seconds to find the first time."""

    choose: Choose
    known: dict[float, tuple[Sequence[Configuration], float]] = field(default_factory=dict)

    def __call__(self, rate_rps: float) -> tuple[Sequence[Configuration], float]:
        """The best configurations for a rate, and the seconds that were saved by knowing them already."""
        if rate_rps in self.known:
            return self.known[rate_rps]
        begin_s = time.perf_counter()
        found = self.choose(rate_rps)
        self.known[rate_rps] = found, time.perf_counter() - begin_s
        return found, 0.0


def choose_by(setting: Setting, name: str) -> Remembered:
    """The method ``name`` as a way to choose a configuration for a rate within the setting's SLA."""
    ipa = setting.ipa
    return Remembered(
        chooser(
            setting.profile,
            setting.sla_s,
            ipa["replicas"],
            method(name, ipa),
            prices=prices(ipa, setting.usd),
            latency=ipa["latency"],
        )
    )


def first_configuration(setting: Setting, name: str, choose: Remembered) -> tuple[Configuration, str | None]:
    """What the pipeline starts with, and why it is not the method's choice, if it isn't.

    It is the method's choice for the largest second of the first interval: a system that was set up for the load that
    it begins with. Where nothing is feasible for that, it is what the method chooses for the largest rate that it can
    sustain at all, whatever the SLA.
    """
    seconds = max(1, math.ceil(setting.rules.interval_s))
    rate_rps = max(LEAST_RPS, float(setting.counts[:seconds].max()))
    found, _ = choose(rate_rps)
    if found:
        return found[0], None
    given = Input(rate_rps, setting.sla_s)
    binding = method(name, setting.ipa)(options_for(setting.profile, given, setting.ipa, setting.usd)).binding
    return _largest_throughput(setting, name, rate_rps), None if binding is None else binding.reason


def _largest_throughput(setting: Setting, name: str, rate_rps: float) -> Configuration:
    """The method's choice for the largest rate, up to this, for which it finds any; by bisection over the options'."""
    options = options_for(setting.profile, Input(rate_rps, ANY_SLA_S), setting.ipa, setting.usd)
    rates = np.unique(np.concatenate([from_ticks(stage.throughput) for stage in options.stages]))
    rates = np.append(rates[rates < rate_rps], rate_rps)

    def best(rate: float) -> Configuration | None:
        given = Input(rate, ANY_SLA_S)
        solution = method(name, setting.ipa)(options_for(setting.profile, given, setting.ipa, setting.usd))
        return None if solution.best is None else solution.best.stages

    low, high = 0, len(rates) - 1  # every configuration sustains the smallest
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if best(float(rates[middle])) is not None else (low, middle - 1)
    found = best(float(rates[low]))
    assert found is not None
    return found
