"""From judged runs to rates: how often the rule is wrong, and how often it decides, with exact intervals.

Rows of :data:`.run.COLUMNS` go in; out come a table of rates, for every setting, every truth and every kind of truth,
of the verdict and of each of its levels, and the answer in words.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from ipa_energy.analysis.judge import JOINT, LEVELS
from ipa_energy.analysis.outcomes import COUPLED, DECOUPLED, INCONCLUSIVE
from ipa_energy.error_rates.truths import TRUTHS, WRONG

VERDICT = "verdict"
LIMIT = 0.05
"""The rate of errors that the rule promises not to exceed."""

POWER = 0.8
"""The share of right decisions from which on a study is large enough."""

SETTING, TRUTH, KIND = "setting", "truth", "kind"
SCOPES = {
    SETTING: ["kind", "truth", "noise", "n_repetitions", "n_configurations"],
    TRUTH: ["kind", "truth"],
    KIND: ["kind"],
}
"""What runs are put together by, for each scope of a rate."""

COLUMNS = (
    *("scope", *SCOPES[SETTING], "component", "level", "n_runs", "n_coupled", "n_decoupled", "n_inconclusive"),
    *("wrong", "n_wrong", "wrong_rate", "wrong_rate_lo", "wrong_rate_hi"),
    *("right", "n_right", "right_rate", "right_rate_lo", "right_rate_hi"),
)
_TEXT = ("scope", "kind", "truth", "level", "wrong", "right")
_WHOLE = (
    *("n_repetitions", "n_configurations", "n_runs", "n_coupled", "n_decoupled", "n_inconclusive"),
    *("n_wrong", "n_right"),
)
_RIGHT = {"coupled": COUPLED, "decoupled": DECOUPLED}


def summary_table(runs: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Rates with Clopper-Pearson intervals: the columns of :data:`COLUMNS`.

    ``wrong`` is the decision that is an error, ``right`` the one hoped for; null where there is none, and so are their
    rates. ``coupled`` at the levels of trade-off and choice is no error for an energy with a component of its own:
    such an energy need not change the front or a choice. The intervals of pooled rates are those of the mixture of
    settings that was simulated.
    """
    rows = []
    for scope, by in SCOPES.items():
        for key, group in runs.groupby(by, sort=False):
            place: dict[str, object] = {"scope": scope} | dict(zip(by, key, strict=True))
            if scope != KIND:
                place["component"] = float(group["component"].iloc[0])
            for level in (VERDICT, *LEVELS):
                column = "decision" if level == VERDICT else f"level_{level}"
                rows.append(place | {"level": level} | _rates(group[column], str(place["kind"]), level, confidence))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = dict.fromkeys(_TEXT, "str") | dict.fromkeys(_WHOLE, "Int64")
    return frame.astype({name: kinds.get(name, "float64") for name in COLUMNS})


def _rates(decisions: pd.Series, kind: str, level: str, confidence: float) -> dict[str, object]:
    total = len(decisions)
    found: dict[str, object] = {"n_runs": total}
    found |= {f"n_{name}": int((decisions == name).sum()) for name in (COUPLED, DECOUPLED, INCONCLUSIVE)}
    wrong, right = WRONG[kind], _RIGHT.get(kind)
    if level not in (VERDICT, JOINT) and kind not in ("coupled", "noise"):
        wrong = None
    for name, decision in (("wrong", wrong), ("right", right)):
        if decision is None:
            continue
        count = int((decisions == decision).sum())
        lo, hi = proportion_confint(count, total, alpha=1 - confidence, method="beta")
        found |= {name: decision, f"n_{name}": count, f"{name}_rate": count / total}
        found |= {f"{name}_rate_lo": float(lo), f"{name}_rate_hi": float(hi)}
    return found


def answer(summary: pd.DataFrame, component: float = 0.1, noise: float = 0.05) -> str:
    """The rates in words: errors and where they are most frequent, and what it takes to decide."""
    verdicts = summary[summary["level"] == VERDICT]
    lines = [*_errors(verdicts), "", *_levels(summary), "", *_decided(verdicts), *_power(summary, component, noise)]
    return "\n".join(lines) + "\n"


_KIND_WORDS = {
    "coupled": "Energy that accuracy, latency and cost tell",
    "noise": "Energy that is equal everywhere",
    "opposed": "Energy that they tell, but that opposes one of them",
    "decoupled": "Energy with 10 % or more of its own",
    "borderline": "Energy with 5 % of its own",
}


def _errors(verdicts: pd.DataFrame) -> Iterator[str]:
    for _, row in verdicts[(verdicts["scope"] == KIND) & verdicts["wrong"].notna()].iterrows():
        kind = str(row["kind"])
        yield f"{_KIND_WORDS[kind]} was called {row['wrong']} in {_rate(row, 'wrong')} of simulated studies."
        for scope in (TRUTH, SETTING):
            chosen = verdicts[(verdicts["scope"] == scope) & (verdicts["kind"] == kind)]
            if not len(chosen) or not row["n_wrong"]:
                continue
            worst = chosen.sort_values(["wrong_rate", "n_runs"], ascending=False, kind="stable").iloc[0]
            above = f", above {LIMIT:.0%}" if worst["wrong_rate"] > LIMIT else ""
            yield f"  Most often for the {scope} {_place(worst)}: {_rate(worst, 'wrong')}{above}."


def _levels(summary: pd.DataFrame) -> Iterator[str]:
    pooled = summary[(summary["scope"] == KIND) & (summary["level"] != VERDICT) & summary["wrong"].notna()]
    for _, row in pooled.iterrows():
        yield f"Level {row['level']}, {row['kind']} truths: {row['wrong']} in {_rate(row, 'wrong')}."


def _decided(verdicts: pd.DataFrame) -> Iterator[str]:
    for _, row in verdicts[verdicts["scope"] == KIND].iterrows():
        shares = ", ".join(
            f"{row[f'n_{name}'] / row['n_runs']:.0%} {name}" for name in (COUPLED, DECOUPLED, INCONCLUSIVE)
        )
        yield f"{_KIND_WORDS[str(row['kind'])]} ({row['n_runs']} studies): {shares}."


def _power(summary: pd.DataFrame, component: float, noise: float) -> Iterator[str]:
    """What it takes to find a component white over configurations, at one size of noise; the levels beside it."""
    plain = [name for name, truth in TRUTHS.items() if truth.carrier == "white" and not truth.narrow]
    chosen = summary[
        (summary["scope"] == SETTING)
        & (summary["kind"] == "decoupled")
        & (summary["component"] == component)
        & (summary["noise"] == noise)
        & summary["truth"].isin(plain)
    ].sort_values(["n_configurations", "n_repetitions"])
    if not len(chosen):
        return
    yield ""
    yield f"A component of {component:.0%} with noise of {noise:.0%} was called decoupled in"
    for (configurations, repetitions), rows in chosen.groupby(["n_configurations", "n_repetitions"]):
        counts = rows.set_index("level")["n_right"]
        levels = ", ".join(f"{level} {counts[level]}" for level in LEVELS)
        rate = _rate(rows[rows["level"] == VERDICT].iloc[0], "right")
        yield f"  {configurations} configurations x {repetitions} repetitions: {rate}; by level: {levels}"
    for level in (VERDICT, JOINT):
        yield _enough(chosen[chosen["level"] == level], "" if level == VERDICT else f" at level {level}")


def _enough(chosen: pd.DataFrame, where: str) -> str:
    enough = chosen[chosen["right_rate"] >= POWER]
    if not len(enough):
        return f"None of these sizes reaches {POWER:.0%}{where}."
    least = enough.iloc[(enough["n_configurations"] * enough["n_repetitions"]).argmin()]
    return (
        f"The smallest study that reaches {POWER:.0%}{where} has {least['n_configurations']} configurations and "
        f"{least['n_repetitions']} repetitions."
    )


def _rate(row: pd.Series, name: str) -> str:
    rate, lo, hi = (100 * float(row[f"{name}_rate{end}"]) for end in ("", "_lo", "_hi"))
    return f"{row[f'n_{name}']} of {row['n_runs']} ({rate:.1f} % [{lo:.1f}, {hi:.1f}])"


def _place(row: pd.Series) -> str:
    if row["scope"] == TRUTH:
        return str(row["truth"])
    return (
        f"{row['truth']} with noise {row['noise']:.0%}, {row['n_repetitions']} repetitions, "
        f"{row['n_configurations']} configurations"
    )
