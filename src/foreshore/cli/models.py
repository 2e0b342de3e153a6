"""`foreshore models`: look after the variants in the model store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from foreshore import signing
from foreshore.card import Card
from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.cli.diff import diff
from foreshore.cli.fit import fit
from foreshore.cli.lineage import lineage, measurements
from foreshore.cli.measure import measure, report
from foreshore.cli.promote import promote
from foreshore.cli.quantize import manifest_table, show
from foreshore.cli.reporter import byte_bars, reporting
from foreshore.cli.units import human
from foreshore.errors import ModelError
from foreshore.manifest import Manifest
from foreshore.store import Store

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Look after variants in the model store: what they are, and which to use.")
app.command()(measure)
app.command()(report)
app.command()(promote)
app.command()(diff)
app.command()(fit)
app.command()(lineage)

Ref = Annotated[str, typer.Argument(help="NAME:VARIANT, or NAME if it has one variant.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_variants(as_json: AsJson = False) -> None:
    """List all variants."""
    with exit_on_error():
        store = Store()
        manifests = list(store.list())
        for error in store.broken():
            err.print(f"[yellow]broken:[/] {escape(error.message)}")
        if as_json:
            print_json([m.to_json() for m in manifests])
        elif manifests:
            out.print(manifest_table(manifests))
        else:
            err.print(
                f"no variants in {escape(str(store.root))}; build one: foreshore quantize starter-s --types q4_k_m"
            )


@app.command("show")
def show_variant(ref: Ref, as_json: AsJson = False) -> None:
    """Show where a variant came from, how it was made, and its files."""
    with exit_on_error():
        store = Store()
        manifest = store.get(ref)
        if as_json:
            print_json({**manifest.to_json(), "path": str(store.path(manifest))})
            return
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        source = manifest.source
        rows = {
            "variant": f"{manifest.ref} ({manifest.state})",
            "path": str(store.path(manifest)),
            "size": f"{human(manifest.bytes)}, {manifest.bits_per_weight:.2f} bits per weight",
            "model": f"{manifest.architecture}, {manifest.parameters} parameters, context {manifest.context_length}",
            "source": f"{source.kind} {source.id} {source.revision}".strip(),
            "recipe": ", ".join(f"{k} {v}" for k, v in manifest.recipe.items() if v and k != "tensors"),
            "tools": ", ".join(f"{k} {v}" for k, v in manifest.tools.items()),
            "built": f"{manifest.created}, in {manifest.seconds} s",
            **{f"sha256 {name}": record.sha256 for name, record in manifest.files.items()},
            **measurements(manifest.card or Card()),
            **_decided(manifest),
            **{f"note {i}": note for i, note in enumerate(manifest.notes, 1)},
        }
        for key, value in rows.items():
            table.add_row(escape(key), escape(value))
        out.print(table)


def _decided(manifest: Manifest) -> dict[str, str]:
    """The gate's last decision, a line for each reason."""
    decision = manifest.decision
    if decision is None:
        return {}
    reasons = {f"gate {i}": reason for i, reason in enumerate(decision.reasons, 1)}
    return {"gate": f"{decision.rule}, {decision.owner}, {decision.date}", **reasons}


@app.command()
def verify(
    ref: Annotated[str | None, typer.Argument(help="NAME:VARIANT; all variants if left out.")] = None,
    trust: Annotated[
        list[Path] | None,
        typer.Option("--trust", help="A public key: signatures by it, or another given, are asked for."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hash every file and compare it with the manifest. Exit code 2 if anything is wrong.

    Where keys are trusted, by --trust or $FORESHORE_TRUST, each variant must be signed by one.
    """
    with exit_on_error():
        store, keys = Store(), tuple(trust or ()) or signing.trusted()
        manifests = [store.get(ref)] if ref else store.list()
        found = _verified(store, manifests)
        for manifest in manifests if keys else ():
            found[manifest.ref].extend(_distrust(store, manifest, keys))
        broken = [] if ref else [e.message for e in store.broken()]
        if as_json:
            unread = [{"ref": None, "ok": False, "problems": [message]} for message in broken]
            print_json([*({"ref": r, "ok": not p, "problems": p} for r, p in found.items()), *unread])
        else:
            fine = "[green]ok[/], signed by a trusted key" if keys else "[green]ok[/]"
            for name, problems in found.items():
                out.print(f"{escape(name)}: " + (escape("; ".join(problems)) if problems else fine))
        bad = [name for name, problems in found.items() if problems]
        if bad or broken:
            what = "damaged, or not signed by a trusted key" if keys else "damaged"
            hint = "build it again with `foreshore quantize --force`" + (", or sign what is sound" if keys else "")
            raise ModelError(f"{what}: {', '.join(bad + broken)}", hint=hint)


def _distrust(store: Store, manifest: Manifest, keys: Sequence[Path]) -> list[str]:
    try:
        signing.verify(store.folder(manifest), keys)
    except ModelError as error:
        return [error.message]
    return []


def _verified(store: Store, manifests: Sequence[Manifest]) -> dict[str, list[str]]:
    """The problems of each variant, with a bar while its files are hashed."""
    with byte_bars() as bars:
        task = bars.add_task("hashing", total=sum(m.bytes for m in manifests))
        return {m.ref: list(store.verify(m, lambda done: bars.advance(task, done))) for m in manifests}


@app.command()
def sign(
    ref: Ref,
    key: Annotated[Path, typer.Option("--key", help="A private key: P-256, P-384 or P-521, in PEM.")],
    as_json: AsJson = False,
) -> None:
    """Sign a variant's manifest and files. $FORESHORE_KEY_PASSWORD opens an encrypted key."""
    with exit_on_error():
        store = Store()
        found = store.get(ref).ref
        made = store.sign(found, key)
        if as_json:
            print_json({"ref": found, "signature": str(made)})
        else:
            err.print(f"signed {escape(found)}")


@app.command("rm")
def remove(
    ref: Ref,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a variant."""
    with exit_on_error():
        store = Store()
        folder = store.locate(ref)
        found, size = f"{folder.parent.name}:{folder.name}", sum(p.stat().st_size for p in folder.iterdir())
        if not yes:
            typer.confirm(f"remove {found} ({human(size)})?", abort=True, err=True)
        store.remove(found)
        if as_json:
            print_json({"removed": found, "bytes": size})
        else:
            err.print(f"removed {escape(found)}")


@app.command()
def pull(
    source: Annotated[str, typer.Argument(metavar="REF", help="hf:ORG/NAME/FILE.gguf, or hf:ORG/NAME.")],
    name: Annotated[str | None, typer.Option("-o", "--name", help="Name in the store; default: the source's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a model from the hub as it is: a .gguf file in its own type, a model's weights in their own precision."""
    with exit_on_error():
        from foreshore.quantize import build

        with reporting() as told:
            made = build(source, None, name, progress=told)
        show(made, told.reused, as_json)
