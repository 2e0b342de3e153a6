"""The process that works on ONNX graphs: `python -P -m foreshore.quantize.onnx.child`, driven by `job`."""

from __future__ import annotations

import logging
import tempfile
from importlib import import_module
from pathlib import Path

from foreshore.disk import disk_errors
from foreshore.errors import SetupError
from foreshore.quantize.channel import Json, Tell, serve

_TASKS = {
    "export": "foreshore.quantize.onnx.export:export",
    "quantize": "foreshore.quantize.onnx.quantize:quantize",
    "compare": "foreshore.quantize.onnx.run:compare",
    "time": "foreshore.quantize.onnx.run:clock",
}


def work(job: Json, tell: Tell) -> Json:
    logging.basicConfig(level=logging.ERROR)  # the first one counts: libraries would set it to INFO
    module, _, name = _TASKS[job["task"]].partition(":")
    try:
        with disk_errors(Path(job.get("target", tempfile.gettempdir()))):
            return dict(getattr(import_module(module), name)(job, tell))
    except ImportError as error:
        raise SetupError(f"ONNX tools are missing: {error}", hint="pip install 'foreshore[onnx-export]'") from error


if __name__ == "__main__":
    serve(work)
