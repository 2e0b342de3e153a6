"""Building ONNX variants end to end: real export, real quantizers in their child process, real store."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
from safetensors.numpy import load_file, save_file

from foreshore.edge import EngineOptions, Runtime
from foreshore.edge.onnx.file import inspect
from foreshore.errors import ModelError, NotFound, SetupError, UsageError
from foreshore.manifest import Manifest, Parent
from foreshore.quantize.onnx.builder import build_onnx
from foreshore.quantize.onnx.types import ONNX_TYPES, is_onnx_type
from foreshore.quantize.progress import Progress
from foreshore.quantize.texts import Corpus
from foreshore.store import Store
from tests.quantize.processes import alive, child_pids, until
from tests.quantize.tiny_models import CORPUS, decoder

# onnxruntime's 4-bit quantizer imports onnx_ir, which its wheel does not ask for.
BLOCKS = [t for t in ONNX_TYPES if "int4" in t] if find_spec("onnx_ir") else []

TEXTS = Corpus.of(CORPUS[:4])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoder(tmp_path_factory.mktemp("hf") / "tiny", "Qwen2")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store") / "models")


@pytest.fixture(scope="module")
def made(folder: Path, store: Store) -> dict[str, Manifest]:
    """One variant of each type, by type."""
    types = ["onnx-f32", "onnx-f16", "ONNX-int8", *BLOCKS]
    return {m.variant: m for m in build_onnx(folder, types, store=store, calibration=TEXTS)}


class Seen:
    """Collects what a build tells."""

    def __init__(self) -> None:
        self.steps: list[Progress] = []

    def __call__(self, step: Progress) -> None:
        self.steps.append(step)

    def of(self, stage: str) -> list[str]:
        return list(dict.fromkeys(s.what for s in self.steps if s.stage == stage))


def test_every_type_is_stored_whole_and_says_what_it_is(made: dict[str, Manifest], store: Store) -> None:
    assert [*made] == ["onnx-f32", "onnx-f16", "onnx-int8", *BLOCKS]
    for kind, manifest in made.items():
        assert store.verify(manifest) == ()
        assert manifest.main == "model.onnx"
        assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= {*manifest.files}
        assert (manifest.ref, manifest.recipe["type"]) == (f"tiny:{kind}", kind)
        assert (manifest.architecture, manifest.context_length) == ("qwen2", 256)
        assert {"onnxruntime", "optimum-onnx", "torch"} <= {*manifest.tools}
        assert manifest.tools["onnxruntime"]
    f32, f16, int8 = (made[f"onnx-{kind}"] for kind in ("f32", "f16", "int8"))
    assert {m.parent for m in made.values()} == {Parent(sha256=f32.files["model.onnx"].sha256, ref="tiny:onnx-f32")}
    read = {kind: m.calibration.text_sha256 for kind, m in made.items() if m.calibration is not None}
    assert read == ({"onnx-int4-gptq": TEXTS.sha256} if BLOCKS else {})
    assert f32.bits_per_weight > 32
    assert f16.bits_per_weight < 0.7 * f32.bits_per_weight
    assert int8.bits_per_weight < f16.bits_per_weight
    weights = {kind: inspect(store.path(m)).weights for kind, m in made.items()}
    assert [weights[f"onnx-{kind}"] for kind in ("f32", "f16", "int8")] == ["fp32", "fp16", "int8"]


def test_products_and_tables_are_quantized_by_the_operators_meant(made: dict[str, Manifest], store: Store) -> None:
    wanted = {"onnx-int8": {"MatMulInteger", "GatherBlockQuantized"}}
    wanted |= {kind: {"MatMulNBits", "GatherBlockQuantized"} for kind in BLOCKS}
    for kind, operators in wanted.items():
        nodes = onnx.load(store.path(made[kind])).graph.node
        assert operators <= {n.op_type for n in nodes}, kind
        # The products down from 96, three blocks a column, are what two of the tools cannot write.
        odd = [note for note in made[kind].notes if "down_proj" in note and "rounded to nearest" in note]
        assert len(odd) == len(made[kind].notes) == (2 if kind in ("onnx-int4-kquant", "onnx-int4-gptq") else 0)


@pytest.mark.parametrize("kind", ["onnx-f32", "onnx-int8"])
def test_a_stored_variant_runs_by_its_name(kind: str, made: dict[str, Manifest], store: Store) -> None:
    with Runtime(store.resolve(made[kind].ref).path, options=EngineOptions(threads=1)) as runtime:
        assert runtime.info is not None
        assert runtime.info.chat
        usage = runtime.complete("The quick brown fox", max_tokens=3, temperature=0).usage
        assert usage
        assert usage.completion_tokens > 0


def test_what_is_up_to_date_is_reused(made: dict[str, Manifest], folder: Path, store: Store) -> None:
    seen = Seen()
    assert build_onnx(folder, ["onnx-int8", "onnx-f32"], store=store, progress=seen) == [
        made["onnx-int8"], made["onnx-f32"]
    ]  # fmt: skip
    assert seen.of("reuse") == ["tiny:onnx-int8", "tiny:onnx-f32"]
    assert seen.of("convert") == []


def test_the_parent_that_was_not_kept_comes_out_the_same_again(
    made: dict[str, Manifest], folder: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path / "models")
    (int8,) = build_onnx(folder, ["onnx-int8"], store=store)
    assert [m.variant for m in store.list()] == ["onnx-int8"]
    assert int8.parent == made["onnx-int8"].parent
    assert int8.files == made["onnx-int8"].files


def test_a_damaged_variant_is_built_again(made: dict[str, Manifest], folder: Path, store: Store) -> None:
    (store.folder(made["onnx-int8"]) / "config.json").write_text("{}")
    seen = Seen()
    (again,) = build_onnx(folder, ["onnx-int8"], store=store, progress=seen)
    assert seen.of("ready") == ["tiny:onnx-int8"]
    assert seen.of("convert") == [], "the float32 variant in the store is the base"
    assert again.files == made["onnx-int8"].files
    assert store.verify(again) == ()


SCRIPT = """
import sys
from pathlib import Path
from foreshore.errors import ForeshoreError
from foreshore.quantize.onnx.builder import build_onnx
from foreshore.quantize.texts import Corpus
from foreshore.store import Store
def tell(step):
    print(step.stage, step.done, flush=True)
try:
    build_onnx(sys.argv[2], ["onnx-int8"], "tiny", store=Store(Path(sys.argv[1])), progress=tell, force="force" in sys.argv)
except ForeshoreError as error:
    print(type(error).__name__, error.message)
"""  # noqa: E501


def start(store: Store, source: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(store.root), str(source), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def test_two_processes_build_one_variant_once(made: dict[str, Manifest], folder: Path, store: Store) -> None:
    store.remove(made["onnx-int8"].ref)
    builders = [start(store, folder) for _ in range(2)]
    said = [b.communicate(timeout=120)[0] for b in builders]
    assert sorted(text.split("\n")[-2].split()[0] for text in said) == ["ready", "reuse"], said
    assert store.verify(store.get("tiny:onnx-int8")) == ()


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_build_leaves_no_variant_and_no_child(blow: int, folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    with start(store, folder, stderr=subprocess.DEVNULL) as builder:
        assert builder.stdout
        until(lambda: builder.stdout.readline().startswith("convert"))  # type: ignore[union-attr]
        children = child_pids(builder.pid)
        assert children
        builder.send_signal(blow)
        builder.wait(timeout=30)
    until(lambda: not any(alive(pid) for pid in children))
    assert store.list() == ()
    store.sweep()
    assert [p.name for p in (store.root / ".tmp").iterdir() if p.is_dir()] == []


def test_a_limit_on_file_sizes_ends_the_build_cleanly(made: dict[str, Manifest], folder: Path, store: Store) -> None:
    before = store.get("tiny:onnx-int8")
    limit = (150_000, 150_000)
    builder = start(store, folder, "force", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    said = builder.communicate(timeout=120)[0]
    assert "SetupError" in said
    assert store.get("tiny:onnx-int8") == before
    assert [p.name for p in (store.root / ".tmp").iterdir() if p.is_dir()] == []


def test_an_unknown_type_names_the_closest(folder: Path, store: Store) -> None:
    with pytest.raises(UsageError) as caught:
        build_onnx(folder, ["onnx-int4-kquants"], store=store)
    assert "onnx-int4-kquant" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no ONNX type"):
        build_onnx(folder, [" "], store=store)
    assert [is_onnx_type(t) for t in ("ONNX-int8", "onnx", "q4_k_m")] == [True, True, False]


def edited(folder: Path, target: Path, **config: Any) -> Path:
    """A copy of a model with another configuration."""
    shutil.copytree(folder, target)
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return target


def test_bad_sources_are_refused_before_anything_is_exported(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    (tmp_path / "empty").mkdir()
    plain = edited(folder, tmp_path / "plain")
    (plain / "tokenizer.json").unlink()
    cut = edited(folder, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    gguf = tmp_path / "m.gguf"
    gguf.touch()
    cases: dict[str, tuple[str | Path, type[Exception]]] = {
        "no such file": ("no-such-model", NotFound),
        "config.json": (tmp_path / "empty", ModelError),
        "no tokenizer": (plain, ModelError),
        "truncated": (cut, ModelError),
        "no Hugging Face folder": (gguf, UsageError),
        "encoder with a decoder": (edited(folder, tmp_path / "both", is_encoder_decoder=True), ModelError),
        "architectures": (edited(folder, tmp_path / "none", architectures=None), ModelError),
    }
    for said, (source, kind) in cases.items():
        with pytest.raises(kind, match=said):
            build_onnx(source, ["onnx-f32"], store=store)
    with pytest.raises(UsageError, match="cannot be the name"):
        build_onnx(folder, ["onnx-f32"], "a/b", store=store)
    assert store.list() == ()


def test_weights_that_are_no_numbers_are_named(folder: Path, tmp_path: Path) -> None:
    source, store = edited(folder, tmp_path / "nan"), Store(tmp_path / "models")
    weights = load_file(source / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        build_onnx(source, ["onnx-f32"], store=store)
    assert store.list() == ()


def test_an_architecture_that_optimum_does_not_know_is_refused(folder: Path, tmp_path: Path) -> None:
    source = edited(folder, tmp_path / "odd", model_type="rwkv", architectures=["RwkvForCausalLM"])
    with pytest.raises(ModelError, match="optimum cannot export this 'rwkv' model"):
        build_onnx(source, ["onnx-f32"], store=Store(tmp_path / "models"))


def test_missing_tools_name_the_extra(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "bin" / "optimum"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('no optimum here')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(broken.parent), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(SetupError, match="no optimum here") as caught:
        build_onnx(folder, ["onnx-f32"], store=Store(tmp_path / "models"))
    assert "onnx-export" in str(caught.value.hint)


def test_a_crash_of_native_code_is_survived(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = tmp_path / "bin" / "optimum"
    crash.mkdir(parents=True)
    (crash / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGABRT)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(crash.parent), os.environ.get("PYTHONPATH", "")]))
    store = Store(tmp_path / "models")
    with pytest.raises(SetupError, match="signal 6"):
        build_onnx(folder, ["onnx-f32"], store=store)
    assert store.list() == ()
