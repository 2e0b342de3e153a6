"""What a model is expected to take, beside what its worker takes: `python -m benchmarks.estimate [--json]`.

Each worker reads a prompt that fills a batch and answers several requests, so that its buffers have been touched. The
cache and the buffers for a whole context stay partly untouched by that, and are counted: a refusal must hold for the
worst that the options allow.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.table import Table

from benchmarks.models import model
from foreshore.backend import collect
from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.edge import EngineOptions, LocalBackend
from foreshore.edge.pool import Pool
from foreshore.types import Request, Sampling

__all__ = ["Measured", "main", "measure"]

MB = 1e6
PROMPT_TOKENS, STREAMS = 900, 4
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("starter-s-q4_k_m", {}),
    ("starter-l-q4_k_m", {}),
    ("0.5b-q4_0", {}),
    ("0.5b-q4_k_m", {}),
    ("0.5b-q4_0", {"kv_tokens": 8192}),
    ("0.5b-q4_0", {"kv_type": "q8_0"}),
    ("0.5b-q4_0", {"slots": 4, "batch_tokens": 256, "mmap": False}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Bytes; `loaded` is the resident set once the model is loaded, `used` after requests."""

    model: str
    options: dict[str, Any]
    estimated: int
    loaded: int
    used: int

    @property
    def error(self) -> float:
        return self.estimated / self.used - 1


async def measure(name: str, path: Path, options: dict[str, Any]) -> Measured:
    backend = LocalBackend(path, options=EngineOptions(threads=2, **options), pool=Pool())
    try:
        info = await backend.start()
        assert backend.memory is not None
        worker = psutil.Process(backend.pid)
        loaded = worker.memory_info().rss
        size = min(PROMPT_TOKENS, info.context_tokens - 16)
        prompts = [tuple((7 * i + 3 * j) % info.vocab_size for i in range(size)) for j in range(STREAMS)]
        sampling = Sampling(max_tokens=8, temperature=0.0)
        await asyncio.gather(
            *(collect(backend, Request(task="completion", prompt=p, sampling=sampling)) for p in prompts)
        )
        used = worker.memory_info().rss
        return Measured(model=name, options=options, estimated=backend.memory.total, loaded=loaded, used=used)
    finally:
        await backend.close()


def main(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Compare the estimates with real workers."""
    with exit_on_error():
        found = []
        for name, options in CASES:
            with err.status(f"{name} {options}"):
                found.append(asyncio.run(measure(name, model(name), options)))
        if as_json:
            print_json([{**asdict(one), "error": round(one.error, 3)} for one in found])
            return
        table = Table("model", "options", "estimated MB", "loaded MB", "after requests MB", "error", box=None)
        for one in found:
            sizes = (f"{size / MB:.0f}" for size in (one.estimated, one.loaded, one.used))
            table.add_row(one.model, str(one.options), *sizes, f"{one.error:+.0%}")
        out.print(table)


if __name__ == "__main__":
    typer.run(main)
