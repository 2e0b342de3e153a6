"""Building variants end to end: real conversion, real quantizer in its child process, real store."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from foreshore.edge.gguf import inspect
from foreshore.errors import ModelError, NotFound, SetupError, UsageError
from foreshore.quantize import Progress, build, ftypes
from foreshore.store import Store
from tests.quantize.llama_check import logits
from tests.quantize.processes import alive, child_pids, until
from tests.quantize.tiny_models import bert, decoder

WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256}  # rows that K-quants can cut into blocks


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoder(tmp_path_factory.mktemp("models") / "Tiny Qwen", "Qwen2", dtype=torch.float16, **WIDE)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


class Seen:
    """Collects what a build tells."""

    def __init__(self) -> None:
        self.steps: list[Progress] = []

    def __call__(self, step: Progress) -> None:
        self.steps.append(step)

    def of(self, stage: str) -> list[str]:
        return list(dict.fromkeys(s.what for s in self.steps if s.stage == stage))


def test_variants_are_built_and_reused(folder: Path, store: Store) -> None:
    seen = Seen()
    made = build(folder, ["Q4_K_M", "q8_0", "f16", "q8_0"], store=store, progress=seen)
    assert [m.ref for m in made] == ["tiny-qwen:q4_k_m", "tiny-qwen:q8_0", "tiny-qwen:f16"]
    assert seen.of("convert") == ["tiny-qwen:q4_k_m"], "the base is built once"
    assert [store.verify(m) for m in made] == [(), (), ()]
    q4, _, f16 = made
    assert q4.bits_per_weight < 6 < f16.bits_per_weight
    assert q4.source.kind == "folder"
    assert set(q4.source.files) >= {"config.json", "tokenizer.json", "model.safetensors"}
    assert q4.recipe == {"type": "q4_k_m", "imatrix": None, "requantize": False}
    assert q4.tools["llama_cpp_python"] == version("llama_cpp_python")
    assert (q4.architecture, q4.context_length, q4.parameters) == ("qwen2", 256, f16.parameters)
    for step in seen.steps:
        assert 0 <= step.done <= step.total

    again = Seen()
    assert build(folder, ["q4_k_m", "q8_0", "f16"], store=store, progress=again) == made
    assert again.of("reuse") == [m.ref for m in made]
    assert again.of("quantize") == []

    other = Seen()
    build(folder, ["q6_k"], store=store, progress=other)
    assert other.of("convert") == [], "the f16 variant in the store is the base"
    build(folder, ["q8_0"], store=store, progress=other, force=True)
    assert "tiny-qwen:q8_0" in other.of("ready")


def test_a_quantized_variant_still_answers_like_the_source(folder: Path, store: Store) -> None:
    f16, q8 = build(folder, ["f16", "q8_0"], store=store)
    ids = [5, 17, 200, 42]
    full, quantized = (logits(store.path(m), ids) for m in (f16, q8))
    assert np.corrcoef(full.ravel(), quantized.ravel())[0, 1] > 0.999


def test_a_changed_source_is_built_again(folder: Path, store: Store, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "m"))
    (first,) = build(copy, ["q8_0"], store=store)
    (copy / "generation_config.json").write_text('{"do_sample": false}')
    seen = Seen()
    (second,) = build(copy, ["q8_0"], store=store, progress=seen)
    assert seen.of("ready") == ["m:q8_0"]
    assert first.source.files != second.source.files
    assert inspect(store.path(second)).sampling == {"temp": 0.0}


def test_a_damaged_variant_is_built_again(folder: Path, store: Store) -> None:
    (made,) = build(folder, ["q8_0"], store=store)
    store.path(made).write_bytes(b"GGUF")
    build(folder, ["q8_0"], store=store)
    assert store.verify(store.get(made.ref)) == ()


def test_without_types_the_own_precision_is_kept(folder: Path, store: Store) -> None:
    assert [m.variant for m in build(folder, None, store=store)] == ["f16"]


def test_every_type_that_needs_no_imatrix_can_be_made(folder: Path, store: Store) -> None:
    from foreshore.quantize.ftypes import NEEDS_IMATRIX

    types = [t for t in ftypes() if t not in NEEDS_IMATRIX | {"iq3_xs"}]
    assert [m.variant for m in build(folder, types, store=store)] == types


def test_gguf_sources(folder: Path, store: Store, tmp_path: Path) -> None:
    f16, q8 = build(folder, ["f16", "q8_0"], store=store)
    source = tmp_path / "Some-Model.Q8_0.gguf"
    shutil.copy(store.path(q8), source)
    (same,) = build(source, None, store=store)
    assert same.ref == "some-model:q8_0"
    assert same.files == q8.files
    with pytest.raises(ModelError, match="requantizing"):
        build(source, ["q4_0"], store=store)
    (small,) = build(source, ["q4_0"], store=store, requantize=True)
    assert inspect(store.path(small)).file_type == "q4_0"
    (plain,) = build(store.path(f16), ["q4_0"], "plain", store=store)
    assert plain.source.kind == "gguf"


def test_rows_that_do_not_fit_are_noted(store: Store, tmp_path: Path) -> None:
    source = decoder(tmp_path / "narrow", "Qwen2")  # rows of 64
    (made,) = build(source, ["q4_k_m"], store=store)
    assert any("rows of 64 do not divide by 256" in note for note in made.notes)
    fallen = [note for note in made.notes if "do not divide by" in note]
    assert any(note.startswith(f"{len(fallen)} tensors have another type than q4_k_m") for note in made.notes)


@pytest.mark.parametrize("name", ["starter-s", "starter-l"])
def test_bundled_models_are_built_by_name(name: str, store: Store) -> None:
    (made,) = build(name, ["q4_k_m"], store=store)
    assert (made.ref, made.source.kind, made.source.id) == (f"{name}:q4_k_m", "bundled", name)
    assert made.notes == (), "every row divides into K-quant blocks"
    assert inspect(store.path(made)).chat_template


def test_bert_is_quantized(store: Store, tmp_path: Path) -> None:
    (made,) = build(bert(tmp_path / "bert"), ["q8_0"], store=store)
    assert made.architecture == "bert"


def write_imatrix(path: Path, model: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.kv_data[0].pop("general.architecture")
    writer.add_type("imatrix")
    rng = np.random.default_rng(0)
    for tensor in inspect(model).tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            writer.add_tensor(f"{tensor.name}.in_sum2", rng.random((1, tensor.shape[0]), dtype=np.float32))
            writer.add_tensor(f"{tensor.name}.counts", np.full((1, 1), 8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_importance_matrix_opens_the_smallest_types(folder: Path, store: Store, tmp_path: Path) -> None:
    (f16,) = build(folder, None, store=store)
    imatrix = write_imatrix(tmp_path / "imatrix.gguf", store.path(f16))
    plain, small = build(folder, ["q2_k", "iq2_xs"], store=store, imatrix=imatrix)
    assert small.bits_per_weight < plain.bits_per_weight
    assert small.recipe["imatrix"]
    with pytest.raises(UsageError, match="needs an importance matrix"):
        build(folder, ["iq2_xs"], store=store)
    with pytest.raises(ModelError, match="not an importance matrix"):
        build(folder, ["iq2_xs"], store=store, imatrix=store.path(f16))
    without, with_it = Seen(), Seen()
    build(folder, ["q2_k"], store=store, progress=without)
    build(folder, ["q2_k"], store=store, progress=with_it, imatrix=imatrix)
    assert without.of("ready") == with_it.of("ready") == [plain.ref], "another recipe is another file"


@pytest.mark.parametrize(
    ("types", "said"), [(["q4_k"], "q4_k_m"), ([""], "there are f32"), (["q4_k_m", "guessed"], "there are")]
)
def test_an_unknown_type_names_the_closest(types: list[str], said: str, folder: Path, store: Store) -> None:
    with pytest.raises(UsageError) as caught:
        build(folder, types, store=store)
    assert said in str(caught.value.hint)


def test_bad_sources_are_refused(folder: Path, store: Store, tmp_path: Path) -> None:
    cases: dict[str, tuple[str | Path, type[Exception]]] = {
        "no such file": ("no-such-model", NotFound),
        "config.json": (tmp_path, ModelError),
        "file of weights": (folder / "model.safetensors", ModelError),
        "is not a GGUF file": (folder / "config.json", ModelError),
        "is not a model on the hub": ("hf:name", UsageError),
    }
    for said, (source, kind) in cases.items():
        with pytest.raises(kind, match=said):
            build(source, ["q8_0"], store=store)
    with pytest.raises(UsageError, match="cannot be the name"):
        build(folder, ["q8_0"], "a/b", store=store)
    assert store.list() == ()


def test_a_truncated_gguf_never_reaches_the_native_code(folder: Path, store: Store, tmp_path: Path) -> None:
    (f16,) = build(folder, None, store=store)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(store.path(f16).read_bytes()[:-1000])
    with pytest.raises(ModelError, match="truncated"):
        build(cut, ["q8_0"], store=store)


def test_a_model_that_the_native_code_refuses_is_reported(folder: Path, store: Store, tmp_path: Path) -> None:
    (f16,) = build(folder, None, store=store)
    content = store.path(f16).read_bytes()
    odd = tmp_path / "odd.gguf"
    odd.write_bytes(content.replace(b"qwen2", b"qwenX"))
    with pytest.raises(ModelError, match="qwenX"):
        build(odd, ["q8_0"], store=store)


SCRIPT = """
import sys
from pathlib import Path
from foreshore.errors import ForeshoreError
from foreshore.quantize import build
from foreshore.store import Store
def tell(step):
    print(step.stage, step.done, flush=True)
try:
    build(sys.argv[2], sys.argv[3].split(","), "m", store=Store(Path(sys.argv[1])), progress=tell)
except ForeshoreError as error:
    print(type(error).__name__, error.message)
"""


def start(store: Store, source: Path, types: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(store.root), str(source), types]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def test_two_processes_build_one_variant_once(folder: Path, store: Store) -> None:
    builders = [start(store, folder, "q4_k_m") for _ in range(2)]
    said = [b.communicate(timeout=120)[0] for b in builders]
    ends = sorted(text.split("\n")[-2].split()[0] for text in said)
    assert ends == ["ready", "reuse"], said
    assert store.verify(store.get("m:q4_k_m")) == ()


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_build_leaves_no_variant_and_no_child(blow: int, store: Store, tmp_path: Path) -> None:
    source = decoder(tmp_path / "hf", "Qwen2", vocab_size=24000, **WIDE)  # large enough to be caught at work
    with start(store, source, "iq4_xs", stderr=subprocess.DEVNULL) as builder:
        assert builder.stdout
        until(lambda: builder.stdout.readline().startswith("quantize"))  # type: ignore[union-attr]
        children = child_pids(builder.pid)
        assert children
        builder.send_signal(blow)
        builder.wait(timeout=30)
    until(lambda: not any(alive(pid) for pid in children))
    assert store.list() == ()
    (made,) = build(source, ["iq4_xs"], "m", store=store)
    assert store.verify(made) == ()
    assert [p.name for p in (store.root / ".tmp").iterdir() if p.is_dir()] == []


@pytest.mark.parametrize("limit", [100_000, 1_500_000])  # while converting, while quantizing
def test_a_limit_on_file_sizes_ends_the_build_cleanly(limit: int, folder: Path, store: Store, tmp_path: Path) -> None:
    (f16,) = build(folder, None, "base", store=store)
    source = folder if limit < 1_000_000 else store.path(f16)
    kind = "q8_0" if limit < 1_000_000 else "f32"
    builder = start(store, source, kind, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    said = builder.communicate(timeout=120)[0]
    assert "SetupError" in said
    assert [m.name for m in store.list()] == ["base"]
    assert [p.name for p in (store.root / ".tmp").iterdir() if p.is_dir()] == []


def test_a_home_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "models").touch()  # a file where the store's folder should be
    with pytest.raises(SetupError, match="models"):
        build(folder, ["q8_0"], store=Store(tmp_path / "models"))


def test_a_crash_of_the_native_code_is_survived(
    folder: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = tmp_path / "bin" / "llama_cpp"
    crash.mkdir(parents=True)
    (crash / "__init__.py").touch()
    (crash / "llama_cpp.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGABRT)\n")
    ftypes()  # from the real binding, before the child finds the other one
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(crash.parent), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(SetupError, match="signal 6") as caught:
        build(folder, ["q8_0"], store=store)
    assert "foreshore doctor" in str(caught.value.hint)
    assert store.list() == ()
