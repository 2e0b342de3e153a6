"""Models from a Hugging Face hub: `hf:ORG/NAME[/FILE.gguf][@REVISION]`.

Files land in huggingface_hub's own cache (HF_HOME), which other tools share; HF_ENDPOINT and HF_TOKEN are
respected. A revision is resolved to its commit first, so that a manifest says exactly what was fetched.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

from foreshore.errors import ModelError, NotFound, SetupError, Unauthorized, UsageError
from foreshore.quantize.convert.hf_folder import META_FILES
from foreshore.quantize.convert.weights import INDEX, WHOLE
from foreshore.quantize.progress import OnProgress, Progress

__all__ = ["PREFIX", "Fetched", "HubRef", "fetch"]

PREFIX = "hf:"
_REF = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>[^@]+\.gguf))?(?:@(?P<revision>[^@\s]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRef:
    repo: str
    file: str | None  # a .gguf file in the repository; None: its Hugging Face model
    revision: str | None  # branch, tag or commit; None: the main branch

    @classmethod
    def parse(cls, text: str) -> HubRef:
        """Raises `UsageError`."""
        match = _REF.fullmatch(text.removeprefix(PREFIX))
        if not match:
            raise UsageError(f"{text!r} is not a model on the hub", hint="write hf:ORG/NAME[/FILE.gguf][@REVISION]")
        return cls(**match.groupdict())


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    path: Path  # a folder, or a .gguf file
    commit: str


def fetch(ref: HubRef, progress: OnProgress) -> Fetched:
    """Download what a conversion needs, and nothing else; files that are in the cache are not fetched again."""
    from huggingface_hub import HfApi

    with _mapped(ref):
        info = HfApi(endpoint=os.environ.get("HF_ENDPOINT")).model_info(
            ref.repo, revision=ref.revision, files_metadata=True
        )
        sizes = {s.rfilename: s.size or 0 for s in info.siblings or ()}
        wanted = _choose(ref, list(sizes))
        meter = _Meter(ref.repo, sum(sizes[name] for name in wanted), progress)
        paths = {name: _download(ref, name, str(info.sha), sizes[name], meter) for name in wanted}
    path = paths[ref.file] if ref.file else paths["config.json"].parent
    return Fetched(path=path, commit=str(info.sha))


def _choose(ref: HubRef, names: list[str]) -> list[str]:
    ggufs = [n for n in names if n.endswith(".gguf")]
    if ref.file:
        if ref.file not in names:
            raise NotFound(f"{ref.repo!r} has no file {ref.file!r}", hint=_list_ggufs(ref, ggufs))
        return [ref.file]
    if "config.json" in names and (weights := _weights(names)):
        return [*(n for n in names if n in META_FILES), *weights]
    if ggufs:
        raise ModelError(f"{ref.repo!r} has no safetensors, but GGUF files", hint=_list_ggufs(ref, ggufs))
    if any(n.endswith((".bin", ".pt", ".pth", ".ckpt")) for n in names):
        raise ModelError(
            f"{ref.repo!r} has its weights only as pickles, and loading those runs code",
            hint="look for a revision with safetensors (often @refs/pr/N), or another repository",
        )
    raise ModelError(f"{ref.repo!r} holds no model: it has no config.json with *.safetensors")


def _weights(names: list[str]) -> list[str]:
    """One file, or its shards; not what some keep beside them: an adapter, the same weights in another layout."""
    found = [n for n in names if n.endswith(".safetensors") and "/" not in n]
    if WHOLE in found and INDEX not in names:
        return [WHOLE]
    return [n for n in found if not n.startswith(("consolidated", "adapter_"))]


def _list_ggufs(ref: HubRef, names: list[str]) -> str:
    if not names:
        return "it has no .gguf files"
    return f"name one: {', '.join(f'hf:{ref.repo}/{n}' for n in sorted(names)[:8])}"


class _Meter:
    """Adds up what all files have received."""

    def __init__(self, what: str, total: int, progress: OnProgress) -> None:
        self.what, self.total, self.progress = what, total, progress
        self.files: dict[str, int] = {}

    def set(self, name: str, done: int) -> None:
        self.files[name] = done
        done = min(sum(self.files.values()), self.total)
        self.progress(Progress(stage="download", what=self.what, done=done, total=self.total))


def _download(ref: HubRef, name: str, commit: str, size: int, meter: _Meter) -> Path:
    from huggingface_hub import hf_hub_download

    endpoint = os.environ.get("HF_ENDPOINT")
    options: dict[str, Any] = {}
    if "tqdm_class" in signature(hf_hub_download).parameters:  # older releases draw a bar of their own
        options["tqdm_class"] = _bar(lambda done: meter.set(name, done))
    path = hf_hub_download(ref.repo, name, revision=commit, endpoint=endpoint, **options)
    meter.set(name, size)
    return Path(path)


def _bar(report: Callable[[int], None]) -> Any:
    """A tqdm that draws nothing and reports its count."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> None:
            super().update(n)
            report(int(self.n))

    return Bar


def _transport_errors() -> tuple[type[Exception], ...]:
    """What the hub's HTTP client raises: requests' errors are OSErrors, httpx's, which newer releases use, are not."""
    from huggingface_hub import errors

    clients = [import_module(name) for name in ("httpx", "httpx2") if find_spec(name)]
    return (OSError, errors.HfHubHTTPError, *(client.HTTPError for client in clients))


@contextmanager
def _mapped(ref: HubRef) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        hint = "ask for access on its page, then set HF_TOKEN"
        raise Unauthorized(f"{ref.repo!r} is gated", hint=hint) from error
    except errors.RepositoryNotFoundError as error:
        hint = "check the name; for a private one set HF_TOKEN"
        raise NotFound(f"the hub has no model {ref.repo!r}, or you may not see it", hint=hint) from error
    except errors.RevisionNotFoundError as error:
        raise NotFound(f"{ref.repo!r} has no revision {ref.revision!r}") from error
    except errors.HFValidationError as error:
        raise UsageError(f"{ref.repo!r} is not a name on the hub: {error}") from error
    except _transport_errors() as error:
        hint = "check the network, HF_ENDPOINT and the proxy; a local folder or .gguf file needs neither"
        raise SetupError(f"fetching {ref.repo!r} failed: {_cause(error)}", hint=hint) from error


def _cause(error: BaseException) -> str:
    """The innermost reason, in one line: HTTP clients wrap it several times."""
    while (inner := getattr(error, "reason", None) or error.__cause__ or error.__context__) is not None:
        if not isinstance(inner, BaseException):
            break
        error = inner
    return " ".join(str(error).split()) or type(error).__name__
