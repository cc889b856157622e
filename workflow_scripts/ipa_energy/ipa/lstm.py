"""The LSTM predictor: IPA's network in torch, trained on a history, kept with its settings and its errors.

As in IPA it sees the maxima of the last 12 steps of 10 s and says the maximum of the next 20 s, by an LSTM of 25 units
and one linear unit, trained with Adam on squared errors. What differs: torch's LSTM has tanh where IPA's has relu;
rates are divided by the mean of those that train; and IPA looks at its test data in every epoch, where here the
history is cut in time into training, validation, which ends the training, and test, which is looked at once. The only
module of the package that imports torch.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ipa_energy.files import atomic_path, write_text
from ipa_energy.ipa.predictors import MAXIMUM, STEP_S, WINDOW_S, Errors, errors, last_window, windows
from ipa_energy.ipa.ticks import Floats

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Training:
    """How the network is trained.

    ``test_share`` is the newest part of the history, ``validation_share`` that of the rest. Windows that train begin
    ``stride_s`` apart; all others 10 s, as decisions do. Training ends after ``epochs``, or when the validation error
    has not fallen for ``patience`` of them; the weights of the best epoch are kept.
    """

    hidden: int = 25
    epochs: int = 40
    patience: int = 8
    batch: int = 256
    learning_rate: float = 5e-3
    stride_s: int = 30
    seed: int = 7
    test_share: float = 1 / 3
    validation_share: float = 1 / 7

    def __post_init__(self) -> None:
        for name in ("hidden", "epochs", "patience", "batch", "stride_s"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of the LSTM's training is {getattr(self, name)}: give 1 or more")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate of the LSTM's training is {self.learning_rate}: give a number above 0")
        for name in ("test_share", "validation_share"):
            share = getattr(self, name)
            if not 0 < share < 1:
                raise ValueError(f"{name} of the LSTM's training is {share}: give a share between 0 and 1")


class _Network(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size=1, hidden_size=hidden, batch_first=True)
        self.linear = nn.Linear(hidden, 1)

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        """Steps of shape (n, 12), scaled, to maxima of shape (n,), scaled."""
        states, _ = self.lstm(steps.unsqueeze(-1))
        return torch.as_tensor(self.linear(states[:, -1]).squeeze(-1))


@dataclass(frozen=True)
class LstmPredictor:
    """A trained network as a predictor; it works in units of ``scale_rps``, and was trained up to ``largest_rps``.

    While less than 120 s have been seen, and when they hold a rate above ``largest_rps``, which the network knows
    nothing of, it is the maximum of the last 120 s instead.
    """

    network: nn.Module
    scale_rps: float
    largest_rps: float

    def __call__(self, history_rps: Floats) -> float:
        """The rate to prepare for, in requests per second."""
        if len(history_rps) < WINDOW_S:
            return MAXIMUM(history_rps)
        steps = last_window(history_rps)
        if steps.max() > self.largest_rps:
            return MAXIMUM(history_rps)
        return float(self.forecast(steps[None, :])[0])

    def forecast(self, steps: Floats) -> Floats:
        """The network's own answer to windows of shape (n, 12): maxima of shape (n,), at least 0."""
        with torch.inference_mode(), _one_thread():
            scaled = self.network(torch.from_numpy(np.asarray(steps / self.scale_rps, dtype=np.float32)))
        return np.asarray(np.maximum(scaled.numpy().astype(float) * self.scale_rps, 0.0), dtype=float)


@dataclass(frozen=True, slots=True)
class Report:
    """What a training came to: windows in each part, epochs and seconds it took, and errors on the part kept for test.

    ``errors`` has the LSTM, and on the same windows the predictors ``reactive`` and ``max``.
    """

    training: Training
    scale_rps: float
    largest_rps: float
    windows: dict[str, int]
    epochs: int
    seconds: float
    errors: dict[str, Errors]


def train(rates_rps: Floats, training: Training = Training()) -> tuple[LstmPredictor, Report]:
    """Train on a history of requests per second, shape (seconds,). The same seed gives the same network on one machine.

    Raises ValueError for a history whose parts are too short for a window, or that holds no request.
    """
    begin_s = time.perf_counter()
    parts = _parts(np.asarray(rates_rps, dtype=float), training)
    seen, _ = parts["training"]
    scale, largest = float(seen.mean()), float(seen.max())
    if scale <= 0:
        raise ValueError("the history holds no request in the part that trains: nothing can be learned from it")
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(training.seed)
        network = _Network(training.hidden)
        epochs = _fit(network, _tensors(parts["training"], scale), _tensors(parts["validation"], scale), training)
    network.eval()
    predictor = LstmPredictor(network, scale, largest)
    steps, actual = parts["test"]
    tested = {
        "lstm": errors(actual, predictor.forecast(steps)),
        "reactive": errors(actual, steps[:, -1]),
        "max": errors(actual, steps.max(axis=1)),
    }
    sizes = {name: len(actual) for name, (_, actual) in parts.items()}
    return predictor, Report(training, scale, largest, sizes, epochs, time.perf_counter() - begin_s, tested)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread: the work is too little to share, and sums don't depend on how it is shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _parts(rates: Floats, training: Training) -> dict[str, tuple[Floats, Floats]]:
    """Windows of the three parts; none lies across the cuts, so that nothing tested was seen."""
    test = round(len(rates) * (1 - training.test_share))
    validation = round(test * (1 - training.validation_share))
    parts = {"training": rates[:validation], "validation": rates[validation:test], "test": rates[test:]}
    try:
        return {
            name: windows(part, training.stride_s if name == "training" else STEP_S) for name, part in parts.items()
        }
    except ValueError as error:
        raise ValueError(f"a history of {len(rates)} s is too short to train on: {error} for each part") from error


def _tensors(part: tuple[Floats, Floats], scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    seen, ahead = ((array / scale).astype(np.float32) for array in part)
    return torch.from_numpy(seen), torch.from_numpy(ahead)


def _fit(
    network: _Network,
    learn: tuple[torch.Tensor, torch.Tensor],
    check: tuple[torch.Tensor, torch.Tensor],
    training: Training,
) -> int:
    """Train in place and leave the weights of the best epoch; the number of epochs run."""
    optimiser = torch.optim.Adam(network.parameters(), lr=training.learning_rate)
    loss = nn.MSELoss()
    best, best_epoch, kept = math.inf, 0, network.state_dict()
    for epoch in range(1, training.epochs + 1):
        network.train()
        for rows in torch.split(torch.randperm(len(learn[1])), training.batch):
            optimiser.zero_grad()
            loss(network(learn[0][rows]), learn[1][rows]).backward()
            optimiser.step()
        network.eval()
        with torch.inference_mode():
            error = float(loss(network(check[0]), check[1]))
        if error < best:
            best, best_epoch = error, epoch
            kept = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        elif epoch - best_epoch >= training.patience:
            break
    network.load_state_dict(kept)
    return epoch


def save(predictor: LstmPredictor, report: Report, weights: str | Path, settings: str | Path) -> None:
    """Write the weights as a state dict, which loads without running code, and settings and errors as JSON."""
    with atomic_path(weights) as temporary:
        torch.save(predictor.network.state_dict(), temporary)
    content = {"format": _FORMAT, **asdict(report), "torch": torch.__version__}
    write_text(settings, json.dumps(content, indent=2) + "\n")


def load(weights: str | Path, settings: str | Path) -> LstmPredictor:
    """Read a predictor that :func:`save` wrote. Raises ValueError, naming the file, for one that it did not."""
    try:
        content: dict[str, Any] = json.loads(Path(settings).read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']} is not {_FORMAT}")
        scale, largest = float(content["scale_rps"]), float(content["largest_rps"])
        network = _Network(int(content["training"]["hidden"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{settings} does not describe an LSTM predictor ({error}): train it again") from error
    try:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except OSError:
        raise
    except Exception as error:  # torch raises what its unpickler meets in a damaged file: nearly anything
        raise ValueError(f"{weights} does not hold the weights that {settings} describes: train it again") from error
    network.eval()
    return LstmPredictor(network, scale, largest)
