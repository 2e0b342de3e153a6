"""Seconds per decoded token that each tensor takes in each type, measured on this device through the runtime.

For each type one file is written whose weights all have it (of some rows repeated: speed does not depend on values)
and decoded with as users would: memory maps, repacked weights and all. A token's time is shared among the tensors by
their weights, so that the time of a mix is the mean of its types' times; what does not depend on types is in it too.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import prod
from pathlib import Path

from foreshore.edge.gguf import GgufInfo, Tensor
from foreshore.edge.options import EngineOptions
from foreshore.edge.speed import SpeedTest
from foreshore.quantize.assemble import assemble
from foreshore.quantize.device import this_device
from foreshore.quantize.search.measurements import Measurements

__all__ = ["DecodeTimes"]

TOKENS, RUNS = 64, 3
LEAST_SHARE = 0.1  # of the parent's time that no type falls below, whatever noise says

Types = Mapping[str, Sequence[str]]  # that each tensor may have, the parent's own last


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTimes:
    """`record` keeps what was measured, by device."""

    base: GgufInfo
    record: Measurements
    imatrix: Path | None = None
    threads: int | None = None

    def measure(self, types: Mapping[str, str]) -> float:
        """Seconds per token of one stream with the mix `types`: the median of a few runs."""
        key = {"decode": dict(types), "device": this_device().fingerprint, "threads": self.threads}
        known = self.record.get(key)
        if known is None:
            known = self._measure(types)
            self.record.put(key, known)
        return known

    def uniform(self, types: Types, kind: str) -> float:
        """Seconds per token with every tensor that can have it in `kind`, the others as the parent has them."""
        return self.measure({name: kind for name, some in types.items() if kind in some[:-1]})

    def table(self, types: Types, measured: Mapping[str, float], parent: float) -> dict[str, dict[str, float]]:
        """By tensor and type, from the times of `uniform` by type, and the `parent`'s."""
        shares = self._shares(types)
        found: dict[str, dict[str, float]] = {name: {some[-1]: parent * shares[name]} for name, some in types.items()}
        for kind, seconds in measured.items():
            having = [name for name, some in types.items() if kind in some[:-1]]
            share = sum(shares[name] for name in having)
            if share > 0:
                seconds = max(parent + (seconds - parent) / share, LEAST_SHARE * parent)
            for name in having:
                found[name][kind] = seconds * shares[name]
        return found

    def _shares(self, types: Types) -> dict[str, float]:
        """Each tensor's part in the weights that a token is multiplied by."""
        tied = all(t.name != "output.weight" for t in self.base.tensors)
        work = {t.name: self._work(t, tied) for t in self.base.tensors if t.name in types}
        total = sum(work.values()) or 1.0
        return {name: weights / total for name, weights in work.items()}

    def _work(self, tensor: Tensor, tied: bool) -> float:
        if tensor.name == "token_embd.weight" and not tied:
            return 0.0  # one row is read
        used, experts = self.base.get(".expert_used_count"), self.base.get(".expert_count")
        part = used / experts if len(tensor.shape) > 2 and used and experts else 1.0
        return float(prod(tensor.shape) * part)

    def _measure(self, types: Mapping[str, str]) -> float:
        with tempfile.TemporaryDirectory(prefix="foreshore-decode-") as folder:
            model = Path(folder) / "model.gguf"
            assemble(self.base, types, model, imatrix=self.imatrix, stand_in=True)
            options = EngineOptions(slots=1, threads=self.threads, prefix_cache=False)
            with closing(SpeedTest(str(model), options)) as test:
                test.start()
                tokens = min(TOKENS, test.info.context_tokens // 2)
                runs = [test.decode(tokens) for _ in range(RUNS + 1)]  # the first one warms up
        return 1 / statistics.median(runs[1:])
