"""The predictors of a study: the simple ones, and the LSTM, trained on a history of the size of the study's loads.

One network serves all loads. It is trained on a generated history of the largest scale among them, as rates above all
that it was trained on would make it fall back to the maximum. A load of a smaller scale is stretched to that scale
before the network sees it, and its answer shrunk back: a pattern looks the same then, only its scatter from second to
second, which is relatively larger in a smaller load, does not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_energy.files import write_text
from ipa_energy.ipa.loads import derived_seed
from ipa_energy.ipa.predictors import MAXIMUM, REACTIVE, Predictor, WithMargin
from ipa_energy.ipa.ticks import Floats
from ipa_energy.ipa.workload import history_counts

LSTM = "lstm"


@dataclass(frozen=True, slots=True)
class Stretched:
    """A predictor that sees a history ``factor`` times as large, and whose answer is divided by that."""

    predictor: Predictor
    factor: float

    def __call__(self, history_rps: Floats) -> float:
        """The rate to prepare for, in requests per second."""
        return self.predictor(history_rps * self.factor) / self.factor


def train_lstm(days: float, scale: float, seed: int, weights: str | Path, settings: str | Path) -> dict[str, Any]:
    """Train on ``days`` of generated history at a scale, and write the network and what it came to; the latter.

    The JSON file is that of :func:`.lstm.save` with ``history``: days, seed and scale. Raises ValueError for a history
    that is too short.
    """
    from ipa_energy.ipa import lstm  # torch, which nothing else here needs  # noqa: PLC0415

    history_seed = derived_seed(seed, "history")
    counts = history_counts(days, history_seed, scale=scale).astype(float)
    training = lstm.Training(seed=derived_seed(seed, "training"))
    predictor, report = lstm.train(counts, training)
    lstm.save(predictor, report, weights, settings)
    content = json.loads(Path(settings).read_text(encoding="utf-8"))
    content["history"] = {"days": days, "seed": history_seed, "scale": scale, "mean_rps": float(counts.mean())}
    write_text(settings, json.dumps(content, indent=2) + "\n")
    return dict(content)


def make_predictor(
    name: str,
    *,
    scale: float = 1.0,
    margin_percent: float = 0.0,
    trained: tuple[str | Path, str | Path] | None = None,
) -> Predictor:
    """The predictor ``name`` of the config for a load of a scale; ``trained`` are the files of the LSTM.

    Raises ValueError for another name, and for the LSTM without files.
    """
    simple: dict[str, Predictor] = {"reactive": REACTIVE, "max": MAXIMUM}
    if name in simple:
        predictor = simple[name]
    elif name != LSTM:
        raise ValueError(f"predictor {name!r} is not known; there are {LSTM}, {', '.join(simple)}")
    elif trained is None:
        raise ValueError("the predictor lstm needs the files of a trained network: train it, or take reactive or max")
    else:
        from ipa_energy.ipa import lstm  # noqa: PLC0415

        history = json.loads(Path(trained[1]).read_text(encoding="utf-8"))["history"]
        predictor = lstm.load(*trained)
        if history["scale"] != scale:
            predictor = Stretched(predictor, history["scale"] / scale)
    return predictor if margin_percent == 0 else WithMargin(predictor, margin_percent)
