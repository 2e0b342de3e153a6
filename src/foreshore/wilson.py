"""The score interval of a share (Wilson, "Probable Inference", 1927)."""

from __future__ import annotations

import math

__all__ = ["Z95", "wilson"]

Z95 = 1.959963984540054  # the normal distribution's 97.5th percentile


def wilson(right: float, count: float, z: float = Z95) -> tuple[float, float]:
    """The 95 % interval of the share that `right` is of `count` > 0 independent trials."""
    share, spread = right / count, z * z / count
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)
