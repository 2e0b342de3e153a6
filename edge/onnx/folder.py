"""The files around an .onnx model, as optimum's export writes them: what the model is, and how it is to be used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreshore.edge.onnx.file import OnnxFile, inspect
from foreshore.errors import ModelError, NotFound

__all__ = ["OnnxFolder", "is_onnx", "model_file", "open_folder"]

MODEL = "model.onnx"
MAX_JSON = 256 * 1024 * 1024  # bytes
_LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")
_UNBOUNDED = 1 << 30  # tokenizers without a limit say 1e30
_SENTENCE_PARTS = ("Transformer", "Pooling", "Normalize")


def is_onnx(model: str | Path) -> bool:
    """Whether `model` is meant as a path to an ONNX model: an .onnx file, or a folder that is one."""
    path = Path(model).expanduser()
    return path.suffix == ".onnx" or (path.is_dir() and (_looks_like_path(str(model)) or (path / MODEL).is_file()))


def model_file(model: str | Path) -> Path:
    """The file that the engine opens: of a folder `model.onnx`, or its only .onnx file. Raises `ModelError`."""
    path = Path(model).expanduser().absolute()
    if path.suffix == ".onnx":
        return path
    found = sorted(p.name for p in path.glob("*.onnx"))
    if MODEL not in found and len(found) != 1:
        hint = f"give the path of one of {found}" if found else "export one: see docs/onnx.md"
        raise ModelError(f"the folder {str(path)!r} holds no {MODEL}", hint=hint)
    return path / (MODEL if MODEL in found else found[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFolder:
    """`config`, `generation` and `tokenizer` are the objects in the files of these names, empty where there is none."""

    path: Path  # the .onnx file
    home: Path  # where the other files are
    file: OnnxFile
    config: dict[str, Any]
    generation: dict[str, Any]
    tokenizer: dict[str, Any]

    @property
    def name(self) -> str:
        return self.home.name if self.path.stem == "model" else f"{self.home.name}/{self.path.stem}"

    @property
    def architecture(self) -> str:
        return str(self.config.get("model_type") or "unknown")

    @property
    def trained_tokens(self) -> int:
        """The longest text the model has positions for. Raises `ModelError` where the files do not say."""
        values = [self.config.get(name) for name in _LENGTHS] + [self.tokenizer.get("model_max_length")]
        known = [int(v) for v in values if isinstance(v, int | float) and 0 < v < _UNBOUNDED]
        if not known:
            raise ModelError(f"config.json of {self.name!r} names no max_position_embeddings", hint="export it again")
        return min(known)

    @property
    def template(self) -> str | None:
        """The chat template's source."""
        file = self.home / "chat_template.jinja"
        if file.is_file():
            return _read(file)
        found = self.tokenizer.get("chat_template")
        if isinstance(found, list):  # several, by name
            named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
            found = named.get("default")
        return found if isinstance(found, str) else None

    def named(self, kind: str) -> str:
        """The text of the tokenizer's `bos`, `eos` or other named token, "" where it has none."""
        token = self.tokenizer.get(f"{kind}_token")
        if isinstance(token, dict):
            token = token.get("content")
        return token if isinstance(token, str) else ""

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer, by number."""
        found: set[int] = set()
        for source in (self.config, self.generation):
            value = source.get("eos_token_id")
            found.update(v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int))
        return frozenset(found)

    @property
    def sampling(self) -> dict[str, float]:
        """What the makers advise; `do_sample: false` is greedy, whatever else stands there."""
        if self.generation.get("do_sample") is False:
            return {"temperature": 0.0}
        names = ("temperature", "top_p", "top_k", "min_p")
        return {n: float(v) for n in names if isinstance(v := self.generation.get(n), int | float)}

    @property
    def pooling(self) -> dict[str, Any]:
        """How sentence-transformers makes one vector of a text's many; empty where its files are not there.

        Raises `ModelError` where a further layer of weights follows, which an export of the transformer does not have.
        """
        modules = _list(self.home / "modules.json")
        kinds = [str(m.get("type", "")).rpartition(".")[2] for m in modules if isinstance(m, dict)]
        other = next((kind for kind in kinds if kind not in _SENTENCE_PARTS), None)
        if other is not None:
            raise ModelError(f"{self.name!r} has a module {other!r} behind its pooling", hint="choose another encoder")
        return _object(self.home / "1_Pooling" / "config.json")


def open_folder(path: Path) -> OnnxFolder:
    """Read what stands beside the .onnx file `path`. Raises `NotFound` or `ModelError`."""
    file = inspect(path)
    # Repositories keep several exports in a folder onnx/, and what they share above it.
    home = path.parent if (path.parent / "config.json").is_file() else path.parent.parent
    if home != path.parent and path.parent.name != "onnx":
        home = path.parent
    for name in ("config.json", "tokenizer.json"):
        if not (home / name).is_file():
            raise ModelError(f"{name} is missing beside {str(path)!r}", hint="export the model again: see docs/onnx.md")
    return OnnxFolder(
        path=path,
        home=home,
        file=file,
        config=_object(home / "config.json"),
        generation=_object(home / "generation_config.json"),
        tokenizer=_object(home / "tokenizer_config.json"),
    )


def _looks_like_path(model: str) -> bool:
    return "/" in model or "\\" in model or model.startswith((".", "~"))


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_JSON:
            raise ModelError(f"{file.name} has {file.stat().st_size} bytes", hint="export the model again")
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"no such file: {str(file)!r}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file.name} cannot be read: {error}", hint="export the model again") from error


def _json(file: Path) -> Any:
    if not file.is_file():
        return None
    try:
        return json.loads(_read(file))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file.name} is no JSON: {error}", hint="export the model again") from error


def _object(file: Path) -> dict[str, Any]:
    value = _json(file)
    if not isinstance(value, dict | None):
        raise ModelError(f"{file.name} holds no JSON object", hint="export the model again")
    return value or {}


def _list(file: Path) -> list[Any]:
    value = _json(file)
    return value if isinstance(value, list) else []
