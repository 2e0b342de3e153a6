"""Reads texts with a model in a child process (`forward_child`): records its next-token distributions, or compares
them with recorded ones. The child does the arithmetic, so no logits ever leave it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.edge.options import EngineOptions
from foreshore.errors import ModelError
from foreshore.quantize.child import run
from foreshore.quantize.progress import OnCount

__all__ = ["COMPARED", "OnRead", "read", "record_type"]

OnRead = OnCount  # is told how many tokens were read, and of how many
# What comes of a token that was compared: nats, whether the likeliest token is the same, and ln of the probabilities of
# the token that came.
COMPARED = np.dtype([("kl", "<f4"), ("log_p", "<f4"), ("parent_log_p", "<f4"), ("same", "?")])
CAUSAL, ENCODER_LAYERS = ".attention.causal", ".encoder.block_count"


def read(
    task: Literal["record", "compare"],
    model: Path,
    *,
    threads: int | None = None,
    progress: OnRead = lambda done, total: None,
    **job: Any,
) -> dict[str, Any]:
    """What the child's `task` returns. `threads`: as the engine chooses them if not given.

    Raises `NotFound` or `ModelError` for a file that is no decoder, `SetupError` if the child crashed.
    """
    _check(inspect(model))
    job |= {"task": task, "model": str(model), "threads": EngineOptions(threads=threads).thread_count}
    return run("foreshore.quantize.forward_child", job, doing=f"read with {model.name!r}", progress=progress)


def record_type(vocab: int, columns: int) -> np.dtype[Any]:
    """How a reference's file keeps one token: its `TopTail`, and ln of the probability of the token that came."""
    ids = "<u2" if vocab <= 1 << 16 else "<u4"
    return np.dtype([("ids", ids, (columns,)), ("log_p", "<f2", (columns,)), ("log_tail", "<f2"), ("came", "<f4")])


def _check(info: GgufInfo) -> None:
    if info.get(CAUSAL) is False or info.get(ENCODER_LAYERS) or info.architecture.startswith("t5"):
        raise ModelError(
            f"{info.path.name!r} ({info.architecture}) has no next-token distributions to compare",
            hint="encoders are compared by the cosine of their vectors",
        )
