"""The process in which llama.cpp quantizes: `python -P -m foreshore.quantize.native_child`, driven by `native`.

Its answer has the `status` that llama.cpp returned and the `lines` that it logged.
"""

from __future__ import annotations

import ctypes
import os
import re
from typing import Any

from foreshore.quantize.channel import Json, Tell, serve

_BEGINS = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")


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
    from llama_cpp import llama_cpp

    log = Log(tell)
    callback = llama_cpp.llama_log_callback(log)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = job["ftype"]
    params.nthread = job["threads"]
    params.allow_requantize = job["requantize"]
    params.dry_run = job["dry_run"]
    kept = _imatrix(job["imatrix"], llama_cpp) if job["imatrix"] else None
    if kept is not None:
        params.imatrix = ctypes.cast(kept, type(params.imatrix))
    source, target = os.fsencode(job["source"]), os.fsencode(job["target"])
    status = llama_cpp.llama_model_quantize(source, target, ctypes.byref(params))
    return {"status": int(status), "lines": log.lines}


def _imatrix(path: str, llama_cpp: Any) -> Any:
    from foreshore.quantize.imatrix import read_imatrix

    values = read_imatrix(path)
    entries = (llama_cpp.llama_model_imatrix_data * (len(values) + 1))()  # the last one, all zero, ends it
    for entry, (name, row) in zip(entries, values.items(), strict=False):
        entry.name = name.encode()
        entry.data = row.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = row.size
    entries.kept = values  # the rows live as long as the pointers to them
    return entries


if __name__ == "__main__":
    serve(quantize)
