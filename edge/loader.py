"""From a file to all that a worker needs to answer with it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import llama_cpp.llama_cpp as native

from foreshore.edge.embedder import ranks
from foreshore.edge.engine import Engine
from foreshore.edge.gguf import inspect
from foreshore.edge.options import EngineOptions, Load, ModelInfo
from foreshore.edge.prepare import Prepared, Preparer
from foreshore.edge.ranking import Pairing
from foreshore.edge.stepper import Event, Stepper
from foreshore.edge.template import ChatTemplate
from foreshore.types import Chunk

__all__ = ["Loaded", "Steps", "load"]

_DEFAULTS = {"temperature": "temp", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}


class Steps(Protocol):
    """What the worker's main thread drives. `computing` and `abort` may be used from other threads."""

    @property
    def idle(self) -> bool: ...
    @property
    def load(self) -> Load: ...
    def report(self) -> Load | None: ...
    @property
    def computing(self) -> frozenset[str]: ...
    def submit(self, prepared: Prepared) -> None: ...
    def cancel(self, request_id: str) -> None: ...
    def step(self) -> list[Event]: ...
    def rest(self) -> bool: ...
    def abort(self) -> None: ...
    def set_threads(self, threads: int) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model that is ready to answer."""

    info: ModelInfo
    prepare: Callable[[Any, float], Prepared | Chunk]  # a chunk is the whole answer
    steps: Steps
    library: ctypes.CDLL | None = None  # what computes, where its threads may be OpenMP's


def load(path: Path, options: EngineOptions) -> Loaded:
    """Raises `ModelError` for a file that no engine takes, `SetupError` where an engine fails."""
    if path.suffix == ".onnx":
        from foreshore.edge.onnx.loader import load_onnx  # so that a GGUF model's worker never loads ONNX Runtime

        return load_onnx(path, options)
    inspect(path)
    engine = Engine(path, options)
    engine.warm_up()
    return Loaded(info=engine.info, prepare=_preparer(engine).prepare, steps=Stepper(engine), library=native._lib)


def _preparer(engine: Engine) -> Preparer:
    """Raises `ModelError` where the model's chat template is damaged."""
    source = engine.template() if engine.info.generates else None
    vocab = engine.vocab
    template = None
    if source is not None:
        tokens = {"bos_token": vocab.named("bos"), "eos_token": vocab.named("eos")}
        template = ChatTemplate(source, tokens=tokens, control=vocab.control_pattern)
    pairing = Pairing(vocab, engine.metadata("tokenizer.chat_template.rerank")) if ranks(engine) else None
    return Preparer(vocab, engine.info, template, _sampling_defaults(engine), pairing)


def _sampling_defaults(engine: Engine) -> dict[str, float]:
    """The model's own `general.sampling.*` values."""
    found: dict[str, float] = {}
    for name, key in _DEFAULTS.items():
        with suppress(TypeError, ValueError):
            found[name] = float(engine.metadata(f"general.sampling.{key}"))  # type: ignore[arg-type]
    return found
