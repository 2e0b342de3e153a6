"""`foreshore models diff`: what two variants differ in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from foreshore.card import Card, Speed
from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.cli.lineage import measurements, typical
from foreshore.cli.units import human
from foreshore.manifest import Manifest
from foreshore.store import Store

__all__ = ["diff"]

SHOWN = 20  # tensors; --json has all

Pair = tuple[Manifest, Manifest]
Types = tuple[dict[str, str], dict[str, str]]  # of each of a pair, tensor -> type

Ref = Annotated[str, typer.Argument(help="NAME:VARIANT, or NAME if it has one variant.")]


def diff(a: Ref, b: Ref, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Compare two variants: recipes, the type of each tensor, sizes, quality, and speeds on this device."""
    with exit_on_error():
        from foreshore.quantize.choice import fingerprints

        store = Store()
        pair = store.get(a), store.get(b)
        types = _types(store, pair[0]), _types(store, pair[1])
        here = fingerprints()
        if as_json:
            print_json(_json(pair, types, here))
        else:
            _show(pair, types, here)


def _types(store: Store, manifest: Manifest) -> dict[str, str]:
    """The type of each tensor, as the file has it; of an ONNX model as the recipe has it."""
    from foreshore.edge.gguf import inspect

    path = store.path(manifest)
    if path.suffix == ".gguf":
        return {tensor.name: tensor.type for tensor in inspect(path).tensors}
    return dict(manifest.recipe.get("tensors") or {})


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Where they differ: what each has, `None` for nothing."""
    return {key: [a.get(key), b.get(key)] for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)}


def _speed(card: Card | None, here: tuple[str, ...]) -> Speed | None:
    speeds = [s for s in (card or Card()).speeds if s.device.fingerprint in here]
    return max(speeds, key=lambda s: s.date, default=None)


def _doubts(a: Card, b: Card) -> Iterator[str]:
    """Why two measurements cannot be held against each other."""
    for name in ("divergence", "similarity"):
        one, other = getattr(a, name), getattr(b, name)
        if one and other and one.text_sha256 != other.text_sha256:
            yield f"the {name} of each was measured on another text"
        if one and other and one.parent_sha256 != other.parent_sha256:
            yield f"the {name} of each was measured against another parent"
    if a.accuracy and b.accuracy and a.accuracy.tasks_sha256 != b.accuracy.tasks_sha256:
        yield "the accuracy of each was measured on other tasks"


def _json(pair: Pair, types: Types, here: tuple[str, ...]) -> dict[str, Any]:
    a, b = pair
    cards = a.card or Card(), b.card or Card()
    plain = [{k: v for k, v in m.recipe.items() if k != "tensors"} for m in pair]
    quality = [{k: v for k, v in card.to_json().items() if k != "speeds"} for card in cards]
    speeds = [_speed(card, here) for card in cards]
    return {
        "variants": [a.ref, b.ref],
        "state": [a.state, b.state],
        "bytes": [a.bytes, b.bytes],
        "bits_per_weight": [a.bits_per_weight, b.bits_per_weight],
        "recipe": _changes(*plain),
        "tools": _changes(a.tools, b.tools),
        "source": _changes(asdict(a.source), asdict(b.source)),
        "tensors": _changes(*types),
        "quality": quality,
        "comparable": not (doubts := list(_doubts(*cards))),
        "doubts": doubts,
        "speed": [asdict(speed) if speed else None for speed in speeds],
    }


def _show(pair: Pair, types: Types, here: tuple[str, ...]) -> None:
    found = _json(pair, types, here)
    table = Table(box=None, pad_edge=False)
    for title in ("", *found["variants"]):
        table.add_column(escape(title), overflow="fold")
    table.add_row("state", *found["state"])
    table.add_row("size", *(human(size) for size in found["bytes"]))
    table.add_row("bits per weight", *(f"{bits:.2f}" for bits in found["bits_per_weight"]))
    for part in ("recipe", "tools", "source"):
        for key, values in found[part].items():
            table.add_row(f"{part}, {escape(key)}", *(_cell(value) for value in values))
    lines = [{**measurements(m.card or Card()), **_speeds(_speed(m.card, here))} for m in pair]
    for key in dict.fromkeys([*lines[0], *lines[1]]):
        table.add_row(escape(key), *(escape(line.get(key, "not measured")) for line in lines))
    tensors = found["tensors"]
    for name, kinds in list(tensors.items())[:SHOWN]:
        table.add_row(escape(name), *(_cell(kind) for kind in kinds))
    out.print(table)
    if len(tensors) > SHOWN:
        err.print(f"and {len(tensors) - SHOWN} more tensors of another type; --json has all")
    for doubt in found["doubts"]:
        err.print(f"[yellow]not comparable:[/] {doubt}")


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{len(value)} files" if value else "-"
    return escape(str(value)) if value not in (None, "", False) else "-"


def _speeds(speed: Speed | None) -> dict[str, str]:
    if speed is None:
        return {}
    rates = {"prefill": speed.prefill, "decode": speed.decode}
    lines = {f"{name}, tokens/s here": typical(rate) for name, rate in rates.items() if rate is not None}
    return {**lines, "load here": f"{speed.load_s.median:.2f} s", "peak memory here": human(speed.peak_bytes)}
