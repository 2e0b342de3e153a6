"""The curves of a simulation as a picture or a page: objectives kept, share local and queue over time, and TTFT."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from foreshore.figure.figure import Axis, Figure, Line, Mark, Point, Text, number
from foreshore.figure.html import Html, svg, tag
from foreshore.figure.png import draw_png
from foreshore.figure.style import LIGHT, style
from foreshore.router.simulate.report import Curves, Report

__all__ = ["draw"]

WIDTH, HEIGHT = 760.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 16.0, 12.0, 40.0  # margins of a plot
KEY = 18.0  # room for a key
ROLES = ("ink", "uniform", "mix", "good", "bad", "front")
POINTS = 400  # of a distribution's curve, at most
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def draw(form: str, shown: Curves, found: Report) -> bytes:
    """`form`: `.png`, `.svg` or `.html`."""
    figures = _figures(shown, found)
    if form == ".png":
        return draw_png(figures, dict(LIGHT))
    return (_page(figures, found) if form == ".html" else _sheet(figures)).encode()


def _figures(shown: Curves, found: Report) -> list[Figure]:
    kept = f"Share of requests that kept {found.slo}: {found.all.attainment:.1%} in all"
    local = f"Share answered on this machine: {found.all.share_local:.0%} in all"
    return [
        _over_time(kept, shown.minutes, shown.attainment, "uniform", share=True),
        _over_time(local, shown.minutes, shown.share_local, "good", share=True),
        _over_time("Requests that wait in local queues", shown.minutes, shown.queue, "mix", share=False),
        _distribution(shown.ttft_s),
    ]


def _over_time(
    title: str, minutes: Sequence[float], values: Sequence[float | None], role: str, *, share: bool
) -> Figure:
    x = Axis(low=0.0, high=minutes[-1] + minutes[0], start=LEFT, end=WIDTH - RIGHT)
    highest = 1.0 if share else max(1.0, *(v for v in values if v is not None)) * 1.05
    y = Axis(low=0.0, high=highest, start=HEIGHT - BOTTOM, end=TOP)
    marks = [*_frame(x, y, "minutes", share=share)]
    for part in _unbroken(minutes, values):
        points = [(x(at), y(value)) for at, value in part]
        marks.append(Line(points=points if len(points) > 1 else points * 2, role=role, width=2))
    known = [v for v in values if v is not None]
    described = f"{title}. Over time between {number(min(known))} and {number(max(known))}."
    return Figure(title=title, description=described, width=WIDTH, height=HEIGHT, marks=marks)


def _unbroken(minutes: Sequence[float], values: Sequence[float | None]) -> Iterator[list[Point]]:
    """Runs of windows in which somebody arrived."""
    part: list[Point] = []
    for at, value in zip(minutes, values, strict=True):
        if value is not None:
            part.append((at, value))
        elif part:
            yield part
            part = []
    if part:
        yield part


def _distribution(ttft_s: Mapping[str, Sequence[float]]) -> Figure:
    title = "Share of whole answers whose first token came within so many seconds"
    if not ttft_s:
        nothing = [Text(x=LEFT, y=HEIGHT / 2, text="no answer was whole", role="muted")]
        return Figure(title=title, description="No answer was whole.", width=WIDTH, height=HEIGHT, marks=nothing)
    values = [max(v, 1e-3) for sorted_values in ttft_s.values() for v in (sorted_values[0], sorted_values[-1])]
    x = Axis.around(values, LEFT, WIDTH - RIGHT, log=True)
    y = Axis(low=0.0, high=1.0, start=HEIGHT - BOTTOM, end=TOP + KEY)
    marks = [*_frame(x, y, "seconds, log scale", share=True)]
    told = []
    at = LEFT
    for (name, sorted_values), role in zip(ttft_s.items(), _roles(len(ttft_s)), strict=True):
        marks.append(Line(points=_steps(sorted_values, x, y), role=role, width=1.5 if name == "all" else 2))
        marks.append(Line(points=[(at, 12), (at + 18, 12)], role=role, width=3))
        marks.append(Text(x=at + 24, y=16, text=name, role="muted"))
        at += 48 + 7.5 * len(name)
        told.append(f"{name}: median {number(sorted_values[len(sorted_values) // 2])} s")
    return Figure(title=title, description=f"{title}. {'; '.join(told)}.", width=WIDTH, height=HEIGHT, marks=marks)


def _roles(count: int) -> list[str]:
    return [ROLES[i % len(ROLES)] for i in range(count)]


def _steps(values: Sequence[float], x: Axis, y: Axis) -> list[Point]:
    count = min(len(values), POINTS)
    ranks = sorted({math.ceil((i + 1) * len(values) / count) for i in range(count)})
    points = [(x(max(values[rank - 1], 1e-3)), y(rank / len(values))) for rank in ranks]
    return [(points[0][0], y(0.0)), *points, (x.end, y(1.0))]


def _frame(x: Axis, y: Axis, x_title: str, *, share: bool) -> Iterator[Mark]:
    for tick in y.ticks(4):
        yield Line(points=[(x.start, y(tick)), (x.end, y(tick))], role="grid")
        text = f"{tick:.0%}" if share else f"{tick:,g}"
        yield Text(x=x.start - 8, y=y(tick) + 4, text=text, role="muted", anchor="end")
    for tick in x.ticks(8):
        yield Line(points=[(x(tick), y.start), (x(tick), y.end)], role="grid")
        yield Text(x=x(tick), y=y.start + 16, text=f"{tick:,g}", role="muted", anchor="middle")
    yield Line(points=[(x.start, y.start), (x.end, y.start)], role="muted")
    yield Text(x=x.end, y=HEIGHT - 6, text=x_title, role="muted", anchor="end")


def _sheet(figures: Sequence[Figure]) -> str:
    """One drawing with all figures below each other, in colours of its own."""
    colours = "".join(f".f-{role}{{fill:{c}}}.s-{role}{{stroke:{c}}}" for role, c in LIGHT.items())
    rules = f"{colours}.line{{fill:none;stroke-linejoin:round}}text{{font-family:sans-serif}}"
    high, parts = 0.0, []
    for i, figure in enumerate(figures):
        title = tag("text", figure.title, x=4, y=16, class_="f-ink", font_size=16, font_weight="600")
        parts.append(tag("g", title, transform=f"translate(20 {high + 20:g})"))
        parts.append(tag("g", svg(figure, "wide", f"figure-{i}"), transform=f"translate(20 {high + 44:g})"))
        high += figure.height + 44
    size = f"0 0 {WIDTH + 40:g} {high + 20:g}"
    back = tag("rect", x=0, y=0, width=WIDTH + 40, height=high + 20, class_="f-surface")
    body = tag("svg", tag("style", Html(rules)), back, *parts, xmlns="http://www.w3.org/2000/svg", viewBox=size)
    return f"{body}\n"


def _page(figures: Sequence[Figure], found: Report) -> str:
    title = "Simulated routing"
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("title", title),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("style", Html(style())),
    )  # fmt: skip
    whole = found.all
    about = (
        f"{whole.requests:,} requests in {found.seconds / 60:.1f} minutes: {whole.attainment:.1%} kept {found.slo}, "
        f"{whole.share_local:.0%} were answered on this machine, the rest cost {whole.cost:.4f} dollars. "
        f"{whole.deadline:,} ended by their deadline, {whole.refused + whole.denied:,} were refused."
    )
    parts = [
        tag("section", tag("h2", figure.title), tag("figure", svg(figure, "all", f"figure-{i}")))
        for i, figure in enumerate(figures)
    ]
    body = tag("body", tag("main", tag("h1", title), tag("p", about, class_="about"), *parts))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"
