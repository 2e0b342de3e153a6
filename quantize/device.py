"""Which class of machines this one belongs to: what a measured speed holds for."""

from __future__ import annotations

import hashlib
import math
import platform
from importlib.metadata import version
from typing import Any, Literal

from foreshore import native
from foreshore.card import Device
from foreshore.edge import machine
from foreshore.edge.options import EngineOptions

__all__ = ["fingerprint", "this_device"]

Engine = Literal["llama.cpp", "onnxruntime"]


def this_device(engine: Engine = "llama.cpp") -> Device:
    """This machine with one of our engines."""
    facts: dict[str, Any] = {
        "cpu": native.cpu_name(),
        "cores": EngineOptions().thread_count,
        "memory_bytes": machine.limit(),
        "system": f"{platform.system()} {platform.machine()}",
        "engine": _engine(engine),
    }
    return Device(fingerprint=fingerprint(**facts, build=native.build().key), **facts)


def fingerprint(*, cpu: str, cores: int, memory_bytes: int, system: str, engine: str, build: str) -> str:
    """The class of a machine. Its memory counts to the nearest power of two: what firmware or a container keeps of it
    does not make another class. `build` is the engine's for this CPU."""
    known = [cpu, cores, round(math.log2(memory_bytes)), system, engine, build]
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]


def _engine(engine: Engine) -> str:
    if engine == "onnxruntime":
        return f"onnxruntime {version('onnxruntime')}"
    return f"llama.cpp (llama_cpp_python {version('llama_cpp_python')})"
