"""The process that compensates: `python -P -m foreshore.quantize.search.compensate_child`, driven by `compensate`.

It tells the stages done; a stage is the weights that share an input. After each the file is as it stays, and its first
weight stands in the job's `ledger`: who is killed goes on from there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshore.disk import write_text
from foreshore.edge.gguf import GgufInfo, Tensor, inspect
from foreshore.errors import SetupError
from foreshore.quantize.activations import LAYERS, Node, operations, weight_name
from foreshore.quantize.blocks import to_float32
from foreshore.quantize.calibrate_child import Reader
from foreshore.quantize.channel import Json, Tell, serve
from foreshore.quantize.ftypes import FLOATS
from foreshore.quantize.search.packs import SIDE_BY_SIDE, packs
from foreshore.quantize.search.refine import rounded
from foreshore.quantize.tensor_cache import finite, raw_bytes

OUTPUT = "output.weight"  # where it is not the embedding too, whose rows are also read as they are
DAMPING = 0.01  # of the mean of the moments' diagonal, added to it
TIMED = 2  # packs by which the time of all is foretold
READING = 0.8  # share of the time for reading; the rest is for rounding
DEPTH = 0.55  # of the model that a stage computes, on average
CATCH_UP = 0.5  # share of what a sum lost before that the weight added to it last makes up for
KINDS = ("MUL_MAT", "ADD", "NONE", "GET_ROWS", "RESHAPE", "VIEW", "CONT")  # the last four pass values on
CHUNK_WEIGHTS = 1 << 22  # rounded at once

Values = NDArray[np.float32]
Pack = Sequence[list[int]]
# With X (tokens, columns) what goes into a weight in the parent, Y in the mix, and R and S what is then added to what
# comes out: Y'Y, Y'(X - Y), and Y'(R - S), which is empty where nothing is added.
Moments = tuple[Values, Values, Values]


class Tap:
    """Takes what goes into the weight `name`, and what its output is added to, and stops the computation there. Without
    a name it notes which weights share an input, in the order of the graph, and which outputs are added to something.
    """

    def __init__(self) -> None:
        self.name = ""
        self.shared: dict[int, list[str]] = {}  # by the address of the input
        self.added: set[str] = set()
        self._outputs: dict[int, str] = {}  # weights by the addresses of their outputs, seen as they are or with a bias
        self._places: dict[int, int] = {}  # of nodes in the graph, by their addresses
        self._products: dict[str, int] = {}  # places of the products with weights
        self._inputs: list[Values] = []
        self._sums: list[Values] = []
        self._kinds = {number: name for name, number in operations().items() if name in KINDS}
        self._failure: BaseException | None = None

    def __call__(self, address: int, ask: bool, user_data: Any) -> bool:
        try:
            node = Node.from_address(address)
            return self._wants(address, node) if ask else self._take(node)
        except BaseException as error:  # nothing may be raised through C
            self._failure = error
            return False

    def begin(self) -> None:
        """A graph begins; those of one batch may have their nodes at the same addresses."""
        self._outputs, self._places, self._products = {}, {}, {}

    def end(self) -> None:
        if self._failure:
            raise self._failure

    def taken(self) -> tuple[Values, Values | None]:
        """(tokens, columns) since this was last asked: what went in, and what the output was added to, if anything."""
        inputs, sums, self._inputs, self._sums = self._inputs, self._sums, [], []
        if not inputs:
            raise SetupError(f"the engine computed no product with {self.name!r}", hint="run `foreshore doctor`")
        return np.concatenate(inputs), np.concatenate(sums) if sums else None

    def _wants(self, address: int, node: Node) -> bool:
        kind = self._kinds.get(node.op)
        self._places[address] = len(self._places)
        if kind == "MUL_MAT":
            return self._multiplied(address, weight_name(node.source(0)), node.src[1])
        if kind == "ADD":
            return self._summed(address, node.src[0], node.src[1])
        if kind is not None and node.src[0] in self._outputs:
            self._outputs[address] = self._outputs[node.src[0]]
        return False

    def _multiplied(self, address: int, weight: str, inputs: int) -> bool:
        if not weight.startswith(LAYERS) and weight != OUTPUT:
            return False
        self._outputs[address] = weight
        self._products.setdefault(weight, self._places[address])
        if not self.name:
            self.shared.setdefault(inputs, []).append(weight)
        return weight == self.name

    def _summed(self, address: int, first: int, second: int) -> bool:
        if first not in self._outputs:
            first, second = second, first
        weight, other = self._outputs.get(first), Node.from_address(second)
        if weight is None:
            return False
        if self._kinds.get(other.op) == "NONE":  # a bias
            self._outputs[address] = weight
            return False
        if not self._is_known(second, weight):
            if self._kinds.get(other.op) != "GET_ROWS" or not self._is_known(other.src[0], weight):
                return False
            other = other.source(0)  # in the last layer, which takes of each side the rows that matter
        self.added.add(weight)
        if weight != self.name:
            return False
        self._sums.append(_rows(other))
        return True

    def _is_known(self, address: int, weight: str) -> bool:
        """Whether the node is computed before the product with `weight`: at a sum no more is, as it is asked for."""
        return self._places.get(address, self._products[weight]) < self._products[weight]

    def _take(self, node: Node) -> bool:
        """Returns whether to compute on."""
        more = False
        if self._kinds.get(node.op) == "MUL_MAT":
            self._inputs.append(_rows(node.source(1)))
            more = self.name in self.added
        if not more:
            self.begin()
        return more


class Compensation:
    def __init__(self, job: Json) -> None:
        self.base, self.mix, self.threads = inspect(job["base"]), inspect(job["mix"]), job["threads"]
        self.enough = job["enough"]
        self.context = min(job["context"], self.base.context_length or job["context"])
        self.tap = Tap()
        self.parent = self._reader(self.base, self.tap)
        self.added: set[str] = set()
        self.packs: list[Pack] = list(packs(self.parent, job))

    def stages(self) -> list[list[str]]:
        self.parent.read(self.packs[0][0][:1])
        quantized = {t.name for t in self.mix.tensors if _counts(t)}
        self.added = set(self.tap.added)
        shared = ([name for name in names if name in quantized] for names in self.tap.shared.values())
        return [names for names in shared if names]

    def fitting(self, stages: Sequence[list[str]]) -> list[list[str]]:
        """Those with text enough for their input."""
        return [names for names in stages if self.columns(names[0]) * self.enough <= self.tokens]

    def shorten(self, stages: Sequence[list[str]], budget_s: float) -> None:
        """Drop packs that there is no time to read for each of `stages`, as long as there is text enough for all."""
        some, self.tap.name = self.packs[:TIMED], stages[-1][0]
        began = time.monotonic()
        for pack in some:
            self.parent.read(*pack)
            self.tap.taken()
        reading_s = 2 * DEPTH * len(stages) * (time.monotonic() - began) / _tokens(some)  # a token, with both models
        least = self.enough * max(self.columns(names[0]) for names in stages)
        while self.tokens * reading_s > READING * budget_s and self.tokens - _tokens(self.packs[-1:]) >= least:
            self.packs.pop()

    @property
    def tokens(self) -> int:
        return _tokens(self.packs)

    def columns(self, name: str) -> int:
        return next(t.shape[0] for t in self.mix.tensors if t.name == name)

    def moments(self, names: Sequence[str], packs: Sequence[Pack]) -> Moments:
        """Of the input that the weights `names` share."""
        tap = Tap()
        tap.name = self.tap.name = names[0]
        tap.added = self.tap.added = self.added & set(names if len(names) == 1 else ())
        reader = self._reader(self.mix, tap)  # anew, since the file has changed
        try:
            parts = (self._parts(pack, reader, tap) for pack in packs)
            total = next(parts)
            for part in parts:
                for sums, more in zip(total, part, strict=True):
                    sums += more
        finally:
            reader.close()
        return total

    def round(self, names: Sequence[str]) -> None:
        """Change the file's weights `names`, which share an input."""
        products, gaps, lost = self.moments(names, self.packs)
        if not products.any() or not all(np.isfinite(found).all() for found in (products, gaps, lost)):
            return  # nothing ever goes into them, or what the quantizer cannot take
        products += np.float32(DAMPING * np.diag(products).mean()) * np.eye(len(products), dtype=np.float32)
        step = _solved(products, gaps)
        owed = _solved(products, CATCH_UP * lost) if lost.size else None
        tensors = {t.name: t for t in self.mix.tensors}
        with self.mix.path.open("r+b") as file:
            for name in names:
                file.seek(tensors[name].offset)
                for start, values in _values(self.base, name):
                    aim = values + values @ step
                    if owed is not None:
                        aim += owed[start : start + len(values)]
                    file.write(rounded(aim, tensors[name].type, products, threads=self.threads).data)
            file.flush()
            os.fsync(file.fileno())

    def _parts(self, pack: Pack, reader: Reader, tap: Tap) -> Moments:
        self.parent.read(*pack)
        reader.read(*pack)
        (whole, whole_sum), (now, now_sum) = self.tap.taken(), tap.taken()
        lost = np.zeros(0, np.float32) if now_sum is None or whole_sum is None else now.T @ (whole_sum - now_sum)
        return now.T @ now, now.T @ (whole - now), lost

    def _reader(self, info: GgufInfo, tap: Tap) -> Reader:
        return Reader(info.path, tap, context=self.context, threads=self.threads, sequences=SIDE_BY_SIDE)


def compensate(job: Json, tell: Tell) -> Json:
    began, ledger, work = time.monotonic(), Path(job["ledger"]), Compensation(job)
    stages = work.stages()
    enough = work.fitting(stages)
    if enough:
        work.shorten(enough, job["budget_s"])
    done = ledger.read_text(encoding="utf-8").split() if ledger.exists() else []
    left = [names for names in enough if names[0] not in done]
    total = len(done) + len(left)
    for names in left:
        tell(len(done), total)
        if time.monotonic() - began > job["budget_s"]:
            break
        work.round(names)
        done.append(names[0])
        write_text(ledger, "\n".join(done))
    tell(total, total)
    return {"stages": len(done), "of": len(stages), "tokens": work.tokens}


def _counts(tensor: Tensor) -> bool:
    return len(tensor.shape) == 2 and tensor.type not in FLOATS


def _values(info: GgufInfo, name: str) -> Iterator[tuple[int, Values]]:
    """Some rows at a time, (rows, columns), and the number of the first."""
    tensor = next(t for t in info.tensors if t.name == name)
    columns, rows = tensor.shape
    raw, step = raw_bytes(info, tensor).reshape(rows, -1), max(1, CHUNK_WEIGHTS // columns)
    for start in range(0, rows, step):
        part = np.ascontiguousarray(raw[start : start + step]).reshape(-1)
        yield start, finite(to_float32(part, tensor.type, columns), tensor)


def _solved(products: Values, wanted: Values) -> Values:
    """The transpose of products^-1 wanted."""
    solution = np.linalg.solve(products.astype(np.float64), wanted.astype(np.float64))
    return np.ascontiguousarray(solution.T, np.float32)


def _rows(node: Node) -> Values:
    """Its values, (tokens, columns): recurrent models keep documents apart by another dimension."""
    values = node.array(np.float32)
    return values.reshape(-1, values.shape[-1]).copy()


def _tokens(packs: Sequence[Pack]) -> int:
    return sum(len(window) for pack in packs for window in pack)


if __name__ == "__main__":
    serve(compensate)
