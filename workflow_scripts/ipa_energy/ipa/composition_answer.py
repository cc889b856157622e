"""The answer in words: can IPA choose by energy that it composes from stage profiles? By a rule that is fixed before.

The tables of :mod:`.composition` and :mod:`.composition_errors` go in, lines of text come out. What stands on modelled
energy is called estimated wherever it stands, and is no evidence.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pandas as pd

from ipa_energy.analysis.cells import CELL
from ipa_energy.ipa.composition import energy_word
from ipa_energy.ipa.prediction import ENERGIES, METRICS

Decision: TypeAlias = Literal["can", "cannot", "undecided"]

_SAYS = {"can": "IPA can", "cannot": "IPA cannot", "undecided": "it can't be told whether IPA can"}
_SHORT = {"can": "it can", "cannot": "it cannot", "undecided": "it can't be told"}
_NO_EVIDENCE = "This is no evidence on real energy: modelled power follows busy time by construction"


@dataclass(frozen=True, slots=True)
class Rule:
    """When IPA can choose by predicted energy: it ranks configurations right, and its joules are right.

    ``least_tau`` 0.8: of any two configurations, nine times in ten the one that is predicted to take less does,
    (1 + tau) / 2. ``largest_error`` 0.1: the objective trades joules against cost and accuracy, so that their size
    counts and not only their order; a tenth is what savings have to exceed to be worth a decision, and a few times what
    repeated measurements scatter. Fewer than ``min_configurations`` decide nothing, as an interval of few points is
    too narrow.
    """

    least_tau: float = 0.8
    largest_error: float = 0.1
    min_configurations: int = 8

    def decide(self, row: Mapping[Any, Any]) -> tuple[Decision, str]:
        """The decision on a row of the errors table of an energy, and the grounds of it.

        *can* needs both intervals wholly within the limits; *cannot* needs one so far beyond that scatter between
        repetitions is not the reason, so that noise never speaks against IPA. Else the data don't tell.
        """
        bounds = [float(row[f"{name}_{end}"]) for name in ("tau", "mean_absolute_error") for end in ("lo", "hi")]
        if row["n_configurations"] < self.min_configurations:
            return (
                "undecided",
                f"{row['n_configurations']} configurations, and at least {self.min_configurations} count",
            )
        if any(pd.isna(bound) for bound in bounds):
            return "undecided", str(row["reason"]) if pd.notna(row["reason"]) else "an interval is missing"
        tau_lo, tau_hi, error_lo, error_hi = bounds
        if tau_lo >= self.least_tau and error_hi <= self.largest_error:
            return "can", f"tau is at least {self.least_tau:g} and the error at most {100 * self.largest_error:g} %"
        # Null without repetitions, so that neither comparison holds.
        ceiling, noise = float(row["tau_ceiling"]), float(row["noise_error"])
        against = [f"tau is below {self.least_tau:g}"] * (tau_hi < self.least_tau * ceiling)
        against += [f"the error is above {100 * self.largest_error:g} %"] * (error_lo > self.largest_error + noise)
        if against:
            return "cannot", " and ".join(against)
        open_ = [f"tau may be below {self.least_tau:g}"] * (tau_lo < self.least_tau)
        open_ += [f"the error may be above {100 * self.largest_error:g} %"] * (error_hi > self.largest_error)
        if tau_hi < self.least_tau or error_lo > self.largest_error:
            without = "without repetitions scatter can't be told from error"
            open_.append(
                without if pd.isna(noise) or pd.isna(ceiling) else "scatter between repetitions may be the reason"
            )
        return "undecided", ", and ".join(open_)

    def __str__(self) -> str:
        return (
            f"IPA can choose by predicted energy when tau is at least {self.least_tau:g} and the mean error at most "
            f"{100 * self.largest_error:g} %, each with its whole interval; it cannot when one of the intervals lies "
            f"wholly beyond, farther than scatter between repetitions explains; else, and with fewer than "
            f"{self.min_configurations} configurations, the data don't tell"
        )


def answer(configurations: pd.DataFrame, errors: pd.DataFrame, rule: Rule, confidence: float) -> str:
    """The answer as text: first the decisions, then the grounds cell by cell, what was left out, and the rule."""
    rows = {
        (*(row[name] for name in CELL), row["metric"]): row
        for row in errors.to_dict("records")
        if row["n_configurations"] > 0
    }
    cells = list(dict.fromkeys(key[:-1] for key in rows))
    lines = ["Can IPA choose by energy that it predicts from profiles of the stages?"]
    for cell in cells:
        said = (_short(rows[(*cell, metric)], metric, rule) for metric in ENERGIES if (*cell, metric) in rows)
        lines.append(f"  {cell[1]} on {cell[2]}: {'; '.join(said) or 'no answer, as no energy has both sides'}")
    lines += [""] if cells else ["  No answer: there is no configuration of which both sides are known.", ""]
    for cell in cells:
        lines.append(f"Workload {cell[1]} on {cell[2]}, {cell[3]} weights, meters {cell[4]}:")
        lines += [_wrapped(_energy(rows.get((*cell, metric)), metric, rule, confidence)) for metric in ENERGIES]
        others = [metric for metric in METRICS if metric not in ENERGIES and (*cell, metric) in rows]
        lines += [_wrapped(_other(rows[(*cell, metric)], metric)) for metric in others]
        lines.append("")
    left = _left_out(configurations)
    lines += ["Not composed or not measured, by configuration:", *map(_wrapped, left), ""] if left else []
    interval = f"Intervals ({100 * confidence:g} %) are over configurations, for this one profile."
    return "\n".join([*lines, textwrap.fill(f"Rule, fixed beforehand: {rule}. {interval}", _WIDTH)]) + "\n"


_WIDTH = 110


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _short(row: Mapping[Any, Any], metric: str, rule: Rule) -> str:
    word = energy_word(row["evidence"])
    closing = {"estimated ": " - no evidence", "partly estimated ": " - partly no evidence"}.get(word, "")
    name = METRICS[metric].removesuffix(" per request")
    return f"by {word}{name} {_SHORT[rule.decide(row)[0]]}{closing}"


def _energy(row: Mapping[Any, Any] | None, metric: str, rule: Rule, confidence: float) -> str:
    name = METRICS[metric]
    if row is None:
        return f"{name.capitalize()}: no answer, as no configuration has both a predicted and a measured figure."
    word = energy_word(row["evidence"])
    decision, grounds = rule.decide(row)
    close = f"So {_SAYS[decision]} choose by the {word}{name} that it predicts ({grounds})."
    if word:
        close = f"{close[:-1]}. {_NO_EVIDENCE}" + (" for the estimated part." if row["evidence"] == "mixed" else ".")
    if pd.isna(row["mean_absolute_error"]):
        return f"{(word + name).capitalize()}: {row['reason']}. {close}"
    size = _share(row, "mean_absolute_error", confidence, " on average")
    parts = [
        f"composed from stage profiles, {word}{name} of {row['n_configurations']} configurations is off by {size}, "
        f"bias {_share(row, 'bias', confidence, signed=True)}",
        f"nine in ten are within {100 * row['p90_absolute_error']:.1f} %",
    ]
    if pd.notna(row["tau"]):
        interval = f" ({row['tau_lo']:.2f} to {row['tau_hi']:.2f})" if pd.notna(row["tau_lo"]) else ""
        parts.append(f"it ranks them with tau {row['tau']:.2f}{interval}")
    if pd.notna(row["spread"]):
        parts.append(f"the {word}energy itself differs by a factor of {row['spread']:.3g} between them")
    if pd.notna(row["regret"]):
        best = f"the one that it ranks best takes {100 * row['regret']:.1f} % more than the best"
        if pd.notna(row["regret_same_accuracy"]):
            best += f", among those of equal accuracy {100 * row['regret_same_accuracy']:.1f} % on average"
        parts.append(best)
    parts += [str(row["reason"])] if pd.notna(row["reason"]) else []
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}. {close}"


def _share(row: Mapping[Any, Any], name: str, confidence: float, more: str = "", *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    value, lo, hi = (100 * row[key] for key in (name, f"{name}_lo", f"{name}_hi"))
    return f"{value:{sign}.1f} %{more} ({100 * confidence:g} % CI {lo:{sign}.1f} to {hi:{sign}.1f} %)"


def _other(row: Mapping[Any, Any], metric: str) -> str:
    name = METRICS[metric]
    name = f"{name[0].upper()}{name[1:]}"
    if pd.isna(row["mean_absolute_error"]):
        return f"{name}: {row['reason']}."
    tau = f", tau {row['tau']:.2f}" if pd.notna(row["tau"]) else ""
    return (
        f"{name}: off by {100 * row['mean_absolute_error']:.1f} % on average, bias {100 * row['bias']:+.1f} %{tau} "
        f"({row['n_configurations']} configurations)."
    )


def _left_out(configurations: pd.DataFrame) -> list[str]:
    """Every reason against a whole configuration or one of its figures, and of how many it is told."""
    found = Counter(part for reason in configurations["reason"].dropna() for part in reason.split("; "))
    return [f"{count} x {reason}" for reason, count in found.most_common()]
