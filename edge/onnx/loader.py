"""From a folder that optimum exported to all that a worker needs to answer with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Timer
from typing import Any, cast

from foreshore.edge.embedder import Embedder
from foreshore.edge.engine import Engine
from foreshore.edge.loader import Loaded
from foreshore.edge.onnx.encoder import OnnxEncoder
from foreshore.edge.onnx.engine import OnnxEngine
from foreshore.edge.onnx.folder import OnnxFolder, open_folder
from foreshore.edge.onnx.session import Session
from foreshore.edge.options import EngineOptions
from foreshore.edge.prepare import Prepared, Preparer
from foreshore.edge.stepper import Stepper
from foreshore.edge.template import ChatTemplate
from foreshore.edge.vocab import Vocab
from foreshore.errors import BadRequest, UsageError
from foreshore.types import Chunk, Request, Sampling

__all__ = ["load_onnx"]

# Options that only llama.cpp knows. `speculation` would need what an exported graph does not have: see docs/onnx.md.
_FOREIGN = (
    "kv_type", "flash_attention", "mmap", "gpu_layers", "prefix_cache_dir", "speculation", "draft_model", "adapters",
)  # fmt: skip
_GGUF = "load a GGUF variant for that"


def load_onnx(path: Path, options: EngineOptions) -> Loaded:
    """Raises `UsageError` for an option that has no meaning here, `ModelError` for a model that cannot run."""
    refuse_foreign(options)
    folder = open_folder(path)
    session = Session(path, options.thread_count)
    if "logits" not in session.outputs:
        encoder = OnnxEncoder(folder, session, options)
        _warm_up(encoder, session)
        steps = Stepper(cast(Engine, encoder), embedder=cast(Embedder, encoder))
        return Loaded(info=encoder.info, prepare=_Preparing(folder, encoder).prepare, steps=steps)
    engine = OnnxEngine(folder, session, options)
    _warm_up(engine, session)
    # They share the part of `Engine` that a stepper uses; a test holds that.
    return Loaded(info=engine.info, prepare=_Preparing(folder, engine).prepare, steps=Stepper(cast(Engine, engine)))


def _warm_up(engine: OnnxEngine | OnnxEncoder, session: Session) -> None:
    """A graph may loop for ever: its first run has the time that a step has."""
    timer = Timer(engine.options.step_limit_s, session.abort)
    timer.start()
    try:
        engine.warm_up()
    finally:
        timer.cancel()
        session.abort(False)


def refuse_foreign(options: EngineOptions) -> None:
    """Raises `UsageError` for the first option that was set and that ONNX Runtime does not honour."""
    default = EngineOptions()
    for name in _FOREIGN:
        if getattr(options, name) != getattr(default, name):
            raise UsageError(
                f"{name} is {getattr(options, name)!r}, which an ONNX model does not honour",
                hint=f"leave it out, or {_GGUF}",
                param=name,
            )


class _Preparing:
    """`Preparer`, and before it a refusal of what needs llama.cpp's own vocabulary or hidden states."""

    def __init__(self, folder: OnnxFolder, engine: OnnxEngine | OnnxEncoder) -> None:
        """Raises `ModelError` where the chat template is damaged."""
        vocab, template = engine.vocab, None
        if engine.info.chat and folder.template is not None:
            tokens = {"bos_token": vocab.named("bos"), "eos_token": vocab.named("eos")}
            template = ChatTemplate(folder.template, tokens=tokens, control=vocab.control_pattern)
        self._name, self._generates = engine.info.name, engine.info.generates
        self._preparer = Preparer(cast(Vocab, vocab), engine.info, template, folder.sampling)

    def prepare(self, request: Request, arrived: float) -> Prepared | Chunk:
        """As `Preparer.prepare`."""
        if request.task == "embedding" and self._generates:
            raise BadRequest(
                f"{self._name!r} was exported to write: it gives no vectors", hint="export an encoder", param="model"
            )
        if request.task in ("chat", "completion"):
            _refuse_grammars(request)
            _refuse_samplers(request.sampling)
        return self._preparer.prepare(request, arrived)


def _refuse_grammars(request: Request) -> None:
    if request.sampling.grammar is not None:
        raise _refused("grammar", "a grammar")
    kind = request.response_format.get("type") if isinstance(request.response_format, Mapping) else None
    if kind in ("json_object", "json_schema"):
        raise _refused("response_format", f"the format {kind!r}")
    if request.tool_choice not in (None, "auto", "none"):
        raise _refused("tool_choice", f"tool_choice {request.tool_choice!r:.80}")
    functions = [tool.get("function") for tool in request.tools if isinstance(tool, Mapping)]
    if request.tool_choice != "none" and any(isinstance(f, Mapping) and f.get("strict") for f in functions):
        raise _refused("tools", "a strict tool")


def _refuse_samplers(sampling: Sampling) -> None:
    if sampling.dry_multiplier:
        raise _refused("dry_multiplier", "the sampler 'dry'")
    if "infill" in (sampling.samplers or ()):
        raise _refused("samplers", "the sampler 'infill'")


def _refused(param: str, what: Any) -> BadRequest:
    return BadRequest(f"an ONNX model does not honour {what}", hint=f"leave it out, or {_GGUF}", param=param)
