"""The model store: `home()/models/NAME/VARIANT/` holds `manifest.json` and the files it lists.

A variant appears in one rename, complete or not at all. Builds happen in `.tmp/`; a killed one leaves only a
folder there, which the next build sweeps, since its lock died with its owner. One lock for each name:variant
makes a second builder wait for the first and then find the variant there.

At each load the sizes are compared, and a file whose modification time is not the one seen at its last full
check is hashed again; `verify` always hashes all. So a damaged or replaced file is noticed at load, and one
that was changed with its time put back by `foreshore models verify`. Where trusted keys are configured, a load
asks for a signature and hashes everything (see `foreshore.signing`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from foreshore import signing
from foreshore.disk import disk_errors, fsync, sha256, write_text
from foreshore.errors import ModelError, NotFound, UsageError
from foreshore.home import home
from foreshore.manifest import Manifest

__all__ = ["LABELS", "Resolved", "Store", "check_name", "resolve"]

MANIFEST = "manifest.json"
LABELS = "labels.jsonl"  # what the variant answered where it was measured on tasks
CHECKED = ".checked.json"  # {file: [size, mtime_ns, sha256]} as of the last full check
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """`manifest` is `None` for a file outside the store."""

    path: Path
    manifest: Manifest | None


def resolve(ref: str) -> Resolved:
    """The file behind `name:variant`, `name` (its only variant, or only ready one), or a path to a .gguf file."""
    return Store().resolve(ref)


def check_name(value: str, what: str = "name") -> str:
    """`value`, if it is fit to be a folder in the store. Raises `UsageError`."""
    if not _NAME.fullmatch(value):
        hint = "use letters, digits, '.', '_' and '-', at most 100 of them, a letter or digit first"
        raise UsageError(f"{value!r} cannot be the {what} of a variant", hint=hint)
    return value


class Store:
    def __init__(self, root: Path | None = None) -> None:
        self.root = root or home() / "models"

    def list(self) -> tuple[Manifest, ...]:
        """All readable variants, by name and variant; the others are in `broken`."""
        return tuple(m for m in map(self._try_load, self._folders()) if isinstance(m, Manifest))

    def broken(self) -> tuple[ModelError, ...]:
        """One error for each variant whose manifest cannot be read."""
        return tuple(e for e in map(self._try_load, self._folders()) if isinstance(e, ModelError))

    def get(self, ref: str) -> Manifest:
        """A bare name is its only variant, or of several the only one that is ready.

        Raises `NotFound` with the closest refs, or `ModelError` if its manifest is damaged.
        """
        return self._read(self.locate(ref if ":" in ref else self._preferred(ref)))

    def _read(self, folder: Path) -> Manifest:
        manifest = Manifest.load(folder / MANIFEST)
        if (manifest.name, manifest.variant) != (folder.parent.name, folder.name):
            raise ModelError(f"{str(folder / MANIFEST)!r} describes {manifest.ref!r}", hint=f"remove {str(folder)!r}")
        return manifest

    def locate(self, ref: str) -> Path:
        """The folder of a variant, NAME/VARIANT, whether or not its manifest can be read. Raises `NotFound`.

        A bare name must have one variant: who removes it by its name alone means no other.
        """
        name, _, variant = ref.partition(":")
        if not variant:
            variant = self._only_variant(name)
        folder = self.root / name / variant
        if not (_NAME.fullmatch(name) and _NAME.fullmatch(variant) and (folder / MANIFEST).is_file()):
            raise self._unknown(ref)
        return folder

    def find(self, name: str, variant: str) -> Manifest | None:
        """The variant if it is there and its manifest can be read, else `None`."""
        with suppress(NotFound, ModelError):
            return self.get(f"{name}:{variant}")
        return None

    def folder(self, manifest: Manifest) -> Path:
        return self.root / manifest.name / manifest.variant

    def path(self, manifest: Manifest) -> Path:
        """The file that an engine opens."""
        return self.folder(manifest) / manifest.main

    def resolve(self, ref: str) -> Resolved:
        """As the module's `resolve`. Raises `ModelError` if the files are not what the manifest says, or not signed by
        a trusted key where there are any."""
        if ref.lower().endswith(".gguf") or os.sep in ref:
            path = Path(ref).expanduser().absolute()
            if not path.is_file():
                raise NotFound(f"no such file: {ref!r}", hint="give NAME:VARIANT, or the path of a .gguf file")
            return Resolved(path=path, manifest=None)
        manifest = self.get(ref)
        if keys := signing.trusted():
            signing.verify(self.folder(manifest), keys)
            manifest = self.get(manifest.ref)  # what was verified
        return Resolved(path=self.path(manifest), manifest=self._sound(manifest))

    def sound(self, ref: str) -> Manifest:
        """As `get`, the files checked as at a load; no signature is asked for. Raises `ModelError` for damaged ones."""
        return self._sound(self.get(ref))

    def _sound(self, manifest: Manifest) -> Manifest:
        problems = self._check(manifest)
        if problems:
            raise ModelError(f"{manifest.ref!r} is damaged: {'; '.join(problems)}", hint=_rebuild(manifest))
        return manifest

    def verify(self, manifest: Manifest, progress: Callable[[int], None] | None = None) -> tuple[str, ...]:
        """Hash everything. What is wrong, in words; empty if all is well."""
        folder = self.folder(manifest)
        problems = [p for name in manifest.files if (p := self._problem(manifest, name, progress))]
        problems += self._labels_problem(manifest)
        known = {*manifest.files, MANIFEST, CHECKED, LABELS, signing.SIGNATURE}
        extra = sorted(p.name for p in folder.iterdir() if p.name not in known) if folder.is_dir() else []
        if not problems:
            self._remember(manifest)
        return (*problems, *(f"unknown file {name!r}" for name in extra))

    def remove(self, ref: str) -> None:
        """Take the variant away, also a damaged one, or one in use: an engine that has it open keeps its pages."""
        folder = self.locate(ref)
        with self.lock(folder.parent.name, folder.name), disk_errors(self.root), self.draft() as trash:
            os.rename(folder, trash / "removed")
            with suppress(OSError):
                folder.parent.rmdir()  # unless it has other variants

    @contextmanager
    def lock(self, name: str, variant: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold name:variant; `waiting` is called once if another process has it."""
        folder = self.root / ".locks"
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{check_name(name)}--{check_name(variant, 'variant')}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                if waiting:
                    waiting()
                lock.acquire(poll_interval=0.1)
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """An empty folder on the store's file system, gone afterwards, whatever happens."""
        folder, lock = self._new_draft()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()
            _lock_path(folder).unlink(missing_ok=True)

    def add(self, manifest: Manifest, files: Path) -> Manifest:
        """Move the finished folder `files`, made in a `draft`, into place; an older variant gives way.

        The caller holds the variant's lock. Everything is on the disk before the rename that shows it.
        """
        missing = [n for n, r in manifest.files.items() if (files / n).stat().st_size != r.bytes]
        if missing:
            raise ModelError(f"{manifest.ref!r} changed while it was stored: {missing}", hint="build it again")
        target = self.folder(manifest)
        with disk_errors(self.root, manifest.bytes):
            target.parent.mkdir(parents=True, exist_ok=True)
            for name in manifest.files:
                fsync(files / name)
            write_text(files / CHECKED, _checked(files, manifest))
            write_text(files / MANIFEST, manifest.dump())
            fsync(files)
            self._swap(files, target)
            fsync(target.parent)
        return manifest

    def update(self, ref: str, change: Callable[[Manifest], Manifest], *, labels: str | None = None) -> Manifest:
        """Replace a variant's manifest by what `change` makes of it, in one rename; `change` cannot touch the files.
        `labels` is put beside it before, as the file that its card speaks of.

        A signature goes with the manifest that it signed. The variant's lock is taken here, so that no other process's
        change is lost: the caller must not hold it.
        """
        found = self.get(ref)
        with self.lock(found.name, found.variant), self.draft() as draft, disk_errors(self.root):
            before = self.get(found.ref)
            after = change(before)
            if after == before:
                return before
            if (after.ref, after.files) != (before.ref, before.files):
                raise ModelError(
                    f"{before.ref!r} cannot become {after.ref!r} or hold other files", hint="build it anew"
                )
            write_text(draft / MANIFEST, after.dump())
            folder = self.folder(before)
            (folder / signing.SIGNATURE).unlink(missing_ok=True)
            if labels is not None:
                write_text(draft / LABELS, labels)
                os.replace(draft / LABELS, folder / LABELS)
            os.replace(draft / MANIFEST, folder / MANIFEST)
            fsync(folder)
        return after

    def sign(self, ref: str, key: Path) -> Path:
        """Sign the variant, all of whose files are hashed first, and return the signature's path."""
        found = self.get(ref)
        with self.lock(found.name, found.variant), self.draft() as draft, disk_errors(self.root):
            manifest = self.get(found.ref)
            if problems := self.verify(manifest):
                raise ModelError(f"{manifest.ref!r} is damaged: {'; '.join(problems)}", hint=_rebuild(manifest))
            folder = self.folder(manifest)
            made = signing.sign(folder, key, draft / signing.SIGNATURE, ignored=(CHECKED,))
            fsync(made)
            os.replace(made, folder / signing.SIGNATURE)
            fsync(folder)
        return folder / signing.SIGNATURE

    def signed(self, manifest: Manifest) -> bool:
        """Whether there is a signature; `signing.verify` says whether it holds."""
        return (self.folder(manifest) / signing.SIGNATURE).is_file()

    def sweep(self) -> None:
        """Remove what killed builds left behind."""
        with FileLock(self.root / ".tmp" / "sweep.lock"):
            self._sweep()

    def _swap(self, files: Path, target: Path) -> None:
        with self.draft() as trash:
            if target.exists():  # a crash between these renames loses the old variant, never shows half a new one
                os.rename(target, trash / "old")
            os.rename(files, target)

    def _new_draft(self) -> tuple[Path, BaseFileLock]:
        tmp = self.root / ".tmp"
        with disk_errors(tmp):
            tmp.mkdir(parents=True, exist_ok=True)
            with FileLock(tmp / "sweep.lock"):  # so that nobody sweeps the folder before its lock is held
                self._sweep()
                folder = tmp / uuid.uuid4().hex
                lock = FileLock(_lock_path(folder))
                lock.acquire(blocking=False)
                folder.mkdir()
        return folder, lock

    def _sweep(self) -> None:
        for folder in (p for p in (self.root / ".tmp").iterdir() if p.is_dir()):
            lock = FileLock(_lock_path(folder))
            with suppress(Timeout), lock.acquire(blocking=False):
                shutil.rmtree(folder, ignore_errors=True)
                _lock_path(folder).unlink(missing_ok=True)

    def _folders(self) -> tuple[Path, ...]:
        found = (p.parent for p in self.root.glob(f"*/*/{MANIFEST}"))
        return tuple(sorted(p for p in found if not p.parent.name.startswith(".")))

    def _try_load(self, folder: Path) -> Manifest | ModelError:
        try:
            return self._read(folder)
        except (ModelError, NotFound) as error:
            return error if isinstance(error, ModelError) else ModelError(error.message, hint=error.hint)

    def _preferred(self, name: str) -> str:
        """`name` itself, or the only ready variant of several."""
        found = [f for f in self._folders() if f.parent.name == name]
        made = [m for m in map(self._try_load, found) if isinstance(m, Manifest)] if len(found) > 1 else []
        ready = [m.ref for m in made if m.state == "ready"]
        return ready[0] if len(ready) == 1 else name

    def _only_variant(self, name: str) -> str:
        variants = [f.name for f in self._folders() if f.parent.name == name]
        if not variants:
            raise self._unknown(name)
        if len(variants) > 1:
            refs = ", ".join(f"{name}:{v}" for v in variants)
            raise NotFound(f"{name!r} has {len(variants)} variants", hint=f"choose one of {refs}")
        return variants[0]

    def _unknown(self, ref: str) -> NotFound:
        name, _, variant = ref.partition(":")
        refs = [f"{f.parent.name}:{f.name}" for f in self._folders()]
        close = get_close_matches(ref, refs, n=3, cutoff=0.4)
        build = f"foreshore quantize {name or 'SOURCE'} --types {variant or 'q4_k_m'}"
        hint = f"did you mean {' or '.join(close)}? Else build it: {build}" if close else f"build it: {build}"
        return NotFound(f"no variant {ref!r} in the model store {str(self.root)!r}", hint=hint)

    def _check(self, manifest: Manifest) -> tuple[str, ...]:
        """The check at load: sizes, and a hash where the modification time is a new one."""
        folder = self.folder(manifest)
        checked = _read_checked(folder)
        fresh = [
            name for name, record in manifest.files.items() if checked.get(name) != _stamp(folder / name, record.sha256)
        ]
        problems = [p for name in fresh if (p := self._problem(manifest, name, None))]
        if fresh and not problems:
            self._remember(manifest)
        return tuple(problems)

    def _labels_problem(self, manifest: Manifest) -> tuple[str, ...]:
        card = manifest.card and manifest.card.confidence
        path = self.folder(manifest) / LABELS
        if not card or (path.is_file() and sha256(path) == card.labels_sha256):
            return ()
        return (f"{LABELS!r} is missing or has another SHA-256",)

    def _problem(self, manifest: Manifest, name: str, progress: Callable[[int], None] | None) -> str | None:
        path, record = self.folder(manifest) / name, manifest.files[name]
        if not path.is_file():
            return f"{name!r} is missing"
        size = path.stat().st_size
        if size != record.bytes:
            return f"{name!r} has {size} bytes, not {record.bytes}"
        return None if sha256(path, progress) == record.sha256 else f"{name!r} has another SHA-256"

    def _remember(self, manifest: Manifest) -> None:
        folder = self.folder(manifest)
        with suppress(OSError):  # a read-only store is merely slower
            write_text(folder / CHECKED, _checked(folder, manifest))


def _lock_path(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _rebuild(manifest: Manifest) -> str:
    source = f"hf:{manifest.source.id}" if manifest.source.kind == "hub" else manifest.source.id
    return f"build it again: foreshore quantize {source} --types {manifest.variant} -o {manifest.name} --force"


def _stamp(path: Path, digest: str) -> list[int | str]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, digest]


def _checked(folder: Path, manifest: Manifest) -> str:
    return json.dumps({name: _stamp(folder / name, record.sha256) for name, record in manifest.files.items()})


def _read_checked(folder: Path) -> dict[str, list[int | str]]:
    with suppress(OSError, ValueError):
        value = json.loads((folder / CHECKED).read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else {}
    return {}
