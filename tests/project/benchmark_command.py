"""Runs a benchmark as a user does: `python -m benchmarks.NAME`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}, timeout=240
    )


def check_refused(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "hint: there are" in done.stderr
    assert not done.stdout
