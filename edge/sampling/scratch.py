"""Working memory of one vocabulary's size, shared by all who draw in a thread: it stays in the processor's cache."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

__all__ = ["scratch"]

_local = threading.local()


def scratch(purpose: str, size: int) -> NDArray[np.float32]:
    """`size` floats that hold anything. The next one who asks for the same purpose in this thread gets them too."""
    held: NDArray[np.float32] | None = getattr(_local, purpose, None)
    if held is None or len(held) != size:
        held = np.empty(size, np.float32)
        setattr(_local, purpose, held)
    return held
