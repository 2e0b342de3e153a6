"""`scripts/setup.py` says what is missing before it starts, and needs nothing but the standard library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def setup(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [getattr(sys, "_base_executable", sys.executable), "-I", str(ROOT / "scripts" / "setup.py")]
    places = {"VENV": str(tmp_path / "venv"), "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    return subprocess.run(command, capture_output=True, text=True, env={**places, **environment}, timeout=240)


def test_a_missing_compiler_is_named_with_its_remedy(tmp_path: Path) -> None:
    done = setup(tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    assert "error: no C++ compiler found" in done.stderr
    assert "hint: apt-get install g++" in done.stderr


def test_a_half_made_environment_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").touch(mode=0o755)
    done = setup(tmp_path, PATH=str(tmp_path))
    assert "creating" in done.stderr
    assert "no C++ compiler found" in done.stderr
