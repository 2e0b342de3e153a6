"""The slice of requests that nothing is ever trained on, so that what was learnt can be judged on it."""

from __future__ import annotations

import hashlib

__all__ = ["held_out"]


def held_out(decision_id: str, share: float) -> bool:
    """Whether a decision is in the slice of that `share`, 0 to 1: by a hash of its id, so always the same.

    A larger share holds all that a smaller one did.
    """
    drawn = int.from_bytes(hashlib.sha256(b"holdout:" + decision_id.encode()).digest()[:8], "big")
    return drawn < share * 2**64
