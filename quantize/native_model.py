"""Opens a GGUF file with llama.cpp, for the processes that read texts with it. Native code that may abort."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from foreshore.errors import ModelError

__all__ = ["load_model"]


def load_model(path: Path) -> Any:
    """The native model, on the CPU alone. Raises `ModelError` where the engine cannot load it."""
    import llama_cpp.llama_cpp as native

    native.llama_backend_init()
    params = native.llama_model_default_params()
    params.n_gpu_layers = 0
    model = native.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise ModelError(f"the engine cannot load {path.name!r}", hint="`foreshore doctor` probes the engine")
    return model
