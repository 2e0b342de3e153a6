"""Does batching batch? Tokens per second of all streams together at 1, 4 and 8 streams.

    python -m benchmarks.decode MODEL [--streams 1,4,8] [--tokens 64] [--repeats 5] [--threads N] [--json]

MODEL is a variant in the store, a .gguf file, or a benchmark model such as 0.5b-q4_0. Each run goes through the worker
process, the scheduler and the streams, as an application's requests do.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from benchmarks import models
from foreshore.cli.bench import machine, measure
from foreshore.cli.console import exit_on_error, out, print_json
from foreshore.edge import EngineOptions
from foreshore.edge.speed import SpeedTest


def main() -> None:
    options = _arguments()
    with exit_on_error():
        model = str(models.model(options.model)) if options.model in models.NAMES else options.model
        rows = {n: _row(model, options, n) for n in options.streams}
    one = rows[min(rows)]["tokens_per_s"]["median"]
    for row in rows.values():
        row["speedup"] = round(row["tokens_per_s"]["median"] / one, 2)
    if options.json:
        print_json({"model": options.model, "tokens": options.tokens, "streams": rows, "machine": machine()})
        return
    for n, row in rows.items():
        speed = row["tokens_per_s"]
        spread = f"({speed['low']:.1f} to {speed['high']:.1f})"
        out.print(f"{n:3} streams  {speed['median']:8.1f} tokens/s  {spread}  x{row['speedup']}")


def _row(model: str, options: argparse.Namespace, streams: int) -> dict[str, Any]:
    with SpeedTest(model, EngineOptions(slots=streams, threads=options.threads)) as test:
        speed = measure(lambda: test.decode(options.tokens, streams), options.repeats, f"{streams} streams")
        return {"tokens_per_s": asdict(speed), "threads": test.info.threads}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Tokens per second of all streams together.")
    parser.add_argument("model")
    parser.add_argument("--streams", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 8])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
