"""The two models that ship with Foreshore, the checkable tasks they were trained on, and the script that trained them.

`starter-s` answers directly; `starter-l` reasons first. `folder(name)` gives the Hugging Face folder of either.
"""

from __future__ import annotations

from pathlib import Path

from foreshore.errors import NotFound, SetupError

__all__ = ["NAMES", "folder"]

NAMES = ("starter-s", "starter-l")


def folder(name: str) -> Path:
    """The folder of a starter model: config.json, model.safetensors, tokenizer.json, chat_template.jinja, README.md."""
    if name not in NAMES:
        raise NotFound(f"no starter model named {name!r}", hint=f"there are {' and '.join(NAMES)}")
    path = Path(__file__).parent / name
    if not (path / "model.safetensors").is_file():
        raise SetupError(
            f"the weights of {name!r} are missing from this installation",
            hint="reinstall foreshore, or train them: python -m foreshore.starter.train --help",
        )
    return path
