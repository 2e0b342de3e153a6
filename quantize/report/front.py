"""The Pareto front: what each variant loses in quality against what it costs in size, or gains in speed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from foreshore.card import Interval
from foreshore.figure.figure import Axis, Dot, Figure, Line, Mark, Point, Text, number, width_of

__all__ = ["Sample", "draw_front", "draw_pairs", "front_of"]

LEFT, RIGHT, TOP, BOTTOM = 58.0, 16.0, 28.0, 46.0  # the plot's margins
SIZE = 12.0
GAP = 9.0  # between a dot and its label
Frame = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A variant as a point: `x` its size or speed, `loss` its distance from the parent."""

    label: str
    x: Interval
    loss: Interval
    mix: bool = False  # its types were searched, tensor by tensor
    ready: bool = True


def front_of(samples: Sequence[Sample], *, more_is_better: bool) -> list[Sample]:
    """Those that no other beats in both, by increasing `x`. Of two alike the first stays."""
    sign = -1 if more_is_better else 1
    best: list[Sample] = []
    for sample in sorted(samples, key=lambda s: (sign * s.x.value, s.loss.value)):
        if not best or sample.loss.value < best[-1].loss.value:
            best.append(sample)
    return best[::sign]


def draw_front(
    samples: Sequence[Sample], *, title: str, x_title: str, y_title: str, more_is_better: bool, width: float = 760
) -> Figure:
    """`samples` (at least one) have a positive loss: its axis is logarithmic. The front is a staircase between its
    points, for nothing between two variants is for the taking. The title is drawn by who shows the figure alone."""
    height = 430.0 if width >= 600 else 400.0
    x, y = _axes(samples, width, height)
    front = front_of(samples, more_is_better=more_is_better)
    marks: list[Mark] = [*_frame(x, y, x_title, y_title, width, height)]
    stairs = _stairs(front, x, y, more_is_better)
    marks.append(Line(points=stairs, role="front", width=1.5))
    for sample in samples:
        marks += _whiskers(sample, x, y)
    marks += [_dot(s, x, y) for s in sorted(samples, key=lambda s: s in front)]
    marks += _labels([*front, *(s for s in samples if s not in front)], x, y, stairs)
    best = ", ".join(s.label for s in front)
    described = f"{y_title} against {x_title} of {len(samples)} variants. On the front: {best}."
    return Figure(title=title, description=described, width=width, height=height, marks=marks)


def draw_pairs(pairs: Sequence[tuple[str, float, Interval]], *, title: str, width: float = 420) -> Figure:
    """Predicted against measured, both positive; on the diagonal they are equal."""
    values = [v for _, predicted, measured in pairs for v in (predicted, measured.value, *_positive(measured))]
    height = width
    x = Axis.around(values, LEFT, width - RIGHT, log=True)
    y = Axis.around(values, height - BOTTOM, TOP, log=True)
    marks: list[Mark] = [*_frame(x, y, "predicted KL, nats a token", "measured KL", width, height)]
    marks.append(Line(points=[(x.start, y.start), (x.end, y.end)], role="muted", dashed=True))
    samples = [Sample(label=label, x=Interval(value=p, low=p, high=p), loss=m, mix=True) for label, p, m in pairs]
    for sample in samples:
        marks += [*_whiskers(sample, x, y), _dot(sample, x, y)]
    marks += _labels(samples, x, y)
    described = f"Predicted and measured KL of {len(pairs)} variants; on the dashed line they are equal."
    return Figure(title=title, description=described, width=width, height=height, marks=marks)


def _axes(samples: Sequence[Sample], width: float, height: float) -> tuple[Axis, Axis]:
    xs = [v for s in samples for v in (s.x.low, s.x.value, s.x.high)]
    losses = [v for s in samples for v in (s.loss.value, *_positive(s.loss))]
    x = Axis.around(xs, LEFT, width - RIGHT, room=0.08)
    return x, Axis.around(losses, height - BOTTOM, TOP, log=True)


def _positive(interval: Interval) -> list[float]:
    """Bounds that a log axis can show: one at or below 0, or far below the value, runs off its edge."""
    return [v for v in (interval.low, interval.high) if v > interval.value / 30]


def _frame(x: Axis, y: Axis, x_title: str, y_title: str, width: float, height: float) -> Iterable[Mark]:
    yield Text(x=4, y=16, text=y_title, role="muted")
    for tick in y.ticks(6):
        yield Line(points=[(x.start, y(tick)), (x.end, y(tick))], role="grid")
        yield Text(x=x.start - 8, y=y(tick) + 4, text=_tick(tick), role="muted", anchor="end")
    for tick in x.ticks(max(3, int(width / 90))):
        yield Line(points=[(x(tick), y.start), (x(tick), y.end)], role="grid")
        yield Text(x=x(tick), y=y.start + 18, text=_tick(tick), role="muted", anchor="middle")
    yield Line(points=[(x.start, y.start), (x.end, y.start)], role="muted")
    yield Text(x=x.end, y=height - 8, text=x_title, role="muted", anchor="end")


def _tick(value: float) -> str:
    return f"{value:,g}" if value >= 1e-4 else f"{value:.0e}".replace("e-0", "e-")


def _stairs(front: Sequence[Sample], x: Axis, y: Axis, more_is_better: bool) -> list[Point]:
    """With more bytes the loss falls only at the next variant; with more speed it rises at once."""
    points: list[Point] = []
    for sample in front:
        at = (x(sample.x.value), y(sample.loss.value))
        if points:
            points.append((points[-1][0], at[1]) if more_is_better else (at[0], points[-1][1]))
        points.append(at)
    return points


def _whiskers(sample: Sample, x: Axis, y: Axis) -> Iterable[Mark]:
    role = _role(sample)
    at = x(sample.x.value), y(sample.loss.value)
    if sample.loss.high > sample.loss.low:
        yield Line(points=[(at[0], y(sample.loss.low)), (at[0], y(sample.loss.high))], role=role, width=1.5)
    if sample.x.high > sample.x.low:
        yield Line(points=[(x(sample.x.low), at[1]), (x(sample.x.high), at[1])], role=role, width=1.5)


def _dot(sample: Sample, x: Axis, y: Axis) -> Dot:
    low, high = number(sample.loss.low), number(sample.loss.high)
    title = f"{sample.label}: {number(sample.x.value)}; loss {number(sample.loss.value)} ({low} to {high})"
    return Dot(
        x=x(sample.x.value),
        y=y(sample.loss.value),
        role=_role(sample),
        shape="diamond" if sample.mix else "circle",
        hollow=not sample.ready,
        radius=6.5 if sample.mix else 4.5,
        title=title,
    )


def _role(sample: Sample) -> str:
    return "mix" if sample.mix else "uniform"


def _labels(samples: Sequence[Sample], x: Axis, y: Axis, stairs: Sequence[Point] = ()) -> Iterable[Text]:
    """Each beside its dot where it meets nothing; one that finds no place is left to the table."""
    taken = [(min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1])) for a, b in pairwise(stairs)]
    for s in samples:
        px, py = x(s.x.value), y(s.loss.value)
        taken.append((px - 6, py - 6, px + 6, py + 6))
        taken.append((px - 1, y(s.loss.high), px + 1, y(s.loss.low)))
        taken.append((x(s.x.low), py - 1, x(s.x.high), py + 1))
    for s in samples:
        for text in _places(s.label, x(s.x.value), y(s.loss.value)):
            frame = _frame_of(text)
            if _inside(frame, x, y) and not any(_meet(frame, other) for other in taken):
                taken.append(frame)
                yield text
                break


def _places(label: str, px: float, py: float) -> Iterable[Text]:
    for far in (1.0, 1.5):
        gap = GAP * far
        yield Text(x=px + gap, y=py + 4 - (far - 1) * 14, text=label, size=SIZE)
        yield Text(x=px - gap, y=py + 4 + (far - 1) * 14, text=label, size=SIZE, anchor="end")
        yield Text(x=px + gap, y=py - gap, text=label, size=SIZE)
        yield Text(x=px - gap, y=py + gap + SIZE * 0.7, text=label, size=SIZE, anchor="end")
        yield Text(x=px + gap, y=py + gap + SIZE * 0.7, text=label, size=SIZE)
        yield Text(x=px - gap, y=py - gap, text=label, size=SIZE, anchor="end")


def _frame_of(text: Text) -> Frame:
    width = width_of(text.text, text.size)
    left = text.x - {"start": 0.0, "middle": width / 2, "end": width}[text.anchor]
    return (left, text.y - text.size * 0.8, left + width, text.y + text.size * 0.25)


def _inside(frame: Frame, x: Axis, y: Axis) -> bool:
    return frame[0] >= x.start and frame[2] <= x.end + RIGHT and frame[1] >= y.end and frame[3] <= y.start


def _meet(a: Frame, b: Frame) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
