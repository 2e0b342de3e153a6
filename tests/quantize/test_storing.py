"""What a build makes, kept in the store: reused where it would come out the same, whole or not there."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from foreshore.errors import ModelError
from foreshore.manifest import Calibration, Parent, Source
from foreshore.quantize.progress import Progress
from foreshore.quantize.storing import Facts, Storing
from foreshore.store import Store

SOURCE = Source(kind="folder", id="/models/tiny", files={"config.json": "ab" * 32})
SETTINGS = {"type": "q8_0", "imatrix": None}


class Fill:
    """Writes two files and counts how often it had to."""

    def __init__(self, found: Mapping[str, Any] | None = None) -> None:
        self.calls: list[str] = []
        self.found = found or {}

    def __call__(self, files: Path, ref: str) -> Facts:
        self.calls.append(ref)
        (files / "a.json").write_text("{}")
        (files / "model.gguf").write_bytes(b"weights")
        return Facts(
            main="model.gguf",
            architecture="qwen2",
            parameters=7,
            bits_per_weight=8.123456,
            context_length=512,
            notes=("a note",),
            found=self.found,
            parent=Parent(sha256="cd" * 32),
            calibration=Calibration(text_sha256="ef" * 32),
        )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def storing(store: Store, **changed: Any) -> Storing:
    usual = {"source": SOURCE, "tools": {"foreshore": "1"}, "force": False, "progress": lambda step: None}
    return Storing(store=store, name="tiny", **{**usual, **changed})


def test_the_manifest_says_what_was_made(store: Store) -> None:
    made = storing(store).variant("q8_0", SETTINGS, Fill({"tensors": {"a": "q4_k"}}))
    assert store.get("tiny:q8_0") == made
    assert [*made.files] == ["model.gguf", "a.json"], "the one that an engine opens comes first"
    assert made.main == "model.gguf"
    assert made.files["model.gguf"].bytes == 7
    assert made.recipe == {**SETTINGS, "tensors": {"a": "q4_k"}}
    assert (made.source, made.tools) == (SOURCE, {"foreshore": "1"})
    assert (made.architecture, made.parameters, made.bits_per_weight) == ("qwen2", 7, 8.1235)
    assert (made.notes, made.context_length) == (("a note",), 512)
    assert made.parent == Parent(sha256="cd" * 32)
    assert made.calibration == Calibration(text_sha256="ef" * 32)
    assert store.verify(made) == ()


def test_what_would_come_out_the_same_is_reused(store: Store) -> None:
    fill, seen = Fill({"tensors": {"a": "q4_k"}}), []

    def tell(step: Progress) -> None:
        seen.append((step.stage, step.what))

    made = storing(store).variant("q8_0", SETTINGS, fill)
    assert storing(store, progress=tell).variant("q8_0", SETTINGS, fill) == made
    assert fill.calls == ["tiny:q8_0"]
    assert seen == [("reuse", "tiny:q8_0")]
    seen.clear()
    storing(store, progress=tell, force=True).variant("q8_0", SETTINGS, fill)
    assert seen == [("ready", "tiny:q8_0")]
    assert len(fill.calls) == 2


def test_what_would_come_out_otherwise_is_made_again(store: Store) -> None:
    storing(store).variant("q8_0", SETTINGS, Fill())
    other = Source(kind="folder", id="/models/tiny", files={"config.json": "ba" * 32})
    for changed, settings in (
        ({}, {**SETTINGS, "imatrix": "auto"}),
        ({"source": other}, SETTINGS),
        ({"tools": {"foreshore": "2"}}, SETTINGS),
    ):
        assert storing(store, **changed).reusable("q8_0", settings) is None
    assert storing(store).reusable("q4_0", SETTINGS) is None
    (store.folder(store.get("tiny:q8_0")) / "a.json").write_text("damaged")
    assert storing(store).reusable("q8_0", SETTINGS) is None


def test_a_failure_leaves_what_was_there(store: Store) -> None:
    made = storing(store).variant("q8_0", SETTINGS, Fill())

    def fail(files: Path, ref: str) -> Facts:
        (files / "half").touch()
        raise ModelError("no such luck")

    with pytest.raises(ModelError, match="luck"):
        storing(store, force=True).variant("q8_0", SETTINGS, fail)
    assert store.get("tiny:q8_0") == made
    assert [p for p in (store.root / ".tmp").iterdir() if p.is_dir()] == []


def test_of_two_builders_one_makes_it(store: Store) -> None:
    fill, made = Fill(), []
    threads = [
        threading.Thread(target=lambda: made.append(storing(store).variant("q8_0", SETTINGS, fill))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fill.calls == ["tiny:q8_0"]
    assert made == [made[0]] * 4
