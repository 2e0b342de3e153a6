"""A hundred reloads while requests run: none fails, and each is decided by one version, whole."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from foreshore.config import load_config
from foreshore.reliability.ledger import read_events
from foreshore.router.reload import Watcher
from foreshore.testing import FakeBackend
from foreshore.types import Chunk, Usage
from tests.router.serving import PATIENCE_S, serving

RELOADS, CLIENTS = 100, 3
ORDERS = (("edge", "spare"), ("spare", "edge"))
ANSWER = [
    Chunk(text="fi"),
    Chunk(text="ne"),
    Chunk(finish_reason="stop", usage=Usage(prompt_tokens=1, completion_tokens=2)),
]


def write(file: Path, order: tuple[str, str], rest: str = "") -> None:
    """Whole or not at all, as editors and deployments do."""
    fresh = file.with_suffix(".new")
    fresh.write_text(
        "targets:\n  edge: {kind: local, model: tiny}\n  spare: {kind: local, model: tiny}\n"
        f"rules: [{{name: all, when: 'request.prompt_tokens > 0', prefer: [{', '.join(order)}]}}]\n"
        f"policy: [battery-saver]\ndevice: {{probe: false}}\nledger: {{path: {file.with_suffix('.sqlite')}}}\n{rest}"
    )
    fresh.replace(file)


def ask(url: str, stop: threading.Event) -> list[tuple[int, str, str, str]]:
    """(status, version, target, text) of one request after the other, every second one streamed."""
    found = []
    with httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE_S) as client:
        while not stop.is_set():
            for stream in (False, True):
                body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
                answer = client.post("/v1/chat/completions", json=body)
                text = streamed(answer.text) if stream else answer.json()["choices"][0]["message"]["content"]
                version, target = (answer.headers.get(f"x-foreshore-{name}", "") for name in ("policy", "target"))
                found.append((answer.status_code, version, target, text))
    return found


def streamed(text: str) -> str:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    deltas = [choice["delta"] for line in lines[:-1] for choice in json.loads(line)["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def test_no_request_fails_while_the_file_changes_a_hundred_times(tmp_path: Path) -> None:
    file = tmp_path / "foreshore.yaml"
    write(file, ORDERS[0])
    fakes = {name: FakeBackend(ANSWER, name=name) for name in ("edge", "spare")}
    stop = threading.Event()
    first_of: dict[str, str] = {}
    with serving(load_config(file), fakes) as served, ThreadPoolExecutor(CLIENTS) as pool:
        watcher = Watcher(served.router, file)
        first_of[served.router.loaded.digest] = ORDERS[0][0]
        asking = [pool.submit(ask, served.url, stop) for _ in range(CLIENTS)]
        try:
            for turn in range(1, RELOADS + 1):
                order = ORDERS[turn % 2]
                if turn % 10 == 5:  # a mistake in between changes nothing
                    write(file, order, "ruels: []")
                    served.call(watcher.check(force=True))
                    assert served.router.config_error
                write(file, order)
                served.call(watcher.check(force=True))
                assert served.router.config_error == ""
                first_of[served.router.loaded.digest] = order[0]
        finally:
            stop.set()
        found = [row for clients in asking for row in clients.result(PATIENCE_S)]

    assert len(first_of) == 2
    assert len(found) >= 2 * CLIENTS
    assert {status for status, *_ in found} == {200}
    assert {text for *_, text in found} == {"fine"}
    assert all(target == first_of[version] for _, version, target, _ in found)
    events = list(read_events(file.with_suffix(".sqlite")))
    assert len(events) == len(found)
    assert {event["terminal_state"] for event in events} == {"complete"}
    assert all(event["target"] == first_of[event["policy"]] for event in events)
