"""What drawing a token costs: microseconds a draw, beside llama.cpp's plain chain over the whole vocabulary.

    python -m benchmarks.sampling [--vocab 151936] [--rows 8] [--repeats 15] [--only "CASE;..."] [--json]

Rows of logits are taken in turn, as from the streams of one step, so that they come from as far away in the caches as
theirs do. The plain chain is what `llama_sampler_sample` does: every token copied into the array that samplers read,
all samplers of the request over it, the token accepted. Blocks of both are alternated; `ratio` is the median of pairs,
and `same` the share of draws whose token is the plain chain's (with a grammar that chain draws once, we twice).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import llama_cpp.llama_cpp as native
import numpy as np

from benchmarks.models import Shape, write
from foreshore.cli.bench import Measurement, machine
from foreshore.cli.console import exit_on_error, out, print_json
from foreshore.edge.sampling.candidates import Candidates, Logits
from foreshore.edge.sampling.chain import Chain, Stage, stages
from foreshore.edge.sampling.sampling import Sampler, logprobs, resolve, warm
from foreshore.edge.vocab import Vocab
from foreshore.types import Sampling

JSON_STRING = r'root ::= "{\"name\": \"" [a-z ]* "\"}"'
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "top_k 40, top_p 0.95, temperature 0.8": {"top_k": 40, "top_p": 0.95, "temperature": 0.8},
    "temperature 1": {},
    "temperature 0.7": {"temperature": 0.7},
    "top_p 0.95": {"top_p": 0.95},
    "min_p 0.05": {"min_p": 0.05},
    "top_n_sigma 1": {"top_n_sigma": 1.0},
    "penalties, greedy": {"temperature": 0.0, "repeat_penalty": 1.1},
    "penalties, top_k 40": {"top_k": 40, "repeat_penalty": 1.1, "frequency_penalty": 0.2},
    "dry, top_k 40": {"top_k": 40, "dry_multiplier": 0.8},
    "typical_p 0.9 (sorted, not narrowed)": {"typical_p": 0.9},
    "mirostat 2 (sorted, not narrowed)": {"mirostat": 2},
    "xtc 0.5 alone (not narrowed)": {"xtc_probability": 0.5},
    "grammar, greedy": {"temperature": 0.0, "grammar": JSON_STRING},
    "grammar, top_k 40": {"top_k": 40, "grammar": JSON_STRING},
}
LOGPROBS = "logprobs 20"
ROUNDS = 5  # of all rows, to compare tokens


class Draws(Protocol):
    def draw(self, row: Logits) -> int: ...

    def close(self) -> None: ...


class Plain:
    """llama.cpp's own way, with the grammar as the first sampler of the chain."""

    def __init__(self, sampling: Sampling, vocab: Vocab) -> None:
        text = (sampling.grammar or "").encode()
        grammar = Stage(name="grammar", make=lambda: native.llama_sampler_init_grammar(vocab.handle, text, b"root"))
        self._chain = Chain([*([grammar] if text else []), *stages(sampling, vocab)])
        self._candidates = Candidates(vocab.size)
        self._ids = np.arange(vocab.size)

    def draw(self, row: Logits) -> int:
        self._chain.apply(self._candidates.fill(self._ids, row))
        token = self._candidates.selected()
        self._chain.accept(token)
        return token

    def close(self) -> None:
        self._chain.close()


def main() -> None:
    options = _arguments()
    with exit_on_error(), tempfile.TemporaryDirectory() as folder, _vocab(Path(folder), options.vocab) as vocab:
        rows = _rows(options.rows, vocab.size)
        wanted = [name for name in (*CASES, LOGPROBS) if not options.only or name in options.only]
        found = {name: _case(name, vocab, rows, options) for name in wanted}
    if options.json:
        print_json({"vocab": options.vocab, "rows": options.rows, "cases": found, "machine": machine()})
        return
    for name, case in found.items():
        us, plain = case["us"], case.get("plain_us")
        beside = f"  plain {plain['median']:9.1f}  x{case['ratio']:.1f}  same {case['same']:.0%}" if plain else ""
        out.print(f"{name:40} {us['median']:8.1f} µs  ({us['low']:.1f} to {us['high']:.1f}){beside}")


def _case(name: str, vocab: Vocab, rows: list[Logits], options: argparse.Namespace) -> dict[str, Any]:
    if name == LOGPROBS:
        ours = [_block(lambda row: logprobs(row, 7, 20, vocab), rows) for _ in range(options.repeats + 1)]
        return {"us": asdict(Measurement.of(ours[1:]))}
    sampling = resolve(Sampling(seed=1, **CASES[name]), {})
    warm(sampling, vocab)
    mine, plain = [], []
    for _ in range(options.repeats + 1):  # the first pair warms up
        mine.append(_drawn(lambda: Sampler(sampling, vocab), rows))
        plain.append(_drawn(lambda: Plain(sampling, vocab), rows))
    ratios = [theirs / ours for ours, theirs in zip(mine[1:], plain[1:], strict=True)]
    return {
        "us": asdict(Measurement.of(mine[1:])),
        "plain_us": asdict(Measurement.of(plain[1:])),
        "ratio": statistics.median(ratios),
        "same": _same(sampling, vocab, rows),
    }


def _same(sampling: Sampling, vocab: Vocab, rows: list[Logits]) -> float:
    """The share of draws with the plain chain's token, each from samplers of the same seed that drew nothing before."""
    hits = 0
    for seed in range(ROUNDS * len(rows)):
        mine, plain = (make(replace(sampling, seed=seed), vocab) for make in (Sampler, Plain))
        row = rows[seed % len(rows)]
        hits += mine.draw(row) == plain.draw(row)
        mine.close()
        plain.close()
    return hits / (ROUNDS * len(rows))


def _drawn(make: Callable[[], Draws], rows: list[Logits]) -> float:
    """A sampler for each row, as each stream has its own; making them is not measured."""
    samplers = [make() for _ in rows]
    for sampler, row in zip(samplers, rows, strict=True):
        sampler.draw(row)  # its memory is there from now on
    each = iter(samplers)
    try:
        return _block(lambda row: next(each).draw(row), rows)
    finally:
        for sampler in samplers:
            sampler.close()


def _block(draw: Callable[[Logits], object], rows: list[Logits]) -> float:
    """Microseconds a row."""
    start = time.perf_counter()
    for row in rows:
        draw(row)
    return (time.perf_counter() - start) / len(rows) * 1e6


def _rows(count: int, size: int) -> list[Logits]:
    """Logits as models have them: a wide heap, and some tens far above it."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 2, (count, size)).astype(np.float32)
    for row in rows:
        row[rng.choice(size, 60, replace=False)] += rng.gamma(4, 3, 60).astype(np.float32)
    return list(rows)


@contextmanager
def _vocab(folder: Path, size: int) -> Iterator[Vocab]:
    shape = Shape(layers=1, width=32, heads=1, kv_heads=1, inner=32, vocab=size, context=32)
    path = write(folder / "vocab.gguf", shape)
    native.llama_log_set(_SILENCE, None)
    params = native.llama_model_default_params()
    params.vocab_only = True
    model = native.llama_model_load_from_file(str(path).encode(), params)
    try:
        yield Vocab(model)
    finally:
        native.llama_model_free(model)


_SILENCE = native.llama_log_callback(lambda level, text, data: None)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What drawing a token costs.")
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", type=lambda text: text.split(";"), help="cases, with semicolons between them")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
