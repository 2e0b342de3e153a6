"""One ONNX graph in ONNX Runtime: opened, run through IO binding, stopped. The one place that knows its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshore.edge.engine import Aborted, NoSlot
from foreshore.errors import ModelError, SetupError

__all__ = ["Session", "Tensor", "numpy_type"]

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


class Tensor:
    """A value that the runtime holds. `array` is a view of it, valid only as long as this object."""

    __slots__ = ("_source", "array", "value")

    def __init__(self, value: Any, source: NDArray[Any] | None = None) -> None:
        self.value = value
        self._source = source  # whose memory it is
        self.array: NDArray[Any] = value.numpy() if source is None else source

    @classmethod
    def of(cls, array: NDArray[Any]) -> Tensor:
        """Share the memory of `array`, which must not be changed afterwards."""
        array = np.ascontiguousarray(array)
        return cls(_runtime().OrtValue.ortvalue_from_numpy(array), array)


class Session:
    """Runs one graph with `threads`. One thread at a time, except `abort`."""

    def __init__(self, path: Path, threads: int) -> None:
        """Raises `ModelError` for a graph that ONNX Runtime does not take, `SetupError` where that is missing."""
        self._path = path
        self.version = f"ONNX Runtime {_runtime().__version__}"
        self._options = _runtime().RunOptions()
        self.threads = threads
        self._session = _open(path, threads)
        self.inputs = {i.name: i for i in self._session.get_inputs()}
        self.outputs = {o.name: o for o in self._session.get_outputs()}

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> list[Tensor]:
        """Values of `outputs`, in their order. Nothing is copied on the way in or out.

        Raises `Aborted`, `NoSlot` for want of memory, or `SetupError` where the runtime fails otherwise.
        """
        binding = self._session.io_binding()
        for name, tensor in inputs.items():
            binding.bind_ortvalue_input(name, tensor.value)
        for name in outputs:
            binding.bind_output(name, "cpu")
        try:
            self._session.run_with_iobinding(binding, self._options)
        except Exception as error:  # ONNX Runtime raises RuntimeError and its own classes, which share no root
            raise self._failure(error) from error
        return [Tensor(value) for value in binding.get_outputs()]

    def abort(self, stop: bool = True) -> None:
        """Make the running call end before its next node with `Aborted`; `abort(False)` re-arms. From any thread."""
        self._options.terminate = stop

    def set_threads(self, threads: int) -> None:
        """Takes as long as loading: the runtime's pool of threads belongs to the session.

        Where the file is no longer there, `threads` stays as it was.
        """
        if threads != self.threads:
            with suppress(ModelError):
                self._session, self.threads = _open(self._path, threads), threads

    def _failure(self, error: Exception) -> Exception:
        if self._options.terminate:
            return Aborted("the step was stopped")
        if isinstance(error, MemoryError) or "alloc" in str(error):
            return NoSlot("no memory was left for this step")
        return SetupError(f"ONNX Runtime could not compute a step: {error}", hint="export the model again")


def numpy_type(kind: str) -> type[Any]:
    """Of an input or output's `type`. Raises `ModelError` for types that numpy has not, bfloat16 above all."""
    if kind not in _TYPES:
        raise ModelError(f"the graph has a {kind}, which is not supported", hint="export it in float32 or float16")
    return _TYPES[kind]


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise SetupError("ONNX models need onnxruntime", hint="pip install 'foreshore[onnx]'") from error
    return onnxruntime


def _open(path: Path, threads: int) -> Any:
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # it remembers a plan for each shape, and each decode has a new one
    # A thread that spins takes the processor from the one it waits for where the machine has other work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as in `run`
        raise ModelError(f"ONNX Runtime cannot load {path.name!r}: {error}", hint="export the model again") from error
