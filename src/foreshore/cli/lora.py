"""`foreshore lora`: a LoRA adapter for the variants of the model it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.cli.units import human
from foreshore.edge.gguf import GgufInfo
from foreshore.store import Store

__all__ = ["app"]

app = typer.Typer()


@app.command()
def lora(
    folder: Annotated[Path, typer.Argument(help="The folder that PEFT's save_pretrained wrote.")],
    base: Annotated[
        str,
        typer.Option(
            "--base",
            metavar="NAME:VARIANT|FOLDER|FILE",
            help="What it was trained on: a variant, a Hugging Face folder, a .gguf file, or a bundled model.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .gguf file to write.")] = Path("adapter.gguf"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Convert a LoRA adapter, as PEFT saves it, for the variants of the model it was trained on."""
    with exit_on_error():
        from foreshore.quantize.convert.lora import convert_lora

        made = convert_lora(folder, _path_of(base), output)
        facts = _facts(made)
        if as_json:
            print_json(facts)
            return
        ranks = " and ".join(map(str, facts["ranks"]))
        changed = f"{facts['matrices']} matrices of {facts['architecture']}, rank {ranks}, {human(made.size)}"
        out.print(f"{escape(str(made.path))}: {changed}")
        use = escape(f"adapters: {{{output.stem}: {output}}}")
        err.print(f"use it: {use} below the target's `engine:`, and name it in a request's `adapter`")


def _path_of(base: str) -> Path:
    """A bundled model wins over a folder of its name, and a folder or file over a variant, as everywhere."""
    from foreshore.quantize.source import bundled

    if base in bundled():
        return bundled()[base]
    path = Path(base).expanduser()
    return path if path.exists() else Store().resolve(base).path


def _facts(made: GgufInfo) -> dict[str, Any]:
    ranks = [tensor.shape[1] for tensor in made.tensors if tensor.name.endswith(".lora_a")]
    return {
        "path": str(made.path),
        "bytes": made.size,
        "architecture": made.architecture,
        "matrices": len(ranks),
        "ranks": sorted(set(ranks)),
        "alpha": made.get("adapter.lora.alpha"),
    }
