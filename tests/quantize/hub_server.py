"""A server on loopback that speaks the part of the Hugging Face hub's API that downloading needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`repos` maps org/name to a folder, `gated` names those that refuse; `served` lists the files handed out."""

    url: str = ""
    repos: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    served: list[str] = field(default_factory=list)


@contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/"):
            self.info(path.removeprefix("/api/models/"))
        else:
            repo, _, rest = path.removeprefix("/").partition("/resolve/")
            self.file(repo, rest.partition("/")[2])

    def info(self, rest: str) -> None:
        repo, _, revision = rest.partition("/revision/")
        if repo in self.hub.gated:
            return self.refuse(403, "GatedRepo")
        if repo not in self.hub.repos:
            return self.refuse(404, "RepoNotFound")
        if revision not in ("", "main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        folder = self.hub.repos[repo]
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        siblings = [{"rfilename": p.relative_to(folder).as_posix(), "size": p.stat().st_size} for p in files]
        body = json.dumps({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}).encode()
        self.send(200, {"Content-Type": "application/json"}, body)

    def file(self, repo: str, name: str) -> None:
        path = self.hub.repos.get(repo, Path("/nowhere")) / name
        if not path.is_file():
            return self.refuse(404, "EntryNotFound")
        content = path.read_bytes()
        if self.command == "GET":
            self.hub.served.append(name)
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self.send(200, headers, content)

    def refuse(self, status: int, code: str) -> None:
        self.send(status, {"X-Error-Code": code, "X-Error-Message": code}, b"")

    def send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
