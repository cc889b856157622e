"""The model zoo: torchvision's detectors and classifiers with their published accuracy, as a table beside this module.

``zoo.csv`` is generated from the metadata of torchvision's default weights (``python -m ipa_energy.pipelines.zoo
--write``), so that reading it takes milliseconds where importing torchvision takes seconds; a test compares the two.
A task (``detect`` or ``classify``) goes in; entries, or the accuracies that IPA's objective uses, come out.

An accuracy holds for the input size at which it was published, which for classifiers is ``input_px``.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ipa_energy.files import atomic_path
from ipa_energy.pipelines.base import Accuracy

TABLE = Path(__file__).with_name("zoo.csv")

_METRIC = {"detect": "box_map", "classify": "acc@1"}

_PERSON_LABELS = 2
"""Labels of a detector of persons only: background and person."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A variant and its default weights.

    ``value`` is ``metric`` on ``dataset`` in per cent. The metric of a detector of persons only is ``box_map_person``,
    as its mAP can't be compared with one over all classes of COCO. ``parameters`` is a count, ``gflops`` the billions
    of multiply-adds per image that torchvision publishes, ``input_px`` the side of a classifier's square input (None
    for detectors, which resize frames themselves). ``file`` is the name of the weights file, which ends in the first
    digits of its SHA-256, and ``torchvision`` the release that the entry was taken from.
    """

    variant: str
    task: str
    weights: str
    metric: str
    value: float
    dataset: str
    parameters: int
    gflops: float
    input_px: int | None
    file: str
    torchvision: str

    @property
    def accuracy(self) -> Accuracy:
        """The published accuracy as a fraction, with its source."""
        source = f"torchvision {self.torchvision} weights {self.weights}, {self.metric} on {self.dataset}"
        return Accuracy(self.metric, round(self.value / 100, 8), source)


@lru_cache(maxsize=1)
def entries() -> tuple[Entry, ...]:
    """All entries of the table, detectors first, each task in order of the variants' names."""
    with TABLE.open(newline="", encoding="utf-8") as table:
        return tuple(_from_row(row) for row in csv.DictReader(table))


@lru_cache(maxsize=len(_METRIC))
def accuracies(task: str) -> Mapping[str, Accuracy]:
    """Published accuracy of every variant of ``task``. Raises KeyError for an unknown task."""
    if task not in _METRIC:
        raise KeyError(f"there are no models for the task {task!r}; known tasks: {', '.join(_METRIC)}")
    return MappingProxyType({entry.variant: entry.accuracy for entry in entries() if entry.task == task})


def _from_row(row: Mapping[str, str]) -> Entry:
    typed: dict[str, Any] = dict(row)
    typed |= {"value": float(row["value"]), "gflops": float(row["gflops"]), "parameters": int(row["parameters"])}
    typed["input_px"] = int(row["input_px"]) if row["input_px"] else None
    return Entry(**typed)


def installed_entries() -> tuple[Entry, ...]:
    """What the table would hold for the installed torchvision. Imports it, which takes seconds."""
    import torchvision  # noqa: PLC0415 - the one function here that needs it

    release = ".".join(torchvision.__version__.split(".")[:2])
    found = []
    for task, module in (("detect", torchvision.models.detection), ("classify", torchvision.models)):
        for variant in sorted(torchvision.models.list_models(module=module)):
            weights = torchvision.models.get_model_weights(variant).DEFAULT
            found.append(_describe(task, variant, weights, release))
    return tuple(found)


def _describe(task: str, variant: str, weights: Any, release: str) -> Entry:
    ((dataset, metrics),) = weights.meta["_metrics"].items()
    persons_only = task == "detect" and len(weights.meta["categories"]) == _PERSON_LABELS
    return Entry(
        variant=variant,
        task=task,
        weights=str(weights),
        metric=_METRIC[task] + "_person" * persons_only,
        value=float(metrics[_METRIC[task]]),
        dataset=dataset,
        parameters=int(weights.meta["num_params"]),
        gflops=float(weights.meta["_ops"]),
        input_px=int(weights.transforms().crop_size[0]) if task == "classify" else None,
        file=weights.url.rsplit("/", 1)[-1],
        torchvision=release,
    )


def write(path: Path, found: Sequence[Entry]) -> None:
    """Write entries as the table that :func:`entries` reads."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, [field.name for field in fields(Entry)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(entry) for entry in found)


def main() -> None:
    """Compare the table with the installed torchvision, or rewrite it."""
    parser = argparse.ArgumentParser(prog="python -m ipa_energy.pipelines.zoo", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help=f"rewrite {TABLE.name} from the installed torchvision")
    if parser.parse_args().write:
        write(TABLE, installed_entries())
    elif entries() != installed_entries():
        parser.exit(1, f"{TABLE.name} differs from the installed torchvision; run again with --write\n")


if __name__ == "__main__":
    main()
