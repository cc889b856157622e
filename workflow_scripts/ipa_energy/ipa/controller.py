"""The adapter's loop: predict a rate, choose a configuration for it, prefer the one nearest to what runs.

It joins a predictor and a way to choose, IPA's solver or a baseline's, into a decision for :mod:`.simulation`. As in
IPA the old configuration stays when none is feasible, and among equally good ones the one with the fewest changes is
taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ipa_energy.ipa.options import Input, Options, PerStage, make_options
from ipa_energy.ipa.predictors import Predictor
from ipa_energy.ipa.profile import Profile
from ipa_energy.ipa.run_log import Configuration, Decide
from ipa_energy.ipa.solver import Solution
from ipa_energy.ipa.ticks import Floats

Choose: TypeAlias = Callable[[float], Sequence[Configuration]]
"""From a rate in requests per second to the best configurations, equally good; none where none is feasible."""


def controller(predictor: Predictor, choose: Choose) -> Decide:
    """A decision every time it is asked: predict, choose, and keep what runs where nothing is feasible."""

    def decide(at_s: float, history_rps: Floats, current: Configuration) -> Configuration | None:  # noqa: ARG001
        return nearest(choose(predictor(history_rps)), current)

    return decide


def chooser(
    profile: Profile,
    sla_s: float,
    replicas: int | PerStage,
    method: Callable[[Options], Solution],
    **options: Any,
) -> Choose:
    """A way to choose from a profile: ``method`` gets the options for a rate and the SLA.

    ``method`` is a solver with its objective filled in, such as ``lambda o: solve(o, objective)``, or a baseline;
    ``replicas`` and ``options`` are those of :func:`.options.make_options`.
    """

    def choose(rate_rps: float) -> Sequence[Configuration]:
        found = method(make_options(profile, Input(rate_rps, sla_s), replicas, **options))
        return [choice.stages for choice in found.ties]

    return choose


def nearest(configurations: Sequence[Configuration], current: Configuration) -> Configuration | None:
    """The configuration that changes least, the first of several; None of none.

    First counts in how many stages all replicas are replaced (another variant, or other cores), then how many replicas
    are started or ended, then how many batch sizes change.
    """

    def changes(other: Configuration) -> tuple[int, int, int]:
        pairs = list(zip(other, current, strict=True))
        replaced = [(a.variant, a.threads) != (b.variant, b.threads) for a, b in pairs]
        started = sum(
            a.replicas + b.replicas if new else abs(a.replicas - b.replicas)
            for (a, b), new in zip(pairs, replaced, strict=True)
        )
        return sum(replaced), started, sum(a.batch != b.batch for a, b in pairs)

    return min(configurations, key=changes, default=None)
