"""The weights of a run: decided once for all variants, then loaded by every replica.

:func:`decide` takes the variants of the grid and the wish from the config, fetches torchvision's published weights into
a folder where that can be done, and returns the decision as plain data. :func:`load_model` takes a variant and the
decision and returns the model in eval mode. Random weights serve to measure energy where nothing can be downloaded:
the layers do the same arithmetic, but the detections mean nothing, and what depends on their number (non-maximum
suppression, box heads) does less or more work than with trained weights.
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_energy.pipelines import zoo
from ipa_energy.pipelines.base import Weights

if TYPE_CHECKING:
    from torch import nn

FOLDER = Path("resources/weights")
"""Where the workflow keeps downloaded weights, relative to its working directory; all experiments share it."""

KINDS = ("auto", "pretrained", "random")

TIMEOUT_S = 10.0
"""Longest silence of a server before a download counts as failed: offline, a run must not hang."""

_HASH = re.compile(r"-([0-9a-f]{8,64})\.")


class WeightsError(RuntimeError):
    """Pretrained weights that were asked for can't be had. The text says which, why, and what to do."""


def decide(
    variants_by_stage: Mapping[str, Iterable[str]], wanted: str, folder: str | Path, seed: int
) -> dict[str, str | int | None]:
    """Decide which weights the whole run uses, and fetch them: all variants pretrained, or all random, never mixed.

    ``wanted`` is ``pretrained``, ``random`` or ``auto`` (pretrained if every variant can be had). The result has the
    keys ``weights`` (``pretrained`` or ``random``), ``seed`` (None for pretrained) and ``reason``. It is the same for
    the same decision, whichever variants led to it, so that a grid that grows leaves measurements valid; the variant
    that failed, and why, is printed. Raises ValueError for another ``wanted``, :class:`WeightsError` when pretrained
    weights were demanded and one can't be had.
    """
    if wanted not in KINDS:
        raise ValueError(f"weights is {wanted!r}; allowed: one of {', '.join(KINDS)}")
    if wanted == "random":
        return {"weights": "random", "seed": seed, "reason": "random weights were asked for"}
    try:
        for stage, variants in variants_by_stage.items():
            for variant in variants:
                print(f"{stage} {variant}: {fetch(variant, folder)}", flush=True)
    except WeightsError as error:
        if wanted == "pretrained":
            raise
        print(f"Random weights for the whole run, because: {error}", flush=True)
        reason = "the pretrained weights of all variants could not be had; the log of prepare_weights says which failed"
        return {"weights": "random", "seed": seed, "reason": reason}
    return {"weights": "pretrained", "seed": None, "reason": "the pretrained weights of all variants are at hand"}


def fetch(variant: str, folder: str | Path) -> Path:
    """Path of the pretrained weights of ``variant`` in ``folder``, downloaded if need be, with the right SHA-256.

    Raises :class:`WeightsError`. A damaged file is replaced only by one that has the right hash.
    """
    import torch  # noqa: PLC0415 - not needed, and so not loaded, for random weights

    url = default_weights(variant).url
    path = Path(folder) / _file_name(url)
    fault = _fault(path)
    if fault is None:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"Downloading {url}", flush=True)
    try:
        with _socket_timeout(TIMEOUT_S):
            torch.hub.download_url_to_file(url, str(path), _hash_prefix(path), progress=False)
    except (OSError, RuntimeError, HTTPException) as error:
        raise WeightsError(
            f"the pretrained weights of {variant} {fault} ({path}), and downloading {url} failed: "
            f"{type(error).__name__}: {error}. Download it elsewhere and put it into {path.parent} under the name "
            f"{path.name}, or set weights: random"
        ) from error
    return path


def provide(variant: str, decision: Mapping[str, Any], folder: str | Path) -> dict[str, Any]:
    """Have the weights of ``variant`` at hand under the run's ``decision``; what identifies them, JSON-ready.

    Raises :class:`WeightsError` when pretrained weights can't be had (a variant added to the grid after the decision).
    """
    if decision["weights"] == "random":
        return {"variant": variant, "weights": "random", "seed": decision["seed"]}
    path = fetch(variant, folder)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"variant": variant, "weights": "pretrained", "file": path.name, "sha256": digest}


def load_model(task: str, variant: str, weights: Weights) -> nn.Module:
    """Build ``variant``, fill it with ``weights`` and return it in eval mode, on the CPU, in fp32.

    Both kinds come out of torchvision's own builder for pretrained weights, which sets more than the parameters (frozen
    batch norms, input size, auxiliary heads), so that both do the same arithmetic. Random parameters depend on variant
    and seed only; the global random state is left alone. Nothing is ever downloaded here. Raises KeyError for a variant
    that is not of ``task``, ValueError for an unknown kind, FileNotFoundError when the weights file is missing.
    """
    import torch  # noqa: PLC0415 - deciding on random weights must not load it
    from torchvision import models  # noqa: PLC0415

    if variant not in zoo.accuracies(task):
        raise KeyError(f"{variant!r} is no model for {task}; known: {', '.join(zoo.accuracies(task))}")
    chosen = default_weights(variant)
    if weights.kind == "random":
        with torch.random.fork_rng(devices=[]), _checkpoint(chosen, None):
            torch.manual_seed(weights.seed)
            model = models.get_model(variant, weights=chosen)
    elif weights.kind == "pretrained":
        path = weights_file(variant, weights.folder)
        if not path.is_file():
            raise FileNotFoundError(
                f"the weights file {path} of {variant} is missing. Run snakemake --forcerun prepare_weights, or put "
                f"{chosen.url} there"
            )
        with _checkpoint(chosen, torch.load(path, map_location="cpu", weights_only=True)):
            model = models.get_model(variant, weights=chosen)
    else:
        raise ValueError(f"weights are of kind {weights.kind!r}; allowed: pretrained, random")
    result: nn.Module = model.eval()
    return result


def weights_file(variant: str, folder: str | Path) -> Path:
    """Where the pretrained weights of ``variant`` lie in ``folder``, present or not."""
    return Path(folder) / _file_name(default_weights(variant).url)


def default_weights(variant: str) -> Any:
    """The installed torchvision's default weights of ``variant``, a member of its WeightsEnum."""
    from torchvision import models  # noqa: PLC0415

    return models.get_model_weights(variant).DEFAULT


def _file_name(url: str) -> str:
    return url.rsplit("/", 1)[-1]


def _hash_prefix(path: Path) -> str:
    """First digits of the SHA-256 of a weights file, which torchvision puts at the end of its name."""
    match = _HASH.search(path.name)
    if match is None:
        raise WeightsError(f"the file name {path.name} holds no hash to check it by")
    return match.group(1)


def _fault(path: Path) -> str | None:
    """What is wrong with a weights file, or None."""
    if not path.is_file():
        return "are not in the folder"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return None if digest.startswith(_hash_prefix(path)) else f"are damaged (SHA-256 {digest})"


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Let new sockets give up after ``seconds``: torch's downloader sets no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _checkpoint(chosen: Any, state: Mapping[str, Any] | None) -> Iterator[None]:
    """Have torchvision's builders load ``state`` instead of downloading, or keep what they initialised if it is None.

    They ask the member of the WeightsEnum for a state dict and have no parameter for one that is already in memory.
    """
    from torch import nn  # noqa: PLC0415

    kind = type(chosen)
    load = nn.Module.load_state_dict
    kind.get_state_dict = lambda *_, **__: state or {}
    if state is None:
        nn.Module.load_state_dict = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        del kind.get_state_dict
        nn.Module.load_state_dict = load  # type: ignore[method-assign]
