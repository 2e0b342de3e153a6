"""The process in which llama.cpp quantizes: `python -P -m foreshore.quantize.native_child`, driven by `native`.

Its answer has the `status` that llama.cpp returned and the `lines` that it logged. It imports the binding alone, and
what reads matrices only where there is one: it is ready in a third of the time that `import llama_cpp` takes.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreshore.quantize.channel import Json, Tell, serve

if TYPE_CHECKING:
    import llama_cpp.llama_cpp as native
    import numpy as np
    from numpy.typing import NDArray

NOTE_BYTES = 127  # of a text among a file's facts that llama.cpp lets one set
_BEGINS = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")


def binding() -> Any:
    """The module `llama_cpp.llama_cpp` without what its package imports beside it: chat formats and their templates."""
    if "llama_cpp" not in sys.modules and (spec := find_spec("llama_cpp")):
        sys.modules["llama_cpp"] = module_from_spec(spec)  # never executed
    return import_module("llama_cpp.llama_cpp")


if not TYPE_CHECKING:
    native = binding()


class Log:
    """Joins the pieces that llama.cpp logs into lines, and tells how many tensors are done when it begins the next."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._text = ""

    @property
    def lines(self) -> list[str]:
        return [line for line in self._text.split("\n") if line.strip()]

    def __call__(self, level: int, text: bytes, user_data: Any) -> None:
        piece = text.decode("utf-8", errors="replace")
        self._text += piece
        if begins := _BEGINS.match(piece):
            self._tell(int(begins[1]) - 1, int(begins[2]))


def quantize(job: Json, tell: Tell) -> Json:
    log = Log(tell)
    callback = native.llama_log_callback(log)
    native.llama_log_set(callback, ctypes.c_void_p(0))
    native.llama_backend_init()
    params = native.llama_model_quantize_default_params()
    params.ftype = job["ftype"]
    params.nthread = job["threads"]
    params.allow_requantize = job["requantize"]
    params.dry_run = job["dry_run"]
    kept = _imatrix(Path(job["imatrix"])) if job["imatrix"] else None
    if kept is not None:
        params.imatrix = ctypes.cast(kept.entries, type(params.imatrix))
        params.kv_overrides = ctypes.cast(kept.notes, type(params.kv_overrides))
    source, target = os.fsencode(job["source"]), os.fsencode(job["target"])
    status = native.llama_model_quantize(source, target, ctypes.byref(params))
    return {"status": int(status), "lines": log.lines}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """Native arrays, and the rows that their pointers lead to."""

    entries: Any
    notes: Any
    rows: Mapping[str, NDArray[np.float32]]


def _imatrix(path: Path) -> _Kept:
    from foreshore.quantize.imatrix import Imatrix

    matrix = Imatrix.load(path)
    rows = matrix.means()
    entries = (native.llama_model_imatrix_data * (len(rows) + 1))()  # the last one, all zero, ends it
    for entry, (name, row) in zip(entries, rows.items(), strict=False):
        entry.name = name.encode()
        entry.data = row.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = row.size
    noted: dict[str, str | int] = {"file": path.name, "dataset": (*matrix.datasets, "")[0]}
    noted |= {"entries_count": len(rows), "chunks_count": matrix.chunks}
    return _Kept(entries=entries, notes=_notes(noted), rows=rows)


def _notes(found: Mapping[str, str | int]) -> Any:
    """What llama-quantize writes about the matrix into the file, in its order; what is empty or 0 is not known."""
    known = {key: value for key, value in found.items() if value}
    notes = (native.llama_model_kv_override * (len(known) + 1))()
    for note, (key, value) in zip(notes, known.items(), strict=False):
        note.key = f"quantize.imatrix.{key}".encode()
        if isinstance(value, str):
            note.tag = native.LLAMA_KV_OVERRIDE_TYPE_STR
            note.value.val_str = value.encode()[:NOTE_BYTES].decode(errors="ignore").encode()
        else:
            note.tag, note.value.val_i64 = native.LLAMA_KV_OVERRIDE_TYPE_INT, value
    return notes


if __name__ == "__main__":
    serve(quantize)
