"""The methods that IPA is compared with: the same solver and objective with one knob taken away.

FA2 (Razavi et al., RTAS 2022) scales and batches fixed variants: FA2-low the lightest of each stage, FA2-high the
heaviest, or those that are named, as the paper's FA2-high is not the heaviest everywhere. RIM (Hu et al., 2021)
switches variants with a fixed number of replicas. Both then choose by the objective as IPA does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from ipa_energy.ipa.objective import Objective
from ipa_energy.ipa.options import Options, StageOptions, restrict
from ipa_energy.ipa.solver import MAX_TIES, Solution, solve

Weight = Literal["lightest", "heaviest"]


def fa2(
    options: Options,
    objective: Objective,
    variants: Weight | Mapping[str, str],
    max_ties: int = MAX_TIES,
) -> Solution:
    """Batch sizes and replicas for fixed variants: ``lightest`` (FA2-low), ``heaviest`` (FA2-high), or by stage.

    Lightest is the least accurate variant of a stage, of equal ones the cheaper; heaviest the most accurate, of equal
    ones the dearer. Raises ValueError when a stage has no variant named.
    """
    if not isinstance(variants, str):
        lacking = [stage.stage for stage in options.stages if stage.stage not in variants]
        if lacking:
            raise ValueError(f"FA2 fixes the variant of every stage, and none is named for {', '.join(lacking)}")
        fixed = dict(variants)
    else:
        fixed = {stage.stage: _extreme(stage, variants) for stage in options.stages}
    return solve(restrict(options, variants=fixed), objective, max_ties)


def _extreme(stage: StageOptions, which: Weight) -> str:
    if which not in ("lightest", "heaviest"):
        raise ValueError(f"FA2 takes lightest, heaviest or a variant by stage, not {which!r}")
    per_replica = stage.cost / stage.replicas
    order = np.lexsort((per_replica, stage.accuracy))
    return stage.variants[int(stage.variant[order[0 if which == "lightest" else -1]])]


def rim(options: Options, objective: Objective, replicas: Mapping[str, int], max_ties: int = MAX_TIES) -> Solution:
    """Variants and batch sizes for a fixed number of replicas of each stage, which must be among the options."""
    lacking = [stage.stage for stage in options.stages if stage.stage not in replicas]
    if lacking:
        raise ValueError(f"RIM fixes the replicas of every stage, and none are given for {', '.join(lacking)}")
    return solve(restrict(options, replicas=replicas), objective, max_ties)
