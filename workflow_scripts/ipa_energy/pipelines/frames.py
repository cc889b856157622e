"""The photographs that requests carry: a stream of frames, cut from real pictures by a seeded rule.

A source of pictures goes in (those that scikit-learn and matplotlib ship, or a folder), an array of frames of one size
comes out, the same for the same source, size and seed. A frame depends on its number and not on how many there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})
"""Files of a folder that count as pictures, in any case; others are passed over in silence."""

MIN_SCALE = 0.5
"""The smallest cut, as a fraction of the side of the largest one: objects keep a size that detectors were made for."""


class FramesError(ValueError):
    """No frames can be made of a source. The text names it and says what is wrong."""


def make_frames(source: str, count: int, width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Frames (count, height, width, 3), RGB, uint8.

    ``source`` is ``bundled`` or a folder. The pictures take turns in a seeded order. Each frame is cut at a seeded
    place, with the frame's aspect ratio and :data:`MIN_SCALE` to 1 of the side of the largest possible cut, mirrored
    with probability 1/2, and resized. Pictures that can't be read are named on stdout and left out. Raises
    :class:`FramesError` when the folder is missing, holds no picture, or none that can be read.
    """
    pictures = _bundled() if source == "bundled" else folder_pictures(source)
    order = np.random.default_rng([seed, 0]).permutation(len(pictures))
    turns = _turns([pictures[index] for index in order], source)
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    for number in range(count):
        frames[number] = _cut(next(turns), width, height, np.random.default_rng([seed, 1, number]))
    return frames


def frames_digest(settings: Mapping[str, Any]) -> str:
    """Sixteen hex digits of all that determines the frames of a study, found without opening a picture.

    ``settings`` is the whole config with ``frames`` and ``seed``. Of a folder, the names and sizes of its pictures
    count. Raises :class:`FramesError` as :func:`make_frames` does.
    """
    frames = settings["frames"]
    facts: dict[str, Any] = {"frames": dict(frames), "seed": settings["seed"]}
    if frames["source"] != "bundled":
        facts["pictures"] = [(path.name, path.stat().st_size) for path in folder_pictures(frames["source"])]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def folder_pictures(folder: str | Path) -> list[Path]:
    """The pictures of a folder, by suffix, sorted by name; folders in it are not searched."""
    root = Path(folder)
    if not root.is_dir():
        raise FramesError(f"frames.source is {str(folder)!r}, which is no folder; allowed: 'bundled' or a folder")
    found = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise FramesError(f"the folder {root} holds no pictures; put some there ({', '.join(sorted(SUFFIXES))})")
    return found


def _bundled() -> list[Path]:
    """The photographs shipped by scikit-learn (china.jpg, flower.jpg) and matplotlib (grace_hopper.jpg)."""
    from matplotlib.cbook import get_sample_data  # noqa: PLC0415 - slow, and a folder needs neither
    from sklearn.datasets import load_sample_images  # noqa: PLC0415

    return [Path(name) for name in load_sample_images().filenames] + [
        Path(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))
    ]


def _turns(pictures: Sequence[Path], source: str) -> Iterator[Image.Image]:
    """The readable pictures one after the other, again and again."""
    read: Callable[[Path], Image.Image | None] = lru_cache(maxsize=8)(_read)
    waiting = list(pictures)
    while waiting:
        for path in tuple(waiting):
            picture = read(path)
            if picture is None:
                waiting.remove(path)
            else:
                yield picture
    raise FramesError(f"none of the {len(pictures)} pictures in {source} can be read; the lines above say why")


def _read(path: Path) -> Image.Image | None:
    """A picture as RGB, turned upright; None, and a line on stdout, if it can't be read."""
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
            if upright.mode.startswith("I"):
                # Pillow clips 16 bits instead of scaling them.
                upright = Image.fromarray((np.asarray(upright) // 256).clip(0, 255).astype(np.uint8))
            return upright.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        print(f"Left out {path}: {type(error).__name__}: {error}", flush=True)
        return None


def _cut(picture: Image.Image, width: int, height: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """One frame (height, width, 3) from a picture of any size."""
    largest = min(picture.width / width, picture.height / height)
    scale = largest * random.uniform(MIN_SCALE, 1)
    left = random.uniform(0, picture.width - scale * width)
    top = random.uniform(0, picture.height - scale * height)
    box = (left, top, min(left + scale * width, picture.width), min(top + scale * height, picture.height))
    frame = picture.resize((width, height), Image.Resampling.LANCZOS, box=box)
    return np.asarray(ImageOps.mirror(frame) if random.random() < 0.5 else frame)
