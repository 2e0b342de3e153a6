"""The process in which llama.cpp quantizes: `python -P -m foreshore.quantize.child`, driven by `native`.

It reads one job (a JSON line) from stdin and ends itself when stdin closes, so it never outlives its parent.
On stdout it writes JSON lines: {"line": text} for each line that llama.cpp logs, {"tensor": i, "of": n} when it
begins one, and at last {"status": code}.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
import threading
from typing import Any, TextIO

_BEGINS = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")


class Log:
    """Joins the pieces that llama.cpp logs into lines."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.partial = ""

    def send(self, **event: Any) -> None:
        self.out.write(json.dumps(event) + "\n")
        self.out.flush()

    def __call__(self, level: int, text: bytes, user_data: Any) -> None:
        piece = text.decode("utf-8", errors="replace")
        if begins := _BEGINS.match(piece):
            self.send(tensor=int(begins[1]), of=int(begins[2]))
        *lines, self.partial = (self.partial + piece).split("\n")
        for line in lines:
            if line.strip():
                self.send(line=line)


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints, it does not get between the events
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()
    log = Log(out)
    log.send(status=_quantize(job, log))
    os._exit(0)  # the thread still waits on stdin; an orderly exit would wait for it


def _die_with_parent() -> None:
    os.read(0, 1)  # returns when the parent is gone
    os._exit(1)


def _quantize(job: dict[str, Any], log: Log) -> int:
    from llama_cpp import llama_cpp

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
    return int(llama_cpp.llama_model_quantize(source, target, ctypes.byref(params)))


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
    main()
