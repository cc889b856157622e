"""Judge simulated studies of one truth: a row per study, with what the rule decided.

Every study has random numbers of its own, which follow from its setting and its seed alone, so that neither the order
of the runs nor what else is simulated changes a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ipa_energy.analysis.judge import LEVELS, judge
from ipa_energy.error_rates.presets import Designs, Setting, settings_of
from ipa_energy.error_rates.service import make_grid
from ipa_energy.error_rates.studies import panel, study
from ipa_energy.error_rates.truths import TRUTHS

COLUMNS = (
    *("truth", "kind", "component", "noise", "n_repetitions", "n_configurations", "seed", "decision", "binding"),
    *(f"level_{level}" for level in LEVELS),
    *("spread", "spread_lo", "spread_hi", "growth_lo", "growth_hi", "saving", "saving_lo", "saving_hi", "reason"),
)
_TEXT = ("truth", "kind", "decision", "binding", *(f"level_{level}" for level in LEVELS), "reason")
_WHOLE = ("n_repetitions", "n_configurations", "seed")


def judged_runs(designs: Designs, truth: str, rule: Mapping[str, Any]) -> pd.DataFrame:
    """All runs of one truth: the columns of :data:`COLUMNS`. ``rule`` is the section ``analysis`` of a config."""
    rows = [
        judged_run(setting, seed, rule)
        for setting, seeds in settings_of(designs, truth).items()
        for seed in range(seeds)
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = dict.fromkeys(_TEXT, "str") | dict.fromkeys(_WHOLE, "Int64")
    return frame.astype({name: kinds.get(name, "float64") for name in COLUMNS})


def judged_run(setting: Setting, seed: int, rule: Mapping[str, Any]) -> dict[str, Any]:
    """Simulate one study and judge it: a row with the keys of :data:`COLUMNS`."""
    rng, judging = streams(setting, seed)
    truth = TRUTHS[setting.truth]
    grid = make_grid(setting.configurations, rng, narrow=truth.narrow, twins=truth.carrier == "knob")
    rows = study(truth, grid, noise=setting.noise, repetitions=setting.repetitions, rng=rng)
    found = judge(panel(rows), rule, seed=judging)
    spread, growth, saved = found.joint.spread, found.trade_off.summary, found.savings
    return {
        "truth": setting.truth,
        "kind": truth.kind,
        "component": truth.component,
        "noise": setting.noise,
        "n_repetitions": setting.repetitions,
        "n_configurations": setting.configurations,
        "seed": seed,
        "decision": found.decision,
        "binding": found.binding,
        **{f"level_{level}": found.levels[level][0] for level in LEVELS},
        "spread": spread.value if spread else None,
        "spread_lo": spread.lo if spread else None,
        "spread_hi": spread.hi if spread else None,
        "growth_lo": growth["growth_lo"],
        "growth_hi": growth["growth_hi"],
        "saving": saved.saving,
        "saving_lo": saved.saving_lo,
        "saving_hi": saved.saving_hi,
        "reason": found.reason,
    }


def streams(setting: Setting, seed: int) -> tuple[np.random.Generator, int]:
    """The generator of a simulated study, and the seed of the judge's own draws."""
    words = (setting.truth, repr(setting.noise), setting.repetitions, setting.configurations, seed)
    digest = hashlib.sha256("\0".join(map(str, words)).encode()).digest()
    return np.random.default_rng(list(digest)), int.from_bytes(digest[:4], "big")
