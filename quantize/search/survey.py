"""What each tensor costs in each type, found out within a bounded number of measurements.

The rounding error of every type is worked out from some rows of each tensor. KL is measured for a few types a tensor,
each time with that tensor alone changed and all else as the parent has it, and read off for the other types.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log
from statistics import median

from foreshore.edge.gguf import TENSOR_TYPES, GgufInfo
from foreshore.quantize.assemble import tensor_bytes
from foreshore.quantize.child import Child
from foreshore.quantize.ftypes import NEEDS_IMATRIX
from foreshore.quantize.native import plan
from foreshore.quantize.search.costs import costs
from foreshore.quantize.search.knapsack import Option

__all__ = ["TYPES", "Survey", "candidates", "role"]

# What is offered to every tensor, where its rows divide: per size the type with the least error of its own, those in
# blocks of 32, for which inputs are rounded more finely (by which q5_1 loses less than q6_k where some are far larger
# than the others), and those that the usual engines run fast.
TYPES = tuple("iq2_xs iq2_s q2_k iq3_xxs iq3_s q3_k iq4_xs iq4_nl q4_0 q4_1 q4_k q5_0 q5_1 q5_k q6_k q8_0".split())
_BLOCK = {name: block for name, block, _ in TENSOR_TYPES.values()}
_BITS = {name: 8 * size / block for name, block, size in TENSOR_TYPES.values()}

Table = Mapping[str, Mapping[str, float]]  # tensor -> type -> value


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """`types` that each tensor may have, the parent's own last; by tensor and type `errors` and measured `kl`, and
    the `seconds` a token and bytes of `memory` that it takes, where those are asked for."""

    base: GgufInfo
    types: Mapping[str, Sequence[str]]
    errors: Table = field(default_factory=dict)
    kl: Table = field(default_factory=dict)
    seconds: Table = field(default_factory=dict)
    memory: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def only(self, kinds: Container[str]) -> Survey:
        """With no other types than these, and the parent's own."""
        types = {name: (*(k for k in some[:-1] if k in kinds), some[-1]) for name, some in self.types.items()}
        return replace(self, types=types)

    @property
    def kinds(self) -> list[str]:
        """The types that some tensor may have, beside the parent's own."""
        return list(dict.fromkeys(kind for some in self.types.values() for kind in some[:-1]))

    def with_errors(self, found: Iterable[tuple[tuple[str, str], float]]) -> Survey:
        return replace(self, errors=_merged(self.errors, found))

    def with_kl(self, found: Iterable[tuple[tuple[str, str], float]]) -> Survey:
        return replace(self, kl=_merged(self.kl, found))

    def with_seconds(self, seconds: Table) -> Survey:
        return replace(self, seconds=seconds)

    def with_memory(self, memory: Mapping[str, Mapping[str, int]]) -> Survey:
        return replace(self, memory=memory)

    def pairs(self) -> list[tuple[str, str]]:
        """Tensor and type, of all whose error is to be worked out."""
        return [(name, kind) for name, some in self.types.items() for kind in some[:-1]]

    def costs(self) -> dict[str, dict[str, float]]:
        """KL by tensor and type. A tensor that was not measured costs what those of its kind cost for their error; an
        error that was not worked out is taken to be the others' for that type."""
        found, usual = {}, self._usual()
        for name, some in self.types.items():
            known = self.errors.get(name, {})
            errors = {kind: known.get(kind, usual[kind]) for kind in some[:-1]} | {some[-1]: 0.0}
            found[name] = costs(errors, self.kl.get(name) or self._guess(name, errors))
        return found

    def options(self, costs: Table | None = None, scales: Mapping[str, float] | None = None) -> dict[str, list[Option]]:
        """For the knapsack, with the bytes that each takes in a file; of no cost if `costs` are not given."""
        tensors, align = {t.name: t for t in self.base.tensors}, self.base.alignment
        return {
            name: [
                Option(
                    type=kind,
                    bytes=-(-tensor_bytes(tensors[name], kind) // align) * align,
                    cost=(costs[name][kind] if costs else 0.0) * (scales[name] if scales else 1.0),
                    seconds=self.seconds[name][kind] if self.seconds else 0.0,
                    memory=self.memory[name][kind] if self.memory else 0,
                )
                for kind in some
            ]
            for name, some in self.types.items()
        }

    def _usual(self) -> dict[str, float]:
        """The error of each type: the median of those known, or a quarter for each bit where none is."""
        known = {kind: [row[kind] for row in self.errors.values() if kind in row] for kind in self.kinds}
        return {kind: median(errors) if errors else 4.0 ** -_BITS[kind] for kind, errors in known.items()}

    def _guess(self, name: str, errors: Mapping[str, float]) -> dict[str, float]:
        alike = [n for n in self.kl if role(n) == role(name)] or list(self.kl)
        steep = [
            log(kl / self.errors[n][kind])
            for n in alike
            for kind, kl in self.kl[n].items()
            if kl > 0 and self.errors[n].get(kind, 0) > 0
        ]
        scale = exp(median(steep)) if steep else 1.0
        return {kind: error * scale for kind, error in errors.items() if error > 0}


def candidates(
    base: GgufInfo,
    used: Iterable[str],
    known: Iterable[str],
    types: Sequence[str] = TYPES,
    planner: Child | None = None,
) -> Survey:
    """A survey of the tensors that llama.cpp would quantize and the graph has `used`, with the types each can take;
    `known` are those that an importance matrix speaks of, without which some types are garbage. `planner` is a
    `quantizer` that is running."""
    offered = {name for name, kind in plan(base, "q8_0", child=planner).types.items() if kind == "q8_0"}
    graph, matrix = set(used), set(known)
    found = {}
    for t in base.tensors:
        if t.name in offered & graph and t.type in ("f32", "f16", "bf16"):
            without = frozenset() if t.name in matrix else NEEDS_IMATRIX
            found[t.name] = (*(k for k in types if t.shape[0] % _BLOCK[k] == 0 and k not in without), t.type)
    return Survey(base=base, types=found)


def _merged(table: Table, found: Iterable[tuple[tuple[str, str], float]]) -> Table:
    merged = {name: dict(row) for name, row in table.items()}
    for (name, kind), value in found:
        merged.setdefault(name, {})[kind] = value
    return merged


def role(name: str) -> str:
    """What a tensor is, whatever its layer."""
    return re.sub(r"\d+", "", name)
