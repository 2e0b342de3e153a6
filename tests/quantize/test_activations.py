"""Sums of squares at the evaluation callback, on nodes made up here: strides, stacked matrices and experts."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from foreshore.errors import ModelError
from foreshore.quantize.activations import Activations, Node

MUL_MAT, MUL_MAT_ID = Activations()._product, Activations()._expert_product
I32, F16 = 26, 1


class Graph:
    """Makes nodes, and keeps what they point to."""

    def __init__(self) -> None:
        self.kept: list[object] = []

    def tensor(self, name: str, array: NDArray[np.generic], kind: int = 0) -> Node:
        full = array.reshape((1,) * (4 - array.ndim) + array.shape) if array.ndim < 4 else array
        strides = (*[0] * (4 - array.ndim), *array.strides) if array.ndim < 4 else array.strides
        node = Node(type=kind, data=array.ctypes.data, name=name.encode())
        node.ne[:], node.nb[:] = full.shape[::-1], strides[::-1]
        self.kept += [node, array]
        return node

    def product(self, weight: Node, inputs: Node, chosen: Node | None = None) -> int:
        node = Node(op=MUL_MAT_ID if chosen else MUL_MAT)
        for place, source in enumerate(filter(None, (weight, inputs, chosen))):
            node.src[place] = ctypes.addressof(source)
        self.kept.append(node)
        return ctypes.addressof(node)


@pytest.fixture
def graph() -> Graph:
    return Graph()


def weight(graph: Graph, name: str, *stacked: int, columns: int) -> Node:
    return graph.tensor(name, np.zeros((*stacked, 2, columns), np.float32))


def shown(activations: Activations, *products: int) -> Activations:
    activations.begin()
    for product in products:
        assert activations(product, True, None)
        activations(product, False, None)
    activations.end()
    return activations


@given(st.integers(1, 3), st.integers(1, 3), st.integers(16, 40), st.integers(1, 6), st.integers(1, 3), st.booleans())
def test_stacked_matrices_share_out_the_inputs(
    stacked: int, times: int, rows: int, columns: int, deep: int, padded: bool
) -> None:
    graph, rng = Graph(), np.random.default_rng(rows)
    values = rng.normal(size=(deep, stacked * times, rows, columns + 2)).astype(np.float32)
    values = values[..., :columns] if padded else values[..., :columns].copy()
    product = graph.product(weight(graph, "blk.0.w.weight", deep, stacked, columns=columns), graph.tensor("x", values))
    found = shown(Activations(), product)
    wanted = np.zeros((deep * stacked, columns))
    for i in range(deep):
        for j in range(stacked * times):
            wanted[i * stacked + j % stacked] += (values[i, j].astype(np.float64) ** 2).sum(0)
    np.testing.assert_allclose(found.sums["blk.0.w.weight"], wanted, rtol=1e-5)
    assert found.counts["blk.0.w.weight"].tolist() == [rows * times]


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 30), st.integers(1, 6), st.booleans())
def test_experts_sum_what_they_were_asked(experts: int, used: int, tokens: int, columns: int, own_rows: bool) -> None:
    graph, rng = Graph(), np.random.default_rng(tokens)
    values = rng.normal(size=(tokens, used if own_rows else 1, columns)).astype(np.float32)
    chosen = rng.integers(0, experts, (tokens, experts + used)).astype(np.int32)[:, :used]  # rows lie apart
    product = graph.product(
        weight(graph, "blk.3.up_exps.weight", experts, columns=columns),
        graph.tensor("x", values),
        graph.tensor("ids", chosen, I32),
    )
    found = shown(Activations(), product)
    wanted, counts = np.zeros((experts, columns)), np.zeros(experts, int)
    for token in range(tokens):
        for place in range(used):
            wanted[chosen[token, place]] += values[token, place % values.shape[1]].astype(np.float64) ** 2
            counts[chosen[token, place]] += 1
    np.testing.assert_allclose(found.sums["blk.3.up_exps.weight"], wanted, rtol=1e-5)
    assert found.counts["blk.3.up_exps.weight"].tolist() == counts.tolist()


def test_what_llama_imatrix_passes_over_is_passed_over(graph: Graph) -> None:
    many, few = np.ones((16, 4), np.float32), np.ones((15, 4), np.float32)
    layer, output = weight(graph, "blk.0.w.weight", columns=4), weight(graph, "output.weight", columns=4)
    ask = Activations()
    assert ask(graph.product(layer, graph.tensor("x", many)), True, None)
    assert not ask(graph.product(layer, graph.tensor("x", few)), True, None)
    assert not ask(graph.product(layer, graph.tensor("x", many.astype(np.float16), F16)), True, None)
    assert not ask(graph.product(output, graph.tensor("x", many)), True, None)
    assert not ask(graph.product(weight(graph, "cache_k_l0", columns=4), graph.tensor("x", many)), True, None)
    assert Activations(output=True)(graph.product(output, graph.tensor("x", many)), True, None)
    assert not ask(ctypes.addressof(Node(op=0)), True, None)


def test_a_backends_copy_counts_as_the_weight_and_a_second_pass_adds_up(graph: Graph) -> None:
    product = graph.product(
        weight(graph, "CUDA0#blk.0.w.weight#0", columns=2), graph.tensor("x", np.full((16, 2), 3, np.float32))
    )
    activations = shown(shown(Activations(), product), product)
    assert activations.sums["blk.0.w.weight"].tolist() == [[288.0, 288.0]]
    found = activations.imatrix(context=8, dataset="d")
    assert (found.chunks, found.context, found.datasets) == (4, 8, ("d",))
    assert found.sums["blk.0.w.weight"].dtype == np.float32


def test_computing_ends_after_the_last_product_that_counts(graph: Graph) -> None:
    inputs = graph.tensor("x", np.ones((16, 2), np.float32))
    first, last = (graph.product(weight(graph, f"blk.{n}.w.weight", columns=2), inputs) for n in (0, 1))
    activations = shown(Activations(), first, last)
    activations.begin()
    assert activations(first, False, None)
    assert not activations(last, False, None)
    activations.end()


@pytest.mark.parametrize("odd", [np.nan, np.inf, 1e30])
def test_values_that_are_not_finite_are_named(graph: Graph, odd: float) -> None:
    values = np.ones((16, 4), np.float32)
    values[3, 2] = odd
    with pytest.raises(ModelError, match=r"'blk\.7\.ffn_down\.weight' is not finite"):
        shown(
            Activations(), graph.product(weight(graph, "blk.7.ffn_down.weight", columns=4), graph.tensor("x", values))
        )


def test_a_model_without_products_has_nothing_to_collect() -> None:
    with pytest.raises(ModelError, match="nothing to collect"):
        shown(Activations())
