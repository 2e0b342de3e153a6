"""Collects second moments in a process: `python -P -m foreshore.quantize.search.moments_child`, driven by `moments`.

It tells the tokens read. The file has `names` and `inputs` of the same length, and for each number in `inputs` an
array `inputN` (columns, columns), and for each block B of `ACTIVATION_BLOCKS` one `inputNroundedB` (columns,): weights
that share an input share them.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foreshore.edge.gguf import inspect
from foreshore.quantize.activations import Activations, Node, weight_name
from foreshore.quantize.calibrate_child import Reader
from foreshore.quantize.channel import Json, Tell, serve
from foreshore.quantize.search.packs import SIDE_BY_SIDE, packs

ACTIVATION_BLOCKS = (32, 256)  # inputs that are rounded together, to eight bits, before they meet quantized weights
LARGEST_CODE = 127  # of those eight bits
MOST_BYTES = 1 << 30  # of all moments together
WIDEST = 2048  # columns: beyond, rounding by them takes too long


class Products(Activations):
    """Sums X'X of each input, X (tokens, columns), where the weights are one matrix, and by the size of a block the
    squared errors of rounding X in blocks."""

    fewest_rows = 1  # a short document counts too

    def __init__(self, widest: int) -> None:
        super().__init__(output=True)
        self.inputs: dict[str, int] = {}
        self.products: list[NDArray[np.float32]] = []
        self.rounded: list[dict[int, NDArray[np.float64]]] = []
        self._widest = widest
        self._last: tuple[int, int] | None = None  # address and number of the input that was summed last

    def begin(self) -> None:
        super().begin()
        self._last = None

    def _matrices(self, weight: Node, inputs: Node) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if weight.ne[0] <= self._widest and weight.ne[2] == weight.ne[3] == inputs.ne[2] == inputs.ne[3] == 1:
            self._sum(weight_name(weight), inputs)
        return super()._matrices(weight, inputs)

    def _sum(self, name: str, inputs: Node) -> None:
        address = ctypes.addressof(inputs)
        if self._last is None or self._last[0] != address:
            number = self.inputs.get(name, len(self.products))
            rows = inputs.array(np.float32)[0, 0]
            if number == len(self.products):
                self.products.append(rows.T @ rows)
                self.rounded.append(rounding(rows))
            else:
                self.products[number] += rows.T @ rows
                for block, more in rounding(rows).items():
                    self.rounded[number][block] += more
            self._last = address, number
        self.inputs[name] = self._last[1]


def collect(job: Json, tell: Tell) -> Json:
    info = inspect(job["model"])
    products = Products(_widest(sorted(t.shape[0] for t in info.tensors if len(t.shape) == 2)))
    size = min(job["context"], info.context_length or job["context"])
    reader = Reader(Path(job["model"]), products, context=size, threads=job["threads"], sequences=SIDE_BY_SIDE)
    read = packs(reader, job)
    total, done = sum(len(window) for pack in read for window in pack), 0
    for pack in read:
        reader.read(*pack)
        done += sum(map(len, pack))
        tell(done, total)
    arrays = {f"input{number}": product for number, product in enumerate(products.products)}
    for number, found in enumerate(products.rounded):
        arrays |= {f"input{number}rounded{block}": errors.astype(np.float32) for block, errors in found.items()}
    np.savez(job["target"], names=list(products.inputs), inputs=list(products.inputs.values()), **arrays)  # type: ignore[arg-type]
    return {}


def rounding(rows: NDArray[np.float32]) -> dict[int, NDArray[np.float64]]:
    """By block: the squared errors of `rows` (tokens, columns), summed over tokens, if each block's largest value has
    the largest code. Errors are even between two codes, so that their variance is a twelfth of the squared step."""
    tokens, columns = rows.shape
    found = {}
    for block in (b for b in ACTIVATION_BLOCKS if columns % b == 0):
        steps = np.abs(rows).reshape(tokens, -1, block).max(axis=2).astype(np.float64) / LARGEST_CODE
        found[block] = np.repeat((steps**2).sum(axis=0) / 12, block)
    return found


def _widest(columns: list[int]) -> int:
    """The most columns such that all tensors up to it stay within `MOST_BYTES`."""
    total, found = 0, 0
    for width in columns:
        total += 4 * width * width
        if width > WIDEST or total > MOST_BYTES:
            return found if width != found else found - 1
        found = width
    return found


if __name__ == "__main__":
    serve(collect)
