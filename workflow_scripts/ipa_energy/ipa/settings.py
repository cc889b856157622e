"""The ``ipa`` section of a study's config as the objects of this package: inputs, prices, objective, methods.

Plain functions of the section (with all defaults filled in) and of a profile. What is checked while the workflow is
parsed is in :mod:`ipa_energy.ipa_config`; what only the profile can tell is refused here, with ProfileError or
ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ipa_energy.ipa.allocation import stage_sla_s, with_base_allocation
from ipa_energy.ipa.baselines import fa2, rim
from ipa_energy.ipa.objective import Objective, Scales, Weights, normalising_scales
from ipa_energy.ipa.options import CORES, Input, Options, Prices, energy_is_known, make_options
from ipa_energy.ipa.profile import Profile
from ipa_energy.ipa.solver import Solution, solve

Ipa: TypeAlias = Mapping[str, Any]
"""The section ``ipa`` of a study's settings."""

Method: TypeAlias = Callable[[Options], Solution]
"""A way to choose: from the options for an input to the best configurations."""

WITH_ENERGY = "ipa_energy"
METHOD_NAMES = {
    "ipa": "IPA",
    WITH_ENERGY: "IPA with energy",
    "fa2_low": "FA2-low",
    "fa2_high": "FA2-high",
    "rim": "RIM",
}
"""Methods by their name in the config, and as people call them."""


def prices(ipa: Ipa, usd: Mapping[str, float]) -> Prices:
    """Cores as IPA counts them, or the ``usd`` per hour of the config's ``prices``."""
    if ipa["cost"] == "cores":
        return CORES
    return Prices(core=usd["core_hour_usd"], gpu=usd["gpu_hour_usd"])


def cost_unit(ipa: Ipa) -> str:
    """What costs are in, in words."""
    return "cores" if ipa["cost"] == "cores" else "USD per hour"


def stage_slas_s(profile: Profile, ipa: Ipa, usd: Mapping[str, float]) -> dict[str, float]:
    """The paper's SLA of every stage, in s."""
    return {
        stage.stage: stage_sla_s(stage, ipa["sla_factor"], ipa["latency"], prices(ipa, usd)) for stage in profile.stages
    }


def sla_s(given_s: float | None, profile: Profile, ipa: Ipa, usd: Mapping[str, float]) -> float:
    """An SLA of the pipeline in s as given, or by the paper's rule: the sum of the stages' SLAs."""
    return given_s if given_s is not None else sum(stage_slas_s(profile, ipa, usd).values())


def inputs(profile: Profile, ipa: Ipa, usd: Mapping[str, float]) -> dict[str, Input]:
    """The inputs of the config by name."""
    return {
        name: Input(given["rate_rps"], sla_s(given["sla_s"], profile, ipa, usd), name)
        for name, given in ipa["inputs"].items()
    }


def allocated(profile: Profile, ipa: Ipa, usd: Mapping[str, float]) -> Profile:
    """The profile that IPA works with: on base allocations where the config asks for them, else as it is."""
    if ipa["threshold_rps"] is None:
        return profile
    slas_s = stage_slas_s(profile, ipa, usd)
    thresholds_rps = dict.fromkeys(slas_s, float(ipa["threshold_rps"]))
    return with_base_allocation(profile, thresholds_rps, slas_s, latency=ipa["latency"], prices=prices(ipa, usd))


def options_for(
    profile: Profile, given: Input, ipa: Ipa, usd: Mapping[str, float], replicas: int | None = None
) -> Options:
    """The options of every stage for an input; ``replicas`` is the most of a stage, by default the config's."""
    most = ipa["replicas"] if replicas is None else replicas
    return make_options(profile, given, most, prices=prices(ipa, usd), latency=ipa["latency"])


def objective_for(options: Options, ipa: Ipa, energy: bool) -> Objective:
    """The objective for an input, with the weight of energy only if ``energy``."""
    weights = Weights(**(dict(ipa["weights"]) | ({} if energy else {"delta": 0.0})))
    scales = normalising_scales(options, ipa["accuracy"]) if ipa["scales"] == "normalised" else Scales()
    return Objective(weights, ipa["accuracy"], scales)


def method(name: str, ipa: Ipa) -> Method:
    """The method of that name. Raises KeyError for another.

    What it returns raises ValueError where it weighs energy that is not known.
    """

    def by_objective(options: Options) -> Objective:
        return objective_for(options, ipa, energy=name == WITH_ENERGY)

    def fixed_replicas(options: Options) -> dict[str, int]:
        return {stage.stage: min(ipa["rim_replicas"], int(stage.replicas.max())) for stage in options.stages}

    methods: dict[str, Method] = {
        "ipa": lambda options: solve(options, by_objective(options)),
        WITH_ENERGY: lambda options: solve(options, by_objective(options)),
        "fa2_low": lambda options: fa2(options, by_objective(options), "lightest"),
        "fa2_high": lambda options: fa2(options, by_objective(options), ipa["fa2_high"] or "heaviest"),
        "rim": lambda options: rim(options, by_objective(options), fixed_replicas(options)),
    }
    return methods[name]


def usable_methods(names: Sequence[str], options: Options, ipa: Ipa | None = None) -> tuple[list[str], dict[str, str]]:
    """Those of the methods that these options allow, and the reason against each other one.

    With ``ipa``, FA2-high is checked too: the variants that the config names for it must be among the options.
    """
    reasons = {}
    if not energy_is_known(options):
        reasons[WITH_ENERGY] = "the energy of some options is not known (no energy_j in the profile, or a rate of 0)"
    named = {} if ipa is None else ipa["fa2_high"]
    lacking = [
        f"{stage.stage} ({named[stage.stage]})" if stage.stage in named else f"{stage.stage} (none named)"
        for stage in options.stages
        if named and named.get(stage.stage) not in {stage.variants[i] for i in stage.variant}
    ]
    if lacking:
        reasons["fa2_high"] = f"ipa.fa2_high has no variant of the profile for {', '.join(lacking)}"
    return [name for name in names if name not in reasons], {name: reasons[name] for name in names if name in reasons}
