"""Meters whose processes run on a Ray cluster.

Each node must have foreshore and the engine installed in the versions that are here. A model or an importance matrix
that a node does not see under its path, or sees with other content, goes there in pieces through the object store, and
is kept there by its SHA-256, in `home()/ray`, for the next search.
"""

from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from foreshore.disk import sha256
from foreshore.errors import ForeshoreError, ModelError, NotFound, SetupError, UsageError
from foreshore.home import home
from foreshore.quantize.child import Child
from foreshore.quantize.prune import prune
from foreshore.quantize.search.meter import MODULE, Meter, MeterJob

__all__ = ["RayCluster", "ray_cluster"]

PIECE = 64 << 20  # bytes that go through the object store at once
CONNECT_S = 10
START_S = 300  # that a node may take to start a process; a cluster that grows by itself needs minutes
TOOLS = ("foreshore", "llama_cpp_python")
_ERRORS = {kind.__name__: kind for kind in (ModelError, NotFound, SetupError, UsageError)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RayCluster:
    """`make` is for `search`, which may ask for as many meters as there are `workers`."""

    workers: int
    threads: int

    def make(self, job: MeterJob) -> Meter:
        """Raises what `Meter` does, and `SetupError` where no node takes it."""
        process = _Remote(self.threads)
        try:
            placed = replace(
                job,
                model=process.place(job.model),
                imatrix=process.place(job.imatrix) if job.imatrix else None,
                moments=process.place(job.moments) if job.moments else None,
                cache=process.folder / "tensors",
                threads=self.threads,
            )
            return Meter(placed, process)
        except BaseException:
            process.close()
            raise


@contextmanager
def ray_cluster(address: str, *, threads: int = 1) -> Iterator[RayCluster]:
    """The cluster at `address`, as `ray.init` takes it: "auto", HOST:PORT, ray://HOST:PORT, or "local" for a new one
    on this machine. A meter for every `threads` CPUs. One that the caller is connected to stays connected.

    Raises `SetupError` where Ray is not installed or no cluster answers.
    """
    ray = _ray()
    connected = ray.is_initialized()
    if not connected:
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            hint = "start one with `ray start --head`, and give its address"
            raise SetupError(f"no Ray cluster answers at {address!r}: {reason}", hint=hint) from error
    try:
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus < threads:
            raise SetupError(f"the Ray cluster at {address!r} has {cpus} CPUs, and a measuring process takes {threads}")
        yield RayCluster(workers=cpus // threads, threads=threads)
    finally:
        if not connected:
            ray.shutdown()


class Host:
    """On a node: a measuring process, and the files that it needs."""

    def __init__(self) -> None:
        self._process: Child | None = None
        self._folder = home() / "ray"
        self._drafts: dict[str, Path] = {}

    def describe(self) -> dict[str, str]:
        self._folder.mkdir(parents=True, exist_ok=True)
        prune(self._folder / "tensors")
        return {"folder": str(self._folder), **{tool: version(tool) for tool in TOOLS}}

    def find(self, path: str, digest: str, nbytes: int) -> str | None:
        """Where this node has that file; `None`: it must be sent."""
        for place in (Path(path), self._kept(digest)):
            with suppress(OSError):
                if place.stat().st_size == nbytes and sha256(place) == digest:
                    return str(place)
        return None

    def append(self, digest: str, piece: bytes) -> None:
        draft = self._drafts.setdefault(digest, self._folder / f"{digest}.{uuid.uuid4().hex}.part")
        with draft.open("ab") as file:
            file.write(piece)

    def keep(self, digest: str) -> str:
        """All pieces are there."""
        target = self._kept(digest)
        os.replace(self._drafts.pop(digest), target)
        return str(target)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Errors go back as what they say: not every one of them can be pickled."""
        self._process = self._process or Child(MODULE, doing="measured mixes on a node of the cluster")
        try:
            return {"result": self._process.ask(request)}
        except ForeshoreError as error:
            return {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        except OSError as error:
            return {"error": SetupError.__name__, "message": f"a node of the cluster: {error}", "hint": None}

    def _kept(self, digest: str) -> Path:
        return self._folder / f"{digest}.gguf"


class _Remote:
    """A `Host` on some node, as `Meter` asks a process."""

    def __init__(self, threads: int) -> None:
        ray = _ray()
        self._host = ray.remote(Host).options(num_cpus=threads, max_restarts=0).remote()
        found = self._get(self._host.describe.remote(), START_S)
        other = [f"{tool} {found[tool]}" for tool in TOOLS if found[tool] != version(tool)]
        if other:
            self.close()
            here = ", ".join(f"{tool} {version(tool)}" for tool in TOOLS)
            raise SetupError(f"a node of the Ray cluster has {', '.join(other)}", hint=f"install {here} there")
        self.folder = Path(found["folder"])

    def place(self, file: Path) -> Path:
        """Where the node has `file`; it is sent there if it has not."""
        digest = sha256(file)
        found = self._get(self._host.find.remote(str(file.absolute()), digest, file.stat().st_size))
        return Path(found or self._send(file, digest))

    def _send(self, file: Path, digest: str) -> str:
        ray = _ray()
        with file.open("rb") as source:
            while piece := source.read(PIECE):
                self._get(self._host.append.remote(digest, ray.put(piece)))
        return str(self._get(self._host.keep.remote(digest)))

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        answer = self._get(self._host.ask.remote(dict(request)))
        if "error" in answer:
            raise _ERRORS.get(answer["error"], SetupError)(answer["message"], hint=answer["hint"])
        return dict(answer["result"])

    def close(self) -> None:
        with suppress(Exception):  # the node may be gone
            _ray().kill(self._host)

    def _get(self, reference: Any, timeout: float | None = None) -> Any:
        ray = _ray()
        try:
            return ray.get(reference, timeout=timeout)
        except ray.exceptions.GetTimeoutError as error:
            self.close()
            hint = "`ray status` says what the cluster's CPUs do"
            raise SetupError(f"no node of the Ray cluster started a process within {timeout} s", hint=hint) from error
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1][:300]
            hint = "each node needs foreshore and its engine installed; a search that is run again goes on from here"
            raise SetupError(f"a process on the Ray cluster failed: {reason}", hint=hint) from error


def _knock(address: str) -> None:
    """Raise `OSError` where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    if found := re.fullmatch(r"(?:ray://)?\[?([^/\]]+?)\]?:(\d{1,5})", address):
        socket.create_connection((found[1], int(found[2])), timeout=CONNECT_S).close()


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError as error:
        raise SetupError("Ray is not installed", hint="pip install 'foreshore[ray]'") from error
