"""What a pipeline is to the rest: named stages, their variants with published accuracy, and code that runs one stage.

Importing a pipeline is cheap (no torch); only :attr:`Pipeline.build_runner` loads the framework, inside a replica.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ipa_energy.configuration import StageKnobs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Published accuracy of a variant: ``value`` is a fraction, ``metric`` its name, ``source`` its publication."""

    metric: str
    value: float
    source: str


@dataclass(frozen=True, slots=True)
class Buffer:
    """Shape and dtype of what one request holds between two stages; the engine adds the leading axis of slots."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Weights:
    """Which weights the whole run uses: ``kind`` is ``pretrained`` or ``random``; ``folder`` holds downloaded files."""

    kind: str
    seed: int
    folder: Path


@dataclass(frozen=True, slots=True)
class StageSetup:
    """Everything a replica needs to know to run one stage."""

    knobs: StageKnobs
    device: str
    precision: str
    weights: Weights
    crops_per_frame: int


class StageRunner(Protocol):
    """Runs one stage on batches of requests, in the process of a replica."""

    def describe(self) -> Mapping[str, Any]:
        """JSON-ready facts for the record: memory format, parameters, threads, weights file."""

    def __call__(self, sources: NDArray[np.uint32], slots: NDArray[np.uint32]) -> int:
        """Process one batch.

        ``sources[i]`` is the row of the stage's input array that request i reads, ``slots[i]`` the row of its output
        array that it writes; both have shape (batch,). Returns when the outputs are in memory (a GPU is synchronised).
        The result is the number of crops that had to be filled from the centre of a frame, 0 for other stages.
        """


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A chain of stages.

    ``buffers(settings)`` gives the output of each stage, for the settings of a study. ``stage_input(stage, frames,
    settings)`` makes what a stage reads of the frames, one request per row, so that a stage can be profiled by itself.
    ``modules`` are what a process has to import before it can build runners, so that a server may do it once for all.
    """

    name: str
    stage_names: tuple[str, ...]
    variants: Callable[[str], Mapping[str, Accuracy]]
    buffers: Callable[[Mapping[str, Any]], tuple[Buffer, ...]]
    build_runner: Callable[[StageSetup, NDArray[Any], NDArray[Any]], StageRunner]
    stage_input: Callable[[str, NDArray[Any], Mapping[str, Any]], NDArray[Any]]
    modules: tuple[str, ...] = ()
