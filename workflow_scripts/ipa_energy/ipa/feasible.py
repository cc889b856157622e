"""Which configurations of a grid IPA could choose: feasible for at least one input, by the arithmetic of the space.

A study that measures only these (``measure: feasible``) asks here, once the profile is there. What is left out has its
reason: the constraints that fail for each input, or why it can't be judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ipa_energy.configuration import Configuration, Platform
from ipa_energy.ipa.measured_marks import places
from ipa_energy.ipa.options import Options
from ipa_energy.ipa.profile import Profile
from ipa_energy.ipa.settings import Ipa, inputs, options_for
from ipa_energy.ipa.ticks import Ints
from ipa_energy.ipa.totals import sla_ticks, totals

COLUMNS = {
    "configuration": "Id of a configuration of the grid.",
    "chosen": "Whether it is feasible for some input.",
    "inputs": "The inputs for which it is feasible, joined by `;`.",
    "reason": "Why it is not chosen: the constraints that fail for each input, or why it can't be judged.",
}


def feasible_configurations(
    profile: Profile,
    ipa: Ipa,
    usd: Mapping[str, float],
    configurations: Sequence[Configuration],
    platform: Platform,
) -> list[str]:
    """Ids of the configurations that are feasible for an input of the config, in the order given."""
    table = choose_feasible(profile, ipa, usd, configurations, platform)
    return [str(one) for one in table.loc[table["chosen"], "configuration"]]


def choose_feasible(
    profile: Profile,
    ipa: Ipa,
    usd: Mapping[str, float],
    configurations: Sequence[Configuration],
    platform: Platform,
) -> pd.DataFrame:
    """A row for each configuration, in the order given, with the columns of :data:`COLUMNS`.

    ``platform`` is what the profile was measured on. Of a configuration of another platform, and of one whose knobs
    are no option (not profiled, no base allocation, more replicas than ``ipa.replicas``), nothing can be said: it is
    left out. An SLA or rate that is just met counts as met.
    """
    spaces = {name: options_for(profile, given, ipa, usd) for name, given in inputs(profile, ipa, usd).items()}
    judged: dict[str, list[int]] = {}
    reasons: dict[str, str] = {}
    any_options = next(iter(spaces.values()))  # all inputs have the same options, in the same order
    for configuration in configurations:
        if configuration.platform != platform:
            other = configuration.platform
            reasons[configuration.id] = (
                f"not judged: it runs on {other.device} in {other.precision}, the profile is of {platform.device} in "
                f"{platform.precision}"
            )
            continue
        found = places(any_options, configuration)
        if isinstance(found, str):
            reasons[configuration.id] = f"not judged: {found}"
        else:
            judged[configuration.id] = found
    chosen = [np.array(column, dtype=np.int64) for column in zip(*judged.values(), strict=True)]
    fails = {name: _violations(options, chosen) for name, options in spaces.items()} if judged else {}
    feasible = {one: [name for name in fails if not fails[name][i]] for i, one in enumerate(judged)}
    for i, one in enumerate(judged):
        if not feasible[one]:
            reasons[one] = "; ".join(f"{name}: {' and '.join(fails[name][i])}" for name in fails)
    rows = [
        {
            "configuration": one.id,
            "chosen": bool(feasible.get(one.id)),
            "inputs": ";".join(feasible.get(one.id, [])) or None,
            "reason": reasons.get(one.id),
        }
        for one in configurations
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _violations(options: Options, chosen: Sequence[Ints]) -> list[list[str]]:
    """The constraints that fail, for each of the configurations whose option of stage s is ``chosen[s]``."""
    late = totals(options, chosen).latency > sla_ticks(options.given)
    short = [~stage.sufficient[i] for stage, i in zip(options.stages, chosen, strict=True)]
    return [
        (["latency"] if late[row] else [])
        + [f"throughput of {stage.stage}" for stage, fails in zip(options.stages, short, strict=True) if fails[row]]
        for row in range(len(late))
    ]
