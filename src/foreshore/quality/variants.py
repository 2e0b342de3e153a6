"""What the store knows of its variants' answers: labels to learn from, and each one's confidence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foreshore.errors import ForeshoreError, ModelError, NotFound
from foreshore.quality.confidence import Confidence
from foreshore.quality.labels import Label
from foreshore.store import LABELS, Store

__all__ = ["confidence_of", "labels_of"]


def labels_of(variant: Path) -> Iterator[Label]:
    """What the variant in that folder of the store, or its file, answered to the tasks it was measured on: a label for
    each, whose target is NAME:VARIANT. Empty prompts are left out.

    Raises `NotFound` where it was not measured, `ModelError` where the labels are damaged.
    """
    folder = (variant if variant.is_dir() else variant.parent).absolute()
    ref, path = f"{folder.parent.name}:{folder.name}", folder / LABELS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        hint = f"measure it: foreshore models measure {ref} --tasks FILE"
        raise NotFound(f"{ref!r} has not been measured on tasks", hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{str(path)!r} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        found = _parsed(line, f"{str(path)!r}, line {number}")
        if found["prompt"].strip():
            yield Label(found["prompt"], ref, found["correct"], answer=found["answer"])


def confidence_of(model: str, store: Store | None = None) -> Confidence:
    """The confidence that the variant `model` was measured to deserve; the default, which is not calibrated, for what
    is not in the store or was not measured."""
    try:
        card = (store or Store()).get(model).card
    except (ForeshoreError, OSError):
        return Confidence.default()
    if card is None or card.confidence is None or card.confidence.model is None:
        return Confidence.default()
    try:
        return Confidence.from_json(card.confidence.model)
    except (TypeError, ValueError) as error:
        hint = f"measure it again: foreshore models measure {model}"
        raise ModelError(f"the card of {model!r} has no confidence that can be read: {error}", hint=hint) from error


def _parsed(line: str, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
        kinds = {"prompt": str, "correct": bool, "answer": str}
        if all(type(found[name]) is kind for name, kind in kinds.items()):
            return dict(found)
    except (ValueError, KeyError, TypeError):
        pass
    hint = "measure the variant again"
    raise ModelError(f"{where}: not a label", hint=hint)
