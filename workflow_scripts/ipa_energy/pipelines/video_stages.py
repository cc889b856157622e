"""The stages of the pipeline ``video`` at work, inside a replica: the one module of it that needs torch when imported.

A runner is bound to two arrays in shared memory, its inputs and its outputs; a call takes the rows to read and the rows
to write. One call runs the model once, on the whole batch. Everything that a request costs on the processor is in here:
conversion and normalisation of the images, the model, cutting out and resizing the crops.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ipa_energy.pipelines import regions
from ipa_energy.pipelines.base import StageSetup
from ipa_energy.pipelines.video import CROP_PX
from ipa_energy.pipelines.weights import default_weights, load_model, weights_file

_AUTOCAST = {"fp32": False, "bf16": True}


class _Placed:
    """A model on its device, in its precision and memory format."""

    def __init__(self, task: str, setup: StageSetup) -> None:
        if setup.precision not in _AUTOCAST:
            raise ValueError(f"precision is {setup.precision!r}; allowed: {', '.join(_AUTOCAST)}")
        self.setup = setup
        self.device = torch.device(setup.device)
        self.memory_format = memory_format(setup.device)
        model = load_model(task, setup.knobs.variant, setup.weights)
        self.model = model.to(self.device).to(memory_format=self.memory_format)

    def __call__(self, images: Any) -> Any:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=_AUTOCAST[self.setup.precision]):
            return self.model(images)

    def describe(self) -> dict[str, Any]:
        weights = self.setup.weights
        pretrained = weights.kind == "pretrained"
        return {
            "variant": self.setup.knobs.variant,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "weights": weights.kind,
            "weights_file": weights_file(self.setup.knobs.variant, weights.folder).name if pretrained else None,
            "seed": None if pretrained else weights.seed,
            "device": str(self.device),
            "precision": self.setup.precision,
            "memory_format": str(self.memory_format).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }


class DetectRunner:
    """Frames (n, height, width, 3) uint8 in, the crops of the best detections (n, crops, 3, 224, 224) uint8 out."""

    def __init__(self, setup: StageSetup, inputs: NDArray[Any], outputs: NDArray[Any]) -> None:
        """Load the variant and bind it to its arrays."""
        self._placed = _Placed("detect", setup)
        self._frames = _tensor(inputs)
        self._outputs = _tensor(outputs)
        self._crops_per_frame = setup.crops_per_frame

    def describe(self) -> Mapping[str, Any]:
        """Facts for the record."""
        return self._placed.describe()

    @torch.inference_mode()
    def __call__(self, sources: NDArray[np.uint32], slots: NDArray[np.uint32]) -> int:
        """Detect and crop one batch; see :class:`ipa_energy.pipelines.base.StageRunner`."""
        frames = [self._frames[row].to(self._placed.device).permute(2, 0, 1) for row in sources.tolist()]
        found = self._placed([frame.to(torch.float32).div_(255) for frame in frames])
        height, width = frames[0].shape[1:]
        filled = 0
        crops = []
        for frame, boxes in zip(frames, _boxes(found), strict=True):
            chosen = regions.best(boxes[:, :4], boxes[:, 4], self._crops_per_frame, width, height)
            missing = self._crops_per_frame - len(chosen)
            filled += missing
            crops += [resized(frame[:, top:bottom, left:right]) for left, top, right, bottom in chosen]
            if missing:
                left, top, right, bottom = regions.centre(width, height)
                crops += [resized(frame[:, top:bottom, left:right])] * missing
        batch = torch.stack(crops).reshape(len(frames), self._crops_per_frame, 3, CROP_PX, CROP_PX)
        self._outputs[_rows(slots)] = batch.cpu()
        return filled


class ClassifyRunner:
    """Crops (n, crops, 3, 224, 224) uint8 in, their ImageNet class ids (n, crops) int32 out.

    The images get the size and the normalisation at which the variant's accuracy was published.
    """

    def __init__(self, setup: StageSetup, inputs: NDArray[Any], outputs: NDArray[Any]) -> None:
        """Load the variant and bind it to its arrays."""
        self._placed = _Placed("classify", setup)
        self._crops = _tensor(inputs)
        self._outputs = _tensor(outputs)
        published = default_weights(setup.knobs.variant).transforms()
        self._size = int(published.crop_size[0])
        shape = (1, 3, 1, 1)
        # Scaled by 255, so that bytes are normalised without a pass that makes fractions of them.
        self._mean = torch.tensor(published.mean, device=self._placed.device).mul_(255).view(shape)
        self._scale = torch.tensor(published.std, device=self._placed.device).mul_(255).reciprocal_().view(shape)

    def describe(self) -> Mapping[str, Any]:
        """Facts for the record."""
        return self._placed.describe() | {"input_px": self._size}

    @torch.inference_mode()
    def __call__(self, sources: NDArray[np.uint32], slots: NDArray[np.uint32]) -> int:
        """Classify the crops of one batch; see :class:`ipa_energy.pipelines.base.StageRunner`."""
        crops = self._crops[_rows(sources)]
        images = crops.flatten(0, 1).to(self._placed.device)
        images = images.to(torch.float32, memory_format=self._placed.memory_format)
        if self._size != images.shape[-1]:
            images = functional.interpolate(images, (self._size, self._size), mode="bilinear", antialias=True)
        ids = self._placed(images.sub_(self._mean).mul_(self._scale)).argmax(1)
        self._outputs[_rows(slots)] = ids.to(torch.int32).view(crops.shape[:2]).cpu()
        return 0


def resized(region: torch.Tensor) -> torch.Tensor:
    """A region (3, height, width) uint8 of a frame as a crop (3, 224, 224) uint8: bilinear with antialiasing.

    The region is stretched to the square whatever its aspect ratio, so that a crop shows all of the detection.
    """
    # Only the CPU kernel works on bytes.
    if region.device.type == "cpu":
        return functional.interpolate(region[None], (CROP_PX, CROP_PX), mode="bilinear", antialias=True)[0]
    return resized_as_float(region)


def resized_as_float(region: torch.Tensor) -> torch.Tensor:
    """What :func:`resized` gives, to one level, on any device."""
    image = region[None].to(torch.float32)
    image = functional.interpolate(image, (CROP_PX, CROP_PX), mode="bilinear", antialias=True)[0]
    return image.round_().clamp_(0, 255).to(torch.uint8)


def memory_format(device: str) -> torch.memory_format:
    """The layout of images and filters on a device: channels last on a CPU.

    Measured in fp32 on one AVX-512 core, against the default layout in the same run: squeezenet1_1 and googlenet 2.1
    times as fast, resnet18, vgg11 and inception_v3 1.3 to 1.4, resnet50, ssd300_vgg16, alexnet and densenet121 1.15 to
    1.25, MobileNets, their detectors and efficientnet_b0 1.05 to 1.15, transformers and the FPN detectors on resnet50
    the same within the noise. So one rule serves all. On a GPU the default layout stays.
    """
    return torch.channels_last if device == "cpu" else torch.contiguous_format


def _boxes(found: Sequence[Mapping[str, torch.Tensor]]) -> Sequence[NDArray[np.float32]]:
    """Boxes and scores (detections, 5) of each image on the host, all in one transfer."""
    packed = torch.cat([torch.column_stack((image["boxes"], image["scores"])) for image in found])
    ends = np.cumsum([len(image["scores"]) for image in found])[:-1]
    return np.split(packed.to(torch.float32).cpu().numpy(), ends)


def _rows(rows: NDArray[np.uint32]) -> torch.Tensor:
    return torch.from_numpy(rows.astype(np.int64))


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    """The array as a tensor over the same memory.

    Frames are mapped read-only, which torch can't express and warns of; the runners never write to their inputs.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        return torch.from_numpy(array)
