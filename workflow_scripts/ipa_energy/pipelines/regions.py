"""Which regions of a frame become crops: the detections of an image go in, whole pixel rectangles come out.

A region is ``(left, top, right, bottom)`` in pixels, right and bottom exclusive, always inside the frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Region = tuple[int, int, int, int]

MIN_PX = 8
"""Smaller detections are widened to this side: fewer pixels say nothing when stretched to a crop."""


def best(boxes: NDArray[Any], scores: NDArray[Any], limit: int, width: int, height: int) -> list[Region]:
    """Regions of the detections with the highest scores, at most ``limit``, best first.

    ``boxes`` (n, 4) are x1, y1, x2, y2 in pixels, ``scores`` (n,). Boxes are clamped to the frame and widened to
    :data:`MIN_PX` (less if the frame is smaller). A detection that isn't finite, or of which no area is left inside the
    frame, counts as not found. Of equal scores the first one wins.
    """
    chosen: list[Region] = []
    usable = np.flatnonzero(np.isfinite(boxes).all(axis=1) & np.isfinite(scores))
    for index in usable[np.argsort(-scores[usable], kind="stable")]:
        if len(chosen) == limit:
            break
        x1, y1, x2, y2 = (float(edge) for edge in boxes[index])
        left, right = max(x1, 0.0), min(x2, float(width))
        top, bottom = max(y1, 0.0), min(y2, float(height))
        if left < right and top < bottom:
            (left_px, right_px), (top_px, bottom_px) = _pixels(left, right, width), _pixels(top, bottom, height)
            chosen.append((left_px, top_px, right_px, bottom_px))
    return chosen


def centre(width: int, height: int) -> Region:
    """The largest square in the middle of the frame, which stands in for a detection that is missing."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _pixels(low: float, high: float, end: int) -> tuple[int, int]:
    """The pixels that the interval [low, high] within [0, end] touches, but at least :data:`MIN_PX` around them."""
    first, last = int(np.floor(low)), int(np.ceil(high))
    least = min(MIN_PX, end)
    if last - first < least:
        first = min(max((first + last - least) // 2, 0), end - least)
        last = first + least
    return first, last
