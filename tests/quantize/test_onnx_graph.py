"""Changes to graphs that no library makes: poolings, and tables of embeddings in 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from foreshore.edge.onnx.file import inspect
from foreshore.errors import ModelError
from foreshore.quantize.onnx.graph import DATA, load, pool, quantize_embeddings, save

ROWS, WIDTH = 300, 64
IDS = np.array([[5, 0, 299, 7], [1, 2, 3, 9]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])


def table(width: int = WIDTH) -> NDArray[np.float32]:
    found = np.random.default_rng(0).normal(size=(ROWS, width)).astype(np.float32)
    found[1] = 0  # a block of nothing
    found[2] = 3  # one without zero between its ends
    return found


def lookup(width: int = WIDTH, *, read_twice: bool = False) -> Any:
    """A graph that looks tokens up, and with `read_twice` reads the table by another operator too."""
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"], name="look")]
    outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch_size", "n", width])]
    if read_twice:
        nodes.append(helper.make_node("ReduceSum", ["table"], ["total"], keepdims=0))
        outputs.append(helper.make_tensor_value_info("total", TensorProto.FLOAT, []))
    names = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch_size", "n"]) for n in names]
    graph = helper.make_graph(nodes, "lookup", inputs, outputs, [numpy_helper.from_array(table(width), "table")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: Any, output: str) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run([output], {"input_ids": IDS, "attention_mask": MASK})[0]
    return found


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("pooling_mode_cls_token", [table()[5], table()[1]]),
        ("pooling_mode_lasttoken", [table()[7], table()[2]]),
        ("pooling_mode_max_tokens", [table()[IDS[0]].max(0), table()[[1, 2]].max(0)]),
    ],
)
def test_poolings_become_part_of_the_graph(mode: str, wanted: list[NDArray[np.float32]]) -> None:
    pooled = pool(lookup(), mode)
    onnx.checker.check_model(pooled, full_check=True)
    assert np.array_equal(run(pooled, "sentence_embedding"), np.array(wanted))


def test_a_graph_without_vectors_of_tokens_is_not_pooled() -> None:
    model = lookup()
    model.graph.output[0].name = "logits"
    with pytest.raises(ModelError, match="logits"):
        pool(model, "pooling_mode_cls_token")


def test_embeddings_are_rounded_within_half_a_step(tmp_path: Path) -> None:
    model = lookup()
    assert quantize_embeddings(model) == ()
    blocks = table().reshape(ROWS, -1, 32)
    step = (np.maximum(blocks.max(2), 0) - np.minimum(blocks.min(2), 0)) / 255
    error = np.abs(run(model, "last_hidden_state") - table()[IDS]).reshape(*IDS.shape, -1, 32).max(3)
    assert (error <= step[IDS] * 1.01).all(), "a half for the number, a half for the zero point"
    save(model, tmp_path / "model.onnx")
    found = inspect(tmp_path / "model.onnx")
    assert found.weights == "int8"
    assert found.size_bytes < table().nbytes * 0.32


def test_tables_that_do_not_fit_stay_as_they_are() -> None:
    narrow = lookup(40)
    assert quantize_embeddings(narrow) == ("table stays float32: its rows of 40 do not divide by 32",)
    shared = lookup(read_twice=True)
    assert quantize_embeddings(shared) == ()
    for model in (narrow, shared):
        assert [t.data_type for t in model.graph.initializer] == [TensorProto.FLOAT]


def test_a_large_graph_has_its_weights_in_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foreshore.quantize.onnx.graph.LARGEST", 1000)
    path = tmp_path / "model.onnx"
    save(lookup(), path)
    assert (tmp_path / DATA).stat().st_size >= table().nbytes
    assert np.array_equal(run(load(path), "last_hidden_state"), table()[IDS])
    monkeypatch.undo()
    save(load(path), path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"], "the second file is no longer needed"
