"""`foreshore demo` does the whole job on a fresh home, and reuses what it built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from filelock import FileLock

from foreshore.cli.demo_requests import asks, send

TARGET = {"count", "correct", "ttft_ms_p50", "tokens_per_s"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def demo(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FORESHORE_HOME": str(home), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "foreshore.cli", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


@pytest.fixture(scope="module")
def report(home: Path) -> dict[str, Any]:
    done = demo(home, "--json")
    assert done.returncode == 0, done.stderr
    assert "built starter-s:q4_k_m" in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_both_targets_answer_and_are_measured(report: dict[str, Any]) -> None:
    assert set(report["targets"]) == {"edge", "cloud"}
    for figures in report["targets"].values():
        assert set(figures) >= TARGET
        assert figures["count"] > 0
        assert figures["ttft_ms_p50"] > 0
        assert figures["tokens_per_s"] > 0
    answered = [r for r in report["requests"] if r["status"] == 200]
    assert len(answered) == sum(figures["count"] for figures in report["targets"].values())
    assert not [r["error"] for r in answered if r["error"]]


def test_most_answers_are_right_on_both_sides(report: dict[str, Any]) -> None:
    for figures in report["targets"].values():
        assert figures["correct"] >= 0.7 * figures["count"]


def test_nothing_private_left_this_machine(report: dict[str, Any]) -> None:
    private = [r for r in report["requests"] if r["private"]]
    assert len(private) >= 5
    assert {r["target"] for r in private if r["status"] == 200} == {"edge"}
    assert report["refused"] == sum(r["status"] == 403 for r in private) == 2
    assert report["private_sent_to_cloud"] == 0


def test_hard_requests_go_to_the_cloud_by_a_named_rule(report: dict[str, Any]) -> None:
    sent = {r["rule"] for r in report["requests"] if r["target"] == "cloud"}
    assert {"arithmetic-takes-steps", "long-lists-take-steps", "stories-take-steps"} <= sent
    assert "default" not in sent


def test_a_second_run_reuses_and_leaves_no_process(home: Path, report: dict[str, Any]) -> None:
    done = demo(home)
    assert done.returncode == 0, done.stderr
    assert "up to date starter-s:q4_k_m" in done.stderr
    assert "built" not in done.stderr
    assert "private requests that reached the cloud: 0" in done.stdout
    assert not processes_of(home)


def test_a_terminated_demo_leaves_no_process(home: Path, report: dict[str, Any]) -> None:
    environment = {**os.environ, "FORESHORE_HOME": str(home), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "foreshore.cli", "demo"]
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as run:
        assert run.stderr is not None
        assert next(line for line in run.stderr if "gateway at" in line)
        run.terminate()
        run.stderr.read()
    assert run.returncode == 130
    assert not processes_of(home)


def test_a_gateway_that_fails_makes_a_row_with_its_error() -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("gone", request=request)

    ask = next(asks())
    answers = [fail, lambda _: httpx.Response(200, text="data: [DONE]\n\n"), lambda _: httpx.Response(500, text="oops")]
    for answer in answers:
        with httpx.Client(base_url="http://gateway", transport=httpx.MockTransport(answer)) as client:
            row = send(client, ask)
        assert "no whole answer" in row.error
        assert not row.correct


def processes_of(home: Path) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if str(home) in " ".join(p.info["cmdline"] or [])]


def test_two_at_once_do_not_disturb_each_other(home: Path) -> None:
    (home / "demo").mkdir(exist_ok=True)
    with FileLock(home / "demo" / "lock"):
        done = demo(home)
    assert done.returncode == 5
    assert "another demo is running" in done.stderr
