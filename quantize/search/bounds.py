"""Fit targets as bounds on what the searched tensors may take together, and what to say where none of that can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from foreshore.edge import memory
from foreshore.edge.gguf import GgufInfo, Tensor
from foreshore.edge.options import EngineOptions
from foreshore.errors import UsageError
from foreshore.quantize.assemble import file_bytes, tensor_bytes
from foreshore.quantize.search.fit_targets import FitTargets
from foreshore.quantize.search.knapsack import Choice, Options, solve, total_bytes, total_memory, total_seconds

__all__ = ["Bounds", "memory_table"]

ENDLESS = 1 << 62  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """`bytes`, `memory` and `seconds` (a token) are the searched tensors' own; what the rest of the model takes is
    `fixed_bytes` and `fixed_memory`."""

    targets: FitTargets
    bytes: int
    memory: float = inf
    seconds: float = inf
    fixed_bytes: int
    fixed_memory: int = 0

    @classmethod
    def of(cls, targets: FitTargets, base: GgufInfo, options: Options, engine: EngineOptions) -> Bounds:
        """The last of each tensor's `options` is what the parent has."""
        parent = {name: some[-1] for name, some in options.items()}
        fixed = file_bytes(base, {}) - total_bytes(parent)
        held = _held(base, engine) - total_memory(parent) if targets.memory is not None else 0
        return cls(
            targets=targets,
            bytes=total_bytes(parent) if targets.size is None else min(total_bytes(parent), targets.size - fixed),
            memory=inf if targets.memory is None else targets.memory - held,
            seconds=inf if targets.decode is None else 1 / targets.decode,
            fixed_bytes=fixed,
            fixed_memory=held,
        )

    def slower(self, factor: float) -> Bounds:
        """For mixes that take `factor` times the seconds that were foretold."""
        return self if self.targets.decode is None else replace(self, seconds=1 / self.targets.decode / factor)

    def solve(self, options: Options) -> Choice:
        """The least cost within all. Raises `UsageError` that names what contradicts what, and what can be had."""
        try:
            return solve(options, self.bytes, seconds=self.seconds, memory=self.memory)
        except ValueError as error:
            raise self._contradiction(options) from error

    def hold(self, choice: Choice) -> bool:
        """Whether `choice` is within all."""
        within_bytes = total_bytes(choice) <= self.bytes
        return within_bytes and total_memory(choice) <= self.memory and total_seconds(choice) <= self.seconds

    def size(self, choice: Choice) -> int:
        """Bytes of the file."""
        return self.fixed_bytes + total_bytes(choice)

    def held(self, choice: Choice) -> int | None:
        """Bytes of memory, where that is bounded."""
        return None if self.targets.memory is None else self.fixed_memory + total_memory(choice)

    def relaxed(self, choice: Choice) -> FitTargets:
        """The targets, with those that `choice` misses given up as far as it does."""
        found: dict[str, Any] = {}
        if self.targets.size is not None and self.size(choice) > self.targets.size:
            found["size"] = self.size(choice)
        if self.targets.memory is not None and total_memory(choice) > self.memory:
            found["memory"] = self.held(choice)
        if self.targets.decode is not None and total_seconds(choice) > self.seconds:
            found["decode"] = _rate(choice, 1 / self.targets.decode / self.seconds)
        return replace(self.targets, **found)

    def _contradiction(self, options: Options) -> UsageError:
        small, lean, fast = (self._best(options, thing) for thing in ("bytes", "memory", "seconds"))
        alone = []
        if total_bytes(small) > self.bytes:
            alone.append((f"size<={self.targets.size}", f"size<={self.size(small)}"))
        if total_memory(lean) > self.memory:
            alone.append((f"memory<={self.targets.memory}", f"memory<={self.fixed_memory + total_memory(lean)}"))
        if total_seconds(fast) > self.seconds:
            alone.append((f"decode>={self.targets.decode}", f"decode>={_rate(fast)}"))
        if alone:
            asked, nearest = zip(*alone, strict=True)
            hint = f"it can have {' or '.join(nearest)}"
            return UsageError(f"{' and '.join(asked)} is out of this model's reach", hint=hint)
        return UsageError(
            f"{self.targets} contradict each other: no mix of types has all of it",
            hint=f"feasible are {' or '.join(self._relaxed(options))}",
        )

    def _best(self, options: Options, thing: str) -> Choice:
        """The least of one thing, whatever else."""
        return {name: min(some, key=lambda o: (getattr(o, thing), o.bytes)) for name, some in options.items()}

    def _relaxed(self, options: Options) -> list[str]:
        """The targets with one of them given up as far as it must be, for each of them."""
        given = [("size", "bytes"), ("memory", "memory"), ("decode", "seconds")]
        found = []
        for target, thing in given:
            if getattr(self.targets, target) is None:
                continue
            priced = {n: [replace(o, cost=float(getattr(o, thing))) for o in some] for n, some in options.items()}
            limits = {"bytes": self.bytes, "memory": self.memory, "seconds": self.seconds, thing: ENDLESS}
            try:
                choice = solve(priced, int(limits["bytes"]), seconds=limits["seconds"], memory=limits["memory"])
            except ValueError:
                continue
            reached: dict[str, Any] = {
                "size": self.size(choice),
                "memory": self.fixed_memory + total_memory(choice),
                "decode": _rate(choice),
            }
            nearest = replace(self.targets, **{target: reached[target]})
            found.append(f'"{nearest}"')
        return found or ["fewer targets at once"]


def memory_table(base: GgufInfo, types: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """Bytes that a worker holds of each tensor in each type: the file's own, and those of a copy in another order."""
    output = tuple(t for t in base.tensors if t.name == "output.weight")
    engine = EngineOptions()

    def held(tensor: Tensor, kind: str) -> int:
        changed = replace(tensor, type=kind, nbytes=tensor_bytes(tensor, kind))
        beside = tuple(t for t in output if t.name != tensor.name)  # whether there is one decides of what is copied
        models = (replace(base, tensors=some) for some in ((changed, *beside), beside))
        both, alone = (memory.estimate_gguf(model, engine) for model in models)
        return both.weights - alone.weights

    tensors = {t.name: t for t in base.tensors}
    return {name: {kind: held(tensors[name], kind) for kind in some} for name, some in types.items()}


def _held(base: GgufInfo, engine: EngineOptions) -> int:
    return memory.estimate(base.path, engine).total


def _rate(choice: Choice, slower: float = 1.0) -> float:
    """Tokens/s, a little less than is foretold; `slower` is by how much it takes longer than that."""
    return float(f"{0.995 / (total_seconds(choice) * slower):.3g}")
