"""Models from a hub, over real HTTP against a server on loopback that speaks its API."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from foreshore.errors import ModelError, NotFound, SetupError, Unauthorized, UsageError
from foreshore.quantize import Progress, build
from foreshore.quantize.hub import HubRef
from foreshore.store import Store
from tests.quantize.hub_server import COMMIT, Hub, hub_server
from tests.quantize.tiny_models import decoder

UNWANTED = ("pytorch_model.bin", "README.md", "onnx/model.onnx", "consolidated.safetensors")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    folder = decoder(root / "tiny", "Qwen2", shard="200KB")
    (folder / "tokenizer.model").write_bytes(b"wanted where there is no tokenizer.json")
    for extra in UNWANTED:
        (folder / extra).parent.mkdir(exist_ok=True)
        (folder / extra).write_bytes(b"not wanted")
    pickled = Path(shutil.copytree(folder, root / "pickled"))
    for path in pickled.glob("*.safetensors*"):
        path.unlink()
    ggufs = root / "ggufs"
    ggufs.mkdir()
    (made,) = build(folder, ["q8_0"], store=Store(root / "store"))
    shutil.copy(Store(root / "store").path(made), ggufs / "Tiny-Q8_0.gguf")
    with hub_server() as hub:
        hub.repos = {"org/Tiny": folder, "org/Pickled": pickled, "org/Tiny-GGUF": ggufs}
        hub.gated = {"org/Gated"}
        yield hub


@pytest.fixture
def hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))  # read at import
    server.served.clear()
    return server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def test_a_model_is_fetched_once_and_recorded_with_its_commit(hub: Hub, store: Store) -> None:
    steps: list[Progress] = []
    (made,) = build("hf:org/Tiny", ["q8_0"], store=store, progress=steps.append)
    assert made.ref == "tiny:q8_0"
    assert (made.source.kind, made.source.id, made.source.revision) == ("hub", "org/Tiny", COMMIT)
    assert "model.safetensors.index.json" in hub.served
    assert "tokenizer.model" in hub.served
    assert not set(UNWANTED) & set(hub.served)
    last = [s for s in steps if s.stage == "download"][-1]
    assert last.done == last.total > 0
    hub.served.clear()
    assert build("hf:org/Tiny@main", ["q8_0"], store=store) == [made]
    assert hub.served == []


def test_a_gguf_file_is_fetched_as_it_is(hub: Hub, store: Store) -> None:
    (made,) = build("hf:org/Tiny-GGUF/Tiny-Q8_0.gguf", None, store=store)
    assert (made.ref, made.source.id) == ("tiny:q8_0", "org/Tiny-GGUF/Tiny-Q8_0.gguf")
    assert hub.served == ["Tiny-Q8_0.gguf"]
    assert store.path(made).read_bytes() == (hub.repos["org/Tiny-GGUF"] / "Tiny-Q8_0.gguf").read_bytes()


@pytest.mark.parametrize(
    ("source", "kind", "said"),
    [
        ("hf:org/Absent", NotFound, "org/Absent"),
        ("hf:org/Tiny@v9", NotFound, "v9"),
        ("hf:org/Gated", Unauthorized, "gated"),
        ("hf:org/Pickled", ModelError, "pickles"),
        ("hf:org/Tiny-GGUF", ModelError, "GGUF files"),
        ("hf:org/Tiny-GGUF/other.gguf", NotFound, "other.gguf"),
        ("hf:org", UsageError, "not a model on the hub"),
        ("hf:../..", UsageError, "name on the hub"),
    ],
)
def test_what_cannot_be_fetched_is_said(source: str, kind: type[Exception], said: str, hub: Hub, store: Store) -> None:
    with pytest.raises(kind, match=said):
        build(source, ["q8_0"], store=store)


def test_a_hub_out_of_reach_is_said(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SetupError, match=r"fetching 'org/Tiny' failed: .*refused$"):
        build("hf:org/Tiny", ["q8_0"], store=store)


def test_refs_are_parsed() -> None:
    assert HubRef.parse("hf:a/b") == HubRef(repo="a/b", file=None, revision=None)
    assert HubRef.parse("hf:a/b/c/d.gguf@refs/pr/1") == HubRef(repo="a/b", file="c/d.gguf", revision="refs/pr/1")
