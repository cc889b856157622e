"""Run simulated studies through designs: the same study, measured in every way, and what the rule says of each.

A study is simulated once, with as many blocks as the largest design has. A fraction holds the rows of its
configurations, fewer blocks are the first ones, and a sequential design looks as a real study does
(:mod:`ipa_energy.analysis.stopping`): designs differ by nothing but what they measure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ipa_energy import design
from ipa_energy.analysis.judge import JOINT, Judgement, judge
from ipa_energy.analysis.look import intervals_of
from ipa_energy.analysis.stopping import Seen, Spent, outcome, rule_of_look
from ipa_energy.error_rates.designs import Design, Simulated, designs_of, studies_of
from ipa_energy.error_rates.service import make_grid
from ipa_energy.error_rates.studies import panel, study
from ipa_energy.error_rates.truths import TRUTHS

COLUMNS = (
    *("truth", "kind", "component", "noise", "n_possible", "seed", "design", "n_configurations", "n_repetitions"),
    *("n_measurements", "decision", "binding", "level_joint", "because"),
)
_TEXT = ("truth", "kind", "design", "decision", "binding", "level_joint", "because")
_REAL = ("component", "noise")


def designed_runs(preset: Mapping[str, Any], truth: str, rule: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each study of one truth and each design, with the columns of :data:`COLUMNS`.

    ``n_possible`` are the configurations of the whole grid, ``n_configurations`` those measured, ``n_repetitions`` the
    blocks and ``n_measurements`` the measurements; ``because`` is why a sequential study stopped, else null.
    """
    designs = designs_of(preset)
    rows = [row for given in studies_of(preset, truth) for row in rows_of(given, designs, rule)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({c: "str" if c in _TEXT else "float64" if c in _REAL else "Int64" for c in COLUMNS})


def rows_of(given: Simulated, designs: Sequence[Design], rule: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of one study: a dict with the keys of :data:`COLUMNS` for each design."""
    made = _Study(given, max(one.blocks for one in designs), rule)
    return [made.row(one) for one in designs]


class _Study:
    """One simulated study, and the judgements of its parts that were asked for already."""

    def __init__(self, given: Simulated, blocks: int, rule: Mapping[str, Any]) -> None:
        words = (given.truth, repr(given.noise), given.configurations, given.seed, "designs")
        digest = hashlib.sha256("\0".join(map(str, words)).encode()).digest()
        rng, self.judging = np.random.default_rng(list(digest)), int.from_bytes(digest[:4], "big")
        self.given, self.rule, self.truth = given, rule, TRUTHS[given.truth]
        twins = self.truth.carrier == "knob"
        self.grid = make_grid(given.configurations, rng, narrow=self.truth.narrow, twins=twins, whole=True)
        self.rows = study(self.truth, self.grid, noise=given.noise, repetitions=blocks, rng=rng)
        self.kept: dict[float, frozenset[str]] = {}
        self.judged: dict[tuple[float, int, float], Judgement] = {}

    def row(self, one: Design) -> dict[str, Any]:
        blocks, because = self.measured(one)
        found, n = self.judgement(one.keep, blocks, self.rule["confidence"]), len(self.configurations(one.keep))
        return {
            "truth": self.given.truth,
            "kind": self.truth.kind,
            "component": self.truth.component,
            "noise": self.given.noise,
            "n_possible": len(self.grid.configurations),
            "seed": self.given.seed,
            "design": one.name,
            "n_configurations": n,
            "n_repetitions": blocks,
            "n_measurements": n * blocks,
            "decision": found.decision,
            "binding": found.binding,
            "level_joint": found.levels[JOINT][0],
            "because": because,
        }

    def measured(self, one: Design) -> tuple[int, str | None]:
        """Blocks that a design measures, and why it stopped."""
        rule = one.stopping
        if rule is None:
            return one.blocks, None
        for number in range(rule.start, rule.rounds):
            found = self.judgement(one.keep, number, rule.confidence_of(number, self.rule["confidence"]))
            seen = Seen("", found.decision, found.reason, *intervals_of(found))
            after = outcome(rule, number, [seen], _NOTHING, _NOTHING)
            if after.stop:
                return number, after.because
        return one.blocks, "rounds"

    def configurations(self, keep: float) -> frozenset[str]:
        """Ids of the share of the grid that is measured: the least that works, where ``keep`` of it does not."""
        if keep not in self.kept:
            everything = self.grid.configurations
            try:
                chosen = design.fraction(everything, keep, self.given.seed)
            except design.DesignError as error:
                chosen = design.fraction(everything, error.least / len(everything), self.given.seed)
            self.kept[keep] = frozenset(c.id for c in chosen.configurations)
        return self.kept[keep]

    def judgement(self, keep: float, blocks: int, confidence: float) -> Judgement:
        key = (keep, blocks, confidence)
        if key not in self.judged:
            rows = self.rows[
                (self.rows["block"] <= blocks) & self.rows["configuration"].isin(self.configurations(keep))
            ]
            strict = rule_of_look(self.rule, confidence)
            self.judged[key] = judge(panel(rows.reset_index(drop=True)), strict, seed=self.judging)
        return self.judged[key]


_NOTHING = Spent(0, 0.0, 0.0, 0.0, 0, 0)
