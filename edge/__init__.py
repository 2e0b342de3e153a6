"""Runs models on this machine: `Runtime` and `AsyncRuntime` to embed, `LocalBackend` to route to."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ != "foreshore.edge":  # the root folder, imported under a name an app may own
    raise ImportError("import foreshore.edge, not edge")

if TYPE_CHECKING:
    from foreshore.edge.backend import LocalBackend
    from foreshore.edge.options import EngineOptions, Load, ModelInfo
    from foreshore.edge.runtime import AsyncRuntime, Runtime

__all__ = ["AsyncRuntime", "EngineOptions", "Load", "LocalBackend", "ModelInfo", "Runtime"]

_HOMES = {
    "AsyncRuntime": "runtime",
    "EngineOptions": "options",
    "Load": "options",
    "LocalBackend": "backend",
    "ModelInfo": "options",
    "Runtime": "runtime",
}


def __getattr__(name: str) -> Any:
    """Each name is imported when it is asked for: every worker process passes here, and needs little of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
