"""The page of a report: headlines, fronts, tables, sensitivity, and where everything came from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from foreshore.card import Divergence, Similarity
from foreshore.edge.gguf import TENSOR_TYPES
from foreshore.figure.figure import Figure, number
from foreshore.figure.html import Html, svg, table, tag
from foreshore.figure.style import style
from foreshore.manifest import Manifest
from foreshore.quantize.report.front import Sample, draw_front, draw_pairs, front_of
from foreshore.quantize.report.map import draw_costs, draw_types
from foreshore.quantize.report.rows import (
    MIB,
    NOTHING,
    Cost,
    Entry,
    accuracy_cell,
    apart,
    basis,
    by_device,
    gain,
    interval,
    labels,
    losses,
    perplexity_cell,
    sizes_of,
    speeds_of,
    spread,
)

__all__ = ["figures", "page"]

BITS = {name: 8 * size / block for name, block, size in TENSOR_TYPES.values()}
WIDE, NARROW = 980.0, 340.0
DEAREST = 20  # tensors in the table of costs
HEADLINES = 6
PAIRS = 3  # from here on predictions are drawn too
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
KL, COSINE = "mean KL divergence, nats a token (lower is better)", "1 less the mean cosine (lower is better)"


def page(entries: Sequence[Entry], costs: Sequence[Cost]) -> str:
    entries = sorted(entries, key=lambda e: e.manifest.bytes)
    names = ", ".join(dict.fromkeys(e.manifest.name for e in entries))
    title = f"Variants of {names}"
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("title", title),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("style", Html(style())),
    )  # fmt: skip
    parts = [
        tag("h1", title),
        tag("p", _about(entries), class_="about"),
        _headlines(entries),
        *_sections(entries, costs),
    ]
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', tag('main', *parts)), lang='en')}\n"


def figures(entries: Sequence[Entry], width: float = WIDE) -> list[Figure]:
    """The fronts: quality against size, and against speed on each device."""
    found = [_size_front(entries, width)]
    found += [_speed_front(entries, i, width) for i in range(len(by_device(entries)))]
    return [figure for figure in found if figure]


def _about(entries: Sequence[Entry]) -> str:
    variants = "1 variant" if len(entries) == 1 else f"{len(entries)} variants"
    count = len(losses(entries))
    compared = f"{variants}, {count} compared with the model {'it was' if count == 1 else 'they were'} made of"
    found = basis(entries)
    tokens = f" ({found.tokens:,} tokens)" if isinstance(found, Divergence) else ""
    text = f", on {found.documents:,} documents{tokens} that no calibration used" if found else ""
    intervals = "Small figures are 95 % confidence intervals; one that a picture does not show is smaller than its dot."
    return f"{compared}{text}. {intervals}" if losses(entries) else f"{variants}; none was compared with its parent."


def _headlines(entries: Sequence[Entry]) -> Html:
    cards = [*_gains(entries), *_smallest(entries), *_fastest(entries)][:HEADLINES]
    shown = (tag("li", tag("b", figure), tag("span", meaning)) for figure, meaning in cards)
    return tag("ul", *shown, class_="cards") if cards else Html()


def _gains(entries: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    short = labels(entries)
    for mix in (e for e in entries if e.types):
        if found := gain(mix, entries):
            rival, share = found
            of = f"its loss over that of {short[rival.ref]}, the best single type that is no larger"
            yield f"{number(share, 2)} ×", f"{short[mix.ref]}: {of}"


def _smallest(entries: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    ready = [e for e in entries if e.manifest.state == "ready" and e.manifest.decision and e.ref in losses(entries)]
    if ready:
        least = min(ready, key=lambda e: e.manifest.bytes)
        yield _size(least.manifest), f"the smallest that passed its gate: {labels(entries)[least.ref]}"


def _fastest(entries: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    speeds = [(s.median, e.ref) for e in entries for speed in e.card.speeds if (s := speed.decode)]
    if speeds:
        speed, ref = max(speeds)
        yield f"{number(speed)} tok/s", f"the fastest decode: {labels(entries)[ref]}"


def _sections(entries: Sequence[Entry], costs: Sequence[Cost]) -> Iterator[Html]:
    yield _section("Quality against size", *_front_of_sizes(entries))
    for i, (device, _) in enumerate(by_device(entries)):
        yield _section(f"Quality against speed on {device.cpu}", *_front_of_speeds(entries, i))
    yield _section("Variants", _variants(entries))
    if any(e.card.accuracy for e in entries):
        yield _section("Accuracy by kind of task", _accuracy(entries))
    if any(e.manifest.decision for e in entries):
        yield _section("The gate", _gate(entries))
    if costs:
        yield _section("Sensitivity", *_sensitivity(costs))
    if any(e.types for e in entries):
        yield _section("What the search chose", *_chosen(entries))
    if any(e.predicted_kl is not None for e in entries):
        yield _section("Predicted and measured", *_predicted(entries))
    yield _section("Where this comes from", *_origins(entries))


def _section(title: str, *parts: Html) -> Html:
    return tag("section", tag("h2", title), *parts)


def _front_of_sizes(entries: Sequence[Entry]) -> Iterator[Html]:
    if not sizes_of(entries):
        yield tag("p", "No variant's quality was measured.", class_="about")
        return
    yield _figure("size", _size_front(entries, WIDE), _size_front(entries, NARROW))
    yield _key(sizes_of(entries))
    others = [labels(entries)[e.ref] for e in apart(entries)]
    left_out = [name for ref, name in labels(entries).items() if ref not in losses(entries) and name not in others]
    exact = [labels(entries)[ref] for ref, loss in losses(entries).items() if loss.value <= 0]
    said = [
        f"Not measured: {', '.join(left_out)}." if left_out else "",
        f"Lost nothing: {', '.join(exact)}." if exact else "",
        f"Measured on another text or against another parent, so not drawn: {', '.join(others)}." if others else "",
    ]
    if any(said):
        yield tag("p", " ".join(filter(None, said)), class_="about")


def _front_of_speeds(entries: Sequence[Entry], i: int) -> Iterator[Html]:
    device, speeds = by_device(entries)[i]
    if speeds_of(entries, speeds):
        yield _figure(f"speed{i}", _speed_front(entries, i, WIDE), _speed_front(entries, i, NARROW))
    known = {e.ref: e for e in entries}
    rows = [
        [
            _name(labels(entries)[ref], known[ref]), spread(s.decode), spread(s.prefill), spread(s.load_s),
            f"{s.peak_bytes / MIB:,.1f}",
            str(s.threads), s.date[:10],
        ]
        for ref, s in speeds.items()
    ]  # fmt: skip
    head = ["variant", "decode, tok/s", "prefill, tok/s", "load, s", "peak memory, MiB", "threads", "measured"]
    memory = f"{device.memory_bytes / MIB / 1024:.1f} GiB of memory"
    yield table(
        f"{device.cores} cores, {memory}, {device.system}, {device.engine}. Medians, smallest to largest.", head, rows
    )


def _size_front(entries: Sequence[Entry], width: float) -> Figure | None:
    samples = sizes_of(entries)
    return _draw(entries, samples, "Quality against size", "size, MiB", False, width)


def _speed_front(entries: Sequence[Entry], i: int, width: float) -> Figure | None:
    _, speeds = by_device(entries)[i]
    what = "decode" if any(s.decode for s in speeds.values()) else "prefill"
    x_title = f"{what}, tokens/s (higher is better)"
    samples = speeds_of(entries, speeds)
    return _draw(entries, samples, "Quality against speed", x_title, True, width)


def _draw(
    entries: Sequence[Entry], samples: Sequence[Sample], title: str, x_title: str, more: bool, width: float
) -> Figure | None:
    if not samples:
        return None
    y_title = KL if any(e.card.divergence for e in entries) else COSINE
    y_title = y_title if width > 500 else y_title.partition(",")[0].partition(" (")[0]
    return draw_front(samples, title=title, x_title=x_title, y_title=y_title, more_is_better=more, width=width)


def _figure(name: str, wide: Figure | None, narrow: Figure | None) -> Html:
    drawn = [svg(f, kind, f"{name}-{kind}") for f, kind in ((wide, "wide"), (narrow, "narrow")) if f]
    return tag("figure", *drawn)


def _key(samples: Sequence[Sample]) -> Html:
    shown = [tag("span", "one type")]
    shown += [tag("span", "searched mix", class_="of-mix")] if any(s.mix for s in samples) else []
    shown += (
        [tag("span", "candidate: through no gate yet", class_="hollow")] if not all(s.ready for s in samples) else []
    )
    return tag("div", *shown, tag("span", "front: no other is better in both", class_="stairs"), class_="key")


def _variants(entries: Sequence[Entry]) -> Html:
    front = {s.label for s in front_of(sizes_of(entries), more_is_better=False)}
    short = labels(entries)
    encoders = any(e.card.similarity for e in entries)
    head = (
        ["cosine to the parent", "least cosine"] if encoders else ["mean KL", "KL, p99", "same top token", "perplexity"]
    )
    rows = [
        [
            _name(short[e.ref], e), e.manifest.state, "yes" if short[e.ref] in front else "",
            f"{e.manifest.bytes / MIB:,.2f}", f"{e.manifest.bits_per_weight:.2f}", *_quality(e),
        ]
        for e in entries
    ]  # fmt: skip
    columns = ["variant", "state", "front", "size, MiB", "bits a weight", *head]
    rows = [row + [NOTHING] * (len(columns) - len(row)) for row in rows]
    return table(_measured_against(entries), columns, rows, texts=3)


def _measured_against(entries: Sequence[Entry]) -> str:
    found = basis(entries)
    if isinstance(found, Similarity):
        return "Cosines are between a variant's vector and the parent's of the same document."
    if found is None:
        return "What was not measured has no figure."
    own = found.parent_perplexity
    perplexity = f"{number(own.value)} ({number(own.low)} to {number(own.high)})"
    kl = "KL in nats a token, against the parent's distributions."
    return f"{kl} Perplexity with its change from the parent's, which is {perplexity}."


def _quality(entry: Entry) -> list[str]:
    if (near := entry.card.similarity) is not None:
        return [interval(near.cosine_mean), number(near.cosine_min, 4)]
    if (found := entry.card.divergence) is None:
        return []
    same = interval(found.same_top, 100, " %")
    perplexity = perplexity_cell(found.perplexity, found.perplexity_ratio)
    return [interval(found.kl_mean), interval(found.kl_p99), same, perplexity]


def _name(label: str, entry: Entry) -> str:
    return tag("span", label, class_="mix") if entry.types else label


def _accuracy(entries: Sequence[Entry]) -> Html:
    measured = [(e, e.card.accuracy.segments) for e in entries if e.card.accuracy]
    kinds = list(dict.fromkeys(kind for _, segments in measured for kind in segments))
    counts = {kind: max(s[kind].count for _, s in measured if kind in s) for kind in kinds}
    rows = [[_name(labels(entries)[e.ref], e), *(accuracy_cell(s.get(kind)) for kind in kinds)] for e, s in measured]
    head = ["variant", *(f"{kind} ({counts[kind]})" for kind in kinds)]
    return table("Share of right answers, and its change from the parent's in points (95 %).", head, rows)


def _gate(entries: Sequence[Entry]) -> Html:
    judged = [(e, e.manifest.decision) for e in entries if e.manifest.decision]
    rows = []
    for entry, decision in judged:
        mark = tag("span", "passed", class_="good") if decision.passed else tag("span", "not passed", class_="bad")
        why = tag("span", "; ".join(decision.reasons) or NOTHING, class_="wrap")
        shown = [_name(labels(entries)[entry.ref], entry), entry.manifest.state, mark, why]
        rows.append([*shown, tag("code", decision.rule, class_="wrap"), decision.owner, decision.date[:10]])
    head = ["variant", "state", "decision", "why not", "rule", "owner", "date"]
    return table("The last decision on each variant; bounds of 95 % intervals count.", head, rows, texts=len(head))


def _sensitivity(costs: Sequence[Cost]) -> Iterator[Html]:
    kinds: dict[str, dict[str, float]] = defaultdict(dict)
    for cost in costs:
        kinds[cost.type][cost.tensor] = cost.kl
    drawable = {kind: found for kind, found in kinds.items() if max(found.values()) > 0}
    about = (
        "What the mean KL rises by if one tensor alone has a type: measured for a few types of each, read off their"
        " rounding errors for the others. The stronger its colour, the more a tensor is worth its bits."
    )
    yield tag("p", about, class_="about")
    for i, kind in enumerate(sorted(drawable, key=lambda k: BITS.get(k, 99.0))):
        figure = draw_costs(drawable[kind], title=f"KL cost of each tensor as {kind}, nats a token", width=WIDE)
        shown = tag("div", svg(figure, "fixed", f"cost{i}"), class_="scroll", tabindex="0")
        name = tag("summary", f"{kind}: {number(sum(drawable[kind].values()))} nats over {len(drawable[kind])} tensors")
        yield tag("details", name, shown, **({"open": "open"} if kind == _typical(drawable) else {}))
    dearest = sorted(costs, key=lambda c: -c.kl)[:DEAREST]
    rows = [
        [
            c.tensor, c.type, NOTHING if c.measured is None else "measured" if c.measured else "read off",
            number(c.kl), f"{c.bytes / MIB:,.3f}", number(c.kl / max(c.bytes, 1) * MIB),
        ]
        for c in dearest
    ]  # fmt: skip
    head = ["tensor", "type", "cost", "KL, nats", "size, MiB", "KL a MiB"]
    said = table(f"The {len(rows)} dearest of {len(costs)}.", head, rows, texts=3)
    yield tag("details", tag("summary", "As a table"), said)


def _typical(kinds: dict[str, dict[str, float]]) -> str:
    """The one to look at first: of those measured on the most tensors the one nearest to 4 bits, where mixes lie."""
    most = max(len(found) for found in kinds.values())
    return min((k for k in kinds if len(kinds[k]) == most), key=lambda k: abs(BITS.get(k, 99.0) - 4))


def _chosen(entries: Sequence[Entry]) -> Iterator[Html]:
    for i, entry in enumerate(e for e in entries if e.types):
        known = {tensor: kind for tensor, kind in entry.types.items() if kind in BITS}
        if known:
            figure = draw_types(known, BITS, title=f"Types of {labels(entries)[entry.ref]}", width=WIDE)
            yield tag("div", svg(figure, "fixed", f"types{i}"), class_="scroll", tabindex="0")


def _predicted(entries: Sequence[Entry]) -> Iterator[Html]:
    lost, short = losses(entries), labels(entries)
    pairs = [(e, e.predicted_kl) for e in entries if e.predicted_kl is not None]
    rows = []
    for entry, foretold in pairs:
        found = lost.get(entry.ref)
        off = f"{100 * (foretold / found.value - 1):+.1f} %" if found and found.value > 0 else NOTHING
        rows.append([_name(short[entry.ref], entry), number(foretold), interval(found), off])
    head = ["variant", "predicted KL", "measured KL", "prediction off by"]
    yield table("What the search foretold of its winner, which is then compensated, and what the file has.", head, rows)
    shown = [(short[e.ref], p, lost[e.ref]) for e, p in pairs if p > 0 and e.ref in lost and lost[e.ref].value > 0]
    if len(shown) >= PAIRS:
        wide, narrow = (draw_pairs(shown, title="Predicted against measured", width=w) for w in (460, NARROW))
        yield _figure("pairs", wide, narrow)


def _origins(entries: Sequence[Entry]) -> Iterator[Html]:
    rows = [[labels(entries)[e.ref], *_hashes(e)] for e in entries]
    head = ["variant", "file", "parent", "calibration text", "imatrix", "evaluation text", "tasks"]
    yield table("SHA-256, its first 12 digits; the JSON beside this page has them whole.", head, rows, texts=len(head))
    facts = {
        "source": {f"{m.source.id} {m.source.revision}".strip() for m in (e.manifest for e in entries)},
        "architecture": {f"{e.manifest.architecture}, {e.manifest.parameters:,} weights" for e in entries},
        "tools": {", ".join(f"{k} {v}" for k, v in e.manifest.tools.items()) for e in entries},
        "built": {e.manifest.created[:10] for e in entries},
        "device": {f"{d.cpu}, fingerprint {d.fingerprint}" for d, _ in by_device(entries)},
    }
    rows = [[what, tag("span", "; ".join(sorted(found)), class_="wrap")] for what, found in facts.items() if found]
    yield table("What it was made of and measured with.", ["fact", "value"], rows, texts=2)
    notes = dict.fromkeys(f"{labels(entries)[e.ref]}: {note}" for e in entries for note in e.manifest.notes)
    if notes:
        shown = tag("ul", *(tag("li", note) for note in notes))
        yield tag("details", tag("summary", f"{len(notes)} notes of the build"), shown)


def _hashes(entry: Entry) -> list[Html]:
    m, card = entry.manifest, entry.card
    quality = card.divergence or card.similarity
    found = (
        m.files[m.main].sha256,
        m.parent.sha256 if m.parent else quality.parent_sha256 if quality else None,
        m.calibration.text_sha256 if m.calibration else None,
        m.calibration.imatrix_sha256 if m.calibration else None,
        quality.text_sha256 if quality else None,
        card.accuracy.tasks_sha256 if card.accuracy else None,
    )
    return [tag("code", digest[:12] if digest else NOTHING) for digest in found]


def _size(manifest: Manifest) -> str:
    return f"{manifest.bytes / MIB:,.2f} MiB"
