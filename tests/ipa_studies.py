"""A small made-up profile with measured energy, and the settings of studies of it."""

import pandas as pd

from ipa_energy.ipa.profile import make_profile, write_profile
from ipa_energy.study import load_study

USD = {"core_hour_usd": 0.04, "gpu_hour_usd": 2.5}

VARIANTS = {
    "detect": {"small": (0.5, 1, 0.10), "large": (0.7, 2, 0.16)},
    "classify": {"r18": (0.6, 1, 0.05), "r50": (0.75, 1, 0.08), "r152": (0.8, 2, 0.09)},
}
"""Accuracy, cores, and seconds of a batch of one, by stage and variant."""


def rows(batches=(1, 2, 4), evidence="measured", **changes):
    """Rows of a profile: a batch takes 0.4 + 0.6 b of the time of one, and 5 W a core above 0.25 W waiting."""
    made = []
    for stage, variants in VARIANTS.items():
        for variant, (accuracy, cores, one_s) in variants.items():
            for b in batches:
                mean_s = round(one_s * (0.4 + 0.6 * b), 6)
                made.append(
                    {
                        "stage": stage,
                        "variant": variant,
                        "accuracy": accuracy,
                        "cores": cores,
                        "batch": b,
                        "latency_mean_s": mean_s,
                        "latency_p99_s": round(1.25 * mean_s, 6),
                        "throughput_rps": round(b / mean_s, 6),
                        "energy_j": round(5 * cores * mean_s, 6),
                        "energy_kind": "net",
                        "idle_w": 0.25 * cores,
                        "evidence": evidence,
                        "host_idle_w": 20.0,
                    }
                    | changes
                )
    return made


def profile_of(made=None, without=()):
    table = pd.DataFrame(rows() if made is None else made)
    return make_profile(table.drop(columns=list(without)))


ENERGY = ("energy_j", "energy_kind", "idle_w", "evidence", "host_idle_w")
"""The columns of a profile that are about energy."""


def settings_of(folder, profile, inputs=None, adaptation=None, **ipa):
    """All settings of a study of a profile, which is written to ``folder``."""
    write_profile(profile, folder / "profile.csv")
    section = {"profile": str(folder / "profile.csv"), "inputs": inputs or {}, "replicas": 3} | ipa
    if adaptation:
        section["adaptation"] = adaptation
    return load_study({"experiment": "x", "measure": "none", "seed": 5, "ipa": section}).settings
