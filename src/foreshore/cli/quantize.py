"""`foreshore quantize`: build variants of a model, measure them, and have a gate decide over them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from foreshore.card import Card
from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.cli.reporter import reporting
from foreshore.cli.units import count, human
from foreshore.errors import UsageError
from foreshore.manifest import Manifest

if TYPE_CHECKING:
    from foreshore.quantize.search.fit_targets import FitTargets

__all__ = ["app", "manifest_table", "show"]

app = typer.Typer()

SOURCE = "A Hugging Face folder, a .gguf file, hf:ORG/NAME (or with /FILE.gguf, @REVISION), or a bundled model."
TYPES = "Types, separated by commas; default: q4_k_m, or none with --fit."
FIT = 'Search a mix of types for "size<=300MB", "kl<=0.03", "decode>=20tok/s", "memory<=1GB", or several.'
IMATRIX = "Importance matrix: a GGUF as llama-imatrix writes, or auto: one is collected. A search does that by itself."
CALIBRATE = "Text that the matrix is collected on and a mix searched on, .txt or .jsonl; default: a shipped one."
REFINE = "Round weights so that errors cancel, in a tensor and across them, if the budget has room."
SHOWN = 3  # notes of each variant
REPORT = "Write an HTML page, and JSON and PNG beside it. Implies --measure."


@app.command()
def quantize(
    source: Annotated[str, typer.Argument(help=SOURCE)],
    types: Annotated[str | None, typer.Option("--types", "-t", help=TYPES)] = None,
    fit: Annotated[list[str] | None, typer.Option(help=FIT)] = None,
    name: Annotated[str | None, typer.Option("-o", "--name", help="Name in the store; default: the source's.")] = None,
    imatrix: Annotated[str | None, typer.Option(help=IMATRIX, metavar="FILE|auto")] = None,
    calibrate: Annotated[Path | None, typer.Option(help=CALIBRATE)] = None,
    budget: Annotated[float | None, typer.Option(help="Seconds that a search may take; default: 600.")] = None,
    refine: Annotated[bool | None, typer.Option("--refine/--no-refine", help=f"{REFINE} Default: yes.")] = None,
    ray: Annotated[str | None, typer.Option(help="Ray cluster to search on: auto, or an address.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure quality, and speed on this device.")] = False,
    text: Annotated[Path | None, typer.Option(help="Text to measure quality on. Implies --measure.")] = None,
    tasks: Annotated[Path | None, typer.Option(help="JSONL of questions to measure. Implies --measure.")] = None,
    gate: Annotated[str | None, typer.Option(help="Rule to promote by; needs --owner. Implies --measure.")] = None,
    owner: Annotated[str | None, typer.Option(help="Who answers for promoting what passes the gate.")] = None,
    report: Annotated[Path | None, typer.Option(help=REPORT)] = None,
    requantize: Annotated[bool, typer.Option("--requantize", help="Allow a source that is quantized already.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Build and measure again what is up to date.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Build on-device variants of a model and keep them in the model store.

    With --measure they are measured, with --owner a gate decides which are ready, and --report shows it all.
    """
    with exit_on_error():
        from foreshore.cli.measure import Measures, check_report, write
        from foreshore.quantize.texts import check_disjoint, evaluation_text, read_corpus

        plan = Plan.of(types, fit, budget, refine, ray)
        measures = Measures.of(text, tasks, gate, owner)
        if report:
            check_report(report)
        calibration = read_corpus(calibrate) if calibrate else None
        if calibration and (measure or report or measures.asked):
            check_disjoint(calibration, measures.text or evaluation_text(source))
        shared: dict[str, Any] = {"force": force, "calibration": calibration}
        with reporting() as told:
            made = plan.build(source, name, {**shared, "progress": told}, imatrix, requantize)
            if measure or report or measures.asked:
                made = measures.take([m.ref for m in made], told, again=force)
        if report:
            write(made[0].name, report)
        show(made, told.reused, as_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be built: uniform types of llama.cpp's, a mix that is searched for, types of ONNX's."""

    native: list[str]
    onnx: list[str]
    targets: FitTargets | None
    budget_s: float
    refine: bool
    ray: str | None  # address of a cluster

    @classmethod
    def of(
        cls, types: str | None, fit: list[str] | None, budget: float | None, refine: bool | None, ray: str | None
    ) -> Plan:
        from foreshore.quantize.builder import BUDGET_S
        from foreshore.quantize.ftypes import parse_types
        from foreshore.quantize.onnx.types import is_onnx_type, parse_onnx_types
        from foreshore.quantize.search.fit_targets import parse_fit

        if not fit and (budget, refine, ray) != (None, None, None):
            raise UsageError("--budget, --refine and --ray are for a search", hint='say what for: --fit "size<=300MB"')
        wanted = types.split(",") if types is not None else [] if fit else ["q4_k_m"]
        native, onnx = ([t for t in wanted if is_onnx_type(t) is kind] for kind in (False, True))
        return cls(
            native=list(parse_types(native)) if native else [],
            onnx=[t.name for t in parse_onnx_types(onnx)] if onnx else [],
            targets=parse_fit(fit) if fit else None,
            budget_s=BUDGET_S if budget is None else budget,
            refine=refine is not False,
            ray=ray,
        )

    def build(
        self, source: str, name: str | None, shared: Mapping[str, Any], imatrix: str | None, requantize: bool
    ) -> list[Manifest]:
        from foreshore.quantize import build, build_mix, build_onnx

        made = build(source, self.native, name, imatrix=imatrix, requantize=requantize, **shared) if self.native else []
        if self.targets:
            with self._searchers() as searchers:
                how = {
                    "imatrix": imatrix or "auto",
                    "budget_s": self.budget_s,
                    "refine": self.refine,
                    **searchers,
                    **shared,
                }
                made.append(build_mix(source, self.targets, name, **how))
        return made + (build_onnx(source, self.onnx, name, **shared) if self.onnx else [])

    @contextmanager
    def _searchers(self) -> Iterator[dict[str, Any]]:
        if self.ray is None:
            yield {}
            return
        from foreshore.quantize.search.ray_meters import ray_cluster

        with ray_cluster(self.ray) as cluster:
            yield {"workers": cluster.workers, "meters": cluster.make}


def show(made: Sequence[Manifest], reused: Collection[str], as_json: bool) -> None:
    if as_json:
        print_json([{**m.to_json(), "reused": m.ref in reused} for m in made])
        return
    out.print(manifest_table(made))
    for note in dict.fromkeys(note for m in made for note in _notes(m)):
        err.print(f"[yellow]note:[/] {escape(note)}")


def _notes(manifest: Manifest) -> Iterator[str]:
    yield from (f"{manifest.ref}: {note}" for note in manifest.notes[:SHOWN])
    if more := len(manifest.notes[SHOWN:]):
        yield f"{manifest.ref}: and {more} more: foreshore models show {manifest.ref}"


def manifest_table(manifests: Sequence[Manifest]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("variant", overflow="fold")
    for title in ("size", "bits", "weights"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("model", "context", "state", "KL or cosine", "tokens/s", "built"):
        table.add_column(title, no_wrap=True)
    for m in manifests:
        table.add_row(
            escape(m.ref),
            human(m.bytes),
            f"{m.bits_per_weight:.2f}",
            count(m.parameters),
            escape(m.architecture),
            str(m.context_length),
            m.state,
            *_measured(m.card or Card()),
            escape(m.created[:10]),
        )
    return table


def _measured(card: Card) -> tuple[str, str]:
    """Quality, and the speed of one stream on the device that was measured last."""
    lost = card.divergence.kl_mean if card.divergence else card.similarity.cosine_mean if card.similarity else None
    speed = (card.speeds[-1].decode or card.speeds[-1].prefill) if card.speeds else None
    return ("-" if lost is None else f"{lost.value:.4f}"), ("-" if speed is None else f"{speed.median:.0f}")
