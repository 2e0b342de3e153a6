"""Damaged and hostile ONNX folders end in an error that says why, in the caller."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from foreshore.disk import sha256
from foreshore.edge import EngineOptions, Runtime
from foreshore.edge.onnx.file import inspect
from foreshore.edge.onnx.folder import is_onnx, model_file, open_folder
from foreshore.errors import ModelError, NotFound
from foreshore.manifest import FileRecord, Manifest, Source
from foreshore.store import Store
from tests.quantize.tiny_models import byte_level, save_tokenizer

CONFIG = {"model_type": "tiny", "vocab_size": 640, "hidden_size": 8, "max_position_embeddings": 64, "eos_token_id": 1}
HEADS, WIDTH = 1, 4


def write(folder: Path, graph: onnx.GraphProto, **model: object) -> Path:
    """A folder as an export writes it, around `graph`."""
    save_tokenizer(byte_level("gpt-2"), folder, eos_token="<|im_end|>")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, **model)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    return folder


def decoder(*nodes: onnx.NodeProto, vocab: int = 640, weight: onnx.TensorProto | None = None) -> onnx.GraphProto:
    """Input and output as of an exported decoder; the logits are a table's rows, the cache grows by zeros."""
    text = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "s"]) for n in ("input_ids", "position_ids")]
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["b", "t"])
    past = [
        helper.make_tensor_value_info(f"past_key_values.0.{k}", TensorProto.FLOAT, ["b", HEADS, "p", WIDTH])
        for k in ("key", "value")
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "s", vocab])
    present = [
        helper.make_tensor_value_info(f"present.0.{k}", TensorProto.FLOAT, ["b", HEADS, "t", WIDTH])
        for k in ("key", "value")
    ]
    table = weight or numpy_helper.from_array(np.zeros((640, vocab), np.float32), "table")
    wide = numpy_helper.from_array(np.array([0, 0, 4], np.int64), "shape")
    body = [
        *nodes,
        helper.make_node("Gather", ["table", "input_ids"], ["logits"]),
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["ids", "last"], ["column"]),
        helper.make_node("Expand", ["column", "size"], ["rows"]),
        helper.make_node("Unsqueeze", ["rows", "head"], ["new"]),
        *(
            helper.make_node("Concat", [f"past_key_values.0.{k}", "new"], [f"present.0.{k}"], axis=2)
            for k in ("key", "value")
        ),
    ]
    numbers = [
        numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in {"last": [2], "head": [1], "size": [1, 1, WIDTH]}.items()
    ]
    return helper.make_graph(body, "tiny", [*text, mask, *past], [logits, *present], [table, wide, *numbers])


def external(location: str) -> onnx.TensorProto:
    tensor = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[640, 640])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def start(folder: Path) -> None:
    with Runtime(folder, options=EngineOptions(threads=1)):
        pass


def test_the_smallest_decoder_runs(tmp_path: Path) -> None:
    with Runtime(write(tmp_path / "model", decoder()), options=EngineOptions(threads=1)) as runtime:
        assert runtime.complete("hello", max_tokens=5, extra={"ignore_eos": True}).usage is not None


def test_weights_in_a_file_beside_are_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", decoder(weight=external("model.onnx_data")))
    with pytest.raises(ModelError, match=r"'model\.onnx_data' are missing"):
        start(folder)
    (folder / "model.onnx_data").write_bytes(bytes(4 * 640 * 640))
    with Runtime(folder, options=EngineOptions(threads=1)) as runtime:
        assert runtime.info is not None
        assert runtime.info.parameters == 640 * 640
        assert runtime.info.size_bytes > 4 * 640 * 640


def test_weights_that_break_off_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", decoder(weight=external("model.onnx_data")))
    (folder / "model.onnx_data").write_bytes(b"short")
    with pytest.raises(ModelError):
        start(folder)


@pytest.mark.parametrize("location", ["../secret", "a/../../secret", "/etc/hostname", "..\\secret", "C:secret", ""])
def test_a_model_that_reads_outside_its_folder_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(4 * 640 * 640))
    with pytest.raises(ModelError, match="outside of its folder"):
        start(write(tmp_path / "model", decoder(weight=external(location))))


def test_so_is_one_that_hides_it_in_a_node(tmp_path: Path) -> None:
    tensor = external("../secret")
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["x"], value=tensor)],
        "inner",
        [],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["condition"], ["unused"], then_branch=inner, else_branch=inner)
    with pytest.raises(ModelError, match="outside of its folder"):
        inspect(write(tmp_path / "model", decoder(node)) / "model.onnx")


def test_operators_that_need_a_library_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Steal", ["input_ids"], ["loot"], domain="evil.example")
    with pytest.raises(ModelError, match="cannot load"):
        start(write(tmp_path / "model", decoder(node)))


def test_a_graph_with_other_inputs_is_refused(tmp_path: Path) -> None:
    graph = decoder()
    graph.input.append(helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["b", 3]))
    with pytest.raises(ModelError, match="no decoder with a cache"):
        start(write(tmp_path / "model", graph))


def test_a_graph_that_fails_when_it_runs_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Reshape", ["attention_mask", "shape"], ["odd"])
    graph = decoder(node)
    graph.output.append(helper.make_tensor_value_info("odd", TensorProto.INT64, None))
    with pytest.raises(ModelError, match="cannot be computed"):
        start(write(tmp_path / "model", graph))


def test_a_graph_that_never_ends_is_stopped(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["still"]),
            helper.make_node("Add", ["sum", "sum"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.INT64, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.INT64, None),
        ],
    )
    graph = decoder(helper.make_node("Loop", ["", "true", "position_ids"], ["endless"], body=body))
    graph.initializer.append(numpy_helper.from_array(np.array(True), "true"))
    graph.output.append(helper.make_tensor_value_info("endless", TensorProto.INT64, None))
    folder = write(tmp_path / "model", graph)
    with (
        pytest.raises(ModelError, match="stopped"),
        Runtime(folder, options=EngineOptions(threads=1, step_limit_s=0.5)),
    ):
        pass


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="vocabulary 100"):
        start(write(tmp_path / "model", decoder(vocab=100)))


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00" * 4096, b"\x3a\xff\xff\xff\xff\x0f", b"GGUF" * 99])
def test_bytes_that_are_no_model_are_refused(content: bytes, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", decoder())
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="no ONNX model"):
        start(folder)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_is_more_than_an_error(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = helper.make_model(decoder()).SerializeToString()
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(
        st.sampled_from([whole[:at], whole[:at] + b"\xff" * 9 + whole[at + 9 :], whole[at:] + whole[:at]])
    )
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    path.write_bytes(damaged)
    with suppress(ModelError):  # any other error fails the test
        assert inspect(path).size_bytes == len(damaged)


def corrupt(name: str, content: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(content)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (corrupt("config.json", "{"), "config.json is no JSON"),
        (corrupt("config.json", "[1]"), "config.json holds no JSON object"),
        (corrupt("config.json", "{}"), "names no max_position_embeddings"),
        (corrupt("config.json", "[" * 100_000), "config.json is no JSON"),
        (corrupt("tokenizer.json", "{}"), "tokenizer.json is damaged"),
        (corrupt("tokenizer_config.json", "\x00"), "tokenizer_config.json is no JSON"),
        (corrupt("chat_template.jinja", "{% if %}"), "chat template is damaged"),
    ],
)
def test_damage_beside_the_model_is_named(change: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", decoder())
    change(folder)
    with pytest.raises(ModelError, match=reason):
        start(folder)


def test_weights_are_counted_by_what_they_unpack_to(tmp_path: Path) -> None:
    packed = numpy_helper.from_array(np.zeros((16, 2, 16), np.uint8), "packed")
    scale = numpy_helper.from_array(np.zeros(32, np.float32), "scale")
    node = helper.make_node("MatMulNBits", ["x", "packed", "scale"], ["y"], domain="com.microsoft", bits=4)
    path = tmp_path / "model.onnx"
    path.write_bytes(
        helper.make_model(helper.make_graph([node], "packed", [], [], [packed, scale])).SerializeToString()
    )
    found = inspect(path)
    assert found.parameters == 2 * 512 + 32
    assert found.weights == "int4"


def test_what_counts_as_a_path_to_an_onnx_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "model", decoder())
    (folder / "other.onnx").write_bytes((folder / "model.onnx").read_bytes())
    (tmp_path / "starter-s").mkdir()
    monkeypatch.chdir(tmp_path)
    assert [is_onnx(name) for name in ("model", "./model", str(folder), "model/other.onnx")] == [True] * 4
    assert [is_onnx(name) for name in ("starter-s", "starter-s:q4_k_m", "model.gguf", "./none")] == [False] * 4
    assert model_file("model") == folder / "model.onnx"
    assert open_folder(folder / "other.onnx").name == "model/other"
    (folder / "other.onnx").rename(tmp_path / "starter-s" / "model_quantized.onnx")
    assert model_file("./starter-s") == tmp_path / "starter-s" / "model_quantized.onnx"
    (tmp_path / "starter-s" / "model_quantized.onnx").rename(tmp_path / "away")
    with pytest.raises(ModelError, match=r"holds no model\.onnx"):
        model_file("./starter-s")
    with pytest.raises(NotFound):
        open_folder(folder / "other.onnx")


def test_a_repository_that_keeps_exports_in_a_folder_of_their_own_is_understood(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", decoder())
    (folder / "onnx").mkdir()
    (folder / "model.onnx").rename(folder / "onnx" / "model_int8.onnx")
    found = open_folder(folder / "onnx" / "model_int8.onnx")
    assert found.home == folder
    start(folder / "onnx" / "model_int8.onnx")


def test_a_variant_in_the_store_may_be_an_onnx_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHORE_HOME", str(tmp_path / "home"))
    store = Store()
    with store.draft() as files:
        write(files, decoder())
        names = ["model.onnx", *sorted(p.name for p in files.iterdir() if p.name != "model.onnx")]
        records = {n: FileRecord(sha256=sha256(files / n), bytes=(files / n).stat().st_size) for n in names}
        manifest = Manifest(
            name="tiny",
            variant="onnx",
            created="2026-11-21T00:00:00Z",
            source=Source(kind="folder", id="tiny"),
            files=records,
            recipe={"type": "onnx"},
            tools={},
            architecture="tiny",
            parameters=1,
            bits_per_weight=32,
            context_length=64,
            seconds=0.0,
        )
        with store.lock("tiny", "onnx"):
            store.add(manifest, files)
    with Runtime("tiny:onnx", options=EngineOptions(threads=1)) as runtime:
        assert runtime.complete("hello", max_tokens=3, extra={"ignore_eos": True}).finish_reason == "length"


def test_without_the_extra_a_hint_names_it(tmp_path: Path) -> None:
    """In a process where the import fails, as it does where the extra is not installed."""
    folder = write(tmp_path / "model", decoder())
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from pathlib import Path\n"
        "from foreshore.edge.loader import load\n"
        "from foreshore.edge.options import EngineOptions\n"
        "from foreshore.errors import SetupError\n"
        f"try: load(Path({str(folder / 'model.onnx')!r}), EngineOptions())\n"
        "except SetupError as error: print(error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "pip install 'foreshore[onnx]'", done.stderr


def test_a_gguf_models_worker_loads_no_onnx_runtime(tiny: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from foreshore.edge.loader import load\n"
        "from foreshore.edge.options import EngineOptions\n"
        f"load(Path({str(tiny)!r}), EngineOptions(threads=1))\n"
        "print(sorted({'onnxruntime', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
