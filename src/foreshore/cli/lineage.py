"""`foreshore models lineage`: how a variant came to be, from the source's hashes to the last decision of a gate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.tree import Tree

from foreshore.card import Card, Interval, Spread
from foreshore.cli.console import exit_on_error, out, print_json
from foreshore.manifest import Manifest
from foreshore.store import Store

__all__ = ["between", "lineage", "measurements", "typical"]


def lineage(
    ref: Annotated[str, typer.Argument(help="NAME:VARIANT, or NAME if it has one variant.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a variant's source, parent, calibration, recipe, measurements and the decisions of gates."""
    with exit_on_error():
        store = Store()
        manifest = store.get(ref)
        if as_json:
            print_json(_json(manifest, store))
        else:
            out.print(_tree(manifest, store))


def between(interval: Interval, digits: int = 4) -> str:
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def typical(spread: Spread) -> str:
    return f"{spread.median:.1f} ({spread.low:.1f} to {spread.high:.1f})"


def measurements(card: Card) -> dict[str, str]:
    """What was measured of the quality, a line each."""
    found = {}
    if (d := card.divergence) is not None:
        found["perplexity"] = f"{between(d.perplexity, 3)}, the parent's {between(d.parent_perplexity, 3)}"
        if d.perplexity_ratio is not None:
            found["perplexity over the parent's"] = between(d.perplexity_ratio)
        found["KL, mean"] = f"{between(d.kl_mean)} nats"
        found["KL, 99th percentile"] = f"{between(d.kl_p99)} nats"
        found["same top token"] = between(d.same_top)
    if card.accuracy is not None:
        for name, segment in card.accuracy.segments.items():
            change = f", change {between(segment.change)}" if segment.change else ""
            found[f"accuracy, {name}"] = f"{between(segment.share)} of {segment.count}{change}"
    if (c := card.confidence) is not None and c.auroc is not None and c.ece is not None:
        found["confidence, AUROC"] = f"{between(c.auroc)} on {c.count} answers"
        found["confidence, ECE"] = between(c.ece)
    if (s := card.similarity) is not None:
        found["cosine, mean"] = between(s.cosine_mean)
        found["cosine, least"] = f"{s.cosine_min:.4f}"
    return found


def _json(manifest: Manifest, store: Store) -> dict[str, Any]:
    value = manifest.to_json()
    parent = {**value["parent"], "stored": _stored(manifest, store)} if manifest.parent else None
    kept = ("source", "calibration", "recipe", "tools", "files", "card", "gate", "state", "created", "seconds", "notes")
    return {"ref": manifest.ref, "parent": parent, **{k: value[k] for k in kept}, "signed": store.signed(manifest)}


def _stored(manifest: Manifest, store: Store) -> str | None:
    """The variant in the store that is the parent's very file."""
    wanted = manifest.parent.sha256 if manifest.parent else None
    return next((m.ref for m in store.list() if wanted in [r.sha256 for r in m.files.values()]), None)


def _tree(manifest: Manifest, store: Store) -> Tree:
    signed = ", signed" if store.signed(manifest) else ""
    tree = Tree(escape(f"{manifest.ref} ({manifest.state}{signed})"))
    source = manifest.source
    _branch(tree, f"source: {source.kind} {source.id} {source.revision}".rstrip(), source.files)
    if manifest.parent is not None:
        place = _stored(manifest, store)
        where = f"{place}, in the store" if place else f"{manifest.parent.ref or 'its own precision'}, not in the store"
        _branch(tree, f"parent: {where}", {"sha256": manifest.parent.sha256})
    if manifest.calibration is not None:
        _branch(tree, "calibration", {k: v for k, v in asdict(manifest.calibration).items() if v})
    _branch(tree, "recipe", _recipe(manifest.recipe))
    _branch(tree, f"built: {manifest.created}, in {manifest.seconds} s", manifest.tools)
    _branch(tree, "files", {name: record.sha256 for name, record in manifest.files.items()})
    _measured(tree, manifest.card or Card())
    gate = tree.add("gate" if manifest.gate else "gate: no decision")
    for decision in manifest.gate:
        result = "passed" if decision.passed else "not passed"
        _branch(gate, f"{decision.date}, {decision.owner}: {result}", {"rule": decision.rule}, *decision.reasons)
    return tree


def _recipe(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Every option that was given; of a mix how many tensors have each type."""
    plain = {k: str(v) for k, v in recipe.items() if v and k != "tensors"}
    if recipe.get("tensors"):
        plain["tensors"] = ", ".join(f"{kind} {n}" for kind, n in Counter(recipe["tensors"].values()).most_common())
    return plain


def _measured(tree: Tree, card: Card) -> None:
    found = measurements(card)
    branch = _branch(tree, "measured" if found or card.speeds else "measured: nothing", found)
    for part, name in ((card.divergence, "text"), (card.similarity, "text"), (card.accuracy, "tasks")):
        if part is not None:
            branch.add(escape(f"{name}: {getattr(part, f'{name}_sha256')}"))
    for speed in card.speeds:
        device = speed.device
        lines = {"engine": device.engine, "load": f"{typical(speed.load_s)} s", "peak": f"{speed.peak_bytes} bytes"}
        rates = {"prefill": speed.prefill, "decode": speed.decode}
        lines |= {name: f"{typical(rate)} tokens/s" for name, rate in rates.items() if rate is not None}
        _branch(branch, f"{speed.date}, {device.cpu}, {speed.threads} threads ({device.fingerprint})", lines)


def _branch(tree: Tree, title: str, lines: Mapping[str, str], *more: str) -> Tree:
    branch = tree.add(escape(title))
    for key, value in lines.items():
        branch.add(escape(f"{key}: {value}"))
    for line in more:
        branch.add(escape(line))
    return branch
