"""Runs models on this machine: `Runtime` and `AsyncRuntime` to embed, `LocalBackend` to route to."""

if __name__ != "foreshore.edge":  # the root folder, imported under a name an app may own
    raise ImportError("import foreshore.edge, not edge")

from foreshore.edge.backend import LocalBackend
from foreshore.edge.options import EngineOptions, Load, ModelInfo
from foreshore.edge.runtime import AsyncRuntime, Runtime

__all__ = ["AsyncRuntime", "EngineOptions", "Load", "LocalBackend", "ModelInfo", "Runtime"]
