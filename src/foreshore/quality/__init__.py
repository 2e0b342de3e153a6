"""How good an answer will be, before a model runs, and how sure it is after: learnt, and calibrated."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foreshore.quality.conformal import RegretBound, regret_bound
    from foreshore.quality.estimator import Estimator
    from foreshore.quality.labels import Label, held_out
    from foreshore.quality.training import train

__all__ = ["Estimator", "Label", "RegretBound", "held_out", "regret_bound", "train"]

_HOMES = {
    "Estimator": "estimator",
    "Label": "labels",
    "RegretBound": "conformal",
    "held_out": "labels",
    "regret_bound": "conformal",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    """Each name is imported when it is asked for: a server without an estimator needs no numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
