"""Arrays that several processes see at the same memory, so that tensors between stages are never pickled or copied.

An array lives in an anonymous memory file (memfd) whose descriptor is handed to the replicas; it vanishes with the last
process that holds it, so that nothing is left behind in /dev/shm whatever is killed when. Frames are a ``.npy`` file
mapped read-only by all.
"""

from __future__ import annotations

import math
import mmap
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SharedArray:
    """A writable array of ``shape`` and ``dtype`` over the memory file ``descriptor``; zero until written."""

    descriptor: int
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def create(cls, name: str, shape: tuple[int, ...], dtype: str) -> SharedArray:
        """Allocate. Pages take memory only once they are touched."""
        descriptor = os.memfd_create(name)
        os.ftruncate(descriptor, max(1, math.prod(shape) * np.dtype(dtype).itemsize))
        return cls(descriptor, shape, dtype)

    def view(self) -> NDArray[Any]:
        """Map the memory; the view stays valid after :meth:`close`."""
        mapped = mmap.mmap(self.descriptor, 0)
        return np.frombuffer(mapped, dtype=self.dtype, count=math.prod(self.shape)).reshape(self.shape)

    def close(self) -> None:
        """Give up the descriptor."""
        os.close(self.descriptor)
