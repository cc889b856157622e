"""The pipeline ``video``: detect -> classify with torchvision's models, as IPA's video pipeline (YOLO -> ResNet).

``detect`` reads a frame, runs a detector and hands on the ``crops_per_frame`` best detections, cut out and resized to
224 x 224; ``classify`` reads these crops and hands on one ImageNet class id for each. A request is one frame, so a
batch of b requests is b frames to the detector and b x ``crops_per_frame`` crops to the classifier. What is here can be
read without torch; the code that runs the stages is :mod:`ipa_energy.pipelines.video_stages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ipa_energy.pipelines import regions, zoo
from ipa_energy.pipelines.base import Accuracy, Buffer, Pipeline, StageRunner, StageSetup

STAGES = ("detect", "classify")

CROP_PX = 224
"""Side of a crop: the input size of most ImageNet classifiers. Those published at another size resize it themselves."""


def variants(stage: str) -> Mapping[str, Accuracy]:
    """Published accuracy of every variant of ``stage``. Raises KeyError for an unknown stage."""
    return zoo.accuracies(stage)


def buffers(settings: Mapping[str, Any]) -> tuple[Buffer, ...]:
    """What one request holds after each stage: its crops (uint8, RGB, channels first), then their class ids (int32)."""
    crops = int(settings["crops_per_frame"])
    return Buffer((crops, 3, CROP_PX, CROP_PX), "uint8"), Buffer((crops,), "int32")


def stage_input(stage: str, frames: NDArray[np.uint8], settings: Mapping[str, Any]) -> NDArray[np.uint8]:
    """What a stage reads when it is profiled by itself: the frames, or for ``classify`` crops of them.

    ``frames`` has shape (n, height, width, 3). A crop is the largest square in the middle of the frame, which also
    stands in for detections that are missing; a request has ``crops_per_frame`` of them, all alike.
    """
    if stage == "detect":
        return frames
    left, top, right, bottom = regions.centre(frames.shape[2], frames.shape[1])
    size = (CROP_PX, CROP_PX)
    crops = [
        np.asarray(Image.fromarray(frame[top:bottom, left:right]).resize(size, Image.Resampling.BILINEAR))
        for frame in frames
    ]
    one_each = np.stack(crops).transpose(0, 3, 1, 2)[:, None]
    return np.ascontiguousarray(np.repeat(one_each, int(settings["crops_per_frame"]), axis=1))


def build_runner(setup: StageSetup, inputs: NDArray[Any], outputs: NDArray[Any]) -> StageRunner:
    """Load the model of a stage and bind it to its arrays, in the process that will run it.

    ``inputs`` and ``outputs`` hold one request per row: frames uint8 (n, height, width, 3) or the buffers above.
    Raises KeyError for an unknown stage, and what :func:`ipa_energy.pipelines.weights.load_model` raises.
    """
    from ipa_energy.pipelines import video_stages  # noqa: PLC0415 - loads torch, which takes seconds

    match setup.knobs.stage:
        case "detect":
            return video_stages.DetectRunner(setup, inputs, outputs)
        case "classify":
            return video_stages.ClassifyRunner(setup, inputs, outputs)
        case stage:
            raise KeyError(f"pipeline video has no stage {stage!r}; its stages: {', '.join(STAGES)}")


MODULES = ("torch", "torchvision.models.detection", "ipa_energy.pipelines.video_stages")
"""What a process imports before it can build runners."""

VIDEO = Pipeline("video", STAGES, variants, buffers, build_runner, stage_input, MODULES)
