"""What an ONNX model turned out to be, in the words that all engines share."""

from __future__ import annotations

from foreshore.edge.onnx.folder import OnnxFolder
from foreshore.edge.onnx.session import Session
from foreshore.edge.options import DEFAULT_CONTEXT, EngineOptions, ModelInfo

__all__ = ["context_tokens", "describe", "kv_tokens", "piece_tokens"]

KV_BYTES = 1 << 30  # the default share of memory for keys and values
LOGIT_BYTES = 1 << 26  # an exported graph gives logits for every token of a prompt's part; parts are cut to fit


def describe(
    folder: OnnxFolder, session: Session, options: EngineOptions, *, vocab_size: int, token_bytes: int = 0
) -> ModelInfo:
    """`token_bytes` is what a token takes in the cache; 0: an encoder, which has none."""
    context = context_tokens(folder, options)
    kept = kv_tokens(options, context, token_bytes) if token_bytes else 0
    width = folder.config.get("hidden_size")
    return ModelInfo(
        name=folder.name,
        architecture=folder.architecture,
        quantization=f"{folder.architecture} {_short(folder.file.parameters)} onnx {folder.file.weights}",
        parameters=folder.file.parameters,
        size_bytes=folder.file.size_bytes,
        vocab_size=vocab_size,
        trained_context_tokens=folder.trained_tokens,
        context_tokens=min(context, kept) if token_bytes else context,
        kv_tokens=kept,
        embedding_tokens=context,
        embedding_size=width if isinstance(width, int) else 0,
        slots=options.slots,
        threads=session.threads,
        chat=token_bytes > 0 and folder.template is not None,
        generates=token_bytes > 0,
        system=session.version,
    )


def context_tokens(folder: OnnxFolder, options: EngineOptions) -> int:
    trained = folder.trained_tokens
    return min(options.context_tokens or min(trained, DEFAULT_CONTEXT), trained)


def kv_tokens(options: EngineOptions, context: int, token_bytes: int) -> int:
    """While a step runs there are keys and values twice: those that it reads and those that it writes."""
    if options.kv_tokens is not None:
        return options.kv_tokens
    return max(context, min(options.slots * context, KV_BYTES // (2 * token_bytes)))


def piece_tokens(vocab_size: int) -> int:
    """The most tokens of a prompt that the graph reads at a time."""
    return max(1, LOGIT_BYTES // (4 * max(1, vocab_size)))


def _short(count: int) -> str:
    return f"{count / 1e9:.1f}B" if count >= 1e9 / 2 else f"{count / 1e6:.1f}M"
