"""`foreshore quantize` and `foreshore models`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from foreshore.cli import app
from tests.quantize.tiny_models import decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoder(tmp_path_factory.mktemp("models") / "tiny", "Qwen2", dtype=torch.float16)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FORESHORE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(*arguments: str | Path, code: int = 0, **options: Any) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], **options)
    assert result.exit_code == code, result.output
    return result


def test_a_variant_lives_from_quantize_to_rm(folder: Path, home: Path) -> None:
    made = json.loads(run("quantize", folder, "--types", "q8_0,f16", "--json").stdout)
    assert [(m["variant"], m["reused"]) for m in made] == [("q8_0", False), ("f16", False)]
    again = json.loads(run("quantize", folder, "--types", "q8_0", "--json").stdout)
    assert again[0]["reused"]
    listed = json.loads(run("models", "list", "--json").stdout)
    assert [m["variant"] for m in listed] == ["f16", "q8_0"]
    assert "tiny:q8_0" in run("models", "list").stdout
    shown = json.loads(run("models", "show", "tiny:q8_0", "--json").stdout)
    assert Path(shown["path"]).stat().st_size == shown["bytes"]
    assert shown["files"]["model.gguf"]["sha256"] in run("models", "show", "tiny:q8_0").stdout.replace(
        "\n", ""
    ).replace(" ", "")
    assert "ok" in run("models", "verify").stdout
    Path(shown["path"]).write_bytes(b"GGUF")
    assert json.loads(run("models", "verify", "tiny:q8_0", "--json", code=2).stdout)[0]["ok"] is False
    run("models", "rm", "tiny:q8_0", code=1, input="n\n")
    run("models", "rm", "tiny:q8_0", input="y\n")
    assert json.loads(run("models", "rm", "tiny", "--yes", "--json").stdout)["removed"] == "tiny:f16"
    assert json.loads(run("models", "list", "--json").stdout) == []


def test_a_variant_with_a_damaged_manifest_can_be_removed(folder: Path, home: Path) -> None:
    run("quantize", folder, "--types", "f16")
    (home / "models" / "tiny" / "f16" / "manifest.json").write_text("{")
    assert "remove the variant" in run("models", "show", "tiny:f16", code=2).output
    run("models", "rm", "tiny:f16", "--yes")
    assert not (home / "models" / "tiny").exists()


def test_pull_keeps_the_own_precision(folder: Path) -> None:
    assert "mine:f16" in run("models", "pull", folder, "-o", "mine").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quantize", "no-such-model"], "hint:"),
        (["quantize", "FOLDER", "--types", "q4"], "q4_0"),
        (["quantize", "FOLDER", "--types", "iq1_s"], "--imatrix"),
        (["quantize", "FOLDER", "-o", "a/b"], "a/b"),
        (["models", "show", "absent:q8_0"], "foreshore quantize absent --types q8_0"),
        (["models", "rm", "absent", "--yes"], "no variant"),
        (["models", "verify", "absent"], "no variant"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(arguments: list[str], said: str, folder: Path) -> None:
    result = run(*[str(folder) if a == "FOLDER" else a for a in arguments], code=2)
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_a_broken_variant_does_not_hide_the_others(folder: Path, home: Path) -> None:
    run("quantize", folder, "--types", "q8_0,f16")
    (home / "models" / "tiny" / "f16" / "manifest.json").write_text("{")
    result = run("models", "list", "--json")
    assert [m["variant"] for m in json.loads(result.stdout)] == ["q8_0"]
    assert "manifest.json" in result.stderr


@pytest.mark.parametrize(
    "command", [["quantize"], ["models"], *(["models", c] for c in ("list", "show", "verify", "rm", "pull"))]
)
def test_help_is_shown(command: list[str]) -> None:
    assert "Usage" in run(*command, "--help").stdout
