"""Fills in a variant's card: what it lost against its parent, and how fast it is on this device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from foreshore.card import Card, Divergence, Similarity, Speed
from foreshore.disk import sha256
from foreshore.errors import ModelError, NotFound, UsageError
from foreshore.manifest import Manifest, Source
from foreshore.quantize import quality
from foreshore.quantize.accuracy import Task, accuracy, answered, answers, tasks_for, tasks_sha256
from foreshore.quantize.builder import build
from foreshore.quantize.confidences import confidence_card
from foreshore.quantize.device import this_device
from foreshore.quantize.onnx import measure as onnx_measure
from foreshore.quantize.onnx.builder import build_onnx
from foreshore.quantize.onnx.types import ONNX_F32
from foreshore.quantize.progress import OnCount, OnProgress, Progress, Stage, counter, silent
from foreshore.quantize.reference import Reference
from foreshore.quantize.speed import measure_speed
from foreshore.quantize.texts import Corpus, calibration_text, check_disjoint, evaluation_text
from foreshore.store import Store

__all__ = ["measure"]


def measure(
    refs: Sequence[str],
    *,
    text: Corpus | None = None,
    tasks: Sequence[Task] | None = None,
    threads: int | None = None,
    again: bool = True,
    store: Store | None = None,
    progress: OnProgress | None = None,
) -> list[Manifest]:
    """Measure the variants `refs` of the store on this device, keep the cards in their manifests, and return these.

    Quality is measured against each one's parent (a file that came quantized has none to be held against), on `text`
    (default: a shipped one) and, where the model generates and `tasks` are given or came with it, on these. The parent
    is taken from the store, or made again from the source and kept there. Speeds that other devices measured stay in
    the card; this device's are replaced. Without `again` a variant that was measured on this device, the same text and
    the same tasks is left as it is.

    Raises `NotFound`, `UsageError`, `ModelError` or `SetupError`; what was measured before an error stays.
    """
    store = store or Store()
    yard = _Measurer(text=text, tasks=tasks, threads=threads, again=again, store=store, progress=progress or silent)
    return [yard.measured(store.sound(ref)) for ref in refs]


@dataclass(kw_only=True)
class _Measurer:
    """Remembers what the parents answered and predicted: each variant is held against it."""

    text: Corpus | None
    tasks: Sequence[Task] | None
    threads: int | None
    again: bool
    store: Store
    progress: OnProgress
    answered: dict[tuple[Path, int], tuple[bool, ...]] = field(default_factory=dict)
    references: dict[tuple[Path, str], Reference] = field(default_factory=dict)

    def measured(self, manifest: Manifest) -> Manifest:
        text = self.text or evaluation_text(_bundled(manifest.source))
        if not self.again and self.current(manifest, text):
            self.progress(Progress(stage="measured", what=manifest.ref))
            return manifest
        _check_apart(manifest, text)
        variant, ref = self.store.path(manifest), manifest.ref
        parent = None if manifest.came_quantized else self.parent(manifest)
        speed = measure_speed(variant, threads=self.threads, progress=self.counter("speed", ref))
        if speed.decode is None:
            card, labels = Card(similarity=self.similarity(parent, variant, text, ref) if parent else None), None
        else:
            card, labels = self.generating(parent, variant, text, self.tasks_of(manifest), ref)
        return self.store.update(
            ref, lambda found: replace(found, card=_with_speed(card, speed, found.card)), labels=labels
        )

    def current(self, manifest: Manifest, text: Corpus) -> bool:
        """Whether measuring now would measure the same again."""
        card, parent = manifest.card or Card(), manifest.parent
        quality = card.divergence or card.similarity
        here = this_device("onnxruntime" if _onnx(manifest) else "llama.cpp").fingerprint
        if here not in [speed.device.fingerprint for speed in card.speeds]:
            return False
        tasks = self.tasks_of(manifest) if any(speed.decode for speed in card.speeds) else ()
        asked = card.accuracy.tasks_sha256 if card.accuracy else None
        if asked != (tasks_sha256(tasks) if tasks else None):
            return False
        if quality is None or manifest.came_quantized:
            return quality is None and manifest.came_quantized
        same_parent = parent is None or quality.parent_sha256 == parent.sha256
        return same_parent and quality.text_sha256 == text.sha256

    def generating(
        self, parent: Path | None, variant: Path, text: Corpus, tasks: Sequence[Task], ref: str
    ) -> tuple[Card, str | None]:
        """The card of what is no encoder, and the labels that belong to it."""
        card = Card(divergence=self.divergence(parent, variant, text, ref) if parent else None)
        if not tasks:
            return card, None
        before = self.parent_right(parent, tasks, ref) if parent else None
        said = answered(variant, tasks, threads=self.threads, progress=self.counter("answers", ref))
        confidence, labels = confidence_card(tasks, said)
        return replace(card, accuracy=accuracy(tasks, [a.right for a in said], before), confidence=confidence), labels

    def parent(self, manifest: Manifest) -> Path:
        """The file that the variant was made of. Raises `ModelError` where it cannot be had any more."""
        if _onnx(manifest):
            made = build_onnx(
                _again(manifest.source), [ONNX_F32], manifest.name, store=self.store, progress=self.progress
            )
            return self.store.path(made[0])
        if manifest.parent is None:
            hint = f"build it again: foreshore quantize {_again(manifest.source)} --force"
            raise ModelError(f"the manifest of {manifest.ref!r} does not know its parent", hint=hint)
        wanted = manifest.parent.sha256
        for other in self.store.list():
            if other.files[other.main].sha256 == wanted:
                return self.store.path(self.store.sound(other.ref))
        source = Path(manifest.source.id)
        if manifest.source.kind == "gguf" and source.is_file() and sha256(source) == wanted:
            return source
        return self.made_again(manifest, wanted)

    def made_again(self, manifest: Manifest, wanted: str) -> Path:
        try:
            (made,) = build(_again(manifest.source), None, manifest.name, store=self.store, progress=self.progress)
        except NotFound as error:
            hint = "measure it where its source is"
            raise ModelError(f"the parent of {manifest.ref!r} is gone: {error.message}", hint=hint) from error
        if made.files[made.main].sha256 != wanted:
            fit = manifest.recipe.get("fit")
            how = f'--fit "{fit}"' if fit else f"--types {manifest.variant}"
            hint = f"build it again: foreshore quantize {_again(manifest.source)} {how}"
            raise ModelError(f"the source of {manifest.ref!r} has changed since it was built", hint=hint)
        return self.store.path(made)

    def divergence(self, parent: Path, variant: Path, text: Corpus, ref: str) -> Divergence:
        if variant.suffix == ".onnx":
            told = self.counter("quality", ref)
            return onnx_measure.measure_divergence(parent, variant, text, threads=self.threads, progress=told)
        key, told = (parent, text.sha256), self.counter("reference", ref)
        if key not in self.references:  # else the parent's whole file would be hashed for each variant
            self.references[key] = Reference.build(parent, text, threads=self.threads, progress=told)
        told = self.counter("quality", ref)
        return quality.measure_divergence(self.references[key], variant, threads=self.threads, progress=told)

    def similarity(self, parent: Path, variant: Path, text: Corpus, ref: str) -> Similarity:
        told = self.counter("quality", ref)
        return quality.measure_similarity(parent, variant, text, threads=self.threads, progress=told)

    def parent_right(self, parent: Path, tasks: Sequence[Task], ref: str) -> Sequence[bool]:
        key = (parent, id(tasks))
        if key not in self.answered:
            told = self.counter("answers", f"{ref}'s parent")
            self.answered[key] = answers(parent, tasks, threads=self.threads, progress=told)
        return self.answered[key]

    def tasks_of(self, manifest: Manifest) -> Sequence[Task]:
        if self.tasks is None:
            self.tasks = tasks_for(_bundled(manifest.source) or "") or ()
        return self.tasks

    def counter(self, stage: Stage, ref: str) -> OnCount:
        return counter(self.progress, stage, ref)


def _check_apart(manifest: Manifest, text: Corpus) -> None:
    """Raise `UsageError` where the variant was calibrated or searched on `text`; where that was a
    shipped text, whose documents are known, on one of these."""
    texts = manifest.calibration.texts if manifest.calibration is not None else frozenset()
    if text.sha256 in texts:
        hint = "give another with --text; one that no calibration and no search read"
        raise UsageError(f"{manifest.ref} was calibrated on the text that it is to be measured on", hint=hint)
    shipped = calibration_text(_bundled(manifest.source))
    if shipped.sha256 in texts:
        check_disjoint(shipped, text)


def _onnx(manifest: Manifest) -> bool:
    return manifest.main.endswith(".onnx")


def _bundled(source: Source) -> str | None:
    return source.id if source.kind == "bundled" else None


def _again(source: Source) -> str:
    """What `foreshore quantize` would be given to build from it once more."""
    if source.kind != "hub":
        return source.id
    return f"hf:{source.id}@{source.revision}" if source.revision else f"hf:{source.id}"


def _with_speed(card: Card, speed: Speed, before: Card | None) -> Card:
    others = (s for s in (before or Card()).speeds if s.device.fingerprint != speed.device.fingerprint)
    return replace(card, speeds=(*others, speed))
