"""From simulated studies, each measured by several designs, to what a design saves and what that costs.

Rows of :data:`.design_runs.COLUMNS` go in; out come a table, and the answer in words. The first design of the table is
what the others are held against, study by study.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from ipa_energy.analysis.outcomes import COUPLED, DECOUPLED, INCONCLUSIVE
from ipa_energy.error_rates.truths import WRONG

EVERYTHING, KIND, NOISE, TRUTH = "all", "kind", "noise", "truth"
SCOPES: dict[str, list[str]] = {EVERYTHING: [], KIND: ["kind"], NOISE: ["kind", "noise"], TRUTH: ["kind", "truth"]}
"""What studies are put together by, for each scope of a row."""

LIMIT = 0.05
"""The rate of errors that the rule promises not to exceed."""

_RIGHT = {"coupled": COUPLED, "decoupled": DECOUPLED}
_QUANTILES = {"lo": 0.1, "median": 0.5, "hi": 0.9}

COLUMNS = (
    *("scope", "kind", "noise", "truth", "design", "against", "n_studies"),
    *("n_coupled", "n_decoupled", "n_inconclusive"),
    *("measurements", "measurements_lo", "measurements_median", "measurements_hi"),
    *("saved", "saved_lo", "saved_median", "saved_hi"),
    *("n_wrong", "wrong_rate", "wrong_rate_lo", "wrong_rate_hi"),
    *("n_right", "right_rate", "right_rate_lo", "right_rate_hi", "n_lost", "n_gained", "lost_p"),
)
_TEXT = ("scope", "kind", "truth", "design", "against")


def summary_table(runs: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """What each design did, in the scopes of :data:`SCOPES`: the columns of :data:`COLUMNS`.

    ``measurements`` are means per study with the tenth, the half and nine tenths of the studies; ``saved`` is the share
    of the measurements of the design ``against`` in the same study that were not needed, likewise, its mean that of the
    sums. ``wrong`` decisions are errors by the kind of truth, ``right`` ones those hoped for, with Clopper-Pearson
    intervals; of the latter ``n_lost`` were found by ``against`` and not here, ``n_gained`` the reverse, with the
    p-value of McNemar's exact test. Rates are null where no decision is wrong, or right.
    """
    first = str(runs["design"].iloc[0]) if len(runs) else ""
    keyed = runs.assign(
        study=pd.Series(
            [*zip(*(runs[name] for name in ("truth", "noise", "n_possible", "seed")), strict=True)],
            index=runs.index,
            dtype="object",
        ),
        wrong=runs["decision"] == runs["kind"].map(WRONG),
        right=runs["decision"] == runs["kind"].map(_RIGHT),
    )
    reference = keyed[keyed["design"] == first].set_index("study")
    keyed["of"] = keyed["study"].map(reference["n_measurements"])
    keyed["right_there"] = keyed["study"].map(reference["right"])
    rows = []
    for scope, by in SCOPES.items():
        for key, group in keyed.groupby(by, sort=False) if by else [((), keyed)]:
            place: dict[str, Any] = {"scope": scope} | dict(zip(by, key, strict=True))
            for design, chosen in group.groupby("design", sort=False):
                rows.append(place | {"design": design, "against": first} | _row(chosen, confidence))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = dict.fromkeys(_TEXT, "str")
    return frame.astype({c: kinds.get(c, "Int64" if c.startswith("n_") else "float64") for c in COLUMNS})


def _row(chosen: pd.DataFrame, confidence: float) -> dict[str, Any]:
    used, share = chosen["n_measurements"].astype(float), 1 - chosen["n_measurements"] / chosen["of"]
    row: dict[str, Any] = {"n_studies": len(chosen), "measurements": float(used.mean())}
    row |= {f"n_{name}": int((chosen["decision"] == name).sum()) for name in (COUPLED, DECOUPLED, INCONCLUSIVE)}
    row |= {f"measurements_{name}": float(used.quantile(q)) for name, q in _QUANTILES.items()}
    row["saved"] = float(1 - used.sum() / chosen["of"].sum())
    row |= {f"saved_{name}": float(share.astype(float).quantile(q)) for name, q in _QUANTILES.items()}
    judged, hoped = chosen[chosen["kind"].map(WRONG).notna()], chosen[chosen["kind"].isin(list(_RIGHT))]
    row |= _rate("wrong", int(judged["wrong"].sum()), len(judged), confidence)
    row |= _rate("right", int(hoped["right"].sum()), len(hoped), confidence)
    if len(hoped):
        lost = int((hoped["right_there"] & ~hoped["right"]).sum())
        gained = int((~hoped["right_there"] & hoped["right"]).sum())
        p = float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0
        row |= {"n_lost": lost, "n_gained": gained, "lost_p": p}
    return row


def _rate(name: str, count: int, total: int, confidence: float) -> dict[str, Any]:
    if not total:
        return {}
    lo, hi = proportion_confint(count, total, alpha=1 - confidence, method="beta")
    return {f"n_{name}": count, f"{name}_rate": count / total} | {
        f"{name}_rate_lo": float(lo),
        f"{name}_rate_hi": float(hi),
    }


def answer(summary: pd.DataFrame) -> str:
    """What each design measures, how often it errs and what it finds, in words."""
    lines: list[str] = []
    for (design,), rows in summary.groupby(["design"], sort=False):
        whole = rows[rows["scope"] == EVERYTHING].iloc[0]
        lines.append(
            f"{design}: {whole['measurements']:.0f} measurements a study, {whole['saved']:.0%} fewer than "
            f"{whole['against']}; wrong verdicts in {_words(whole, 'wrong')}."
        )
        lines += [f"  {line}" for line in _by_kind(rows)]
    return "\n".join(lines) + "\n" if lines else "No study was simulated.\n"


def _by_kind(rows: pd.DataFrame) -> Iterator[str]:
    for row in rows[rows["scope"] == KIND].to_dict("records"):
        told = f"{row['kind']} truths: saved {row['saved']:.0%}; wrong {_words(row, 'wrong')}"
        if row["kind"] in _RIGHT:
            told += (
                f"; found {_words(row, 'right')}, {row['n_lost']} lost and {row['n_gained']} gained against "
                f"{row['against']} (p = {row['lost_p']:.2g})"
            )
        yield told + "."


def _words(row: Any, name: str) -> str:
    if pd.isna(row[f"{name}_rate"]):
        return "none that could be"
    rate, lo, hi = (100 * float(row[f"{name}_rate{end}"]) for end in ("", "_lo", "_hi"))
    return f"{row[f'n_{name}']} of {row['n_studies']} ({rate:.1f} % [{lo:.1f}, {hi:.1f}])"
