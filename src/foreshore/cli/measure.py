"""`foreshore models measure` and `report`: what variants lost, how fast they are here, and all of it on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from foreshore.cli.console import err, exit_on_error, print_json
from foreshore.cli.quantize import show
from foreshore.cli.reporter import Reporter, reporting
from foreshore.errors import NotFound, UsageError
from foreshore.manifest import Manifest
from foreshore.store import Store

if TYPE_CHECKING:
    from foreshore.quantize.accuracy import Task
    from foreshore.quantize.gate import Gate
    from foreshore.quantize.report.report import Cost
    from foreshore.quantize.texts import Corpus

__all__ = ["Measures", "measure", "report", "write"]


SHOWN = 3  # reasons of a gate against a variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What to measure on, and how to judge it."""

    text: Corpus | None
    tasks: Sequence[Task] | None
    gate: Gate | None
    owner: str | None

    @classmethod
    def of(cls, text: Path | None, tasks: Path | None, gate: str | None, owner: str | None) -> Measures:
        from foreshore.quantize.accuracy import read_tasks
        from foreshore.quantize.gate import Gate, check_owner
        from foreshore.quantize.texts import read_corpus

        if gate is not None and owner is None:
            raise UsageError("a gate needs an owner", hint="name who answers for the decision: --owner NAME")
        return cls(
            text=read_corpus(text) if text else None,
            tasks=read_tasks(tasks) if tasks else None,
            gate=Gate.parse(gate) if gate is not None else None,
            owner=None if owner is None else check_owner(owner),
        )

    @property
    def asked(self) -> bool:
        return (self.text, self.tasks, self.owner) != (None, None, None)

    def take(self, refs: Sequence[str], told: Reporter, again: bool = True) -> list[Manifest]:
        """Measure the variants, `again` too, and have the gate decide over each if there is an owner."""
        from foreshore.quantize.cards import measure
        from foreshore.quantize.gate import promote

        made = measure(refs, text=self.text, tasks=self.tasks, again=again, progress=told)
        if self.owner is None:
            return made
        judged = [promote(Store(), m.ref, self.owner, self.gate) for m in made]
        for m in judged:
            for reason in m.decision.reasons[:SHOWN] if m.decision else ():
                told.bars.console.print(f"[yellow]candidate[/] {escape(m.ref)}: {escape(reason)}")
        return judged


def measure(
    refs: Annotated[list[str], typer.Argument(metavar="REF...", help="NAME:VARIANT, one or several.")],
    text: Annotated[Path | None, typer.Option(help="What quality is measured on, .txt or .jsonl.")] = None,
    tasks: Annotated[Path | None, typer.Option(help="Questions with right answers, a JSONL file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure what variants lost against their parent, and how fast they are on this device."""
    with exit_on_error():
        measures = Measures.of(text, tasks, None, None)
        with reporting() as told:
            made = measures.take([Store().get(ref).ref for ref in refs], told)
        show(made, (), as_json)


def report(
    name: Annotated[str, typer.Argument(help="NAME of a model in the store.")],
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The page; JSON and PNG are put beside it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write what was measured of a model's variants as an HTML page."""
    with exit_on_error():
        check_report(target)
        written = write(name, target)
        if as_json:
            print_json(written)


def check_report(target: Path) -> None:
    """Raise `UsageError` where no report can be written, before anything is built or measured for it."""
    from foreshore.quantize.report.report import check_place

    check_place(target)


def write(name: str, target: Path) -> dict[str, Any]:
    """The report of all variants of `name` that were measured; its files, and the variants in it."""
    from foreshore.quantize.report.report import Entry, write_report

    store = Store()
    found = [m for m in store.list() if m.name == name and m.card is not None]
    if not found:
        hint = f"measure them first: foreshore models measure {name}:VARIANT"
        raise NotFound(f"no variant of {name!r} has been measured", hint=hint)
    entries = [Entry(manifest=m, predicted_kl=m.recipe.get("predicted_kl")) for m in found]
    costs = next((costs for m in found if (costs := _costs(store, m))), [])
    beside = {"json": target.with_suffix(".json"), "png": target.with_suffix(".png")}
    write_report(entries, target, png=beside["png"], costs=costs)
    err.print(f"wrote {escape(str(target))}, and JSON and PNG beside it")
    return {"html": str(target), **{k: str(v) for k, v in beside.items()}, "variants": [m.ref for m in found]}


def _costs(store: Store, manifest: Manifest) -> list[Cost]:
    """What the search for a mix found of each tensor; empty for all but mixes."""
    from foreshore.edge.gguf import inspect
    from foreshore.quantize.assemble import tensor_bytes
    from foreshore.quantize.recipes import sensitivity
    from foreshore.quantize.report.report import Cost

    alone = sensitivity(manifest.files[manifest.main].sha256)
    tensors = {t.name: t for t in inspect(store.path(manifest)).tensors} if alone else {}
    return [
        Cost(tensor=name, type=kind, kl=kl, bytes=tensor_bytes(tensors[name], kind), measured=measured)
        for name, row in alone.items()
        for kind, (kl, measured) in row.items()
    ]
