"""llama.cpp's own quantizer, the peer of ours.

    LLAMA_QUANTIZE   its path; without it, it is looked for beside $LLAMA_SERVER

docs/benchmarks.md says how to build it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from benchmarks.peers import DOCS, THREADS
from foreshore.errors import SetupError

__all__ = ["llama_quantize", "tool"]


def tool() -> Path:
    """Raises `SetupError` where there is none."""
    named, server = os.environ.get("LLAMA_QUANTIZE", ""), os.environ.get("LLAMA_SERVER", "")
    if not named and not server:
        raise SetupError("neither LLAMA_QUANTIZE nor LLAMA_SERVER names a file", hint=DOCS)
    path = Path(named or server).expanduser().absolute()
    path = path if named else path.with_name("llama-quantize")
    if not path.is_file():
        raise SetupError(f"there is no llama-quantize at {str(path)!r}", hint=DOCS)
    return path


def llama_quantize(source: Path, target: Path, ftype: str, imatrix: Path | None = None) -> None:
    """The importance matrix is named by its file's name alone, in its folder: the name goes into the result."""
    given = ["--imatrix", imatrix.name] if imatrix else []
    command = [str(tool()), *given, str(source.absolute()), str(target.absolute()), ftype.upper(), str(THREADS)]
    folder = imatrix.parent if imatrix else target.parent
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=folder)
    if done.returncode != 0:
        raise SetupError(f"llama-quantize ended with {done.returncode}: {done.stderr[-400:]!r}", hint=DOCS)
