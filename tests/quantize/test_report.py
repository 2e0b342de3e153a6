"""Reports: that they show what was measured, stand alone, and take no text for markup."""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.card import (
    Accuracy,
    Card,
    Device,
    Divergence,
    Interval,
    Segment,
    Similarity,
    Speed,
    Spread,
)
from foreshore.errors import UsageError
from foreshore.figure.figure import Axis, Box, Figure, Text
from foreshore.figure.letters import letter
from foreshore.figure.png import draw_png
from foreshore.figure.style import LIGHT
from foreshore.manifest import Decision, FileRecord, Manifest, Parent, Source, quality_sha256
from foreshore.quantize.report.front import Sample, draw_front, front_of
from foreshore.quantize.report.report import Cost, Entry, write_report

DEVICE = Device(
    fingerprint="f00d", cpu="Small CPU", cores=2, memory_bytes=8 << 30, system="Linux", engine="llama.cpp 1"
)
MIX = {"blk.0.ffn_down.weight": "q6_k", "blk.1.ffn_down.weight": "q3_k", "token_embd.weight": "q8_0"}


def around(value: float, share: float = 0.1) -> Interval:
    return Interval(value=value, low=value * (1 - share), high=value * (1 + share))


def steady(value: float) -> Spread:
    return Spread(median=value, low=value, high=value, runs=3)


def card(kl: float, decode: float = 100.0) -> Card:
    divergence = Divergence(
        parent_sha256="a" * 64, text_sha256="b" * 64, documents=40, tokens=5000, perplexity=around(2 + kl),
        parent_perplexity=around(2), kl_mean=around(kl), kl_p99=around(9 * kl), same_top=around(0.9),
    )  # fmt: skip
    change = Interval(value=-0.125, low=-0.25, high=-0.05)
    segment = Segment(count=8, correct=6, share=around(0.75), parent_correct=7, change=change)
    speed = Speed(
        device=DEVICE, date="2026-11-21T10:00:00+00:00", threads=2, load_s=steady(0.5), peak_bytes=5 << 20,
        prefill=steady(3 * decode), decode=steady(decode),
    )  # fmt: skip
    return Card(
        divergence=divergence, accuracy=Accuracy(tasks_sha256="c" * 64, segments={"sort": segment}), speeds=(speed,)
    )


def manifest(variant: str, mib: float, found: Card | None = None, **changes: object) -> Manifest:
    made = Manifest(
        name="small", variant=variant, created="2026-11-21T09:00:00+00:00", source=Source(kind="folder", id="small"),
        files={"model.gguf": FileRecord(sha256="d" * 64, bytes=int(mib * (1 << 20)))}, recipe={"type": variant},
        tools={"foreshore": "0.1.0"}, architecture="llama", parameters=1 << 22, bits_per_weight=2 * mib,
        context_length=512, seconds=1.0, card=found,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def variants() -> list[Entry]:
    kinds = [("q3_k_m", 2.0, 0.2, 120.0), ("q4_k_m", 3.0, 0.04, 110.0), ("q8_0", 5.0, 0.0008, 130.0)]
    found = [Entry(manifest=manifest(kind, mib, card(kl, speed))) for kind, mib, kl, speed in kinds]
    mix = manifest("fit-3mb", 2.98, card(0.01), recipe={"type": "mix", "tensors": MIX})
    return [*found, Entry(manifest=mix, predicted_kl=0.008)]


class Page(HTMLParser):
    """A page's elements and texts; raises where an element is closed that is not open."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def pixels(data: bytes) -> np.ndarray:
    """What a PNG shows, (height, width, 3), its checksums verified."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length]) == (zlib.crc32(kind + body),)
        chunks[kind] = body
        at += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    return lines[:, 1:].reshape(height, width, 3)


def rgb(role: str) -> list[int]:
    return list(bytes.fromhex(LIGHT[role][1:]))


# --- the page ---


def test_a_page_shows_every_variant_and_needs_nothing_else(tmp_path: Path) -> None:
    kinds = [(i, tensor, kind) for i, tensor in enumerate(MIX) for kind in ("q3_k", "q4_k")]
    costs = [Cost(tensor=tensor, type=kind, kl=0.001 * i, bytes=1000, measured=not i) for i, tensor, kind in kinds]
    write_report(variants(), tmp_path / "out.html", costs=costs)
    page = Page(tmp_path / "out.html")
    shown = " ".join(page.texts)
    for part in (
        "q3_k_m",
        "fit-3mb",
        "0.0400",
        "0.0360 to 0.0440",
        "Small CPU",
        "sort (8)",
        "-12.5",
        "0.00800",
        "bbbbbbbbbbbb",
        "compared with the model they were made of",
    ):
        assert part in shown
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not [a for _, attributes in page.tags for a in attributes if a in ("src", "href") or a.startswith("on")]
    assert "url(" not in shown
    assert "@import" not in shown
    assert any("default-src 'none'" in (a.get("content") or "") for _, a in page.tags)


def test_a_page_can_be_read_aloud(tmp_path: Path) -> None:
    write_report(variants(), tmp_path / "out.html")
    page = Page(tmp_path / "out.html")
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in (pair for pair in page.tags if pair[0] == "svg"):
        assert attributes["role"] == "img"
        assert set((attributes["aria-labelledby"] or "").split()) <= set(ids)
    assert page.count("table") == page.count("caption") > 3
    assert any("On the front: q3_k_m, fit-3mb, q8_0." in text for text in page.texts)


def test_the_gain_of_a_mix_is_told_against_the_best_type_of_its_size(tmp_path: Path) -> None:
    write_report(variants(), tmp_path / "out.html")
    texts = Page(tmp_path / "out.html").texts
    assert "0.25 ×" in texts
    assert "fit-3mb: its loss over that of q4_k_m, the best single type that is no larger" in texts


def test_text_is_never_markup(tmp_path: Path) -> None:
    evil = "</td><script>alert(1)</script>\"'&\x00"
    decision = Decision(rule=evil, owner=evil, date=evil, passed=False, reasons=(evil,), quality_sha256="")
    found = manifest("q4_k_m", 3, card(0.04), notes=(evil,), gate=(decision,), source=Source(kind="folder", id=evil))
    found = replace(found, architecture=evil, tools={evil: evil})
    speed = replace(card(0.01).speeds[0], device=replace(DEVICE, cpu=evil, system=evil))
    segments = {evil: Segment(count=1, correct=1, share=around(0.5))}
    other = manifest(
        "q8_0", 5, replace(card(0.01), speeds=(speed,), accuracy=Accuracy(tasks_sha256="", segments=segments))
    )
    cost = Cost(tensor=evil, type=evil, kl=1, bytes=1, measured=True)
    write_report([found, other], tmp_path / "out.html", costs=[cost])
    page = Page(tmp_path / "out.html")
    assert page.count("script") == 0
    assert "\x00" not in (tmp_path / "out.html").read_text()
    assert any("</td><script>alert(1)</script>\"'&" in text for text in page.texts)


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    exact = manifest("f16", 9, card(0.0))
    write_report([manifest("q2_k", 1), exact, *variants()], tmp_path / "out.html")
    assert "Not measured: q2_k. Lost nothing: f16." in Page(tmp_path / "out.html").texts
    write_report([manifest("q2_k", 1)], tmp_path / "none.html")
    assert "No variant's quality was measured." in Page(tmp_path / "none.html").texts


@pytest.mark.parametrize(("text", "parent", "source"), [("e", "a", "f"), ("b", "e", "f"), ("b", "a", "e")])
def test_what_was_measured_otherwise_is_held_against_nothing(
    tmp_path: Path, text: str, parent: str, source: str
) -> None:
    better = card(0.0001)
    assert better.divergence
    hashes = {"parent_sha256": "a" * 64, "text_sha256": text * 64}
    other = Card.from_json({**better.to_json(), "divergence": {**asdict(better.divergence), **hashes, "documents": 7}})
    made = [Entry(manifest=manifest("q2_k", 1, other)), *variants()]
    origins = [Source(kind="folder", id="small", files={"model.safetensors": name * 64}) for name in (source, *"ffff")]
    parents = [Parent(sha256=name * 64) for name in (parent, *"aaaa")]
    changed = [
        replace(e, manifest=replace(e.manifest, source=origin, parent=own))
        for e, origin, own in zip(made, origins, parents, strict=True)
    ]
    write_report(changed, tmp_path / "out.html")
    texts = Page(tmp_path / "out.html").texts
    assert "Measured on another text or against another parent, so not drawn: q2_k." in texts
    assert "fit-3mb: its loss over that of q4_k_m, the best single type that is no larger" in texts
    assert any("On the front: q3_k_m, fit-3mb, q8_0." in text for text in texts)
    assert any("on 40 documents" in text for text in texts)
    assert "0.000100" in texts, "the table has it all the same"


def test_what_came_quantized_is_not_held_against_itself(tmp_path: Path) -> None:
    """As an earlier version did, whose card may be there."""
    came = manifest("q4_0", 1, card(0.0), recipe={"type": "q4_0"}, parent=Parent(sha256="d" * 64))
    assert came.came_quantized
    write_report([came, *variants()], tmp_path / "out.html")
    texts = Page(tmp_path / "out.html").texts
    assert "Not measured: q4_0." in texts
    assert "fit-3mb: its loss over that of q4_k_m, the best single type that is no larger" in texts


def test_variants_for_two_engines_are_drawn_together(tmp_path: Path) -> None:
    found = card(0.02)
    assert found.divergence
    other = replace(found, divergence=replace(found.divergence, parent_sha256="e" * 64))
    made = manifest("onnx-int8", 4, other, parent=Parent(sha256="e" * 64))
    write_report([made, *variants()], tmp_path / "out.html")
    assert not any("not drawn" in text for text in Page(tmp_path / "out.html").texts)


def test_the_ratio_of_perplexities_is_shown(tmp_path: Path) -> None:
    found = card(0.04)
    assert found.divergence
    paired = replace(found.divergence, perplexity_ratio=Interval(value=1.0123, low=1.0117, high=1.0131))
    write_report([manifest("q4_k_m", 3, replace(found, divergence=paired))], tmp_path / "out.html")
    assert "+1.23 % (+1.17 to +1.31)" in Page(tmp_path / "out.html").texts


def test_a_gates_reasons_are_shown(tmp_path: Path) -> None:
    found = card(0.04)
    refused = Decision(rule="kl<=0.01", owner="ada", date="2026-11-21", passed=False, reasons=("kl is too high",))
    passed = Decision(rule="kl<=1", owner="ada", date="2026-11-21", passed=True, quality_sha256=quality_sha256(found))
    write_report(
        [manifest("q4_k_m", 3, found, gate=(refused,)), manifest("q8_0", 5, found, gate=(passed,))],
        tmp_path / "out.html",
    )
    texts = Page(tmp_path / "out.html").texts
    assert {"kl is too high", "candidate", "not passed", "passed", "ready", "kl<=0.01"} <= set(texts)
    assert "the smallest that passed its gate: q8_0" in texts


def test_an_encoder_is_compared_by_cosine(tmp_path: Path) -> None:
    near = Similarity(
        parent_sha256="a" * 64, text_sha256="b" * 64, documents=50,
        cosine_mean=Interval(value=0.995, low=0.99, high=0.998), cosine_min=0.97,
    )  # fmt: skip
    speeds = (replace(card(0.1).speeds[0], decode=None),)
    write_report(
        [manifest("int8", 3, Card(similarity=near, speeds=speeds))], tmp_path / "out.html", png=tmp_path / "o.png"
    )
    shown = " ".join(Page(tmp_path / "out.html").texts)
    assert "0.995" in shown
    assert "1 less the mean cosine" in shown
    assert "prefill, tokens/s" in shown


# --- the files beside it ---


def test_the_json_has_the_manifests_whole(tmp_path: Path) -> None:
    cost = Cost(tensor="blk.0.ffn_up.weight", type="q4_k", kl=0.5, bytes=7, measured=False)
    write_report(variants(), tmp_path / "out.html", costs=[cost])
    value = json.loads((tmp_path / "out.json").read_text())
    predicted = [v.pop("predicted_kl") for v in value["variants"]]
    assert predicted == [None, None, None, 0.008]
    assert [Manifest.from_json(v) for v in value["variants"]] == [e.manifest for e in variants()]
    found = {"tensor": "blk.0.ffn_up.weight", "type": "q4_k", "kl": 0.5, "bytes": 7, "measured": False}
    assert value["costs"] == [found], "read off the rounding error, and it says so"


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_numbers_that_are_none_spoil_nothing(tmp_path: Path, odd: float) -> None:
    write_report([*variants(), manifest("odd", 4, card(odd))], tmp_path / "out.html", png=tmp_path / "out.png")
    value = json.loads((tmp_path / "out.json").read_text())
    assert value["variants"][-1]["card"]["divergence"]["kl_mean"]["value"] is None
    assert "nan" not in " ".join(a.get("points") or "" for _, a in Page(tmp_path / "out.html").tags)


def test_the_picture_shows_mixes_and_types(tmp_path: Path) -> None:
    write_report(variants(), tmp_path / "out.html", png=tmp_path / "out.png")
    image = pixels((tmp_path / "out.png").read_bytes())
    for role in ("mix", "uniform", "front", "ink", "surface"):
        assert (np.abs(image.astype(int) - rgb(role)).max(axis=-1) <= 2).sum() > 20, role


def test_marks_land_where_they_belong() -> None:
    box = Box(x=10, y=5, width=20, height=10, role="mix")
    image = pixels(
        draw_png([Figure(title="", description="", width=40, height=20, marks=[box])], dict(LIGHT), scale=1, margin=0)
    )
    assert image.shape == (20, 40, 3)
    inside = (image == rgb("mix")).all(axis=-1)
    assert inside[5:15, 10:30].all()
    assert inside.sum() == 200


@pytest.mark.parametrize("anchor", ["start", "middle", "end"])
def test_letters_stand_at_their_anchor(anchor: str) -> None:
    text = Text(x=50, y=30, text="HHHH", size=20, anchor=anchor)  # type: ignore[arg-type]
    image = pixels(
        draw_png([Figure(title="", description="", width=100, height=40, marks=[text])], dict(LIGHT), scale=1, margin=0)
    )
    rows, columns = np.nonzero((image < 128).any(axis=-1))
    assert 13 <= rows.min() <= 17
    assert 28 <= rows.max() <= 31
    middle = (columns.min() + columns.max()) / 2
    assert {"start": middle > 60, "middle": 47 < middle < 53, "end": middle < 40}[anchor]


def test_every_letter_of_ascii_can_be_drawn() -> None:
    unknown = letter("\N{SNOWMAN}")
    assert not [chr(c) for c in range(32, 127) if letter(chr(c)) == unknown]
    assert all(-3 < y < 9 and -2 < x < 9 for c in range(32, 127) for s in letter(chr(c))[1] for x, y in s)


# --- bad input ---


def test_bad_input_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    with pytest.raises(UsageError, match="no variants"):
        write_report([], page)
    with pytest.raises(UsageError, match="'small:q8_0' stands in the report twice"):
        write_report([manifest("q8_0", 1), manifest("q8_0", 2)], page)
    with pytest.raises(UsageError, match="a file each"):
        write_report(variants(), tmp_path / "out.json")
    with pytest.raises(UsageError, match="a file each"):
        write_report(variants(), page, png=page)
    with pytest.raises(UsageError, match="nothing to draw"):
        write_report([manifest("q8_0", 1)], page, png=tmp_path / "out.png")
    with pytest.raises(UsageError, match="there is no folder"):
        write_report(variants(), tmp_path / "missing" / "out.html")
    assert not list(tmp_path.iterdir())


# --- the front and its axes ---

point = st.builds(
    lambda x, loss: Sample(label="", x=around(x, 0), loss=around(loss, 0)), st.integers(1, 9), st.integers(1, 9)
)


@given(st.lists(point, min_size=1, max_size=12), st.booleans())
def test_the_front_is_what_nothing_beats(samples: list[Sample], more: bool) -> None:
    def beats(a: Sample, b: Sample) -> bool:
        sign = -1 if more else 1
        better = sign * a.x.value <= sign * b.x.value, a.loss.value <= b.loss.value
        return all(better) and (a.x.value, a.loss.value) != (b.x.value, b.loss.value)

    def places(found: list[Sample]) -> set[tuple[float, float]]:
        return {(s.x.value, s.loss.value) for s in found}

    front = front_of(samples, more_is_better=more)
    assert places(front) == places([s for s in samples if not any(beats(o, s) for o in samples)])
    assert [s.x.value for s in front] == sorted({s.x.value for s in front})


@given(st.lists(st.floats(1e-9, 1e9, allow_subnormal=False), min_size=1, max_size=8), st.booleans(), st.integers(2, 9))
def test_an_axis_holds_its_values_between_its_ends(values: list[float], log: bool, count: int) -> None:
    axis = Axis.around(values, 0, 100, log=log)
    placed = [axis(v) for v in sorted(values)]
    assert placed == sorted(placed)
    assert all(0 <= p <= 100 for p in placed)
    ticks = axis.ticks(count)
    assert ticks == sorted(set(ticks))
    assert all(axis.low <= t <= axis.high for t in ticks)


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=30), st.floats(200, 1000))
def test_labels_never_cover_each_other(losses: list[float], width: float) -> None:
    samples = [Sample(label=f"q{i}_k", x=around(1 + i % 5, 0), loss=around(v)) for i, v in enumerate(losses)]
    figure = draw_front(samples, title="", x_title="", y_title="", more_is_better=False, width=width)
    texts = [m for m in figure.marks if isinstance(m, Text) and m.text.startswith("q")]
    frames = [(t.x if t.anchor == "start" else t.x - 6.72 * len(t.text), t.y, 6.72 * len(t.text)) for t in texts]
    for i, (x, y, wide) in enumerate(frames):
        assert not [o for o in frames[:i] if o[0] < x + wide and x < o[0] + o[2] and abs(o[1] - y) < 12]
