"""What a build starts from: a Hugging Face folder, a .gguf file, a model on the hub, or a bundled starter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from foreshore.disk import sha256
from foreshore.edge.gguf import FILE_TYPES, GgufInfo, inspect
from foreshore.errors import ModelError, NotFound
from foreshore.manifest import Source, SourceKind
from foreshore.quantize.convert.convert import HfFolder, open_folder, used_files
from foreshore.quantize.hub import PREFIX, HubRef, fetch
from foreshore.quantize.progress import OnProgress, Progress

__all__ = ["Origin", "bundled", "locate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A source that was found; `path` is a folder or a .gguf file, `name` what its variants are called by default."""

    kind: SourceKind
    id: str
    revision: str
    path: Path
    name: str

    def open(self) -> HfFolder | GgufInfo:
        """Check everything but the weights. Raises `ModelError`."""
        return open_folder(self.path) if self.path.is_dir() else inspect(self.path)

    def hashed(self, progress: OnProgress) -> Source:
        """The source as a manifest records it."""
        paths = used_files(self.path) if self.path.is_dir() else (self.path,)
        root = self.path if self.path.is_dir() else self.path.parent
        total, done, hashes = sum(p.stat().st_size for p in paths), 0, {}

        def add(count: int) -> None:
            nonlocal done
            done += count
            progress(Progress(stage="hash", what=self.id, done=done, total=total))

        for path in paths:
            hashes[path.relative_to(root).as_posix()] = sha256(path, add)
        return Source(kind=self.kind, id=self.id, revision=self.revision, files=hashes)


def bundled() -> dict[str, Path]:
    """The starter models that this installation carries, by name."""
    folder = Path(str(files("foreshore.starter")))
    return {p.name: p for p in sorted(folder.iterdir()) if (p / "config.json").is_file()}


def locate(source: str | Path, progress: OnProgress) -> Origin:
    """Find SOURCE, and download it if it is on the hub. A bundled name wins over a folder of that name:
    write `./NAME` for the folder. Raises `NotFound` or `ModelError`.
    """
    text = str(source)
    if text.startswith(PREFIX):
        return _hub(text, progress)
    if text in bundled():
        return Origin(kind="bundled", id=text, revision="", path=bundled()[text], name=text)
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        return Origin(kind="folder", id=str(path), revision="", path=path, name=_slug(path.resolve().name))
    if not path.exists():
        raise _not_found(text)
    if path.suffix == ".safetensors":
        raise ModelError(f"{text!r} is a file of weights", hint=f"give the folder it lies in: {str(path.parent)!r}")
    return Origin(kind="gguf", id=str(path), revision="", path=path, name=_slug(path.stem))


def _hub(text: str, progress: OnProgress) -> Origin:
    ref = HubRef.parse(text)
    found = fetch(ref, progress)
    ident = f"{ref.repo}/{ref.file}" if ref.file else ref.repo
    name = _slug(Path(ref.file).stem if ref.file else ref.repo.partition("/")[2])
    return Origin(kind="hub", id=ident, revision=found.commit, path=found.path, name=name)


def _slug(text: str) -> str:
    """`Qwen2.5-0.5B-Instruct-Q8_0` -> `qwen2.5-0.5b-instruct`: lower case, without the type at its end."""
    types = "|".join(sorted(FILE_TYPES.values(), key=len, reverse=True))
    slug = re.sub(rf"[-._]({types})$", "", text.lower())
    return re.sub(r"[^a-z0-9._-]+", "-", slug).strip("-._")[:100] or "model"


def _not_found(text: str) -> NotFound:
    close = get_close_matches(text, bundled(), n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    names = ", ".join(bundled()) or "none"
    hint = f"{guess}SOURCE is a folder, a .gguf file, hf:ORG/NAME, or a bundled model ({names})"
    return NotFound(f"no such file, folder or bundled model: {text!r}", hint=hint)
