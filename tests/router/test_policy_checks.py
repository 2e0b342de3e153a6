"""What docs/policy-checks.md shows is what comes out."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "policy-checks.md").read_text()
COMMANDS = re.findall(r"^    foreshore (route .*)$", PAGE, re.MULTILINE)
_BLOCK = r"^    foreshore (route [^\n]*)\n\nprints, and exits with 3:\n\n```\n(.*?)```"
BLOCKS = re.findall(_BLOCK, PAGE, re.MULTILINE | re.DOTALL)


def run(line: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TZ": "UTC", "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "foreshore.cli", *shlex.split(line)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_the_page_has_commands_and_blocks() -> None:
    assert (len(COMMANDS), len(BLOCKS)) == (7, 2)


@pytest.mark.parametrize("line", [c for c in COMMANDS if c not in dict(BLOCKS)])
def test_a_command_of_the_page_succeeds(line: str) -> None:
    done = run(line)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("line", "shown"), BLOCKS)
def test_a_block_of_the_page_is_what_the_command_prints(line: str, shown: str) -> None:
    done = run(line)
    assert done.returncode == 3
    assert shown in done.stdout
