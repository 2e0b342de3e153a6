"""`foreshore serve` and `foreshore route`, as processes, the way a user starts them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from foreshore.cli.serve import bind
from foreshore.config import Config, LedgerConfig, Limits, Listen, Privacy, TargetConfig, Tenant
from foreshore.policy_config import Budget, Constraint, Device, Learning, Objective, Quality, Rule
from foreshore.reliability.ledger import read_events
from foreshore.router.api.doors import DOORS
from foreshore.router.api.openai import CHAT_EXTRA
from foreshore.router.facts import PARTS
from foreshore.router.fields import HARMLESS
from tests.cloud.upstream import delta, head, upstream
from tests.router.serving import PATIENCE_S

START_S = 120.0


def run(*arguments: str, folder: Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "foreshore.cli", *arguments],
        cwd=folder, env=_environment(folder, environment), input=stdin, capture_output=True, text=True, timeout=START_S,
    )  # fmt: skip


def _environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k != "FORESHORE_CONFIG"}
    return {**kept, "FORESHORE_HOME": str(folder / "home"), "NO_COLOR": "1", **more}


@contextmanager
def gateway(folder: Path, *arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    log = folder / "serve.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "foreshore.cli", "serve", *arguments],
            cwd=folder, env=_environment(folder, environment), stdout=out, stderr=out, text=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_S
        while not (found := re.search(r"http://[\d.]+:\d+", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield process, found[0]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def folder(tmp_path: Path, tiny: Path) -> Path:
    """A working folder whose config serves a real, tiny model."""
    (tmp_path / "foreshore.yaml").write_text(
        f"listen: {{port: 0}}\ntargets:\n  edge: {{kind: local, model: '{tiny}'}}\n"
        "  cloud: {kind: openai, model: big, base_url: 'http://127.0.0.1:9/v1', key_env: CLOUD_KEY}\n"
        "rules: [{name: long, when: 'request.prompt_tokens > 100', prefer: [cloud, edge]}]\n"
    )
    return tmp_path


def test_a_real_model_is_served_and_sigterm_ends_it_cleanly(folder: Path) -> None:
    with gateway(folder, CLOUD_KEY="canary-cloud-key-1") as (process, url):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
        stream = client.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "hi"}], stream=True, max_tokens=4,
            stream_options={"include_usage": True},
        )  # fmt: skip
        chunks = list(stream)
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 4
        long = client.chat.completions.with_raw_response.create(
            model="auto", messages=[{"role": "user", "content": "hi " * 300}], max_tokens=2
        )
        assert long.headers["x-foreshore-target"] == "edge"  # the cloud is down, so the second target took over
        assert httpx.get(f"{url}/readyz", trust_env=False).json()["targets"]["edge"] == "ready"
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert psutil.wait_procs(workers, timeout=PATIENCE_S)[1] == []
    events = list(read_events(folder / "home" / "ledger.sqlite"))
    assert [e["terminal_state"] for e in events] == ["complete", "complete"]
    assert [a["target"] for a in events[1]["attempts"]] == ["cloud", "edge"]
    written = b"".join(p.read_bytes() for p in [*folder.glob("home/*.sqlite*"), folder / "serve.log"])
    assert b"canary-cloud-key-1" not in written


def test_a_second_signal_does_not_wait_for_running_answers(tmp_path: Path) -> None:
    async def run() -> None:
        never = asyncio.Event()
        async with upstream(head(), delta(content="one"), never) as cloud:
            (tmp_path / "foreshore.yaml").write_text(
                f"listen: {{port: 0}}\ntargets: {{cloud: {{kind: openai, model: big, base_url: '{cloud.url}'}}}}\n"
            )
            await asyncio.to_thread(_stop_twice, tmp_path)
            await asyncio.wait_for(cloud.gone.wait(), PATIENCE_S)

    asyncio.run(run())
    assert [e["terminal_state"] for e in read_events(tmp_path / "home" / "ledger.sqlite")] == ["cancelled"]


def _stop_twice(folder: Path) -> None:
    body = {"model": "cloud", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with (
        gateway(folder) as (process, url),
        httpx.Client(base_url=url, trust_env=False) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        lines = answer.iter_lines()  # held: without it the answer would be closed
        while "one" not in next(lines):
            pass
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + PATIENCE_S
        while _listens(url):  # until the first signal has been seen
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S / 2) == 0
        assert any("the gateway is shutting down" in line for line in lines)


def _listens(url: str) -> bool:
    try:
        httpx.get(f"{url}/healthz", trust_env=False)
    except httpx.TransportError:
        return False
    return True


def test_the_socket_names_its_protocol_so_that_asyncio_sends_small_pieces_at_once() -> None:
    with bind("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_port_in_use_is_said_with_what_to_do(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = run("serve", "--port", str(port), folder=folder, CLOUD_KEY="x" * 20)
    assert found.returncode == 5
    assert f"127.0.0.1:{port}" in found.stderr
    assert "--port" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve",), "CLOUD_KEY"),
        (("serve", "--host", "0.0.0.0"), "without an API key"),
        (("serve", "-c", "missing.yaml"), "missing.yaml"),
        (("route", "check", "-c", "wrong.yaml"), "wrong.yaml:2: unknown key 'ruels'; did you mean 'rules'?"),
        (("route", "explain", "--prompt", "x", "--tenant", "nobody"), "nobody"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    (folder / "wrong.yaml").write_text("targets: {edge: {kind: local, model: x}}\nruels: []\n")
    found = run(*arguments, folder=folder)
    assert found.returncode == 2
    assert said in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""


def test_a_missing_model_is_said_at_the_start(folder: Path) -> None:
    (folder / "foreshore.yaml").write_text("targets: {edge: {kind: local, model: 'nobody:q4_k_m'}}\n")
    found = run("serve", "--port", "0", folder=folder)
    assert found.returncode == 2
    assert "nobody" in found.stderr
    assert "Traceback" not in found.stderr


def test_explain_says_target_rule_and_why(folder: Path) -> None:
    found = json.loads(run("route", "explain", "--prompt", "word " * 200, "--json", folder=folder).stdout)
    decision = found["decision"]
    assert (decision["targets"], decision["rule"], decision["reasons"]) == (["cloud", "edge"], "long", [])
    secret = json.loads(
        run("route", "explain", "--prompt", "-", "--json", folder=folder, stdin="jane@example.com").stdout
    )
    assert secret["decision"]["targets"] == ["edge"]
    assert secret["request"]["labels"] == ["email"]
    assert secret["targets"]["cloud"]["excluded_by"][0]["constraint"] == "privacy"
    text = run("route", "explain", "--prompt", "hi", "--private", folder=folder).stdout
    assert "cloud: privacy: the request is private" in text
    assert "decision   edge by rule 'default'" in text


def test_explain_of_a_refusal_exits_like_one(folder: Path) -> None:
    found = run("route", "explain", "--prompt", "hi", "--private", "--model", "cloud", folder=folder)
    assert found.returncode == 3
    assert "refused" in found.stdout


def test_check_counts_and_notes_missing_variables(folder: Path) -> None:
    found = run("route", "check", folder=folder)
    assert found.returncode == 0
    assert "2 targets, 0 constraints, 1 rules" in found.stdout
    assert "CLOUD_KEY" in found.stderr
    assert json.loads(run("route", "check", "--json", folder=folder).stdout)["missing_variables"] == ["CLOUD_KEY"]


def test_the_example_and_the_documented_commands_hold(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    commands = re.findall(r"^    foreshore (route .*)$", (root / "docs" / "routing.md").read_text(), re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        arguments = shlex.split(command.replace("examples/", f"{root}/examples/"), comments=True)
        assert run(*arguments, folder=tmp_path).returncode == 0, command


def test_the_docs_name_every_field_and_key() -> None:
    root = Path(__file__).parents[2]
    routing, gateway_md = ((root / "docs" / name).read_text() for name in ("routing.md", "gateway.md"))
    for name in {f.name for kind in PARTS.values() for f in fields(kind)} | set(Config.model_fields):
        assert f"`{name}`" in routing, name
    of_decisions = (Constraint, Rule, Objective, Budget, Quality, Learning, Device)
    for model in (TargetConfig, Privacy, Limits, Listen, Tenant, LedgerConfig, *of_decisions):
        for name in model.model_fields:
            assert f"`{name}`" in routing, name
    bodies = {name for body in DOORS.values() for name in body.model_fields}
    for name in {*bodies, *HARMLESS, *CHAT_EXTRA}:
        assert f"`{name}`" in gateway_md, name
    for path in DOORS:
        assert f"`{path}`" in gateway_md, path
