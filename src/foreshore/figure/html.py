"""Elements of a page. What is not an element yet is text, and text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from foreshore.figure.figure import Box, Dot, Figure, Line, Mark, Text

__all__ = ["Html", "join", "svg", "table", "tag"]

VOID = {"meta", "col"}


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Html:
    """`class_` and `aria_label` become `class` and `aria-label`; an attribute that is None is left out."""
    named = {k.rstrip("_").replace("_", "-"): v for k, v in attributes.items() if v is not None}
    shown = "".join(f' {k}="{escape(_plain(v) if isinstance(v, str) else _short(v))}"' for k, v in named.items())
    return Html(f"<{name}{shown}>" if name in VOID else f"<{name}{shown}>{join(children)}</{name}>")


def join(children: Sequence[str]) -> Html:
    return Html("".join(child if isinstance(child, Html) else escape(_plain(child)) for child in children))


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1) -> Html:
    """The first cell of each row names it; the first `texts` columns are text, the others numbers."""
    kinds = [None if i < texts else "number" for i in range(len(head))]
    titles = [tag("th", title, scope="col", class_=kind) for title, kind in zip(head, kinds, strict=True)]
    body = []
    for row in rows:
        cells = [tag("td", cell, class_=kind) for cell, kind in zip(row[1:], kinds[1:], strict=True)]
        body.append(tag("tr", tag("th", row[0], scope="row"), *cells))
    parts = tag("caption", tag("span", caption)), tag("thead", tag("tr", *titles)), tag("tbody", *body)
    return tag("div", tag("table", *parts), class_="scroll", tabindex="0", role="region", aria_label=caption)


def svg(figure: Figure, class_: str, name: str) -> Html:
    """`name` makes its title's id unique on the page."""
    spoken = tag("title", figure.title, id=f"{name}-title"), tag("desc", figure.description, id=f"{name}-about")
    return tag(
        "svg",
        *spoken,
        *(_mark(mark) for mark in figure.marks),
        viewBox=f"0 0 {figure.width:g} {figure.height:g}",
        width=figure.width,
        height=figure.height,
        class_=class_,
        role="img",
        aria_labelledby=f"{name}-title {name}-about",
    )


def _mark(mark: Mark) -> Html:
    if isinstance(mark, Text):
        weight = "600" if mark.bold else None
        anchor = mark.anchor if mark.anchor != "start" else None
        return tag(
            "text", mark.text, x=mark.x, y=mark.y, class_=f"f-{mark.role}", font_size=mark.size, font_weight=weight,
            text_anchor=anchor,
        )  # fmt: skip
    title = [tag("title", mark.title)] if mark.title else []
    if isinstance(mark, Line):
        points = " ".join(f"{_short(x)},{_short(y)}" for x, y in mark.points)
        dashes = "4 4" if mark.dashed else None
        return tag(
            "polyline", *title, points=points, class_=f"line s-{mark.role}", stroke_width=mark.width,
            stroke_dasharray=dashes,
        )  # fmt: skip
    if isinstance(mark, Box):
        return tag("rect", *title, x=mark.x, y=mark.y, width=mark.width, height=mark.height, class_=f"f-{mark.role}")
    return _dot(mark, title)


def _dot(dot: Dot, title: list[Html]) -> Html:
    class_ = f"s-{dot.role} f-surface" if dot.hollow else f"f-{dot.role} s-surface"
    if dot.shape == "circle":
        return tag("circle", *title, cx=dot.x, cy=dot.y, r=dot.radius, class_=class_, stroke_width=1.5)
    x, y, r = dot.x, dot.y, dot.radius
    points = " ".join(f"{_short(a)},{_short(b)}" for a, b in ((x, y - r), (x + r, y), (x, y + r), (x - r, y)))
    return tag("polygon", *title, points=points, class_=class_, stroke_width=1.5)


def _short(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _plain(text: str) -> str:
    """Without control characters, which no page may hold."""
    return "".join(c if c >= " " or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
