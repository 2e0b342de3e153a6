"""Which encoder a model is: what its vectors depend on, found from its files alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from foreshore.config import Config
from foreshore.disk import sha256 as sha256_of_file
from foreshore.edge.gguf import inspect
from foreshore.edge.onnx.folder import is_onnx, model_file, open_folder
from foreshore.errors import ConfigError
from foreshore.quality.encoder import READ
from foreshore.store import Store
from foreshore.telemetry import logger

if TYPE_CHECKING:
    from foreshore.quality.estimator import Estimator

__all__ = ["check_encoder", "fingerprint", "pooling"]

POOLINGS = ("none", "mean", "cls", "last", "rank")  # llama.cpp's, by number; with none the runtime takes the mean
MEAN = "mean"


def check_encoder(config: Config, estimator: Estimator) -> None:
    """Raises `ConfigError` where the config's encoder is not the one whose vectors `estimator` was trained with; where
    it names none, that is logged, for the estimate is worse than it could be."""
    name, wanted = config.quality.encoder, estimator.encoder
    if name is None:
        if wanted is not None:
            logger.warning("quality.encoder names no target: quality is judged without %r", wanted.model)
        return
    if wanted is None:
        what = f"quality.encoder: {str(config.quality.file)!r} was trained without an encoder"
        raise ConfigError(what, hint="leave the key out, or train with `foreshore route train --encoder MODEL`")
    model = config.targets[name].model
    if fingerprint(model) != wanted.sha256:
        what = f"quality.encoder: {str(config.quality.file)!r} was trained with {wanted.model!r}, and target {name!r}"
        what += f" is another encoder, {model!r}" if model != wanted.model else " has other files of that name now"
        raise ConfigError(what, hint="train again with `foreshore route train --encoder`, or name the target it was")


def fingerprint(model: str) -> str:
    """SHA-256, hexadecimal, over weights, vocabulary, pooling and how much of a text is read: the same for a variant in
    the store and for its file given by path. `model` is NAME:VARIANT or a path. Raises `NotFound` or `ModelError`."""
    return sha256("\n".join((*_hashes(model), f"{READ} characters")).encode()).hexdigest()


def pooling(model: str) -> str:
    """How one vector is made of a text's many."""
    main = _main(model)
    if main.suffix == ".onnx":
        modes = open_folder(main).pooling
        on = [
            name.removeprefix("pooling_mode_").removesuffix("_tokens") for name, value in modes.items() if value is True
        ]
        return "+".join(name for name in on if not name.startswith("include")) or MEAN
    number = inspect(main).get(".pooling_type", 0)
    known = isinstance(number, int) and 0 < number < len(POOLINGS)
    return POOLINGS[number] if known else MEAN


def _hashes(model: str) -> Iterator[str]:
    if not is_onnx(model) and not model.endswith(".gguf"):
        manifest = Store().get(model)
        if manifest.main.endswith(".gguf"):  # hashed when it was stored, and held against that at each load
            yield manifest.files[manifest.main].sha256
            return
    main = _main(model)
    home = open_folder(main).home if main.suffix == ".onnx" else inspect(main).path.parent
    yield _sha256(main)
    if main.suffix == ".onnx":
        beside = sorted(main.parent.glob(f"{main.name}[._]*"))  # weights too large for the graph's own file
        for path in (*beside, home / "tokenizer.json", home / "1_Pooling" / "config.json"):
            if path.is_file():
                yield _sha256(path)


def _main(model: str) -> Path:
    """The file that the engine opens."""
    if is_onnx(model):
        return model_file(model)
    return Path(model).expanduser().absolute() if model.endswith(".gguf") else Store().resolve(model).path


def _sha256(path: Path) -> str:
    status = path.stat()
    return _remembered(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _remembered(path: Path, size: int, modified: int) -> str:
    """A reload of the config hashes no file again that has not changed."""
    return sha256_of_file(path)
