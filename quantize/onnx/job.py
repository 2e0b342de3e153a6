"""Work on ONNX graphs in a child process (`child`), so that what torch, the exporter and native code do costs
nobody else. It loads nothing from the network, and keeps its temporary files where it is told.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foreshore.quantize import child
from foreshore.quantize.progress import OnCount

__all__ = ["run"]

_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}


def run(
    task: str, *, doing: str, scratch: Path, progress: OnCount = lambda done, total: None, **job: Any
) -> dict[str, Any]:
    """What the child's `task` returns for `job`, whose values JSON must know. Raises what `Child.ask` does."""
    return child.run(
        "foreshore.quantize.onnx.child",
        {"task": task, **job},
        doing=doing,
        environment={**_ENVIRONMENT, "TMPDIR": str(scratch)},
        progress=progress,
    )
