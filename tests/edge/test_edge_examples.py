"""The examples that embed the runtime, and the terminal commands over it, run."""

from __future__ import annotations

import json
import os
import pty
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from foreshore.cli import app as cli
from tests.tiny_model import SPECIALS, write_decoder

ROOT = Path(__file__).parents[2]


def test_embed_script_answers(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples/embed_script.py"))["main"](str(tiny))
    assert "tokens/s, TTFT" in capsys.readouterr().out


def test_embed_fastapi_answers_streams_and_explains(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHORE_MODEL", str(tiny))
    with TestClient(runpy.run_path(str(ROOT / "examples/embed_fastapi.py"))["app"]) as client:
        assert "answer" in client.post("/ask", json={"text": "hello"}).json()
        assert client.post("/stream", json={"text": "hello"}).status_code == 200
        refused = client.post("/ask", json={"text": "x" * 5000})
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "context_length_exceeded"


def test_run_answers_once_and_as_json(tiny: Path) -> None:
    runner = CliRunner()
    arguments = ["run", str(tiny), "--max-tokens", "5", "--threads", "1", "--temperature", "0"]
    plain = runner.invoke(cli, [*arguments, "hello"])
    assert plain.exit_code == 0, plain.output
    assert "tokens/s" in plain.stderr
    answer = json.loads(runner.invoke(cli, [*arguments, "--json"], input="hello").stdout)
    assert plain.stdout.removesuffix("\n") == answer["text"]
    assert answer["timings"]["decode_tokens_per_s"] >= 0


@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_bench_measures(tiny: Path, kind: str) -> None:
    arguments = ["bench", kind, str(tiny), "--tokens", "8", "--repeats", "2", "--threads", "1", "--json"]
    result = json.loads(CliRunner().invoke(cli, arguments).stdout)
    assert result["kind"] == kind
    assert len(result["tokens_per_s"]["runs"]) == 2
    assert result["tokens_per_s"]["low"] <= result["tokens_per_s"]["median"] <= result["tokens_per_s"]["high"]
    assert result["machine"]["cpu"]


def test_bench_says_when_the_context_is_too_small(tiny: Path) -> None:
    result = CliRunner().invoke(cli, ["bench", "decode", str(tiny), "--tokens", "100000"])
    assert result.exit_code == 2
    assert "1024" in result.stderr


def test_a_model_that_is_not_there_ends_with_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["run", str(tmp_path / "none.gguf"), "hello"])
    assert result.exit_code == 2
    assert "none.gguf" in result.stderr


def test_ctrl_c_stops_the_answer_and_twice_leaves(tmp_path: Path) -> None:
    """In a real terminal: answer, Ctrl-C stops it, the chat goes on, Ctrl-C twice ends the program."""
    endless = write_decoder(tmp_path / "endless.gguf", context=4096, never=(*SPECIALS, ">", "d"))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "foreshore.cli", "run", str(endless), "--threads", "1", "--temperature", "0"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    try:
        read_until(ours, b"> ")
        os.write(ours, b"/system be brief\n")
        read_until(ours, b"> ")
        os.write(ours, b"hello\n")
        read_until(ours, b"hello\r\n")
        for _ in range(64):  # past the line editor's escapes: the answer has begun
            read_until(ours, b"")
        process.send_signal(signal.SIGINT)
        read_until(ours, b"stopped")
        read_until(ours, b"> ")
        press(process, lambda: bool(select.select([ours], [], [], 0)[0]))
        read_until(ours, b"leaves")
        read_until(ours, b"> ")
        press(process, lambda: process.poll() is not None)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_ctrl_c_ends_a_single_answer_with_the_status_that_shells_expect(tmp_path: Path) -> None:
    endless = write_decoder(tmp_path / "endless.gguf", context=4096, never=(*SPECIALS, ">", "d"))
    command = [sys.executable, "-m", "foreshore.cli", "run", str(endless), "hello", "--threads", "1"]
    arguments = [*command, "--temperature", "0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as run:
        assert run.stdout is not None
        run.stdout.read(1)  # the answer has begun
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=60)
    assert run.returncode == 130


def press(process: subprocess.Popen[bytes], noticed: Callable[[], bool]) -> None:
    """Ctrl-C at a prompt, once more if need be: `input` shows its prompt before it waits, and overlooks until the next
    key what came between."""
    deadline = time.monotonic() + 60
    while not noticed() and time.monotonic() < deadline:
        process.send_signal(signal.SIGINT)
        patience = time.monotonic() + 5
        while not noticed() and time.monotonic() < patience:
            select.select([], [], [], 0.01)


def read_until(terminal: int, mark: bytes) -> bytes:
    """What the terminal shows up to and with `mark` (one byte if that is empty), so that nothing after it is taken."""
    seen, deadline = b"", time.monotonic() + 60
    while not seen or not seen.endswith(mark):
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, seen
        seen += os.read(terminal, 1)
    return seen
