"""What goes into a model's weights while it computes: sums of squares, taken at llama.cpp's evaluation callback."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshore.errors import ModelError, SetupError
from foreshore.quantize.blocks import TensorStruct, check_layout, library
from foreshore.quantize.imatrix import Imatrix

__all__ = ["Activations", "Node", "operations", "weight_name"]

F32 = 0  # ggml_type
FEWEST_ROWS = 16  # of a matrix product: llama-imatrix looks at none with fewer
LAYERS, OUTPUTS = "blk.", ("output.weight", "token_embd.weight")


class Node(TensorStruct):
    """What a tensor of the graph is computed from, and its values."""

    def source(self, place: int) -> Node:
        return Node.from_address(self.src[place])

    def array(self, kind: type[np.generic]) -> NDArray[Any]:
        """The values where they lie, (ne3, ne2, ne1, ne0)."""
        span = sum((n - 1) * stride for n, stride in zip(self.ne, self.nb, strict=True)) + np.dtype(kind).itemsize
        memory = (ctypes.c_char * span).from_address(self.data)
        return np.ndarray(tuple(self.ne)[::-1], kind, memory, strides=tuple(self.nb)[::-1])


class Activations:
    """Is called by llama.cpp for each node of the graph, first to be asked whether it wants to see its values.

    Frame each computation in `begin` and `end`. `output`: the product that makes the logits counts too.
    """

    fewest_rows = FEWEST_ROWS

    def __init__(self, *, output: bool = False) -> None:
        self.output = output
        self.sums: dict[str, NDArray[np.float64]] = {}  # (matrices, columns)
        self.counts: dict[str, NDArray[np.int64]] = {}  # (experts,) or (1,)
        numbers = operations()
        self._product, self._expert_product = numbers["MUL_MAT"], numbers["MUL_MAT_ID"]
        self._failure: BaseException | None = None
        self._seen: list[str] = []
        self._passed: list[str] = []  # what the first computation showed, in its order
        self._shared: tuple[int, NDArray[np.float32]] | None = None  # the last input's address and squares

    def __call__(self, address: int, ask: bool, user_data: Any) -> bool:
        try:
            node = Node.from_address(address)
            return self._wants(node) if ask else self._take(node)
        except BaseException as error:  # nothing may be raised through C
            self._failure = error
            return False

    def begin(self) -> None:
        self._seen, self._shared = [], None

    def end(self) -> None:
        if self._failure:
            raise self._failure
        if not self._seen:
            raise ModelError("the model multiplies by no weight of its layers, so there is nothing to collect")
        self._passed = self._passed or self._seen
        if self._seen != self._passed:
            raise SetupError(f"the engine computed {len(self._seen)} weights' products, not {len(self._passed)}")

    def imatrix(self, *, context: int, dataset: str) -> Imatrix:
        counts = self.counts
        return Imatrix(
            sums={name: rows.reshape(len(counts[name]), -1).astype(np.float32) for name, rows in self.sums.items()},
            counts=counts,
            chunks=max(int(count.max()) for count in counts.values()) // context,
            context=context,
            datasets=(dataset,),
        )

    def _wants(self, node: Node) -> bool:
        if node.op == self._expert_product:
            return True
        if node.op != self._product:
            return False
        weight, inputs = node.source(0), node.source(1)
        if inputs.ne[1] < self.fewest_rows or inputs.type != F32:
            return False
        name = weight_name(weight)
        return name.startswith(LAYERS) or (self.output and name in OUTPUTS)

    def _take(self, node: Node) -> bool:
        """Returns whether to compute on: after the last product that counts, nothing more is worth it."""
        weight, inputs = node.source(0), node.source(1)
        name = weight_name(weight)
        if node.op == self._expert_product:
            sums, counts = self._experts(node, inputs.array(np.float32)[0], weight.ne[2])
        else:
            sums, counts = self._matrices(weight, inputs)
        if not np.isfinite(sums).all():
            raise ModelError(
                f"what goes into {name!r} is not finite", hint="the weights before it hold NaN or Inf, or are damaged"
            )
        self.sums[name] = self.sums.get(name, 0) + sums.astype(np.float64)
        self.counts[name] = self.counts.get(name, 0) + counts
        self._seen.append(name)
        return self._seen != self._passed

    def _matrices(self, weight: Node, inputs: Node) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        stacked, deep = weight.ne[2], weight.ne[3]
        squares = self._squares(inputs)
        sums = np.zeros((stacked * deep, inputs.ne[0]), np.float32)
        outer, inner = np.indices(squares.shape[:2])
        np.add.at(sums, outer % deep * stacked + inner % stacked, squares)
        return sums, np.array([inputs.ne[1] * inputs.ne[2] * inputs.ne[3] // (stacked * deep)])

    def _squares(self, inputs: Node) -> NDArray[np.float32]:
        """Sums of squares over the rows, (ne3, ne2, ne0). Query, key and value share an input: it is summed once."""
        address = ctypes.addressof(inputs)
        if self._shared is None or self._shared[0] != address:
            values = inputs.array(np.float32)
            self._shared = address, np.einsum("abij,abij->abj", values, values)
        return self._shared[1]

    @staticmethod
    def _experts(
        node: Node, inputs: NDArray[np.float32], experts: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """`inputs` (tokens, 1 or experts used, columns); the chosen experts are (tokens, experts used)."""
        chosen = node.source(2).array(np.int32)[0, 0]
        tokens, rows, columns = inputs.shape
        token, used = np.indices(chosen.shape)
        times = np.zeros((experts, tokens * rows), np.float32)  # how often each expert reads each row
        np.add.at(times, (chosen, token * rows + used % rows), 1)
        return times @ np.square(inputs.reshape(-1, columns)), np.bincount(chosen.ravel(), minlength=experts)


def weight_name(weight: Node) -> str:
    """A backend's copy of a weight is called `BACKEND#NAME#0`."""
    parts = str(weight.name.decode()).split("#")
    return parts[1] if len(parts) > 1 else parts[0]


def operations() -> dict[str, int]:
    """The numbers of graph operations, which change between releases. Raises `SetupError` where the engine is another
    than the pinned one."""
    check_layout()
    library().ggml_op_name.restype = ctypes.c_char_p
    return {library().ggml_op_name(number).decode(): number for number in range(64)}
