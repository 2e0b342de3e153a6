"""What the documents say can be pasted: commands exist, and the code of the README runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from foreshore.cli import COMMANDS, app
from foreshore.quantize import build

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """Every `foreshore ...` line in a code block of the documents."""
    found = set()
    for page in PAGES:
        fenced = re.findall(r"```(?:\w*)\n(.*?)```", page.read_text(), re.DOTALL)
        indented = re.findall(r"^    \S.*$", page.read_text(), re.MULTILINE)
        for line in "\n".join([*fenced, *indented]).splitlines():
            if line.strip().startswith("foreshore "):
                found.add(line.strip())
    return sorted(found)


@pytest.mark.parametrize("line", commands())
def test_a_documented_command_and_its_options_exist(line: str) -> None:
    """Parses the line as the command would, without running it."""
    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app)
    context = command.make_context("foreshore", [], resilient_parsing=True)
    while words and hasattr(command, "get_command"):
        found = command.get_command(context, words[0])
        if found is None:
            break
        command = found
        context = command.make_context(words.pop(0), [], parent=context, resilient_parsing=True)
    command.make_context(context.info_name, words, parent=context.parent)


def test_there_are_documented_commands() -> None:
    assert len(commands()) >= 15


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_stands_in_the_list(name: str) -> None:
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0
    assert "Usage" in done.output
    assert re.search(rf"^\W*{name} +\w", CliRunner().invoke(app, ["--help"]).output, re.MULTILINE)


def test_the_embed_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHORE_HOME", str(tmp_path))
    build("starter-s", types=["q4_k_m"])
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    script = tmp_path / "embed.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=os.environ, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"7, 31, 52 \d+ tokens/s\n", done.stdout)


def test_the_rules_of_the_readme_explain_what_it_says(tmp_path: Path) -> None:
    (rules,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "foreshore.yaml").write_text(rules)
    (line,) = [command for command in commands() if command.startswith("foreshore route explain -c foreshore.yaml")]
    words = shlex.split(line, comments=True)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "foreshore.cli", *words], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "card" in done.stdout
    assert re.search(r"cloud.*private", done.stdout)


def test_every_link_in_the_documents_leads_somewhere() -> None:
    for page in [*PAGES, *ROOT.glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_architecture_fits_on_one_page() -> None:
    assert len((ROOT / "docs" / "architecture.md").read_text().splitlines()) <= 60
