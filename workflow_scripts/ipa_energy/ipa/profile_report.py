"""What is shown of a profile besides its rows: quadratic fits with their errors, and the allocation of each variant."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ipa_energy.ipa.allocation import allocation_table, base_allocation
from ipa_energy.ipa.fit import latency_fits, quadratic_fits
from ipa_energy.ipa.profile import Profile, curves
from ipa_energy.ipa.settings import Ipa, prices, stage_slas_s

ALLOCATION_COLUMNS = ("stage", "variant", "cores", "gpu_share", "stage_sla_s", "reason")


def fits_table(profile: Profile) -> pd.DataFrame:
    """Quadratic fits of each latency there is, in s, and of the energy of a batch, in J, by the column ``figure``."""
    parts = []
    for kind, column in (("mean", "latency_mean_s"), ("p99", "latency_p99_s"), ("", "latency_s")):
        if all(column in stage.latencies for stage in profile.stages):
            parts.append(latency_fits(profile, kind).assign(figure=column))
    energies = {stage.stage: stage.energy_j for stage in profile.stages}
    if profile.energy_kind is not None and not any(np.isnan(values).any() for values in energies.values()):
        parts.append(quadratic_fits(profile, energies).assign(figure="energy_j"))
    table = pd.concat(parts, ignore_index=True)
    return table[["figure", *(column for column in table.columns if column != "figure")]]


def allocations(profile: Profile, ipa: Ipa, usd: Mapping[str, float]) -> pd.DataFrame:
    """The base allocation of every variant; every allocation, where the config asks for no threshold rate."""
    slas_s = stage_slas_s(profile, ipa, usd)
    threshold_rps = ipa["threshold_rps"]
    tables = []
    for stage in profile.stages:
        if threshold_rps is None:
            reason = "an option as it is: ipa.threshold_rps is not set"
            first = [rows[0] for _, rows in curves(stage)]
            names = [stage.variants[stage.variant[row]] for row in first]
            made = pd.DataFrame({"variant": names, "cores": stage.cores[first], "gpu_share": stage.gpu_share[first]})
            made = made.assign(stage=stage.stage, reason=reason)
        else:
            made = allocation_table(
                base_allocation(
                    stage, threshold_rps, slas_s[stage.stage], latency=ipa["latency"], prices=prices(ipa, usd)
                )
            )
        tables.append(made.assign(stage_sla_s=slas_s[stage.stage]))
    return pd.concat(tables, ignore_index=True)[list(ALLOCATION_COLUMNS)]
