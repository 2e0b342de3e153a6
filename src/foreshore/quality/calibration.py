"""From a score to a probability that means what it says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foreshore.quality.confidence_fit import sigmoid

__all__ = ["platt"]

STEPS = 50  # of Newton's method; a dozen do
FLAT = 1e-3  # penalty on the slope, so that scores that separate right from wrong have a solution too

Numbers = NDArray[np.float64]


def platt(scores: Numbers, right: Numbers, weight: Numbers) -> tuple[float, float]:
    """Slope, never below 0, and offset of the sigmoid through weighted outcomes (Platt, "Probabilistic Outputs for
    Support Vector Machines", 1999), with his targets: the outcomes pulled in as one more of each kind would."""
    good, bad = float(weight @ right), float(weight @ (1 - right))
    target = np.where(right > 0.5, (good + 1) / (good + 2), 1 / (bad + 2))
    spread = float(scores.std()) or 1.0
    rows = np.column_stack([(scores - scores.mean()) / spread, np.ones(len(scores))])
    found = np.array([0.0, np.log((good + 1) / (bad + 1))])
    for _ in range(STEPS):
        shares = sigmoid(rows @ found)
        downhill = rows.T @ (weight * (target - shares)) - (FLAT * found[0], 0.0)
        curve = (rows * (weight * shares * (1 - shares))[:, None]).T @ rows + np.diag([FLAT, 1e-9])
        step = np.clip(np.linalg.solve(curve, downhill), -4.0, 4.0)
        found += step
        if np.abs(step).max() < 1e-9:
            break
    slope = max(0.0, float(found[0])) / spread
    return slope, float(found[1]) - slope * float(scores.mean())
